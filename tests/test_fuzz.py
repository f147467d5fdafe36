"""Mutated inputs of nine kinds against the commands that read them; `tests/fuzz` makes and judges them.

A failure names a case, which `PYTHONPATH=tests python -m fuzz CASE` runs alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from fuzz import mutations, seeds
from fuzz.answers import finite, one_object, packed, prediction_rows, prepared, scores
from fuzz.cases import KINDS, run_case, warm_up
from fuzz.judge import HALF_WRITTEN, HANG, MEMORY, NONSENSE, TRACEBACK, judged

#: Cases a kind in the fast tests; the slow one goes on behind them.
FAST = 20
#: Cases of all kinds that the slow test runs.
SLOW = 5_000
#: In so many processes, one after another in each of two lanes.
PIECES = 2 * len(KINDS)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """The seeds."""
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    seeds.make(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_mutations_of_each_kind_show_no_fault(kind, given, tmp_path):
    warm_up(kind, given, tmp_path / "work")
    found = {f"{kind}:{number}": run_case(kind, number, given, tmp_path / "work") for number in range(FAST)}
    assert {outcome.code for outcome in found.values()} - {None}
    faults = [f"{case}: {one.fault}: {one.detail}" for case, one in found.items() if one.fault]
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_mutations_show_no_fault(tmp_path):
    each = -(-SLOW // len(KINDS))
    ends = [FAST + each * part // (PIECES // len(KINDS)) for part in range(PIECES // len(KINDS) + 1)]
    pieces = [(kind, first, end) for first, end in pairwise(ends) for kind in KINDS]
    with ThreadPoolExecutor(2) as lanes:
        faults = [
            line for lines in lanes.map(lambda piece: run_piece(*piece, tmp_path), pieces) for line in lines
        ]
    assert not faults, "\n".join(faults)


def run_piece(kind: str, first: int, end: int, folder: Path) -> list[str]:
    """Faults of some cases, run in a process of their own; behind one that takes it down, in another."""
    faults, started = [], folder / f"{kind}-{first}"
    while first < end:
        done = subprocess.run(
            [sys.executable, "-m", "fuzz", f"{kind}:{first}-{end}", "--started", started],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        faults += done.stdout.splitlines()
        if done.returncode in (0, 1) and (done.returncode == 0) == (not done.stdout):
            return faults
        case = started.read_text() if started.is_file() else f"{kind}:{first}"
        faults.append(f"{case}: its process ended with {done.returncode}: {done.stderr[-2000:]}")
        first = int(case.partition(":")[2]) + 1
    return faults


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_mutated_is_answered(kind, given, tmp_path, monkeypatch):
    for name in [name for name in vars(mutations) if name.endswith("_mutated")]:
        monkeypatch.setattr(mutations, name, lambda content, *_, **__: content)
    warm_up(kind, given, tmp_path / "work")
    for number in range(5):
        found = run_case(kind, number, given, tmp_path / "work")
        assert (found.code, found.fault) == (0, ""), found


def test_a_case_follows_from_its_number_alone(given, tmp_path):
    """Twice the same, also behind another; and other numbers are other mutations."""
    content = []
    for number in (3, 4, 3):
        run_case("predictions", number, given, tmp_path / "work", limit_s=300)
        content.append((tmp_path / "work" / "p.jsonl").read_bytes())
    first, other, again = content
    assert first == again != other


@pytest.mark.parametrize("kind", ["json", "lines", "yaml", "safetensors"])
def test_mutators_change_what_they_are_given_and_take_what_they_make(kind, given):
    file = {
        "json": given / "base" / "config.json",
        "lines": given / "predictions" / "p.jsonl",
        "yaml": given / "recipes" / "adaltm.yaml",
        "safetensors": given / "base" / "model.safetensors",
    }[kind]
    content = file.read_bytes()
    made = {getattr(mutations, f"{kind}_mutated")(content, Random(number)) for number in range(200)}
    assert len(made - {content}) > 150


def fault_of(main, folder: Path, **options) -> str:
    folder.mkdir()
    return judged(("x",), folder, main=main, **{"limit_s": 5.0, **options}).fault


def exits(code: int, out: str = "", err: str = ""):
    def main() -> None:
        print(out, end="")
        print(err, end="", file=sys.stderr)
        sys.exit(code)

    return main


def test_the_judge_finds_a_planted_traceback(tmp_path):
    assert fault_of(lambda: [][1], tmp_path / "a") == TRACEBACK
    assert fault_of(exits(1, err="voxstrata: no\n"), tmp_path / "b") == TRACEBACK
    assert fault_of(exits(2), tmp_path / "c") == TRACEBACK
    assert fault_of(exits(2, err="voxstrata: one\nand more\n"), tmp_path / "d") == TRACEBACK
    row = '{"id": "a", "error": "cannot be recognised (IndexError: 3); leave the recording out"}\n'
    assert fault_of(exits(3, out=row), tmp_path / "e") == TRACEBACK
    assert fault_of(exits(2, err="voxstrata: what, and what to do\n"), tmp_path / "f") == ""


def test_the_judge_finds_a_planted_hang(tmp_path):
    def waits() -> None:
        try:
            time.sleep(60)
        except Exception:
            pytest.fail("a handler of faults took the watchdog's")

    began = time.monotonic()
    assert fault_of(waits, tmp_path / "a", limit_s=0.3) == HANG
    assert time.monotonic() - began < 30


def test_the_judge_finds_memory_without_bound(tmp_path):
    assert fault_of(lambda: bytearray(1 << 31), tmp_path / "a", memory_bytes=1 << 28) == MEMORY
    assert (
        fault_of(exits(2, err="voxstrata: there is not enough memory for this\n"), tmp_path / "b") == MEMORY
    )
    assert fault_of(lambda: bytearray(1 << 20) and None, tmp_path / "c", memory_bytes=1 << 28) == ""


def test_the_judge_finds_what_is_half_written(tmp_path):
    def leaves(name: str, code: int):
        def main() -> None:
            Path(name).write_text("half")
            exits(code, err="voxstrata: no\n")()

        return main

    assert fault_of(leaves(".out.17.tmp", 0), tmp_path / "a") == HALF_WRITTEN
    for code, fault in ((2, HALF_WRITTEN), (0, "")):
        folder = tmp_path / str(code)
        assert fault_of(leaves("out", code), folder, unwritten=[folder / "out"]) == fault


ROW = {"id": "a", "emotion": "anger", "probabilities": {"anger": 0.5, "neutral": 0.25, "sadness": 0.25}}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"probabilities": {"anger": 0.9, "neutral": 0.25, "sadness": 0.25}}, 0),
        ({"probabilities": {"anger": float("nan"), "neutral": 0.25, "sadness": 0.25}}, 0),
        ({"probabilities": {"anger": 1.5, "neutral": -0.5, "sadness": 0.0}}, 0),
        ({"emotion": "fear"}, 0),
        ({"probabilities": {"anger": 1.0}}, 0),
        ({"classes": {"gender": {"female": 0.1, "male": 0.1}}}, 0),
        ({"error": "cannot be read"}, 0),
    ],
)
def test_nonsense_in_predictions_is_found(changes, code, tmp_path):
    assert prediction_rows(0, json.dumps(ROW) + "\n") == ""
    out = json.dumps(ROW | changes) + "\n"
    assert prediction_rows(code, out)
    assert fault_of(exits(code, out), tmp_path / "a", check=prediction_rows) == NONSENSE


def test_nonsense_in_scores_is_found():
    def told(value: float) -> str:
        return json.dumps({"emotion": {"uar": {"value": value, "iid": [0.1, 0.9]}}, "clips": 12})

    assert scores(0, told(1.0)) == ""
    assert all(scores(0, told(value)) for value in (1.01, -0.1, float("nan"), float("inf")))
    assert scores(0, "no JSON") and one_object(0, "[1]") and one_object(0, '{"faults": ["x"]}')


def test_a_prepared_corpus_whose_counts_are_not_its_clips_is_found(given):
    corpus = given / "corpus"
    about = json.loads((corpus / "corpus.json").read_text())
    assert prepared(0, json.dumps(about), corpus) == "" and packed(0, corpus) == ""
    about["summary"]["splits"]["train"]["clips"] += 1
    assert "told are" in prepared(0, json.dumps(about), corpus)
    assert "not all among" in prepared(
        0, json.dumps(json.loads((corpus / "corpus.json").read_text()) | {"labels": []}), corpus
    )


def test_weights_that_are_no_numbers_are_found(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.tensor([1.0, 2.0])}, tmp_path / "model.safetensors")
    assert finite(0, tmp_path) == ""
    save_file({"a": torch.tensor([1.0, float("nan")])}, tmp_path / "model.safetensors")
    assert finite(0, tmp_path) and finite(0, tmp_path / "nothing")


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x85", "\u2028"])
def test_what_a_file_holds_is_told_in_one_line(character, tmp_path):
    recipe = {"system": "finetune", "task": "ser", "base": "wavlm-tiny", f"a{character}b": 1}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    found = judged(("train", "r.yaml", "--dry-run"), tmp_path, limit_s=300)
    assert (found.code, found.fault) == (2, "")
    assert len(found.err.splitlines()) == 1 and character not in found.err.removesuffix("\n")
    assert ascii(character)[1:-1] in found.err
