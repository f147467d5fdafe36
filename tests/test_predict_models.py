"""Any model answers: the best one here where none is named, and classifiers of transformers as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    HubertConfig,
    HubertForSequenceClassification,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    pipeline,
)
from typer.testing import CliRunner

from long_recordings import RATE, burst
from voxstrata.backbone.encoder import load_backbone
from voxstrata.cli.main import app
from voxstrata.errors import CheckpointError
from voxstrata.inference import best_model as best_module
from voxstrata.inference.best_model import best_model
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import save_model
from voxstrata.runs import RunFolder, write_json

pytestmark = pytest.mark.usefixtures("speech_by_level")


NAMES = ("neu", "hap", "Angry", "calm")


def write_classifier(folder: Path, kind: str, names: tuple[str, ...] = NAMES, **changes) -> Path:
    """A small classifier with random weights, as transformers saves it."""
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
    if kind == "hubert":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        front = {
            "conv_dim": (32, 32),
            "conv_stride": (10, 8),
            "conv_kernel": (10, 8),
            "num_feat_extract_layers": 2,
        }
        config = HubertConfig(
            **sizes, **front, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, **labels
        )
        model = HubertForSequenceClassification(config)
        extractor = Wav2Vec2FeatureExtractor()
    elif kind == "whisper":
        sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "vocab_size": 60, "pad_token_id": 0}
        heads = {"encoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_attention_heads": 2}
        config = WhisperConfig(
            **sizes, **heads, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **labels
        )
        model, extractor = WhisperForAudioClassification(config), WhisperFeatureExtractor()
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = ASTConfig(**sizes, max_length=128, **labels)
        model = ASTForAudioClassification(config)
        extractor = ASTFeatureExtractor(max_length=128)
    for key, value in changes.items():
        setattr(model.config, key, value)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("classifier", "projector")):
                parameter.mul_(20)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["hubert", "whisper", "ast"])
def test_a_classifier_answers_as_transformers_own_pipeline(kind: str, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "model", kind)
    recognizer = Recognizer.load(folder)
    assert any("classes of its own: calm" in note for note in recognizer.notes)
    theirs = pipeline("audio-classification", model=str(folder), top_k=None)
    wanted = {"neu": "neutral", "hap": "happiness", "Angry": "anger", "calm": "calm"}
    for k, seconds in enumerate((0.7, 3.0)):
        soundfile.write(tmp_path / "a.wav", burst(k, seconds), RATE, subtype="FLOAT")
        found = recognizer(tmp_path / "a.wav")
        expected = {wanted[row["label"]]: row["score"] for row in theirs(burst(k, seconds).copy())}
        assert found.probabilities == pytest.approx(expected, abs=1e-5)
        assert found.emotion == max(expected, key=expected.__getitem__)


def test_a_classifier_answers_long_recordings_and_joins_a_transcriber(tmp_path: Path) -> None:
    recognizer = Recognizer.load(write_classifier(tmp_path / "model", "hubert"))
    found = recognizer((np.tile(np.r_[burst(1, 5.0), np.zeros(RATE, np.float32)], 6), RATE))
    assert len(found.segments) == 6 and all(part.emotion for part in found.segments)
    assert "PublishedClassifier" in repr(recognizer)


def test_labels_that_fall_together_are_added(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "model", "hubert", ("happy", "Happiness", "sad"))
    found = Recognizer.load(folder)((burst(3, 1.0), RATE))
    assert found.probabilities.keys() == {"happiness", "sadness"} and sum(
        found.probabilities.values()
    ) == pytest.approx(1)
    unnamed = write_classifier(tmp_path / "unnamed", "hubert", ("LABEL_0", "LABEL_1"))
    assert "does not name its classes" in Recognizer.load(unnamed).notes[0]


def test_a_classifier_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "model", "hubert")

    def broken(change) -> Path:
        shutil.rmtree(tmp_path / "broken", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "broken")
        change(tmp_path / "broken")
        return tmp_path / "broken"

    def rewrite(name: str, **changes):
        def change(place: Path) -> None:
            about = json.loads((place / name).read_text())
            (place / name).write_text(json.dumps({**about, **changes}))

        return change

    def without_head(place: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(place / "model.safetensors")
        save_file({k: v for k, v in tensors.items() if "classifier" not in k}, place / "model.safetensors")

    for change, message in (
        (lambda place: (place / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda place: (place / "preprocessor_config.json").write_text("{"), "is not JSON"),
        (lambda place: (place / "model.safetensors").write_bytes(b"no"), "cannot use the classifier"),
        (rewrite("preprocessor_config.json", sampling_rate=8000), "8000 Hz"),
        (rewrite("config.json", problem_type="multi_label_classification"), "multi_label"),
        (rewrite("config.json", id2label={"0": "one"}), "two classes|cannot use"),
        (rewrite("config.json", id2label={"0": "a\nb", "1": "b", "2": "c", "3": "d"}), "two classes"),
        (rewrite("config.json", num_hidden_layers=3), "lacks .* weights"),
        (without_head, "lacks 2 weights of the classifier"),
    ):
        with pytest.raises(CheckpointError, match=message) as fault:
            Recognizer.load(broken(change))
        assert "\n" not in str(fault.value)


def write_run(folder: Path, encoder: Path, *, uar: float | None = None, complete: bool = True) -> Path:
    torch.manual_seed(0)
    save_model(EmotionModel(load_backbone(encoder), LabelSet(("anger", "joy"))), folder / "model")
    run = RunFolder(folder)
    if uar is not None:
        write_json(run.metrics, {"dev": {"emotion": {"uar": {"value": uar}}}})
    if complete:
        run.complete.write_text("")
    return folder


def test_the_best_run_answers_where_no_model_is_named(
    encoder_folder: Path, recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(best_module, "packaged_names", lambda: ())
    with pytest.raises(CheckpointError, match=r"no model: .*voxstrata demo.*--model RUN") as fault:
        best_model(Path("runs"))
    assert "\n" not in str(fault.value)
    write_run(Path("runs/keyed-0123456789"), encoder_folder, uar=0.99)
    assert best_model(Path("runs"))[0].endswith("keyed-0123456789")
    for name, uar, complete in (("a", 0.4, True), ("b", 0.6, True), ("c", 0.9, False), ("d", None, True)):
        write_run(Path("runs") / name, encoder_folder, uar=uar, complete=complete)
    (Path("runs/a") / "metrics.json").write_text("[")
    assert best_model(Path("runs")) == ("runs/b", "runs/b, UAR 60.00 % on dev of 3 runs here")
    done = CliRunner().invoke(app, ["predict", str(recordings[0]), "--json"])
    assert done.exit_code == 0 and "model: runs/b, UAR 60.00 %" in done.stderr
    assert json.loads(done.stdout)["emotion"] in ("anger", "joy")


def test_a_packaged_model_answers_where_there_is_no_run(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_run(tmp_path / "made", encoder_folder) / "model"
    monkeypatch.setattr(best_module, "packaged_names", lambda: ("words", "feelings"))
    monkeypatch.setattr(best_module, "packaged", {"words": tmp_path, "feelings": model}.get)
    assert best_model(tmp_path / "runs") == ("feelings", "feelings, which comes with the package")


def test_prediction_works_with_the_network_cut(
    encoder_folder: Path, recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def cut(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", cut)
    monkeypatch.setattr(socket, "getaddrinfo", cut)
    run = write_run(tmp_path / "run", encoder_folder)
    classifier = write_classifier(tmp_path / "classifier", "hubert")
    for model in (run, run / "model", classifier):
        done = CliRunner().invoke(app, ["predict", str(recordings[0]), "--model", str(model), "--json"])
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["predict", str(recordings[0]), "--model", "some/model", "--json"])
    assert isinstance(done.exception, CheckpointError) and "holds no model" in str(done.exception)
