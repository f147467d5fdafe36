"""Emotions of a model with the words of Whisper's decoder: from folders, runs and the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import nn
from typer.testing import CliRunner

from recorded import batch
from tiny_whisper import save_whisper, tone
from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.backbone.families.whisper import POSITIONS
from voxstrata.cli.main import app
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CheckpointError
from voxstrata.evaluation.score import score
from voxstrata.heads.ctc import CTCHead
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel, MultitaskModel, TranscriptionModel
from voxstrata.methods.model_folder import save_model
from voxstrata.methods.transcribers.published_whisper import load_transcriber
from voxstrata.runs import RunFolder, write_json
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("neutral", "anger", "joy"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five recordings in which the tiny Whisper hears different words."""
    folder = tmp_path_factory.mktemp("recordings")
    for i, samples in enumerate((31_000, 8000, 21_000, 16_000, 5000)):
        soundfile.write(folder / f"{i}.wav", tone(i, samples).numpy(), 16_000)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "whole")


def moved(encoder: SpeechEncoder) -> SpeechEncoder:
    """As if it had been merged with an expert."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in encoder.model.named_parameters():
            if name != POSITIONS:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return encoder


def emotions(encoder: SpeechEncoder) -> EmotionModel:
    torch.manual_seed(0)
    model = EmotionModel(encoder, LABELS)
    model.head.classifier.weight.data *= 20
    return model


@pytest.fixture
def run(whisper: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a run over the whole Whisper, merged or not, and gives its folder."""

    def write(*, merged: bool = True, window: Any = "30s", words: str | None = None, **kinds: Any) -> Path:
        folder = RunFolder(tmp_path / "run")
        shutil.rmtree(folder.path, ignore_errors=True)
        encoder = load_backbone(whisper, window=window, final_norm=kinds.get("final_norm", False))
        save_model(emotions(moved(encoder) if merged else encoder), folder.model)
        write_json(folder.provenance, {"parents": kinds.get("parents", {})})
        folder.recipe.write_text(f"system: adaltm\nbase: {kinds.get('base', whisper)}\n")
        if words is not None:
            about = json.loads((folder.model / "model.json").read_text())
            write_json(folder.model / "model.json", {**about, "words": words})
        return folder.path

    return write


def said(whisper: Path, paths: list[Path], encoder: SpeechEncoder | None = None) -> list[str | None]:
    with torch.no_grad():
        return [row.transcript for row in load_transcriber(whisper, encoder).predict(batch(paths))]


def felt(run: Path, paths: list[Path]) -> list[dict[str, float]]:
    from voxstrata.inference.path import predict
    from voxstrata.methods.model_folder import load_model

    model = load_model(run / "model")
    return [dict(row.probabilities or {}) for path in paths for row in predict(model, [batch([path])])]


def answered(recognizer: Recognizer, paths: list[Path]) -> tuple[list[Any], list[Any]]:
    rows = list(recognizer.predictions(paths))
    assert [row.error for row in rows] == [None] * len(paths)
    return [row.probabilities for row in rows], [row.transcript for row in rows]


def passes(module: nn.Module) -> list[int]:
    """Clips of each call of a module from now on."""
    seen: list[int] = []
    module.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


def test_a_whole_whisper_alone_answers_words(whisper: Path, recordings: list[Path]) -> None:
    felt_none, words = answered(Recognizer.load(whisper), recordings)
    assert words == said(whisper, recordings) and felt_none == [None] * len(recordings)
    assert len(set(words)) > 3 and all(words)


def test_a_run_over_a_whole_whisper_has_the_words_of_its_plain_decoder(
    whisper: Path, run: Callable[..., Path], recordings: list[Path]
) -> None:
    folder = run()
    assert answered(Recognizer.load(folder), recordings) == (
        felt(folder, recordings),
        said(whisper, recordings),
    )


@pytest.mark.parametrize(("window", "final_norm"), [("30s", False), ("30s", True), ("clip", False)])
def test_words_are_heard_through_the_merged_encoder_where_the_model_says_so(
    whisper: Path, run: Callable[..., Path], recordings: list[Path], window: str, final_norm: bool
) -> None:
    folder = run(words="merged", window=window, final_norm=final_norm)
    through = moved(load_backbone(whisper, window="30s", final_norm=True))
    expected = said(whisper, recordings, through)
    assert expected != said(whisper, recordings)
    assert answered(Recognizer.load(folder), recordings) == (felt(folder, recordings), expected)
    # The same may be asked of any run, and of a transcriber that is not its base.
    told = run(window=window, final_norm=final_norm)
    for given in ({}, {"transcriber": whisper}):
        asked = Recognizer.load(told, words="merged", **given)
        assert answered(asked, recordings) == (felt(told, recordings), expected)
        plain = Recognizer.load(told, words="plain", **given)
        assert answered(plain, recordings)[1] == said(whisper, recordings)


def test_merged_words_need_a_model_and_a_decoder(whisper: Path, run: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="name the model too"):
        Recognizer.load(None, transcriber=whisper, words="merged")
    with pytest.raises(CheckpointError, match="words are 'louder'; allowed: plain, merged"):
        Recognizer.load(run(), words="louder")
    with pytest.raises(CheckpointError, match="plain or merged words can be told to Whisper's decoder"):
        Recognizer.load(run(base="wavlm-tiny"), words="merged")


@pytest.mark.parametrize(
    ("kinds", "weights", "calls"),
    [
        ({"merged": False}, "same", 1),
        ({"merged": False, "final_norm": True}, "same", 1),
        ({"words": "merged"}, "same", 1),
        ({"words": "merged", "window": "clip"}, "same", 2),
        ({"merged": False, "window": "clip"}, "other", 1),
        ({}, "other", 1),
    ],
)
def test_the_encoder_runs_once_where_both_use_the_same_weights(
    run: Callable[..., Path], recordings: list[Path], kinds: dict[str, Any], weights: str, calls: int
) -> None:
    recognizer = Recognizer.load(run(**kinds))
    emotion, words = recognizer.models
    counted = passes(emotion.encoder.model.encoder.layers[0])
    others = passes(words.encoder.model.encoder.layers[0])
    assert (emotion.encoder.model is words.encoder.model) == (weights == "same")
    for part in (recordings[:3], recordings[3:]):
        rows = list(recognizer.answers([batch(part), batch(part)]))
        assert [row.transcript for row in rows] == [row.transcript for row in rows[: len(part)]] * 2
    sizes = [3, 3, 2, 2]
    assert counted == [size for size in sizes for _ in range(calls)]
    assert others == (counted if weights == "same" else sizes)
    assert "forward" not in vars(emotion.encoder)


def test_batches_are_answered_as_their_clips_one_by_one(
    run: Callable[..., Path], recordings: list[Path]
) -> None:
    for kinds in ({"merged": False}, {"words": "merged"}, {}):
        recognizer = Recognizer.load(run(**kinds))
        together = list(recognizer.answers([batch(recordings)]))
        alone = list(recognizer.answers(batch([path]) for path in recordings))
        for a, b in zip(together, alone, strict=True):
            assert (a.id, a.emotion, a.transcript) == (b.id, b.emotion, b.transcript)
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


def ctc(folder: Path, encoder: SpeechEncoder) -> Path:
    save_model(TranscriptionModel(encoder, CTCHead(encoder.hidden_size, Vocabulary(("a", "b")))), folder)
    return folder


def test_an_asr_expert_goes_before_the_decoder_unless_the_model_says_words(
    whisper: Path, run: Callable[..., Path], recordings: list[Path], tmp_path: Path
) -> None:
    ctc(tmp_path / "asr" / "model", load_backbone(whisper))
    parents = {"asr": "../asr"}
    heard = Recognizer.load(tmp_path / "asr")(recordings[0]).transcript
    assert Recognizer.load(run(parents=parents))(recordings[0]).transcript == heard
    told = Recognizer.load(run(parents=parents, words="plain"))
    assert told(recordings[0]).transcript == said(whisper, recordings[:1])[0] != heard


def test_a_base_is_found_relative_to_its_run_and_in_its_provenance(
    whisper: Path, run: Callable[..., Path], recordings: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(whisper, tmp_path / "beside")
    assert (
        Recognizer.load(run(base="../beside"))(recordings[0]).transcript == said(whisper, recordings[:1])[0]
    )
    folder = run(base="wavlm-tiny")
    assert Recognizer.load(folder)(recordings[0]).transcript is None
    write_json(RunFolder(folder).provenance, {"parents": {}, "base": "../beside"})
    assert Recognizer.load(folder)(recordings[0]).transcript == said(whisper, recordings[:1])[0]


def test_where_no_decoder_is_found_emotions_are_told_and_why_there_are_no_words(
    run: Callable[..., Path], whisper: Path, recordings: list[Path], tmp_path: Path
) -> None:
    load_backbone(whisper).save(tmp_path / "encoder")
    shutil.copytree(whisper, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    for base, words, note in [
        (str(tmp_path / "encoder"), None, None),
        ("gone/away", None, None),
        (str(tmp_path / "encoder"), "plain", r"the base .*encoder is no whole Whisper here; name one"),
        (str(tmp_path / "mute"), None, "no transcript from the base .*mute: .* has no tokenizer"),
    ]:
        recognizer = Recognizer.load(run(base=base, words=words))
        heard = recognizer(recordings[0])
        assert heard.emotion in LABELS and heard.transcript is None
        assert len(recognizer.notes) == (note is not None)
        for told in recognizer.notes:
            assert "\n" not in told and re.search(note or "", told)
    with pytest.raises(CheckpointError, match=r"has words 'spoken'; this version knows plain, merged"):
        Recognizer.load(run(words="spoken"))


def test_a_transcriber_is_laid_over_any_model(
    whisper: Path, encoder: SpeechEncoder, recordings: list[Path], tmp_path: Path
) -> None:
    words = said(whisper, recordings)
    head = CTCHead(encoder.hidden_size, Vocabulary(("a", "b")))
    save_model(MultitaskModel(encoder, LABELS, head), tmp_path / "multitask" / "model")
    save_model(emotions(encoder), tmp_path / "ser" / "model")
    for name in ("multitask", "ser"):
        recognizer = Recognizer.load(tmp_path / name, transcriber=whisper)
        assert answered(recognizer, recordings) == (felt(tmp_path / name, recordings), words)
    ctc(tmp_path / "asr" / "model", encoder)
    for folder in (tmp_path / "asr", whisper, None):
        assert answered(Recognizer.load(folder, transcriber=whisper), recordings) == ([None] * 5, words)


def test_the_command_joins_a_model_and_a_transcriber(
    whisper: Path, encoder: SpeechEncoder, recordings: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    save_model(emotions(encoder), tmp_path / "ser" / "model")
    monkeypatch.chdir(tmp_path)
    runner, paths = CliRunner(), [str(path) for path in recordings]

    def rows(*options: str) -> list[dict[str, Any]]:
        done = runner.invoke(app, ["predict", *paths, "--json", *options])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    both = rows("--model", "ser", "--transcriber", str(whisper))
    assert [row["transcript"] for row in both] == said(whisper, recordings)
    assert [row["probabilities"] for row in both] == felt(tmp_path / "ser", recordings)
    alone = rows("--model", str(whisper))
    assert [row["transcript"] for row in alone] == said(whisper, recordings)
    assert not any("emotion" in row for row in alone)
    french = rows("--model", str(whisper), "--language", "fr")
    model = load_transcriber(whisper, language="french")
    with torch.no_grad():
        expected = [row.transcript for row in model.predict(batch(recordings))]
    assert [row["transcript"] for row in french] == expected != said(whisper, recordings)
    done = runner.invoke(app, ["predict", *paths, "--transcriber", str(whisper)])
    assert done.exit_code == 0 and "no emotions, and no --model was given" in done.stderr
    done = runner.invoke(app, ["predict", *paths, "--model", "ser", "--language", "fr"])
    assert isinstance(done.exception, CheckpointError)
    assert "no model here has one; leave that out" in str(done.exception)
    done = runner.invoke(app, ["predict", *paths])
    assert isinstance(done.exception, CheckpointError) and "voxstrata demo" in str(done.exception)


@pytest.mark.usefixtures("speech_by_level")
def test_a_recording_longer_than_the_model_takes_is_answered_in_windows(
    whisper: Path, encoder: SpeechEncoder, recordings: list[Path], tmp_path: Path
) -> None:
    samples, rate = soundfile.read(recordings[0], dtype="float32")
    soundfile.write(tmp_path / "long.wav", list(samples) * 10, rate)
    save_model(emotions(encoder), tmp_path / "ser" / "model")
    recognizer = Recognizer.load(tmp_path / "ser", transcriber=whisper)
    rows = list(recognizer.predictions([recordings[0], tmp_path / "long.wav", recordings[1]]))
    assert [row.error is None for row in rows] == [True, True, True]
    assert len(str(rows[1].transcript).split()) > len(str(rows[0].transcript).split())


def test_rows_of_a_corpus_bring_references_that_are_scored(
    whisper: Path, run: Callable[..., Path], corpus_folder: Path
) -> None:
    recognizer = Recognizer.load(run())
    source = recognizer.batches_of(PreparedCorpus.load(corpus_folder), "test")
    rows = list(recognizer.answers(source.epoch(0)))
    assert {row.reference_transcript for row in rows} == {"ab ba", "ba", "a b"}
    transcript = score(rows, normalizer="basic", resamples=2).transcript
    assert transcript is not None and transcript.words == sum(
        len((row.reference_transcript or "").split()) for row in rows
    )


def test_a_downloaded_whisper_is_found_by_its_hub_id_without_a_network(
    whisper: Path, run: Callable[..., Path], recordings: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    folder = run(base="some/whisper")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    cached = tmp_path / "hub" / "models--some--whisper"
    shutil.copytree(whisper, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    words = said(whisper, recordings[:1])[0]
    assert Recognizer.load(folder)(recordings[0]).transcript == words
    assert Recognizer.load("some/whisper")(recordings[0]).transcript == words
    assert Recognizer.load(folder, transcriber=Path("some/whisper"))(recordings[0]).transcript == words
    with pytest.raises(
        CheckpointError, match="some/other is no folder here and not in the Hugging Face cach"
    ):
        Recognizer.load(folder, transcriber="some/other")
