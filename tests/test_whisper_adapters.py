"""LoRA on Whisper, of peft and of loralib: merged into full weights as the toolkits do it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    PreTrainedModel,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from typer.testing import CliRunner

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.encoder import load_backbone
from voxstrata.backbone.families.wav2vec2 import Wav2Vec2Family
from voxstrata.backbone.families.whisper import WhisperFamily
from voxstrata.backbone.headers import read_base, read_expert
from voxstrata.cli.main import app
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.task_vector import TaskVector
from whisper_by_hand import POSITIONS, whisper

LAYERS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    whisper(encoder_layers=LAYERS).save_pretrained(folder)
    return folder


def adapted(model: PreTrainedModel, targets: Sequence[str] | str, **options: object) -> PreTrainedModel:
    """The model under peft, with factors as training leaves them."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, **options)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return wrapped


def encoder_of(model: PreTrainedModel) -> dict[str, Tensor]:
    encoder = model if isinstance(model, WhisperEncoder) else model.get_encoder()
    return {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}


TARGETS = [["q_proj", "v_proj"], ["fc1", "fc2"], ["q_proj", "v_proj", "fc1", "fc2"], ["conv1", "k_proj"]]
KINDS = [WhisperForConditionalGeneration, WhisperModel, WhisperForAudioClassification, WhisperEncoder]


@pytest.mark.parametrize("targets", TARGETS, ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_saves_equals_what_peft_merges(
    tmp_path: Path, base: Path, kind: type[PreTrainedModel], targets: list[str]
) -> None:
    model = kind.from_pretrained(base)
    if kind is WhisperEncoder:  # it has no place in the whole model's folder
        model.load_state_dict(whisper(encoder_layers=LAYERS).get_encoder().state_dict())
    wrapped = adapted(model, targets)
    wrapped.save_pretrained(tmp_path)
    encoder = load_backbone(base)
    vector = TaskVector.between(encoder, tmp_path)
    merged = encoder_of(wrapped.merge_and_unload())
    for name, weight in encoder.weights().items():
        torch.testing.assert_close(weight + vector.deltas[name], merged[name], rtol=1e-5, atol=1e-6)
        part = name.split(".")[-2]
        assert bool(vector.deltas[name].any()) == (part in targets and name.endswith("weight")), name
    stored = load_file(tmp_path / "adapter_model.safetensors")
    decoder = {name for name in stored if ".decoder." in name}
    assert bool(decoder) == (kind in (WhisperForConditionalGeneration, WhisperModel))
    assert vector.left_out == dict.fromkeys(decoder, "decoder")
    assert f"LoRA on {(len(stored) - len(decoder)) // 2} weights, scaled by 7 / r" in vector.coverage()
    read = load_backbone(tmp_path, architecture=base).weights()
    for name, weight in encoder.weights().items():
        assert torch.equal(read[name], weight + vector.deltas[name])


def test_an_adapter_tells_its_own_base_and_its_heads(tmp_path: Path, base: Path) -> None:
    model = WhisperForAudioClassification.from_pretrained(base)
    wrapped = adapted(model, ["q_proj", "fc2"], bias="all", modules_to_save=["projector", "classifier"])
    wrapped.save_pretrained(tmp_path / "adapter")
    about = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(base)
    merged = encoder_of(wrapped.merge_and_unload())
    read = load_backbone(tmp_path / "adapter")
    for name, tensor in read.weights().items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-5, atol=1e-6)
    bias = "encoder.layers.0.fc1.bias"
    assert not torch.equal(read.weights()[bias], load_backbone(base).weights()[bias])
    left_out = open_checkpoint(tmp_path / "adapter").left_out
    assert set(left_out.values()) == {"classification head"}
    heads = {"base_model.model.projector.weight", "base_model.model.classifier.bias"}
    assert heads < set(left_out)


def test_a_whole_model_with_peft_inside_is_read(tmp_path: Path, base: Path) -> None:
    wrapped = adapted(WhisperForConditionalGeneration.from_pretrained(base), ["v_proj", "fc1"])
    torch.save(wrapped.state_dict(), tmp_path / "whole.pt")
    about = {"peft_type": "LORA", "r": 3, "lora_alpha": 7}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    encoder = load_backbone(base)
    vector = TaskVector.between(encoder, tmp_path)
    merged = encoder_of(wrapped.merge_and_unload())
    for name, weight in encoder.weights().items():
        torch.testing.assert_close(weight + vector.deltas[name], merged[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("rows", [1500, 750, 150])
def test_vox_profiles_factors_count_once_and_its_positions_not_at_all(
    tmp_path: Path, base: Path, merged: bool, rows: int
) -> None:
    """loralib keeps factors beside the weight, and in eval mode their product in it: alpha 1, by rank."""
    state = whisper(encoder_layers=LAYERS).model.state_dict()
    stored = {f"backbone_model.{name}": tensor.clone() for name, tensor in state.items()}
    generator = torch.Generator().manual_seed(0)
    products = {}
    for number in range(LAYERS // 2, LAYERS):
        for part in ("fc1", "fc2"):
            name = f"encoder.layers.{number}.{part}"
            out, features = state[f"{name}.weight"].shape
            a = 0.3 * torch.randn(16, features, generator=generator)
            b = 0.3 * torch.randn(out, 16, generator=generator)
            products[f"{name}.weight"] = sum(torch.outer(b[:, k], a[k]) for k in range(16)) / 16
            stored |= {f"backbone_model.{name}.lora_A": a, f"backbone_model.{name}.lora_B": b}
            if merged:
                stored[f"backbone_model.{name}.weight"] += products[f"{name}.weight"]
    table = stored[f"backbone_model.{POSITIONS}"]
    stored |= {"embed_positions": table.clone(), "weights": torch.zeros(5)}
    stored[f"backbone_model.{POSITIONS}"] = table[:rows].clone()
    heads = [f"model_seq.{n}.weight" for n in (0, 3, 6)] + [f"emotion_layer.{n}.bias" for n in (0, 2)]
    save_file(stored | {name: torch.zeros(2) for name in heads}, tmp_path / "model.safetensors")
    encoder = load_backbone(base)
    vector = TaskVector.between(encoder, tmp_path)
    assert vector.groups[0] and vector.zero_groups() == (0, 1, 2)
    for name, delta in vector.deltas.items():
        expected = products.get(name, torch.zeros_like(delta))
        torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e-6)
    outside = {name for name in stored if "decoder" in name} | {"embed_positions", "weights", *heads}
    outside |= {f"backbone_model.{POSITIONS}"} if rows < 1500 else set()
    assert set(vector.left_out) == outside
    assert "outside the encoder" not in vector.left_out.values()
    assert "LoRA on 4 weights, scaled by 1 / r, loralib's default" in vector.coverage()
    read = load_backbone(tmp_path, architecture=base).weights()
    for name, weight in encoder.weights().items():
        torch.testing.assert_close(read[name], weight + vector.deltas[name])


def refused(base: Path, folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        TaskVector.between(load_backbone(base), folder)
    assert "\n" not in str(caught.value)


def test_adapters_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, base: Path) -> None:
    decoder = r"decoder\..*\.(q_proj|fc1)"
    adapted(WhisperModel.from_pretrained(base), decoder).save_pretrained(tmp_path / "decoder")
    refused(base, tmp_path / "decoder", r"no speech encoder: none of its .*decoder\.layers\.0.*whisper")
    whisper(encoder_layers=LAYERS + 1).save_pretrained(tmp_path / "deep")
    whisper(encoder_layers=LAYERS, d_model=16).save_pretrained(tmp_path / "narrow")
    for name, message in (
        ("deep", "has 5 transformer layers, but the model has 4"),
        ("narrow", r"other shapes than the model: .*\(16, 16\) for \(32, 32\)"),
    ):
        adapter = tmp_path / f"{name}-adapter"
        adapted(WhisperModel.from_pretrained(tmp_path / name), ["q_proj"]).save_pretrained(adapter)
        refused(base, adapter, message)
        assert load_backbone(adapter).num_layers == LAYERS + (name == "deep")


def test_whose_an_adapter_is_is_told_by_how_it_spells_its_layers(tmp_path: Path) -> None:
    """fairseq names a layer's parts as Whisper does, but no other part of the encoder."""

    def family(*modules: str) -> tuple[type, str, str]:
        pair = {"lora_A.weight": torch.zeros(2, 4), "lora_B.weight": torch.zeros(4, 2)}
        stored = {f"{module}.{side}": t.clone() for module in modules for side, t in pair.items()}
        save_file(stored, tmp_path / "adapter_model.safetensors")
        found = open_checkpoint(tmp_path / "adapter_model.safetensors")
        assert found.partial
        return type(found.family), found.layout, found.prefix

    layer = "encoder.layers.0.self_attn.q_proj"
    peft = "base_model.model."
    assert family(peft + "model." + layer) == (WhisperFamily, "transformers", peft + "model.")
    assert family(peft + layer, peft + "decoder.layers.0.fc1")[:2] == (WhisperFamily, "transformers")
    assert family(peft + layer.removeprefix("encoder."))[:2] == (WhisperFamily, "transformers, encoder alone")
    assert family(peft + "encoder.blocks.1.attn.query")[:2] == (WhisperFamily, "OpenAI")
    assert family(peft + layer, peft + "post_extract_proj")[:2] == (Wav2Vec2Family, "unilm or fairseq")
    wavlm = peft + "wavlm.encoder.layers.0.attention.q_proj"
    assert family(wavlm) == (Wav2Vec2Family, "transformers", peft + "wavlm.")


def test_what_headers_and_inspect_tell_of_an_adapter(tmp_path: Path, base: Path) -> None:
    adapted(WhisperModel.from_pretrained(base), ["q_proj", "fc1"]).save_pretrained(tmp_path)
    headers = read_expert(str(tmp_path), read_base(str(base)))
    assert headers.layout == "transformers" and headers.told_base == str(base)
    assert headers.values == LAYERS * (32 * 32 + 32 * 128)
    result = CliRunner().invoke(app, ["inspect", str(tmp_path), "--json"], catch_exceptions=False)
    shown = json.loads(result.stdout)
    assert shown["lora"] == f"LoRA on {2 * LAYERS} weights, scaled by 7 / r"
    assert [row["tensors"] for row in shown["groups"]] == [0] + LAYERS * [2]
