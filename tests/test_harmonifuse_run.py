"""HarmoniFuse from a recipe to a recognizer: one run, its model folder, what is refused, and a real kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tiny_harmonifuse import ASR, GENDER, LABELS, SER, SMALL, build, moved
from toy_tasks import recipe, two_corpora, write_corpus
from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.cli.main import app
from voxstrata.errors import CorpusError, RecipeError, VoxstrataError
from voxstrata.experiments.run import execute
from voxstrata.inference.path import predict
from voxstrata.inference.recognizer import Recognizer
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.methods.registry import method_of
from voxstrata.predictions import read_predictions
from voxstrata.recipes.reading import dump, merged_values
from voxstrata.runs import RunFolder
from voxstrata.training.progress import Progress


def sources_of(recipe: Any) -> Any:
    return method_of(recipe).sources(recipe)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    return two_corpora(tmp_path_factory.mktemp("corpora"))


def three_tasks(corpora: dict[str, str]) -> dict[str, Any]:
    return {"gender": {"corpora": [{"path": corpora["feelings"]}], "share": 0.5}}


@pytest.fixture(scope="module")
def run(encoder_folder, corpora, tmp_path_factory) -> RunFolder:
    chosen = recipe(encoder_folder, corpora, tasks=three_tasks(corpora), training={"validate_every": 4})
    return execute(chosen, RunFolder(tmp_path_factory.mktemp("runs") / "harmonifuse"))


def test_a_clip_of_several_tasks_has_one_row_with_all_answers(run):
    rows = read_predictions(run.predictions("test"))
    assert len({row.id for row in rows}) == len(rows) == 7
    for row in rows:
        felt = "feelings" in row.id
        assert (row.emotion is not None) == (row.reference_emotion is not None) == felt
        assert (row.classes is not None) == (row.reference_classes is not None) == felt
        assert (row.transcript is not None) == (row.reference_transcript is not None) == (not felt)
        if felt:
            assert set(row.classes["gender"]) == {"female", "male"}
            assert sum(row.classes["gender"].values()) == pytest.approx(1)


def test_every_task_is_scored(run):
    scores = json.loads(run.metrics.read_text())["test"]
    assert scores["clips"] == 7
    assert {"uar", "accuracy"} <= scores["emotion"].keys() and "wer" in scores["transcript"]
    gender = scores["classes"]["gender"]
    assert gender["labels"] == ["female", "male"] and sum(gender["support"].values()) == 4
    right = [row.reference_classes["gender"] == max(row.classes["gender"], key=row.classes["gender"].get)
             for row in read_predictions(run.predictions("test")) if row.classes]  # fmt: skip
    assert gender["accuracy"]["value"] == pytest.approx(sum(right) / 4)


def test_validation_tells_each_task_and_chooses_by_their_mean(run):
    rows = run.journal_rows("validation")
    assert [row["step"] for row in rows] == [4, 8]
    for row in rows:
        losses = [row[f"loss/{task}"] for task in ("asr", "ser", "gender")]
        assert row["loss"] == pytest.approx(sum(losses) / 3)
        assert sum(row[f"gate/ser/{layer}"] for layer in (1, 2)) == pytest.approx(1)
        assert sum(row[f"alpha/asr/{layer}"] for layer in (1, 2)) == pytest.approx(1)


def test_a_recognizer_hears_all_tasks(run, corpora):
    recording = Path(corpora["words"]).parent / "00.wav"
    heard = Recognizer.load(run.path)(recording)
    assert heard.emotion in heard.probabilities and heard.transcript is not None
    assert set(heard.classes["gender"]) == {"female", "male"}


@pytest.mark.parametrize(
    "options",
    [SMALL, SMALL.but(encoder_trained="all", class_answers="words", prompt_tokens=2)],
)
@torch.no_grad()
def test_a_model_folder_gives_the_same_answers(options, encoder_folder, emotion_batch, tmp_path):
    system = moved(
        build(load_backbone(encoder_folder), (ASR, SER, GENDER), options, letters="abdefglmnorsutiy")
    )
    for parameter in system.encoder_parameters:
        parameter += 0.01 * torch.randn(parameter.shape)
    save_model(system, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, HarmoniFuse) and loaded.options == system.options
    assert loaded.tasks == system.tasks and not any(p.requires_grad for p in loaded.parameters())
    assert list(predict(loaded, [emotion_batch])) == list(predict(system, [emotion_batch]))


def refused(encoder_folder, corpora, **changes: Any) -> str:
    with pytest.raises(VoxstrataError) as fault:
        sources_of(recipe(encoder_folder, corpora, **changes))
    assert "\n" not in str(fault.value)
    return f"{type(fault.value).__name__}: {fault.value}"


def test_a_corpus_without_what_its_task_needs_is_refused_in_one_line(encoder_folder, corpora):
    feelings = [{"path": corpora["feelings"]}]
    told = refused(encoder_folder, corpora, tasks={"asr": {"corpora": feelings}})
    assert told.startswith("CorpusError: tasks.asr, train: no clip is left") and "no transcript" in told
    told = refused(encoder_folder, corpora, tasks={"accent": {"corpora": feelings}})
    assert told.startswith("CorpusError: tasks.accent asks for accent, and its training clips have nothing")
    told = refused(encoder_folder, corpora, tasks={"ser": {"labels": ["anger", "neutral"]}})
    assert told.startswith("LabelError") and "emotion 'sadness'; the label set has anger, neutral" in told
    assert "leave them out" in refused(encoder_folder, corpora, tasks={"asr": {"labels": ["a", "b"]}})
    told = refused(encoder_folder, corpora, tasks={"dance": {}})
    assert told == "RecipeError: tasks.dance has no corpora; give tasks.dance.corpora or data.corpora"


def test_text_outside_the_vocabulary_is_refused_in_dev_and_scored_in_test(encoder_folder, corpora, tmp_path):
    strange = {"splits": ["dev"], "path": str(write_corpus(tmp_path, "dev", (1, 2, 1), text=("zebra",)))}
    uses = [{"path": corpora["words"], "splits": ["train", "test"]}, strange]
    told = refused(encoder_folder, corpora, tasks={"asr": {"corpora": uses}})
    assert told.startswith("LabelError") and "outside the vocabulary" in told
    uses = [{"path": corpora["words"], "splits": ["train"]}, strange | {"splits": ["test"]}]
    sources = sources_of(recipe(encoder_folder, corpora, tasks={"asr": {"corpora": uses}}))
    assert sources.evaluated["test"].clips()["asr"] == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"crop_s": 2}}, "crops cut words off"),
        ({"data": {"labels": ["a", "b"]}}, "tasks.ser.labels"),
        ({"data": {"targets": "dimensions"}}, "no task of harmonifuse"),
        ({"encoder_fusion": {"mode": "fixed"}}, "mode fixed needs a layer"),
        ({"lm": {"size": 36, "heads": 4}}, "multiple of twice"),
        ({"decoding": {"repeats": 1}}, "repeats is 1"),
        ({"tasks": {"asr": None, "ser": None}}, "1 or more are needed"),
        ({"tasks": {"ser": {"share": 0}}}, "more than 0 is needed"),
    ],
)
def test_recipes_that_do_not_hold_are_refused(changes, told, encoder_folder, corpora):
    with pytest.raises(RecipeError, match=told):
        recipe(encoder_folder, corpora, **changes)


def test_one_id_for_two_clips_of_two_tasks_is_refused(encoder_folder, corpora, tmp_path):
    shutil.copytree(Path(corpora["feelings"]).parent, tmp_path / "copy")
    other = write_corpus(tmp_path, "feelings", (12, 4, 4), text=("ab",))
    chosen = recipe(encoder_folder, corpora, tasks={"asr": {"corpora": [{"path": str(other)}]}})
    with pytest.raises(CorpusError, match="stands for two recordings"):
        execute(chosen, RunFolder(tmp_path / "run"))


def test_a_task_that_is_null_is_left_out_and_weights_are_as_told(encoder_folder, corpora):
    chosen = recipe(encoder_folder, corpora, tasks={"asr": None}, class_weights="balanced")
    system = method_of(chosen).build(chosen, method_of(chosen).sources(chosen), lambda line: None)
    assert list(system.tasks) == ["ser"] and system.tasks["ser"].labels == LABELS
    assert system.class_weights_ser.shape == (3,)
    assert not any("class_weights" in name for name in system.state_dict())


WIDER = {
    "ser": {"labels": [*LABELS, "fear", "joy"]},
    "gender": {"labels": ["female", "male", "robot"]},
}
ABSENT = (
    "<ser>: no training clip is fear or joy; such a class is never learned",
    "<gender>: no training clip is robot; such a class is never learned",
)


def test_classes_without_a_training_clip_get_a_warning(encoder_folder, corpora):
    chosen = recipe(encoder_folder, corpora, tasks=merged_values(three_tasks(corpora), WIDER))
    said: list[str] = []
    method_of(chosen).build(chosen, method_of(chosen).sources(chosen), said.append)
    assert [line for line in said if "never learned" in line] == [f"warning: {line}" for line in ABSENT]
    said.clear()
    plain = recipe(encoder_folder, corpora, tasks=three_tasks(corpora))
    method_of(plain).build(plain, method_of(plain).sources(plain), said.append)
    assert said and not any("never learned" in line for line in said)


def test_a_dry_run_counts_each_tasks_clips_and_says_what_it_does_not_know(encoder_folder, corpora, tmp_path):
    tasks = merged_values(three_tasks(corpora), WIDER)
    only_train = [{"path": corpora["words"], "splits": ["train", "dev"]}]
    tasks = merged_values(tasks, {"asr": {"corpora": only_train}})
    (tmp_path / "recipe.yaml").write_text(dump(recipe(encoder_folder, corpora, tasks=tasks)))
    given = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--dry-run"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    counts = "asr/train 8, asr/dev 3, ser/train 18, ser/dev 4, ser/test 4, gender/train 18, gender/dev 4"
    assert f": {counts}, gender/test 4\n" in done.stdout
    for note in (*ABSENT, "costs are not estimated for this method"):
        assert f"  note: {note}\n" in done.stdout
    (told,) = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)["runs"]
    assert told["costs"] is None and told["clips"]["ser/train"] == 18
    assert not (tmp_path / "run").exists()


def resume_from_kills(base: str, words: str, feelings: str, folder: str) -> None:
    """Three processes that kill themselves between two checkpoints, then one that ends."""
    chosen = recipe(
        base,
        {"words": words, "feelings": feelings},
        training={"steps": 14, "accumulate": 2, "checkpoint_every_steps": 3, "validate_every": 5},
    )
    for last in (2, 5, 10, None):

        def die(now: Progress, last: int | None = last) -> None:
            if now.step == last:
                os.kill(os.getpid(), signal.SIGKILL)

        pid = os.fork()
        if pid == 0:
            execute(chosen, RunFolder(Path(folder)), progress=die)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        if last is None:
            execute(chosen, RunFolder(Path(folder).with_name("undisturbed")))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are made by fork")
def test_killed_between_checkpoints_it_ends_with_the_same_model_and_answers(
    encoder_folder, corpora, tmp_path
):
    given = [str(encoder_folder), corpora["words"], corpora["feelings"], str(tmp_path / "killed")]
    done = subprocess.run([sys.executable, __file__, *given], capture_output=True, text=True, timeout=280)
    assert done.stdout.split() == ["-9", "-9", "-9", "0"], done.stderr
    ours, theirs = RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "undisturbed")
    for name in ("model/head.safetensors", "predictions/test.jsonl", "metrics.json"):
        assert (ours.path / name).read_bytes() == (theirs.path / name).read_bytes(), name
    for kind in ("step", "validation"):
        rows, expected = ours.journal_rows(kind), theirs.journal_rows(kind)
        assert [{**row, "time_s": 0} for row in rows] == [{**row, "time_s": 0} for row in expected]


@pytest.mark.parametrize("steps", [14, 2])
def test_a_frozen_encoder_runs_once_over_clips_that_come_again(
    steps, encoder_folder, corpora, tmp_path, monkeypatch
):
    heard: list[int] = []
    real = SpeechEncoder.forward

    def counted(self, waveforms, lengths):
        heard.append(len(waveforms))
        return real(self, waveforms, lengths)

    monkeypatch.setattr(SpeechEncoder, "forward", counted)
    said: dict[float, list[str]] = {}
    runs, counts = {}, {}
    for room in (0.0, 1e-5, 1.0):
        heard.clear()
        length = {"steps": steps, "warmup_steps": 1, "validate_every": 1}
        chosen = recipe(encoder_folder, corpora, cache_gb=room, training=length)
        said[room] = []
        runs[room] = execute(chosen, RunFolder(tmp_path / f"{room}-{steps}"), notify=said[room].append)
        counts[room] = sum(heard)
    # Words: 8, 3 and 3 clips; feelings: 18, 4 and 4. Predictions run it themselves.
    predicted = (3 + 4) * 2
    trained = 8 + 18 if steps == 14 else 0
    assert counts[1.0] == (trained or 2 * 4) + (3 + 4) + predicted
    assert counts[0.0] == counts[1e-5] > counts[1.0]
    assert sum("the encoder runs once over" in line for line in said[1.0]) == (4 if trained else 2)
    assert any("the encoder runs in every epoch" in line and "cache_gb" in line for line in said[1e-5])
    assert not (runs[1.0].path / "cache").exists()
    for other in (1e-5, 1.0):
        for kind in ("step", "validation"):
            ours, theirs = runs[other].journal_rows(kind), runs[0.0].journal_rows(kind)
            assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-4)


def test_an_encoder_that_is_trained_or_hears_noise_is_not_kept(encoder_folder, corpora, tmp_path):
    said: list[str] = []
    chosen = recipe(encoder_folder, corpora, encoder_trained="all", training={"steps": 4})
    execute(chosen, RunFolder(tmp_path / "trained"), notify=said.append)
    assert not any("the encoder runs" in line for line in said)
    chosen = recipe(encoder_folder, corpora, data={"augment": {"noise": 0.5}})
    execute(chosen, RunFolder(tmp_path / "noisy"), notify=said.append)
    assert "train, asr: augmentation, nothing is kept; the encoder runs in every epoch" in said
    assert any(line.startswith("dev, ser: the encoder runs once over 4 clips") for line in said)


@pytest.mark.slow
def test_two_processes_leave_the_run_of_one(encoder_folder, corpora, tmp_path):
    import two_processes

    chosen = recipe(
        encoder_folder,
        corpora,
        tasks=three_tasks(corpora),
        training={"steps": 6, "accumulate": 2, "validate_every": 3},
    )
    alone = execute(chosen, RunFolder(tmp_path / "alone"))
    (tmp_path / "recipe.yaml").write_text(dump(chosen))
    arguments = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "together")]
    started = two_processes.launch([two_processes.__file__, "command", *arguments], tmp_path)
    _, err = started.communicate(timeout=280)
    assert started.returncode == 0, err
    together = RunFolder(tmp_path / "together")
    for kind in ("step", "validation"):
        rows, expected = together.journal_rows(kind), alone.journal_rows(kind)
        assert len(rows) == len(expected) > 0
        for row, other in zip(rows, expected, strict=True):
            assert row.keys() == other.keys()
            numbers = [key for key, value in row.items() if isinstance(value, float) and key != "time_s"]
            # Alpha is weighed by positions in a process, by clips over processes.
            plain = [key for key in numbers if not key.startswith("alpha/asr")]
            assert [row[key] for key in plain] == pytest.approx([other[key] for key in plain], abs=1e-5)
    ours, theirs = (read_predictions(run.predictions("test")) for run in (together, alone))
    assert [row.id for row in ours] == [row.id for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row.transcript == other.transcript
        assert row.classes == (
            other.classes and {k: pytest.approx(v, abs=1e-4) for k, v in other.classes.items()}
        )


if __name__ == "__main__":
    resume_from_kills(*sys.argv[1:])
