"""Files of a run folder that hold something else: one line wherever they are read, and no page is written."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import voxstrata as vs
from voxstrata.cli.main import app
from voxstrata.cli.outcome import outcome, outcome_object, outcome_warnings
from voxstrata.errors import VoxstrataError
from voxstrata.evaluation.score import score
from voxstrata.experiments.leaks.training_clips import ClipTrace, TrainingClips, Use
from voxstrata.predictions import Prediction, write_predictions
from voxstrata.reporting import write_report
from voxstrata.reporting.runs_table import read_table
from voxstrata.runs import RunFolder, write_json


def answers() -> list[Prediction]:
    return [
        Prediction(
            str(n),
            speaker=str(n % 6),
            emotion="ab"[n % 2],
            reference_emotion="ab"[n % 3 % 2],
            transcript="go on",
            reference_transcript=("go in", "go on")[n % 2],
            arousal=n / 10,
            reference_arousal=n / 9,
            classes={"sex": {"f": 0.5, "m": 0.5}},
            reference_classes={"sex": "fm"[n % 2]},
        )
        for n in range(12)
    ]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run, as far as a report shows it."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.recipe.write_text("system: adaltm\ninit: 0.5\ntraining: {epochs: 2}\ndata: {corpora: [{path: a}]}\n")
    write_json(run.provenance, {"commit": "abc", "seed": 3, "finished": "then"})
    for step in range(1, 5):
        run.append({"kind": "step", "step": step, "epoch": 0, "loss": 3 / step, "lr": {"head": 1e-3}})
    learned = {"coefficient/asr/0": 0.5, "coefficient/asr/1": 0.4, "layer_weight/1": 0.1, "gate/ser/1": 0.5}
    run.append({"kind": "validation", "step": 4, "epoch": 0, "loss": 0.5, "best": True, **learned})
    write_predictions(run.predictions("test"), answers())
    write_json(run.metrics, {"test": score(answers(), resamples=5).as_dict()})
    overlap = {"first": "a", "second": "b", "shared": 1, "of": 2}
    leak = {"name": "fine-tuning/test/speaker", "run": "x", "found": 1, "clips": 2, "examples": ["a"]}
    write_json(run.leaks, {"checked": {"a": 3}, "leaks": [leak], "sentences": [overlap], "unverified": ["x"]})
    write_json(run.model / "coefficients.json", {"vectors": ["asr"], "coefficients": [[0.5], [0.4]]})
    run.complete.touch()
    return run


READERS: dict[str, Callable[[RunFolder], object]] = {
    "report": write_report,
    "train": lambda run: [list(outcome(run)), outcome_object(run), list(outcome_warnings(run))],
    "Run": lambda run: [vs.Run(run.path).scores, repr(vs.Run(run.path)), vs.Run(run.path)._repr_html_()],
    "predictions": lambda run: vs.Run(run.path).predictions(),
    "evaluate": lambda run: vs.evaluate(run.path, resamples=3),
    "compare": lambda run: vs.compare(run.path, run.path, resamples=3),
}


def refused(run: RunFolder, *readers: str) -> dict[str, str]:
    """Who of the readers, by default all, refuses the run, and in which words."""
    found = {}
    for name in readers or READERS:
        run.report.unlink(missing_ok=True)
        try:
            READERS[name](run)
        except VoxstrataError as fault:
            found[name] = str(fault)
            assert "\n" not in found[name] and "Input should" not in found[name] and len(found[name]) < 500
            assert not run.report.exists()
    return found


def test_a_whole_run_is_read_by_all(run: RunFolder) -> None:
    assert not refused(run)


BYTES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "latin": lambda content: content + b"\xff",
    "a list": lambda content: b"[]",
    "null": lambda content: b"null",
    "nested": lambda content: b"[" * 100_000,
    "twice": lambda content: content * 2,
}


@pytest.mark.parametrize("name", ["metrics.json", "leaks.json", "provenance.json", "model/coefficients.json"])
@pytest.mark.parametrize("kind", BYTES)
def test_a_file_that_is_none_is_named_by_the_report(run: RunFolder, name: str, kind: str) -> None:
    file = run.path / name
    file.write_bytes(BYTES[kind](file.read_bytes()))
    found = refused(run)
    assert str(file) in found["report"]
    assert ("Run" in found) == (name == "metrics.json")
    assert "evaluate" not in found and "compare" not in found


def test_a_file_in_another_encoding_is_read(run: RunFolder) -> None:
    for name in ("metrics.json", "leaks.json", "recipe.yaml", "predictions/test.jsonl"):
        text = (run.path / name).read_text()
        (run.path / name).write_bytes(f"\ufeff{text}".encode("utf-16-le"))
    assert not refused(run)


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    content = copy.deepcopy(content)
    holder = content
    for part in place[:-1]:
        holder = holder[part]
    if value is KeyError:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return content


#: Place in metrics.json, what stands there, and what is said of it.
METRICS = [
    (("test",), None, "test: found null; give keys with values"),
    (("test", "clips"), "12", "test.clips: found '12'; a whole number is needed"),
    (("test", "clips"), True, "test.clips: found true; a whole number is needed"),
    (("test", "emotion", "uar", "value"), "0.5", "test.emotion.uar.value: found '0.5'; a number is needed"),
    (("test", "emotion", "uar", "value"), KeyError, "test.emotion.uar.value: is missing; give it a value"),
    (
        ("test", "emotion", "uar", "iid"),
        [0.1],
        "test.emotion.uar.iid[1]: found [0.1]; one value more is needed",
    ),
    (("test", "emotion", "labels"), KeyError, "test.emotion.labels: is missing; give it a value"),
    (("test", "emotion", "labels"), "ab", "test.emotion.labels: found 'ab'; give a list, such as [a, b]"),
    (("test", "emotion", "confusion"), [[1]], "the confusion matrix of test must be 2 x 2"),
    (
        ("test", "emotion", "confusion", 0, 0),
        "1",
        "test.emotion.confusion[0][0]: found '1'; a whole number is",
    ),
    (("test", "transcript", "wer"), [1], "test.transcript.wer: found [1]; give keys with values"),
    (("test", "classes"), [], "test.classes: found []; give names with values"),
    (("test", "classes", "sex", "recall"), 3, "test.classes.sex.recall: found 3; give names with values"),
]


@pytest.mark.parametrize(("place", "value", "message"), METRICS, ids=str)
def test_scores_that_are_none_are_named_by_their_place(
    run: RunFolder, place: tuple[Any, ...], value: Any, message: str
) -> None:
    write_json(run.metrics, changed(json.loads(run.metrics.read_text()), place, value))
    told = refused(run)["report"]
    assert told.startswith(f"{run.metrics}: {message}") and told.endswith(
        ("; train the run again", "one row a label")
    )


@pytest.mark.parametrize(
    "place", [("test", "emotion", "uar", "value"), ("test", "transcript", "wer", "iid", 0)]
)
@pytest.mark.parametrize("value", ["0.5", True, None, [0.5]])
def test_a_number_that_is_none_is_refused_from_python_too(run: RunFolder, place: Any, value: Any) -> None:
    write_json(run.metrics, changed(json.loads(run.metrics.read_text()), place, value))
    assert {"report", "Run"} <= refused(run).keys()


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, inner in pairs:
        yield (*above, key)
        yield from places(inner, (*above, key))


@pytest.mark.parametrize("name", ["leaks.json", "provenance.json", "model/coefficients.json"])
def test_whatever_stands_in_a_file_is_shown_or_refused_in_one_line(run: RunFolder, name: str) -> None:
    content = json.loads((run.path / name).read_text())
    for place in places(content):
        for value in (None, "0.5", [], KeyError):
            write_json(run.path / name, changed(content, place, value))
            refused(run, "report")


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"kind": "step", "step": "5", "loss": 1}, "step '5'"),
        ({"kind": "step", "step": True, "loss": 1}, "step true"),
        ({"kind": "step", "step": 5}, "loss null"),
        ({"kind": "step", "step": 5, "loss": 1, "lr": {"head": "x"}}, "lr {'head': 'x'}"),
        ({"kind": "step", "step": 5, "loss": 1, "lr": [1]}, r"lr [1]"),
        (
            {"kind": "validation", "step": 5, "loss": 1, "best": True, "coefficient/asr/0": "x"},
            "coefficient/asr/0 'x'",
        ),
        ({"kind": "validation", "step": 5, "loss": 1, "best": True, "gate/ser/1": None}, "gate/ser/1 null"),
    ],
)
def test_a_row_of_the_journal_is_named_by_its_key(run: RunFolder, row: dict[str, Any], key: str) -> None:
    shutil.rmtree(run.model)
    run.append(row)
    told = refused(run)["report"]
    assert told == (
        f"{run.journal}: a {row['kind']} row has {key}; a number is needed there: train the run again"
    )


@pytest.mark.parametrize("recipe", ["", "3", "[a]", "a: [", "a: 1\na: 2"])
def test_a_recipe_that_is_none_is_named(run: RunFolder, recipe: str) -> None:
    run.recipe.write_text(recipe)
    assert str(run.recipe) in refused(run)["report"]


@pytest.mark.parametrize(
    "recipe", ["training: 3", "system: [a]", "data: {corpora: 3}", "tasks: x", "init: x"]
)
def test_a_recipe_of_another_form_is_shown_or_refused_in_one_line(run: RunFolder, recipe: str) -> None:
    run.recipe.write_text(recipe)
    refused(run)


def test_a_table_that_is_none_is_named_by_its_place(tmp_path: Path) -> None:
    write_json(
        tmp_path / "table.json", {"table": "t", "columns": ["uar"], "rows": [{"name": "a", "seeds": "1"}]}
    )
    with pytest.raises(
        VoxstrataError, match=r"table\.json: rows\[0\]\.seeds: found '1'; a whole number is needed; "
    ):
        read_table(tmp_path)


LISTED = TrainingClips(
    {Use("fine-tuning", "run"): frozenset([ClipTrace("a", "ann", "0f", None)])}, ("base x",)
)
HEAD = {"format": 1, "uses": [["fine-tuning", "run"]], "unknown": []}
#: Lines of a list of training clips, and what is said of it.
LISTS: list[tuple[list[Any], str]] = [
    ([], "line 1: the line is empty"),
    ([[1]], 'line 1: the first line of a list has "format", "uses" and "unknown"'),
    ([{**HEAD, "format": "2"}], "has format 2, this version reads 1; update voxstrata"),
    ([{**HEAD, "uses": 3}], 'line 1: "uses" are pairs of a stage and a run'),
    ([{**HEAD, "uses": [["fine-tuning", 3]]}], 'line 1: "uses" are pairs of a stage and a run'),
    (
        [{**HEAD, "uses": [["fine-tuned", "run"]]}],
        "line 1: there is no stage 'fine-tuned'; allowed are pretraining,",
    ),
    ([{**HEAD, "uses": HEAD["uses"] * 2}], "line 1: a use stands twice"),
    ([{**HEAD, "unknown": "x"}], 'line 1: "unknown" is a list of texts'),
    (
        [HEAD, {"id": "a"}],
        "line 2: a clip is a list of id, speaker, hash of the samples, hash of the words, uses",
    ),
    ([HEAD, ["a", None, "", None]], "line 2: a clip is a list of"),
    (
        [HEAD, ["a", None, "", None, [0]], [3, None, "", None, [0]]],
        "line 3: an id and the hash of the samples are",
    ),
    ([HEAD, ["", None, "", None, [0]]], "line 2: an id and the hash of the samples are texts"),
    ([HEAD, ["a", 3, "", None, [0]]], "line 2: a speaker and the hash of the words are texts, or null"),
    ([HEAD, ["a", None, "", None, [1]]], "line 2: a clip's uses are whole numbers from 0 to 0"),
    ([HEAD, ["a", None, "", None, [-1]]], "line 2: a clip's uses are whole numbers from 0 to 0"),
    ([HEAD, ["a", None, "", None, [True]]], "line 2: a clip's uses are whole numbers from 0 to 0"),
    (
        [HEAD, ["a", None, "x" * (1 << 21), None, [0]]],
        "line 2: the line is too long for a list of training clips",
    ),
]


@pytest.mark.parametrize(("lines", "message"), LISTS, ids=[message[:60] for _, message in LISTS])
def test_a_list_of_training_clips_that_is_none_is_named_by_its_line(
    tmp_path: Path, lines: list[Any], message: str
) -> None:
    path = tmp_path / "list.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    with pytest.raises(VoxstrataError) as caught:
        TrainingClips.read(path)
    told = str(caught.value)
    assert message in told and str(path) in told and "\n" not in told and len(told) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: the line is empty"),
        (b"plain", "it is not packed by gzip, or is cut off"),
        (gzip.compress(b"x", mtime=0)[:-3], "it is not packed by gzip, or is cut off"),
        (gzip.compress(json.dumps(HEAD).encode() + b"\n{", mtime=0), "line 2 is not JSON"),
        (gzip.compress(b"\xff", mtime=0), "line 1 is not UTF-8 text"),
    ],
)
def test_an_export_refuses_a_list_that_is_none_and_writes_nothing(
    tmp_path: Path, encoder_folder: Path, content: bytes, message: str
) -> None:
    shutil.copytree(encoder_folder, tmp_path / "run" / "model" / "encoder")
    listed = RunFolder(tmp_path / "run").training_clips
    LISTED.write(listed)
    whole = listed.read_bytes()
    listed.write_bytes(content)
    done = CliRunner().invoke(app, ["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert isinstance(done.exception, VoxstrataError), done.output
    assert message in str(done.exception) and str(listed) in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    listed.write_bytes(whole)
    assert CliRunner().invoke(app, ["export", str(tmp_path / "run"), str(tmp_path / "out")]).exit_code == 0
    assert (tmp_path / "out" / listed.name).read_bytes() == whole
