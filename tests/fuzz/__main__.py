"""Runs cases and prints what they are: `PYTHONPATH=tests python -m fuzz recordings:17 tables:0-400`."""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import tempfile
import warnings
from pathlib import Path

from fuzz import seeds
from fuzz.cases import KINDS, run_case, warm_up
from fuzz.judge import LIMIT_S

#: After so many seconds in which Python itself does not come to act, the process ends.
DEAD_S = 2 * LIMIT_S + 20


def numbers(given: str) -> tuple[str, range]:
    """Kind and numbers of `recordings:17` or `recordings:17-40`, which is 17 to 39."""
    kind, _, told = given.partition(":")
    first, _, end = told.partition("-")
    if kind not in KINDS or not first.isdecimal() or not (end or "1").isdecimal():
        raise SystemExit(f"a case is KIND:NUMBER or KIND:FIRST-END, of {', '.join(KINDS)}; found {given!r}")
    return kind, range(int(first), int(end) if end else int(first) + 1)


def main() -> None:
    """Prints a JSON object a fault, and of a single case all that it printed; exit code 1 for a fault."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("cases", nargs="+", help="KIND:NUMBER or KIND:FIRST-END")
    parser.add_argument("--work", type=Path, help="folder that stays; default: one that goes")
    parser.add_argument("--started", type=Path, help="file that names the case that runs")
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        faults = _run([numbers(case) for case in told.cases], told.work or Path(temporary), told.started)
    sys.exit(1 if faults else 0)


def _run(cases: list[tuple[str, range]], folder: Path, started: Path | None) -> int:
    given, faults = folder / "seeds", 0
    if not given.is_dir():
        seeds.make(given)
    alone = len(cases) == 1 and len(cases[0][1]) == 1
    for kind, span in cases:
        warm_up(kind, given, folder / "work")
        for number in span:
            if started is not None:
                started.write_text(f"{kind}:{number}")
            faulthandler.dump_traceback_later(DEAD_S, exit=True)
            found = run_case(kind, number, given, folder / "work")
            faulthandler.cancel_dump_traceback_later()
            if alone:
                print(f"exit code {found.code}\n{found.out}\n{found.err}")
            if found.fault:
                faults += 1
                shown = {"case": f"{kind}:{number}", "fault": found.fault, "detail": found.detail}
                print(json.dumps(shown), flush=True)
    return faults


if __name__ == "__main__":
    main()
