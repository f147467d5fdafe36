"""`voxstrata adapt`: own labels and a model, cross-validated by speaker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sklearn.metrics import recall_score
from typer.testing import CliRunner

from voxstrata.cli.commands import app
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import AudioError, CorpusError, RecipeError
from voxstrata.experiments.adapt.adaptation import adapt
from voxstrata.experiments.adapt.candidates import Candidate
from voxstrata.experiments.adapt.clips import LabelledClips, parts, share_of
from voxstrata.experiments.adapt.validation import Validation
from voxstrata.experiments.leaks.training_clips import TrainingClips
from voxstrata.experiments.run import execute
from voxstrata.inference.recognizer import Recognizer
from voxstrata.predictions import read_predictions
from voxstrata.recipes.reading import read_recipe, read_run_recipe
from voxstrata.runs import RunFolder

#: Class -> samples between two pulses: a low and a high voice.
PERIODS = {"bored": 200, "eager": 50}


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for two tones."""
    monkeypatch.setattr("voxstrata.experiments.adapt.candidates.EPOCHS", 6)


def table(folder: Path, *, speakers: Sequence[str], each: int = 2, random: bool = False) -> Path:
    """A table of clips: of each speaker so many of either class, told apart by their pitch, or by nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    lines = ["path,speaker,emotion"]
    for number, speaker in enumerate(speakers):
        for name, period in PERIODS.items():
            for take in range(each):
                wave = 0.01 * rng.normal(size=6000)
                wave[:: int(rng.integers(50, 200)) if random else period + number] += 0.5
                path = folder / f"{number}-{name}-{take}.wav"
                soundfile.write(path, wave, 16_000)
                lines.append(f"{path.name},{speaker},{name}")
    (folder / "mine.csv").write_text("\n".join(lines) + "\n")
    return folder / "mine.csv"


SIX = ("ann", "bob", "cem", "dee", "eva", "fay")


def labelled(folder: Path, data: Path) -> LabelledClips:
    return LabelledClips.of(list(prepare("table", data, folder).cuts()))


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_no_speaker_is_on_both_sides_and_every_clip_is_tested_once(tmp_path: Path) -> None:
    clips = labelled(tmp_path / "out", table(tmp_path, speakers=(*SIX, "gus"), each=3))
    divided = parts(clips)
    assert len(divided) == 5
    assert sorted(row for part in divided for row in part) == list(range(42))
    for part in divided:
        tested = {clips.speakers[row] for row in part}
        assert not tested & {clips.speakers[row] for row in set(range(42)) - part}
    assert clips.doubts() == []


@pytest.mark.parametrize(("speakers", "said"), [(("",) * 6, "unknown"), (("ann",) * 6, "of one speaker")])
def test_without_speakers_clips_are_divided_with_a_warning(
    tmp_path: Path, speakers: tuple[str, ...], said: str
) -> None:
    clips = labelled(tmp_path / "out", table(tmp_path, speakers=speakers))
    divided = parts(clips)
    assert sorted(row for part in divided for row in part) == list(range(24))
    assert all(set(Counter(clips.emotions[row] for row in part)) == set(PERIODS) for part in divided)
    (doubt,) = clips.doubts()
    assert said in doubt


def test_too_few_labels_are_said_and_one_class_is_refused(tmp_path: Path) -> None:
    clips = labelled(tmp_path / "few", table(tmp_path / "a", speakers=("ann", "bob"), each=2))
    assert any("labels are too few: bored 4, eager 4" in line for line in clips.doubts())
    path = table(tmp_path / "b", speakers=SIX)
    path.write_text(path.read_text().replace("eager\n", "bored\n"))
    with pytest.raises(CorpusError, match="bored 24; at least two classes"):
        labelled(tmp_path / "one", path)


def test_shares_of_the_labels_lie_within_each_other_with_all_classes(tmp_path: Path) -> None:
    clips = labelled(tmp_path / "out", table(tmp_path, speakers=SIX))
    rows = frozenset(range(24))
    quarter, half = share_of(clips, rows, 0.25), share_of(clips, rows, 0.5)
    assert (len(quarter), len(half), share_of(clips, rows, 1.0)) == (6, 12, rows)
    assert quarter < half
    assert {clips.emotions[row] for row in quarter} == set(PERIODS)


@pytest.fixture(scope="module")
def adapted(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """Folder of all, table, and what adapting the tiny encoder printed as JSON."""
    folder = tmp_path_factory.mktemp("adapt")
    data = table(folder / "data", speakers=SIX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voxstrata.experiments.adapt.candidates.EPOCHS", 6)
        done = run("adapt", encoder_folder, "--data", data, "--out", folder / "runs/mine", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    return folder, data, json.loads(done.stdout)


def test_the_result_is_a_run_that_predicts_evaluates_reports_and_exports(
    adapted: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    folder, data, _ = adapted
    result = RunFolder(folder / "runs/mine")
    assert result.is_complete and result.report.is_file()
    clip = data.parent / "0-bored-0.wav"
    answer = Recognizer.load(result.path)(clip)
    assert set(answer.probabilities or {}) == set(PERIODS)
    assert run("evaluate", result.path, "--split", "cv").exit_code == 0
    assert run("report", result.path).exit_code == 0
    exported = run("export", result.path, tmp_path / "exported")
    assert exported.exit_code == 0, exported.output
    assert Recognizer.load(tmp_path / "exported")(clip).probabilities == pytest.approx(
        answer.probabilities, abs=1e-5
    )


def test_the_leak_guards_list_holds_every_labelled_clip(adapted: tuple[Path, Path, Any]) -> None:
    folder, _, _ = adapted
    known = TrainingClips.read(RunFolder(folder / "runs/mine").training_clips)
    clips = {trace.id for traces in known.uses.values() for trace in traces}
    assert clips == {cut.id for cut in prepare("table", folder / "data/mine.csv", folder / "again").cuts()}


def test_the_scores_are_those_of_scikit_learn_over_all_clips(adapted: tuple[Path, Path, Any]) -> None:
    folder, _, stated = adapted
    rows = read_predictions(RunFolder(folder / "runs/mine").predictions("cv"))
    assert len(rows) == 24
    uar = recall_score(
        [row.reference_emotion for row in rows], [row.emotion for row in rows], average="macro"
    )
    assert stated["uar"]["head"] == pytest.approx(uar)
    assert stated["uar"]["most frequent class"] == pytest.approx(0.5)
    assert stated["curve"]["1"] == stated["uar"]["head"]
    assert list(stated["curve"]) == ["0.25", "0.5", "1"]


def test_the_answers_of_a_part_do_not_depend_on_its_labels(
    adapted: tuple[Path, Path, Any], encoder_folder: Path, tmp_path: Path
) -> None:
    folder, data, _ = adapted
    clips = labelled(tmp_path / "out", data)
    divided = parts(clips)
    swapped = {"bored": "eager", "eager": "bored"}
    other = list(clips.emotions)
    for row in divided[0]:
        other[row] = swapped[other[row]]
    before = {row.id: row for row in read_predictions(RunFolder(folder / "runs/mine").predictions("cv"))}
    recipe = read_run_recipe(RunFolder(folder / "runs/mine"))
    changed = LabelledClips(clips.cuts, tuple(other), clips.speakers)
    for row in divided[0]:
        clips.cuts[row].supervisions[0].custom["emotion"] = other[row]
    again = Validation(Candidate("head", recipe), changed, tmp_path / "scratch", lambda line: None)
    rows = {row.id: row for row in again.answers(divided[:1])}
    assert set(rows) == {clips.cuts[row].id for row in divided[0]}
    for name, row in rows.items():
        assert row.probabilities == pytest.approx(before[name].probabilities, abs=1e-6)


def test_the_same_again_gives_the_same(
    adapted: tuple[Path, Path, Any], encoder_folder: Path, tmp_path: Path
) -> None:
    folder, data, _ = adapted
    again = adapt(str(encoder_folder), data, tmp_path / "mine", notify=lambda line: None)
    first = RunFolder(folder / "runs/mine")
    for name in ("model/head.safetensors", "predictions/cv.jsonl", "adaptation.json"):
        assert (again.run.path / name).read_bytes() == (first.path / name).read_bytes()


def test_labels_without_a_meaning_are_not_said_to_help(encoder_folder: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "data", speakers=SIX, random=True)
    done = adapt(str(encoder_folder), data, tmp_path / "runs/mine", notify=lambda line: None)
    strongest = max(done.against, key=lambda name: done.scores[name])
    low, high = done.against[strongest].interval
    assert low <= 0
    assert done.sentences[0].startswith(("it is not shown that adapting helps", "adapting does not help"))
    assert done.sentences[0].startswith("it is") == (low <= 0 <= high)


def test_of_a_merge_the_best_coefficient_in_cross_validation_is_taken(
    encoder_folder: Path, expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    data = table(tmp_path / "data", speakers=SIX)
    corpus = prepare("table", data, tmp_path / "prepared")
    vectors = {name: str(place) for name, place in expert_folders.items()}
    recipe = {
        "system": "adaltm",
        "base": str(encoder_folder),
        "vectors": vectors,
        "data": {"corpora": [{"path": str(corpus.folder)}]},
        "training": {"epochs": 1},
    }
    merge = execute(read_recipe(recipe), RunFolder(tmp_path / "merge"))
    done = adapt(str(merge.path), corpus.folder, tmp_path / "mine", notify=lambda line: None)
    tried = {name: uar for name, uar in done.scores.items() if name == "head" or name.startswith("merge at")}
    assert set(tried) == {"head", "merge at 0.25", "merge at 0.5", "merge at 0.75", "merge at 1"}
    assert tried[done.chosen] == max(tried.values())
    assert "the model as it is" in done.against
    trained = read_run_recipe(done.run)
    if done.chosen != "head":
        assert f"merge at {trained.init:g}" == done.chosen
        assert dict(trained.vectors) == vectors
    else:
        assert trained.base == str(merge.path)
    assert any("of 5 candidates" in line for line in done.sentences)


def test_faulty_clips_are_refused_or_left_out_with_exit_code_3(encoder_folder: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "data", speakers=SIX)
    (data.parent / "2-bored-1.wav").write_bytes(b"")
    refused = run("adapt", encoder_folder, "--data", data, "--out", tmp_path / "mine")
    assert isinstance(refused.exception, CorpusError) and "2-bored-1" in str(refused.exception)
    assert not (tmp_path / "mine").exists()
    done = run("adapt", encoder_folder, "--data", data, "--out", tmp_path / "mine", "--skip-bad")
    assert done.exit_code == 3 and "2-bored-1" in done.stderr
    assert len(read_predictions(RunFolder(tmp_path / "mine").predictions("cv"))) == 23


def test_a_folder_with_a_run_is_refused_before_the_work(
    adapted: tuple[Path, Path, Any], encoder_folder: Path
) -> None:
    folder, _, _ = adapted
    again = run("adapt", encoder_folder, "--data", folder / "no.csv", "--out", folder / "runs/mine")
    assert isinstance(again.exception, RecipeError) and "is there already" in str(again.exception)


def test_clips_that_the_encoder_cannot_take_are_one_line(tmp_path: Path) -> None:
    data = table(tmp_path / "data", speakers=SIX[:2])
    noise = np.random.default_rng(0).normal(0, 0.1, 31 * 16_000)
    soundfile.write(data.parent / "0-bored-0.wav", noise, 16_000)
    with pytest.raises(AudioError, match=r"0-bored-0 .31.0 s.; it takes at most 30 s"):
        adapt("whisper-tiny.en", data, tmp_path / "mine", notify=lambda line: None)
