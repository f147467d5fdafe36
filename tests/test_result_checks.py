"""Results that cannot be right are said, and sound ones are not; the yardstick is the recipe `statistics`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sklearn.metrics import recall_score

from voxstrata.corpora.prepare import prepare
from voxstrata.evaluation.score import score
from voxstrata.experiments import result_checks
from voxstrata.experiments.result_checks import answer_warnings, result_warnings
from voxstrata.experiments.run import execute
from voxstrata.experiments.setup import Setup
from voxstrata.methods.baselines import statistics
from voxstrata.predictions import Prediction, read_predictions
from voxstrata.recipes.reading import merged_values, validate
from voxstrata.runs import RunFolder

CLASSES = ("anger", "fear", "neutral", "sadness")


def answered(pairs: list[tuple[str, str]]) -> list[Prediction]:
    return [
        Prediction(id=str(i), speaker=str(i % 3), emotion=answer, reference_emotion=true)
        for i, (answer, true) in enumerate(pairs)
    ]


def transcribed(pairs: list[tuple[str, str]]) -> list[Prediction]:
    return [
        Prediction(id=str(i), transcript=text, reference_transcript=true)
        for i, (text, true) in enumerate(pairs)
    ]


def warnings(rows: list[Prediction]) -> list[str]:
    return list(answer_warnings(rows, score(rows).as_dict()))


def test_one_class_for_all_is_said_alone() -> None:
    told = warnings(answered([("fear", true) for true in CLASSES * 10]))
    assert len(told) == 1 and told[0].startswith("all clips are answered fear, of 4 classes")
    assert not warnings(answered([("fear", "fear")] * 10)), "where there is no other class that is right"


def test_answers_no_better_than_chance_are_said() -> None:
    rng = np.random.default_rng(0)
    blind = [(str(rng.choice(CLASSES)), true) for true in CLASSES * 30]
    told = warnings(answered(blind))
    assert len(told) == 1 and "is not above chance, 25.0 with 4 classes" in told[0]
    uar = recall_score([true for _, true in blind], [answer for answer, _ in blind], average="macro")
    assert told[0].startswith(f"UAR {100 * uar:.1f} (95 % interval by speaker from ")
    half_right = [(true if i % 2 else answer, true) for i, (answer, true) in enumerate(blind)]
    assert not warnings(answered(half_right))


def test_the_lower_interval_of_both_decides() -> None:
    """Three speakers of whom each is like the others: an interval by speaker alone would be far too "
    "narrow."""
    rows = answered([(true if i in (0, 1, 2) else "fear", true) for i, true in enumerate(CLASSES * 3)])
    scores = score(rows).as_dict()
    emotion = scores["emotion"] | {"uar": {"value": 0.4, "iid": [0.2, 0.6], "speaker": [0.39, 0.41]}}
    assert "interval by clip from 20.0" in next(answer_warnings(rows, scores | {"emotion": emotion}))
    emotion["uar"] = {"value": 0.4, "iid": [0.3, 0.6], "speaker": None}
    assert not list(answer_warnings(rows, scores | {"emotion": emotion}))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["", "", "", ""], "4 of 4 transcripts are empty"),
        (["", " ", "a", "b"], "2 of 4 transcripts are empty"),
        (["", "a", "b", "c"], None),
        (["a", "a", "a", "a"], "all 4 transcripts are the same, 'a'"),
        (["a", "a", "a", "b"], None),
    ],
)
def test_transcripts_of_a_head_that_says_blanks_are_said(texts: list[str], said: str | None) -> None:
    told = warnings(transcribed(list(zip(texts, ["one", "two", "three", "four"], strict=True))))
    assert [line.partition(":")[0] for line in told] == ([said] if said else [])
    assert not warnings(transcribed([("one", "one")] * 4)), "one sentence in all clips"


def test_a_further_class_task_is_told_by_its_field() -> None:
    rows = [
        Prediction(
            id=str(i), classes={"gender": {"female": 0.9, "male": 0.1}}, reference_classes={"gender": true}
        )
        for i, true in enumerate(["female", "male"] * 5)
    ]
    told = warnings(rows)
    assert len(told) == 1 and told[0].startswith("gender: all clips are answered female, of 2 classes")


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus whose emotions are heard from the level alone: the statistics tell them apart."""
    folder = tmp_path_factory.mktemp("heard")
    rng = np.random.default_rng(3)
    rows = []
    for i in range(36):
        split = ("train", "train", "dev", "test")[i // 3 % 4]
        loud = i % 3
        soundfile.write(folder / f"{i:02d}.wav", 0.02 * 4**loud * rng.normal(size=6000), 16_000)
        rows.append(
            {"path": f"{i:02d}.wav", "emotion": CLASSES[loud], "speaker": f"{split}-{i % 2}", "split": split}
        )
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", folder / "table.jsonl", folder / "prepared")
    return folder / "prepared"


def told_of(heard: Path, wrong: int, said: list[str], **changes: Any) -> dict[str, list[str]]:
    """Warnings about a run that answers so many test clips wrong, all others right."""
    values = {
        "system": "finetune",
        "task": "ser",
        "data": {"corpora": [{"path": str(heard)}], "crop_s": 0.1, "smoothing": 0.1},
        "training": {"epochs": 1},
    }
    recipe = validate(merged_values(values, changes), "r")
    setup = Setup.of(recipe)
    answers = {}
    for split, source in setup.sources.evaluated.items():
        told = [reference for ids in source.plan(0) for reference in source.without_audio(ids).references]
        answers[split] = [
            Prediction(
                id=reference.id,
                speaker=reference.speaker,
                emotion=CLASSES[3] if split == "test" and i < wrong else reference.emotion,
                reference_emotion=reference.emotion,
            )
            for i, reference in enumerate(told)
        ]
    metrics = {split: score(rows).as_dict() for split, rows in answers.items()}
    return result_warnings(setup, answers, metrics, said.append)


def compared(told: dict[str, list[str]]) -> list[str]:
    return [line for lines in told.values() for line in lines if "acoustic statistics" in line]


def test_a_result_below_the_statistics_is_said_with_the_number_of_that_recipe(
    heard: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "statistics")
    values = {"system": "statistics", "data": {"corpora": [{"path": str(heard)}]}}
    execute(validate(values, "s"), run)
    rows = read_predictions(run.predictions("test"))
    uar = recall_score([r.reference_emotion for r in rows], [r.emotion for r in rows], average="macro")
    assert uar > 0.8, "the corpus is one that statistics can tell"
    said: list[str] = []
    told = told_of(heard, 4, said)
    assert list(told) == ["test"] and not said
    (line,) = compared(told)
    assert f"is below the {100 * uar:.1f} of acoustic statistics" in line
    assert told_of(heard, 0, said) == {} and not said


def test_many_clips_are_not_held_against_the_statistics_and_that_is_said(
    heard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(result_checks, "MOST_CLIPS", 18 + 9)
    assert compared(told_of(heard, 4, said)) and not said
    monkeypatch.setattr(result_checks, "MOST_CLIPS", 18 + 9 - 1)
    assert not compared(told_of(heard, 4, said))
    assert len(said) == 1 and "of 27 clips (over 26); the recipe statistics does that" in said[0]


def test_a_run_that_learns_no_emotions_is_not_held_against_them(heard: Path) -> None:
    said: list[str] = []
    values = {"system": "statistics", "data": {"corpora": [{"path": str(heard)}]}}
    recipe = validate(values, "s")
    rows = answered([("fear", true) for true in CLASSES * 3])
    told = result_warnings(
        Setup.of(recipe),
        {"test": rows},
        {"test": score(rows).as_dict()},
        said.append,
    )
    assert [line.partition(",")[0] for line in told["test"]] == ["all clips are answered fear"]


def test_a_yardstick_that_cannot_be_had_is_no_fault(heard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("one class")

    said: list[str] = []
    monkeypatch.setattr(statistics.METHOD, "answers", fail)
    assert not compared(told_of(heard, 4, said))
    assert said == ["test: not held against acoustic statistics: one class"]
