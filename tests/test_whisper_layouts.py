"""A small Whisper in every published layout: the encoder that is read is the one it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    PreTrainedModel,
    WavLMConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
)

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.backbone.families.whisper import WhisperFamily
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.task_vector import TaskVector
from whisper_by_hand import (
    POSITIONS,
    clips,
    distance,
    extracted,
    plain_states,
    shifted,
    whisper,
    whisper_config,
)

#: What an OpenAI file of this size says of itself.
DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 32,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "n_vocab": 51864,
    "n_text_ctx": 448,
    "n_text_state": 32,
    "n_text_head": 2,
    "n_text_layer": 2,
}
Stored = dict[str, Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    whisper().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expert() -> WhisperForConditionalGeneration:
    model = whisper()
    shifted(model, seed=5)
    return model


def encoder_state(expert: PreTrainedModel) -> Stored:
    """The encoder's tensors in the names of this package."""
    return {f"encoder.{name}": tensor.clone() for name, tensor in expert.get_encoder().state_dict().items()}


def whole_state(expert: PreTrainedModel) -> Stored:
    return {name: tensor.clone() for name, tensor in expert.model.state_dict().items()}


def openai_names(state: Mapping[str, Tensor]) -> Stored:
    """Transformers' names of a Whisper -> those of OpenAI's own code, part by part of a name."""
    parts = (
        ("self_attn_layer_norm", "attn_ln"),
        ("encoder_attn_layer_norm", "cross_attn_ln"),
        ("final_layer_norm", "mlp_ln"),
        ("decoder.layer_norm", "decoder.ln"),
        ("encoder.layer_norm", "encoder.ln_post"),
        ("embed_positions.weight", "positional_embedding"),
        ("embed_tokens", "token_embedding"),
        ("self_attn", "attn"),
        ("encoder_attn", "cross_attn"),
        ("q_proj", "query"),
        ("k_proj", "key"),
        ("v_proj", "value"),
        ("out_proj", "out"),
        ("fc1", "mlp.0"),
        ("fc2", "mlp.2"),
        (".layers.", ".blocks."),
    )
    renamed = {}
    for name, tensor in state.items():
        for ours, theirs in parts:
            name = name.replace(ours, theirs)
        renamed[name] = tensor.clone()
    assert len(renamed) == len(state)
    return renamed


def generation(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    expert.save_pretrained(folder)
    return {"model.decoder.embed_tokens.weight": "decoder", "model.decoder.layers.1.fc2.bias": "decoder"}


def bare(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    expert.model.save_pretrained(folder)
    return {"decoder.layers.0.encoder_attn.q_proj.weight": "decoder"}


def classification(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    model = WhisperForAudioClassification(whisper_config(use_weighted_layer_sum=True, num_labels=3))
    model.encoder.load_state_dict(expert.get_encoder().state_dict())
    model.save_pretrained(folder)
    heads = dict.fromkeys(("projector.weight", "classifier.bias"), "classification head")
    return {"layer_weights": "weights of its layer sum", **heads}


def encoder_alone(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    expert.get_encoder().save_pretrained(folder)
    return {}


def packaged(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    expert.save_pretrained(folder / "from")
    load_backbone(folder / "from").save(folder / "out")
    (folder / "out" / "model.safetensors").rename(folder / "model.safetensors")
    (folder / "out" / "config.json").rename(folder / "config.json")
    return {}


def sharded(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    expert.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return {"model.decoder.layer_norm.weight": "decoder"}


def safetensors_file(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    save_file(whole_state(expert), folder / "weights.safetensors")
    return {"decoder.layers.0.fc1.weight": "decoder"}


def torch_file(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    torch.save(expert.state_dict(), folder / "pytorch_model.bin")
    return {"proj_out.weight": "decoder", "model.decoder.layers.0.fc1.weight": "decoder"}


def lightning(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    state = {f"whisper.{name}": tensor for name, tensor in whole_state(expert).items()}
    content = {"state_dict": state, "optimizer_states": [{"exp_avg": torch.zeros(2)}], "epoch": 3}
    torch.save(content, folder / "last.ckpt")
    return {"whisper.decoder.layers.0.fc1.weight": "decoder", "optimizer_states": "state of its training"}


def openai(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    content = {"dims": DIMS, "model_state_dict": openai_names(whole_state(expert))}
    torch.save(content, folder / "tiny.pt")
    return {
        "decoder.token_embedding.weight": "decoder",
        "decoder.blocks.0.cross_attn.query.weight": "decoder",
    }


def openai_in_a_wrapper(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    state = openai_names(whole_state(expert))
    torch.save({f"model.{name}": tensor for name, tensor in state.items()}, folder / "tuned.pt")
    return {"model.decoder.positional_embedding": "decoder"}


def vox_profile(folder: Path, expert: PreTrainedModel) -> dict[str, str]:
    """As published: the table of positions is cut to the seconds that the model hears."""
    state = {f"backbone_model.{name}": tensor for name, tensor in whole_state(expert).items()}
    table = state[f"backbone_model.{POSITIONS}"]
    state["embed_positions"] = table.clone()
    state[f"backbone_model.{POSITIONS}"] = table[:750].clone()
    state["weights"] = torch.zeros(3)
    for number in (0, 3, 6):
        state[f"model_seq.{number}.weight"] = torch.zeros(4, 4, 1)
        state[f"model_seq.{number}.bias"] = torch.zeros(4)
    for number in (0, 2):
        state[f"emotion_layer.{number}.weight"] = torch.zeros(4, 4)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"pretrain_model": "whisper_tiny", "hidden_dim": 256}))
    return {
        "embed_positions": "a copy of its positions",
        "weights": "weights of its layer sum",
        "model_seq.3.weight": "pointwise convolutions of its head",
        "emotion_layer.2.weight": "emotion head",
        "backbone_model.decoder.layers.1.encoder_attn.v_proj.bias": "decoder",
    }


Layout = Callable[[Path, PreTrainedModel], dict[str, str]]
#: Layout -> its name, and whether it comes with its architecture.
LAYOUTS: dict[Layout, tuple[str, bool]] = {
    generation: ("transformers", True),
    bare: ("transformers", True),
    classification: ("transformers", True),
    encoder_alone: ("transformers, encoder alone", True),
    packaged: ("transformers", True),
    sharded: ("transformers", True),
    safetensors_file: ("transformers", False),
    torch_file: ("transformers", False),
    lightning: ("transformers", False),
    openai: ("OpenAI", True),
    openai_in_a_wrapper: ("OpenAI", False),
    vox_profile: ("vox-profile", False),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


@every_layout
def test_every_layout_gives_the_encoder_it_was_made_of(
    tmp_path: Path, base: Path, expert: PreTrainedModel, layout: Layout
) -> None:
    left_out = layout(tmp_path, expert)
    name, tells_itself = LAYOUTS[layout]
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.layout, type(checkpoint.family), checkpoint.num_layers) == (name, WhisperFamily, 2)
    assert left_out.items() <= checkpoint.left_out.items()
    assert "outside the encoder" not in checkpoint.left_out.values()
    read = load_backbone(tmp_path, architecture=None if tells_itself else base)
    expected = encoder_state(expert)
    assert set(read.weights()) == set(expected) and not read.normalize
    for tensor, value in read.weights().items():
        assert torch.equal(value, expected[tensor]), tensor
    waveforms, lengths = clips((5000,))
    found = read(waveforms, lengths).layers
    for ours, theirs in zip(found, plain_states(expert.get_encoder(), extracted(waveforms[0])), strict=True):
        assert distance(ours, theirs) < 1e-5
    files = [path for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".ckpt")]
    if len(files) == 1:
        alone = load_backbone(files[0], architecture=None if layout is openai else base)
        assert all(torch.equal(value, read.weights()[tensor]) for tensor, value in alone.weights().items())


@every_layout
def test_every_layout_gives_the_task_vector(
    tmp_path: Path, base: Path, expert: PreTrainedModel, layout: Layout
) -> None:
    left_out = layout(tmp_path, expert)
    before = load_backbone(base)
    vector = TaskVector.between(before, tmp_path)
    state = encoder_state(expert)
    assert set(vector.deltas) == set(state) and vector.kinship > 0.5
    for name, weight in before.weights().items():
        assert torch.equal(vector.deltas[name], state[name] - weight), name
        assert bool(vector.deltas[name].any()) == (name != POSITIONS), name
    assert left_out.items() <= vector.left_out.items()
    assert ("table of positions" in vector.coverage()) == (layout is vox_profile)


def test_an_openai_file_tells_its_architecture(tmp_path: Path, expert: PreTrainedModel) -> None:
    openai(tmp_path, expert)
    told = load_backbone(tmp_path / "tiny.pt").model.config
    same = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins")
    same += ("max_source_positions", "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim")
    assert {name: getattr(told, name) for name in same} == {
        name: getattr(whisper_config(), name) for name in same
    }
    assert (told.vocab_size, told.max_target_positions) == (51864, 448)
    state = openai_names(whole_state(expert))
    for wrong in ({}, {**DIMS, "n_audio_state": "large"}, {**DIMS, "n_mels": None}):
        torch.save({"dims": wrong, "model_state_dict": state}, tmp_path / "tiny.pt")
        refused(tmp_path / "tiny.pt", "dims does not describe a Whisper .* same architecture")


def test_half_precision_files_are_read_as_float32(tmp_path: Path, expert: PreTrainedModel) -> None:
    state = {name: tensor.half() for name, tensor in openai_names(whole_state(expert)).items()}
    torch.save({"dims": DIMS, "model_state_dict": state}, tmp_path / "tiny.pt")
    for name, tensor in load_backbone(tmp_path / "tiny.pt").weights().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, encoder_state(expert)[name].half().float())


def test_a_decoder_of_hundreds_of_tensors_is_named_in_a_line_that_can_be_read(tmp_path: Path) -> None:
    deep = {"decoder_layers": 12}
    whisper(**deep).save_pretrained(tmp_path / "base")
    expert = whisper(**deep)
    shifted(expert, 1)
    expert.save_pretrained(tmp_path / "expert")
    told = TaskVector.between(load_backbone(tmp_path / "base"), tmp_path / "expert").coverage()
    decoder = [name for name in load_file(tmp_path / "expert/model.safetensors") if "decoder" in name]
    assert len(decoder) > 250
    count = re.search(r"left out: model\.decoder\.\S+, model\.decoder\.\S+ and (\d+) more \(decoder\)", told)
    assert count is not None and int(count[1]) == len(decoder) - 2
    assert len(told) < 300 and "\n" not in told


def refused(place: Path, message: str, **options: object) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_backbone(place, **options)
    assert "\n" not in str(caught.value)


def no_vector(base: Path, place: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        TaskVector.between(load_backbone(base), place)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_named_in_one_line(tmp_path: Path, base: Path, expert: PreTrainedModel) -> None:
    state = encoder_state(expert)
    file = tmp_path / "x.safetensors"

    def told(message: str, changed: Mapping[str, Tensor]) -> None:
        save_file({name: tensor.clone() for name, tensor in changed.items()}, file)
        refused(file, message, architecture=base)
        no_vector(base, file, message)

    for name in ("encoder.conv1.weight", "encoder.conv2.bias", "encoder.layers.1.fc2.weight"):
        told(rf"lacks 1 tensor \({re.escape(name)}\)", {n: t for n, t in state.items() if n != name})
    novel = {"encoder.layers.0.novelty": torch.zeros(3)}
    told(r"holds 1 tensor \(encoder\.layers\.0\.novelty\)", {**state, **novel})
    told(
        r"1 transformer layers, but (the model has|its configuration has) 2",
        {n: t for n, t in state.items() if not n.startswith("encoder.layers.1.")},
    )
    told("2 encoders, under", {f"{side}.{n}": t for side in "ab" for n, t in state.items()})
    told(r"conv1\.weight \(32, 128, 3\) for \(32, 80, 3\)", encoder_state(whisper(num_mel_bins=128)))
    told("other shapes than the model", encoder_state(whisper(d_model=16)))
    told(r"embed_positions\.weight \(1500, 16\)", {**state, POSITIONS: torch.zeros(1500, 16)})
    decoder = {n: t for n, t in whole_state(expert).items() if n.startswith("decoder.")}
    told("no speech encoder: none of its .*whisper, wavlm", decoder)
    wavlm = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    build_backbone(WavLMConfig(**wavlm, conv_dim=[16] * 7), seed=0).save(tmp_path / "wavlm")
    no_vector(base, tmp_path / "wavlm", r"lacks \d+ tensors .* or from another architecture")
    no_vector(tmp_path / "wavlm", base, r"lacks \d+ tensors .* or from another architecture")
    no_vector(base, tmp_path / "nowhere", "no model folder or file")
    strange = tmp_path / "stranger"
    whisper(seed=9).save_pretrained(strange)
    no_vector(base, strange, r"does not come from this base \(whisper, 2 layers of 32\)")
    refused(file.with_name("none.pt"), "no model folder or file")


def test_a_table_of_positions_is_never_replaced_by_another_one(
    tmp_path: Path, base: Path, expert: PreTrainedModel
) -> None:
    state = encoder_state(expert)
    table = state[POSITIONS]
    before = load_backbone(base)

    def stored(name: str, positions: Tensor) -> Path:
        save_file({**state, POSITIONS: positions.contiguous()}, tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    trained = table + 0.05 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    kept = stored("own", trained)
    assert torch.equal(load_backbone(kept, architecture=base).weights()[POSITIONS], trained)
    shorter = [stored("short", table[:150]), stored("bfloat", table[:750].bfloat16())]
    for file in shorter:
        assert torch.equal(load_backbone(file, architecture=base).weights()[POSITIONS], table)
    other = stored("both", trained[:150])
    refused(other, "150 rows, where the architecture has 1500", architecture=base)
    for file in (kept, other, *shorter):
        vector = TaskVector.between(before, file)
        assert vector.left_out[POSITIONS] == "another table of positions; the base's own is used"
        assert not vector.deltas[POSITIONS].any()
    for dtype in (torch.float16, torch.bfloat16):
        assert not TaskVector.between(before, stored("rounded", table.to(dtype))).left_out


def test_without_its_architecture_a_file_asks_for_one(tmp_path: Path, expert: PreTrainedModel) -> None:
    vox_profile(tmp_path, expert)
    refused(tmp_path, r"config\.json.*architecture")
    refused(tmp_path / "model.safetensors", r"config\.json.*architecture")
