"""Exports in classes of transformers give our own answers, or are refused with the reason."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForAudioClassification, AutoModelForCTC, AutoTokenizer

import tiny_whisper
from tiny_merges import KINDS, batch, parts, tiny
from voxstrata.backbone.encoder import SpeechEncoder, build_backbone, load_backbone
from voxstrata.config.head import HeadOptions
from voxstrata.errors import CheckpointError
from voxstrata.exporting.ctc import ctc_model
from voxstrata.exporting.emotion import emotion_model
from voxstrata.exporting.plain_model import PlainModel, batch_of
from voxstrata.heads.ctc import CTCHead
from voxstrata.labels import LabelSet
from voxstrata.methods.adaltm.joint import JointModel
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.encoder_models import DimensionModel, EmotionModel, MultitaskModel, TranscriptionModel
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("neutral", "anger", "fear"))  # not in alphabetical order
CHARACTERS = (" ", "'", "a", "b", "ß")


def uneven(module: torch.nn.Module) -> Any:
    """Norms, biases and running statistics of a trained model: anything but 1 and 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim < 2:
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
            if name.endswith("logits"):
                tensor.mul_(-4)
    return module.requires_grad_(False).eval()


def encoder(kind: str = "wavlm", stable: bool = True, norm: str = "layer", **more: Any) -> SpeechEncoder:
    """A small encoder with random weights."""
    found = build_backbone(tiny(kind, stable, norm, **more.pop("config", {})), seed=0)
    return SpeechEncoder(found.model, normalize=found.normalize, **more)


def transcription(of: SpeechEncoder, characters: tuple[str, ...] = CHARACTERS) -> TranscriptionModel:
    torch.manual_seed(0)
    head = CTCHead(of.hidden_size, Vocabulary(characters))
    torch.nn.init.normal_(head.lm_head.weight)
    return uneven(TranscriptionModel(of, head))


def theirs(plain: PlainModel, kind: Any, folder: Path, waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
    """What the class of transformers gives for each clip alone, prepared by hand."""
    plain.write(folder, dtype=torch.float32)
    model, loaded = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(loaded[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    found = []
    for wave, count in zip(waveforms, lengths.tolist(), strict=True):
        clip = wave[None, :count]
        if plain.preprocessor["do_normalize"]:
            clip = (clip - clip.mean()) / (clip.var(unbiased=False) + 1e-7).sqrt()
        with torch.no_grad():
            found.append(model.eval()(clip).logits[0])
    return found


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
@pytest.mark.parametrize("options", [{}, {"batch_norm": True}], ids=["plain", "batch norm"])
def test_head_a_is_the_classifier_of_transformers(
    kind: str, stable: bool, norm: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = uneven(EmotionModel(encoder(kind, stable, norm), LABELS, HeadOptions(width=16, **options)))
    clips = batch()
    found = theirs(emotion_model(model), AutoModelForAudioClassification, tmp_path / "out", *clips)
    torch.testing.assert_close(torch.stack(found), model.logits(batch_of(*clips)), rtol=1e-4, atol=1e-5)
    ours = AutoModelForAudioClassification.from_pretrained(tmp_path / "out").config
    assert ours.id2label == {0: "neutral", 1: "anger", 2: "fear"} and ours.use_weighted_layer_sum


def test_a_last_state_behind_the_final_norm_and_ratings_are_exact_too(tmp_path: Path) -> None:
    clips = batch()
    normed = uneven(EmotionModel(encoder(final_norm=True), LABELS, HeadOptions(width=16)))
    found = theirs(emotion_model(normed), AutoModelForAudioClassification, tmp_path / "a", *clips)
    torch.testing.assert_close(torch.stack(found), normed.logits(batch_of(*clips)), rtol=1e-4, atol=1e-5)
    scale = {"centre": torch.tensor([4.0, 3.5, 4.5]), "spread": torch.tensor([0.9, 1.1, 0.2])}
    rates = DimensionModel(encoder(), HeadOptions(width=16, batch_norm=True), **scale)
    rates = rates.requires_grad_(False).eval()
    found = theirs(emotion_model(rates), AutoModelForAudioClassification, tmp_path / "b", *clips)
    torch.testing.assert_close(torch.stack(found), rates.ratings(batch_of(*clips)), rtol=1e-4, atol=1e-4)
    config = AutoModelForAudioClassification.from_pretrained(tmp_path / "b").config
    assert list(config.id2label.values()) == ["arousal", "valence", "dominance"]
    assert config.problem_type == "regression"


def test_what_the_classifier_cannot_compute_is_refused_with_the_reason(tmp_path: Path) -> None:
    of = encoder()
    whisper = load_backbone(tiny_whisper.save_whisper(tmp_path / "whisper"), window="30s")
    refused = {
        r"head form b has ReLU .* head\.form=a": EmotionModel(of, LABELS, HeadOptions(form="b")),
        r"head form c weighs frames": EmotionModel(of, LABELS, HeadOptions(form="c")),
        r"head form d takes the standard deviation": EmotionModel(of, LABELS, HeadOptions(form="d")),
        r"head\.normalize_layers": EmotionModel(of, LABELS, HeadOptions(normalize_layers=True)),
        r"Whisper class takes the mean over all frames": EmotionModel(whisper, LABELS),
        r"no emotion head": transcription(of),
        r"2 encoders side by side \(one, two\)": EmotionModel(
            ParallelEncoders({"one": of, "two": copy.deepcopy(of)}), LABELS
        ),
    }
    for reason, model in refused.items():
        with pytest.raises(CheckpointError, match=reason) as fault:
            emotion_model(model)
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
def test_a_ctc_head_is_that_of_transformers(kind: str, stable: bool, norm: str, tmp_path: Path) -> None:
    model = transcription(encoder(kind, stable, norm))
    clips = batch()
    plain = ctc_model(model)
    logits, frames = model.logits(batch_of(*clips))
    for row, found in enumerate(theirs(plain, AutoModelForCTC, tmp_path / "out", *clips)):
        torch.testing.assert_close(found, logits[row, : frames[row]], rtol=1e-4, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        path = torch.randint(0, 6, (30,), generator=generator).tolist()
        assert tokenizer.decode(path) == model.head.vocabulary.collapse(path)


def test_what_ctc_of_transformers_cannot_compute_is_refused_with_the_reason(tmp_path: Path) -> None:
    whisper = load_backbone(tiny_whisper.save_whisper(tmp_path / "whisper"))
    refused = {
        r"transformers has no CTC class .* 'whisper'; --as whisper": transcription(whisper),
        r"final_norm has normalised before": transcription(encoder(final_norm=True)),
        r"has the character '\|'": transcription(encoder(), ("a", "|")),
        r"no CTC head": EmotionModel(encoder(), LABELS),
    }
    for reason, model in refused.items():
        with pytest.raises(CheckpointError, match=reason) as fault:
            ctc_model(model)
        assert "\n" not in str(fault.value)


def test_of_two_heads_each_form_writes_one_and_names_the_other() -> None:
    torch.manual_seed(0)
    both = MultitaskModel(encoder(), LABELS, CTCHead(32, Vocabulary(CHARACTERS)), HeadOptions(width=16))
    emotions, words = emotion_model(both.eval()), ctc_model(both.eval())
    assert "CTC head" in emotions.left_out[0] and "emotion head" in words.left_out[0]
    assert "lm_head.weight" in words.tensors and "lm_head.weight" not in emotions.tensors


def test_a_merge_per_task_is_exported_as_that_of_the_task(tmp_path: Path) -> None:
    base, vectors = parts()
    merged = MergedBackbone(base, vectors, init={"asr": 0.2, "ser": 0.7})
    words = merged.twin()
    with torch.no_grad():
        words.coefficients.copy_(torch.linspace(-0.2, 0.9, 6).view(3, 2))
    torch.manual_seed(0)
    model = JointModel(merged, LABELS, CTCHead(32, Vocabulary(CHARACTERS)), HeadOptions(width=16), words)
    clips = batch()
    logits = uneven(model).joint_logits(batch_of(*clips))
    found = theirs(emotion_model(model), AutoModelForAudioClassification, tmp_path / "ser", *clips)
    torch.testing.assert_close(torch.stack(found), logits.emotion, rtol=1e-4, atol=1e-4)
    plain = ctc_model(model)
    assert any("merged for emotions" in line for line in plain.left_out)
    for row, found_row in enumerate(theirs(plain, AutoModelForCTC, tmp_path / "asr", *clips)):
        ours = logits.characters[row, : logits.frames[row]]
        torch.testing.assert_close(found_row, ours, rtol=1e-4, atol=1e-4)
