"""What commands answer at exit code 0 or 3, and what of it is nonsense; "" where nothing is."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz import seeds

#: Most that rounding to two decimals takes of a sum of probabilities.
ROUNDING = 0.05
#: Keys of scores in [0, 1]; errors of words may be more of them than words.
SHARES = ("uar", "precision", "macro_f1", "accuracy")


def prediction_rows(code: int, out: str) -> str:
    """What is nonsense in lines of predictions."""
    if code == 2:
        return "" if not out else f"rows before a refusal: {out}"
    lines = out.split("\n")[:-1]
    if not lines:
        return "no rows"
    try:
        rows = [json.loads(line, parse_constant=_refused) for line in lines]
    except ValueError as fault:
        return f"no JSON lines ({fault}): {out}"
    for row in rows:
        if "error" in row:
            if code != 3:
                return f"an error in a row with exit code {code}: {row}"
            continue
        shares = row.get("probabilities")
        if shares is not None and (set(shares) != set(seeds.EMOTIONS) or row.get("emotion") not in shares):
            return f"an emotion or classes that the model has not: {row}"
        for some in (shares, *(row.get("classes") or {}).values()):
            if some is not None and not _sum_to_one(some.values()):
                return f"probabilities that do not sum to 1: {row}"
        if not {"emotion", "transcript", "arousal", "classes"} & set(row):
            return f"a row without answer and error: {row}"
    return ""


def _sum_to_one(shares: Any) -> bool:
    return all(0 <= share <= 1 for share in shares) and abs(sum(shares) - 1) < ROUNDING


def one_object(code: int, out: str) -> str:
    """What is nonsense in one JSON object of finite numbers."""
    if code == 2 and not out:
        return ""
    try:
        found = json.loads(out, parse_constant=_refused)
    except ValueError as fault:
        return f"no JSON ({fault}): {out}"
    if not isinstance(found, dict):
        return f"no object: {out}"
    if found.get("faults") and code == 0:
        return f"faults with exit code 0: {found['faults']}"
    return ""


def scores(code: int, out: str) -> str:
    """What is nonsense in scores."""
    if odd := one_object(code, out):
        return odd
    for place, value in _numbers(json.loads(out) if out else {}):
        if not math.isfinite(value):
            return f"{place} is {value}"
        named = {part.split("_")[0] for part in place} | set(place)
        if named & {"value", "a", "b"} and named & set(SHARES) and not 0 <= value <= 1:
            return f"a score outside [0, 1]: {place} is {value}"
    return ""


def _numbers(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, dict):
        for name, content in value.items():
            yield from _numbers(content, (*place, str(name)))
    elif isinstance(value, list):
        for content in value:
            yield from _numbers(content, place)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value


def prepared(code: int, out: str, folder: Path) -> str:
    """What is nonsense in a prepared corpus, and in what was told of it."""
    if code == 2:
        return one_object(code, out)
    if odd := one_object(code, out):
        return odd
    about = json.loads(out)
    if code == 3 and not about["left_out"]:
        return "exit code 3 and nothing left out"
    rows = _cuts(folder)
    counts = {name: counted["clips"] for name, counted in about["summary"]["splits"].items()}
    found = {
        split: sum(row["custom"]["split"] == split for row in rows) for split in counts if split != "all"
    }
    if counts != {**found, "all": len(rows)}:
        return f"told are {counts} clips, and there are {len(rows)}: {found}"
    emotions = {row["supervisions"][0]["custom"]["emotion"] for row in rows} - {None}
    if not emotions <= set(about["labels"]):
        return f"emotions {emotions} are not all among {about['labels']}"
    odd_rows = [row["id"] for row in rows if not 0 < row["duration"] < math.inf or row["start"] < 0]
    return f"stretches that are none: {odd_rows}" if odd_rows else ""


def packed(code: int, folder: Path) -> str:
    """What is nonsense in a corpus in tars."""
    if code != 0:
        return ""
    told = json.loads((folder / "corpus.json").read_bytes())["summary"]["splits"]["all"]["clips"]
    return "" if told == len(_cuts(folder)) else f"told are {told} clips, and there are {len(_cuts(folder))}"


def _cuts(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in gzip.decompress((folder / "cuts.jsonl.gz").read_bytes()).splitlines()
    ]


def finite(code: int, folder: Path) -> str:
    """Whether weights that were written are numbers."""
    from safetensors.torch import load_file

    if code != 0:
        return ""
    files = sorted(folder.rglob("*.safetensors"))
    odd = [file.name for file in files if not all(t.isfinite().all() for t in load_file(file).values())]
    return f"weights that are no numbers in {odd}" if odd else "" if files else "no weights were written"


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
