"""What is written of Whisper opens in plain transformers; and the encoder that comes with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    PreTrainedModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from voxstrata.backbone.encoder import SpeechEncoder, build_backbone, load_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.locate import locate
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.runs import sha256_of
from whisper_by_hand import (
    POSITIONS,
    SAMPLE_RATE,
    clips,
    distance,
    experts,
    extracted,
    group_of,
    plain_states,
    real_model,
    whisper_config,
)

#: Of the packaged file: other weights need another name.
PACKAGED_SHA256 = "07cd205bba5220b6900fbe39b96cd177d3b244f25b9e3d0fcc7a68b5e44c2e5e"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> MergedBackbone:
    """A merge of two experts under unequal coefficients, over 128 mel bands."""
    folder = tmp_path_factory.mktemp("experts")
    changes = {"asr": ("encoder.",), "ser": ("encoder.layers.",)}
    base = experts(folder, changes, num_mel_bins=128, encoder_layerdrop=0.2)
    vectors = {name: TaskVector.between(base, folder / name) for name in changes}
    merged = MergedBackbone(base, vectors)
    with torch.no_grad():
        merged.coefficients.copy_(torch.linspace(-0.4, 1.3, 6).view(3, 2))
    return merged


def opened(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """The model that transformers opens; nothing of its encoder may be missing or left over."""
    model, told = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not told["unexpected_keys"] and not told["mismatched_keys"]
    assert not [name for name in told["missing_keys"] if "encoder." in name and "decoder" not in name]
    return model.eval()


def in_float64(merged: MergedBackbone) -> dict[str, Tensor]:
    """The merged tensors by a plain sum, rounded once."""
    found = {}
    for name, weight in merged.base.weights().items():
        exact = weight.double()
        for k, deltas in enumerate(merged._deltas):
            if name in deltas:
                exact = exact + merged.coefficients[group_of(name), k].item() * deltas[name].double()
        found[name] = exact.float()
    return found


@pytest.mark.parametrize(
    "kind", [WhisperModel, WhisperForAudioClassification, WhisperForConditionalGeneration]
)
def test_an_export_opens_in_plain_transformers(
    merged: MergedBackbone, tmp_path: Path, kind: type[PreTrainedModel]
) -> None:
    merged.export(tmp_path / "out")
    plain = opened(kind, tmp_path / "out")
    encoder = plain.encoder if kind is WhisperForAudioClassification else plain.get_encoder()
    for name, tensor in in_float64(merged).items():
        assert torch.equal(encoder.state_dict()[name.removeprefix("encoder.")], tensor), name
    extractor = WhisperFeatureExtractor.from_pretrained(tmp_path / "out")
    assert (extractor.feature_size, extractor.n_samples, extractor.nb_max_frames) == (128, 480_000, 3000)
    waveforms, lengths = clips((8000, 5203))
    states = merged(waveforms, lengths)
    padded = load_backbone(tmp_path / "out", window="30s", final_norm=True)(waveforms, lengths)
    for row, count in enumerate(lengths.tolist()):
        clip, frames = waveforms[row, :count], int(states.lengths[row])
        for ours, theirs in zip(states.layers, plain_states(encoder, extracted(clip, 128)), strict=True):
            assert distance(ours[row, :frames], theirs[0]) < 1e-5
        mel = extractor(clip.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        with torch.no_grad():
            assert distance(padded.layers[-1][row], encoder(mel).last_hidden_state[0]) < 1e-5


def test_an_export_is_read_again_and_tells_its_coefficients(merged: MergedBackbone, tmp_path: Path) -> None:
    merged.export(tmp_path / "out")
    again = load_backbone(tmp_path / "out")
    assert fingerprint(again.weights()) == fingerprint(in_float64(merged))
    assert not again.normalize and not any(p.requires_grad for p in again.parameters())
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["WhisperModel"] and config["encoder_layerdrop"] == 0.2
    told = json.loads((tmp_path / "out/coefficients.json").read_text())
    assert told["coefficients"] == merged.coefficients.tolist() and told["vectors"] == ["asr", "ser"]
    vector = TaskVector.between(merged.base, tmp_path / "out")
    assert vector.left_out == {} and not vector.deltas[POSITIONS].any()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "config.json", "preprocessor_config.json", "coefficients.json"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_saved_encoder_opens_in_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    encoder = build_backbone(whisper_config(), seed=4)
    encoder.save(tmp_path / "half", dtype=dtype)
    plain = opened(WhisperModel, tmp_path / "half").encoder.state_dict()
    again = load_backbone(tmp_path / "half").weights()
    assert AutoConfig.from_pretrained(tmp_path / "half").dtype == dtype
    for name, tensor in encoder.weights().items():
        assert torch.equal(again[name], tensor.to(dtype).float())
        assert torch.equal(plain[name.removeprefix("encoder.")], again[name])


@pytest.fixture(scope="module")
def tiny_en() -> SpeechEncoder:
    return load_backbone("whisper-tiny.en")


def test_the_packaged_whisper_is_the_file_that_it_was(tiny_en: SpeechEncoder) -> None:
    folder = locate("whisper-tiny.en")
    assert sha256_of(folder / "model.safetensors") == PACKAGED_SHA256
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert set(stored) == set(tiny_en.weights())
    assert (tiny_en.num_layers, tiny_en.hidden_size, tiny_en.normalize) == (4, 384, False)
    expected = opened(WhisperModel, folder).encoder
    waveforms, lengths = clips((8000, 5203))
    states = tiny_en(waveforms, lengths)
    for row, count in enumerate(lengths.tolist()):
        frames = int(states.lengths[row])
        for ours, theirs in zip(
            states.layers, plain_states(expected, extracted(waveforms[row, :count])), strict=True
        ):
            assert distance(ours[row, :frames], theirs[0]) < 1e-5


def test_the_packaged_whisper_holds_the_published_encoder() -> None:
    published, folder = real_model("whisper-tiny.en"), locate("whisper-tiny.en")
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, published))
    expected = {name.removeprefix("model."): t for name, t in theirs.items() if ".encoder." in name}
    assert set(ours) == set(expected) and len(theirs) > len(ours)
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype == torch.float16
        assert torch.equal(ours[name], tensor), name


def test_the_packaged_whisper_tells_the_whole_models_configuration() -> None:
    folder = locate("whisper-tiny.en")
    ours = json.loads((folder / "config.json").read_text())
    assert ours.pop("architectures") == ["WhisperModel"]
    config = WhisperConfig.from_pretrained(folder)
    assert (config.decoder_layers, config.vocab_size, config.max_target_positions) == (4, 51864, 448)
    heard = json.loads((folder / "preprocessor_config.json").read_text())
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    assert (extractor.feature_size, extractor.n_samples) == (config.num_mel_bins, 480_000)
    published = real_model("whisper-tiny.en")
    theirs = json.loads((published / "config.json").read_text())
    assert theirs.pop("architectures") == ["WhisperForConditionalGeneration"]
    assert ours == theirs
    assert heard == json.loads((published / "preprocessor_config.json").read_text())


def test_the_published_model_differs_from_the_packaged_one_by_its_decoder(
    tiny_en: SpeechEncoder,
) -> None:
    vector = TaskVector.between(tiny_en, real_model("whisper-tiny.en"))
    assert vector.kinship == pytest.approx(1) and vector.zero_groups() == (0, 1, 2, 3, 4)
    assert set(vector.left_out.values()) == {"decoder"} and len(vector.left_out) == 100
