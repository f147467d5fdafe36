"""A plan that cannot work is refused before the work, a doubtful one is told, a good one needs no word."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import CorpusError, RecipeError
from voxstrata.experiments.plan_checks import FEW_STEPS, check_plan, plan_findings
from voxstrata.experiments.setup import Setup
from voxstrata.methods.registry import method_of
from voxstrata.methods.sources import require_classes
from voxstrata.recipes.reading import merged_values, validate

EMOTIONS = ("anger", "neutral", "sadness")
TABLE: dict[str, Any] = {
    "system": "finetune",
    "task": "ser",
    "data": {"batch_size": 4},
    "training": {"epochs": 20},
}


def corpus(folder: Path, recordings: list[Path], emotions: dict[str, str]) -> Path:
    """A prepared corpus: split -> a letter a clip, the first of its emotion."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for split, letters in emotions.items():
        for number, letter in enumerate(letters):
            name = f"{split}-{number}.wav"
            shutil.copy(recordings[len(rows)], folder / name)
            emotion = next((e for e in EMOTIONS if e[0] == letter), None)
            rows.append({"path": name, "emotion": emotion, "speaker": split, "split": split, "text": "ab"})
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", folder / "table.jsonl", folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="session")
def distinct(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Recordings, no two alike."""
    import soundfile

    from conftest import SAMPLE_RATE, voice

    folder = tmp_path_factory.mktemp("distinct")
    paths = [folder / f"{i}.wav" for i in range(16)]
    for i, path in enumerate(paths):
        soundfile.write(path, voice(300 + i, 4800 + 100 * i), SAMPLE_RATE)
    return paths


def findings(folder: Path, **changes: Any) -> tuple[list[str], list[str]]:
    """Faults and doubts of a plan over a corpus."""
    recipe = validate(
        merged_values(TABLE, merged_values({"data": {"corpora": [{"path": str(folder)}]}}, changes)), "r"
    )
    found = plan_findings(Setup.of(recipe))
    return list(found.faults), list(found.doubts)


def test_a_sound_plan_is_passed_over_in_silence(tmp_path: Path, distinct: list[Path]) -> None:
    folder = corpus(tmp_path / "c", distinct, {"train": "ansansan", "dev": "ans"})
    said: list[str] = []
    assert findings(folder) == ([], [])
    recipe = validate(merged_values(TABLE, {"data": {"corpora": [{"path": str(folder)}], "crop_s": 60}}), "r")
    check_plan(Setup.of(recipe), said.append)
    assert not said


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"training": {"warmup_steps": 40}}, "warmup_steps is 40 and training has 40 steps"),
        ({"training": {"warmup_steps": 200}}, "warmup_steps is 200 and training has 40 steps"),
        ({"rates": {"warm_head_steps": 40}}, "warm_head_steps is 40 and training has 40 steps"),
    ],
)
def test_a_start_as_long_as_training_is_refused(
    changes: dict[str, Any], fault: str, tmp_path: Path, distinct: list[Path]
) -> None:
    folder = corpus(tmp_path / "c", distinct, {"train": "ansansan", "dev": "ans"})
    faults, doubts = findings(folder, **changes)
    assert len(faults) == 1 and fault in faults[0] and not doubts
    shorter = {part: dict.fromkeys(values, 39) for part, values in changes.items()}
    assert findings(folder, **shorter) == ([], [])


def test_fewer_clips_than_classes_are_refused(tmp_path: Path, distinct: list[Path]) -> None:
    folder = corpus(tmp_path / "c", distinct, {"train": "ansa", "dev": "ans"})
    assert findings(folder)[0] == []
    labels = ("anger", "calm", "fear", "neutral", "sadness")
    faults, _ = findings(folder, data={"labels": labels})
    assert len(faults) == 1 and faults[0].startswith("4 train clips for 5 classes (anger, calm, ")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_dev_split_without_a_class_is_told(smoothing: float, tmp_path: Path, distinct: list[Path]) -> None:
    folder = corpus(tmp_path / "c", distinct, {"train": "ansansan", "dev": "aaaa"})
    faults, doubts = findings(folder, data={"smoothing": smoothing})
    assert not faults and len(doubts) == 1
    assert doubts[0].startswith("no dev clip is neutral or sadness; ")


def test_few_steps_and_large_batches_are_told(tmp_path: Path, distinct: list[Path]) -> None:
    folder = corpus(tmp_path / "c", distinct, {"train": "ansansan", "dev": "ans"})
    assert findings(folder, training={"epochs": FEW_STEPS // 2}) == ([], [])
    _, doubts = findings(folder, training={"epochs": FEW_STEPS // 2 - 1})
    assert len(doubts) == 1 and doubts[0].startswith(f"training has {FEW_STEPS - 2} steps in all")
    assert findings(folder, data={"batch_size": 8}) == ([], [])
    _, doubts = findings(folder, data={"batch_size": 9})
    assert len(doubts) == 1 and "a batch may hold 9 clips and there are 8" in doubts[0]


def test_all_faults_come_in_one_line_and_doubts_before_them(tmp_path: Path, distinct: list[Path]) -> None:
    folder = corpus(tmp_path / "c", distinct, {"train": "ans", "dev": "an"})
    changes = {
        "data": {"corpora": [{"path": str(folder)}], "labels": [*EMOTIONS, "fear"]},
        "training": {"warmup_steps": 30},
    }
    recipe = validate(merged_values(TABLE, changes), "r")
    setup = Setup.of(recipe)
    said: list[str] = []
    with pytest.raises(
        RecipeError, match=r"^this plan cannot work: 3 train clips .*; training\.warmup_steps is 30"
    ):
        check_plan(setup, said.append)
    assert said and all(line.startswith("warning: ") for line in said)
    everything: list[str] = []
    check_plan(setup, everything.append, refuse=False)
    assert Counter(said) <= Counter(everything) and len(everything) == len(said) + 2


def test_several_tasks_are_told_by_their_names(tmp_path: Path, distinct: list[Path]) -> None:
    folder = corpus(tmp_path / "c", distinct, {"train": "ansansan", "dev": "aaa"})
    values = {
        "system": "harmonifuse",
        "tasks": {"asr": {}, "ser": {"labels": ["anger", "neutral", "sadness"]}},
        "data": {"corpora": [{"path": str(folder)}], "batch_size": 4},
        "training": {"steps": 30, "warmup_steps": 30},
    }
    recipe = validate(values, "h")
    found = plan_findings(Setup.of(recipe))
    assert [line.partition(";")[0] for line in found.doubts] == ["ser: no dev clip is neutral or sadness"]
    assert len(found.faults) == 1 and "warmup_steps is 30 and training has 30 steps" in found.faults[0]


def test_a_corpus_without_emotions_is_explained() -> None:
    require_classes({"anger", "neutral"}, {"train": 2})
    with pytest.raises(
        CorpusError, match=r"the 9 training clips have no emotion, .*column emotion.*finetune-asr"
    ):
        require_classes(set(), {"train": 9, "dev": 1})
    with pytest.raises(CorpusError, match=r"the 9 training clips have only 'anger'"):
        require_classes({"anger"}, {"train": 9})
    with pytest.raises(CorpusError, match=r"no training clip \(dev 3, test 4\)"):
        require_classes(set(), {"train": 0, "dev": 3, "test": 4})


def test_emotions_cannot_be_learned_from_words_alone(tmp_path: Path, distinct: list[Path]) -> None:
    folder = corpus(tmp_path / "c", distinct, {"train": "----", "dev": "--"})
    recipe = validate(merged_values(TABLE, {"data": {"corpora": [{"path": str(folder)}]}}), "r")
    with pytest.raises(CorpusError, match="the 4 training clips have no emotion"):
        method_of(recipe).sources(recipe)


def test_the_dry_run_finds_the_same(tmp_path: Path, distinct: list[Path], encoder_folder: Path) -> None:
    folder = corpus(tmp_path / "c", distinct, {"train": "ansansan", "dev": "aaa"})
    path = tmp_path / "mine.yaml"
    values = {"base": str(encoder_folder), "data": {"corpora": [{"path": str(folder)}]}}
    path.write_text(yaml.safe_dump(merged_values(TABLE, values)))
    given = ["train", str(path), "--dry-run", "--json", "--out", str(tmp_path / "run")]
    found = json.loads(CliRunner().invoke(app, given).stdout)
    assert not found["faults"]
    assert any(note.startswith("no dev clip is neutral or sadness") for note in found["runs"][0]["notes"])
    refused = CliRunner().invoke(app, [*given, "training.warmup_steps=50"])
    assert refused.exit_code == 2
    assert "warmup_steps is 50 and training has 40 steps" in json.loads(refused.stdout)["faults"][0]
