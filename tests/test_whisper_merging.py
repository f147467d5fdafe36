"""Whisper encoders merged: the ends of the line bit for bit, gradients near float64, fronts kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from tiny_merges import kept_and_read, score
from voxstrata.backbone.attention import Attention
from voxstrata.backbone.encoder import SpeechEncoder, States, build_backbone, load_backbone
from voxstrata.backbone.families.family import WINDOWS, Window
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.lean.front import Front
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from whisper_by_hand import (
    POSITIONS,
    clips,
    distance,
    experts,
    extracted,
    merged_by_hand,
    plain_states,
    shifted,
    whisper,
    whisper_config,
)

#: Positions for two seconds, so that a padded input is short.
SIZES = {"max_source_positions": 100, "encoder_layers": 3}
LENGTHS = (8000, 5203, 6720)
#: Expert -> what its fine-tuning moved.
CHANGES = {
    "all": ("encoder.",),
    "layers": ("encoder.layers.", "encoder.layer_norm."),
    "upper": ("encoder.layers.2.",),
    "middle": ("encoder.layers.1.fc1.", "encoder.layers.2.self_attn.", "encoder.layer_norm."),
    "decoder": ("decoder.",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experts")
    experts(path, CHANGES, **SIZES)
    return path


def merge(
    folder: Path,
    *names: str,
    window: Window = "clip",
    attention: Attention = "fast",
    spread: bool = True,
    **how: object,
) -> MergedBackbone:
    """A merge of experts under coefficients that all differ."""
    base = load_backbone(folder / "base", window=window, attention=attention)
    vectors = {name: TaskVector.between(base, folder / name) for name in names}
    merged = MergedBackbone(base, vectors, **how)
    if spread:
        with torch.no_grad():
            values = torch.linspace(-0.4, 1.3, merged.coefficients.numel())
            merged.coefficients.copy_(values.view_as(merged.coefficients))
    return merged


def gradient(merged: MergedBackbone, states: States) -> Tensor:
    merged.coefficients.grad = None
    score(states.layers, states.lengths).backward()
    assert merged.coefficients.grad is not None
    return merged.coefficients.grad.clone()


def reference(
    merged: MergedBackbone, folder: Path, names: tuple[str, ...]
) -> tuple[list[list[Tensor]], Tensor]:
    """States of each clip alone, and gradients [1 + L, K], in float64 by transformers and autograd."""
    base, window = merged.base, merged.base.window
    before = base.weights()
    deltas = []
    for name in names:
        expert = WhisperForConditionalGeneration.from_pretrained(folder / name).get_encoder().state_dict()
        deltas.append({f"encoder.{n}": tensor - before[f"encoder.{n}"] for n, tensor in expert.items()})
    rows = merged.coefficients.detach().expand(1 + base.num_layers, -1)
    model = merged_by_hand(base, deltas, rows)
    loss, found = torch.zeros((), dtype=torch.float64), []
    waveforms, lengths = clips(LENGTHS)
    for row, count in enumerate(lengths.tolist()):
        padding = "do_not_pad" if window == "clip" else "max_length"
        mel = extracted(waveforms[row, :count], padding=padding, seconds=2)
        states = plain_states(model.encoder, mel.double())
        found.append(states)
        loss = loss + (1 + row) * score(states, torch.tensor([(count // 160 + 1) // 2]))
    loss.backward()
    exact = torch.zeros(1 + base.num_layers, len(names), dtype=torch.float64)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and name != POSITIONS:
            group = int(name.split(".")[2]) + 1 if ".layers." in name else 0
            for k, delta in enumerate(deltas):
                exact[group, k] += (parameter.grad * delta[name].double()).sum()
    return found, exact


HOW = {"lean": {}, "checkpointed": {"gradient_checkpointing": True}, "plain": {"engine": "plain"}}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("granularity", ["layer", "global"])
def test_states_and_gradients_are_those_of_float64(
    folder: Path, window: Window, how: str, granularity: str
) -> None:
    names = ("all", "layers")
    merged = merge(folder, *names, window=window, granularity=granularity, **HOW[how])
    expected, exact = reference(merged, folder, names)
    if granularity == "global":
        exact = exact.sum(0, keepdim=True)
    waveforms, lengths = clips(LENGTHS)
    for precision, near in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        merged = merged.to(precision)
        states = merged(waveforms, lengths)
        assert states.lengths.tolist() == [25, 16, 21]
        for row, alone in enumerate(expected):
            frames = int(states.lengths[row])
            for ours, theirs in zip(states.layers, alone, strict=True):
                assert distance(ours[row, :frames], theirs[0, :frames]) < near
        assert distance(gradient(merged, states), exact) < near
    if granularity == "layer":
        # Of group 0 the second moved the final norm alone, which comes behind the raw states.
        assert merged.coefficients.grad[0, 1] == exact[0, 1] == 0
    assert exact[exact != 0].abs().min() > 1e-3 * exact.abs().max() and (exact == 0).sum() <= 1


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("attention", ["fast", "reference"])
def test_the_lean_gradient_is_the_plain_one_in_float64(
    folder: Path, window: Window, attention: Attention
) -> None:
    found = []
    for how in HOW.values():
        merged = merge(folder, "all", "upper", window=window, attention=attention, **how).double()
        found.append(gradient(merged, merged(*clips(LENGTHS))))
    for ours in found[:2]:
        torch.testing.assert_close(ours, found[2], rtol=1e-6, atol=1e-7)


def test_in_bfloat16_the_gradient_is_near(folder: Path) -> None:
    names = ("all", "layers")
    merged = merge(folder, *names)
    _, exact = reference(merged, folder, names)
    with torch.autocast("cpu", torch.bfloat16):
        states = merged(*clips(LENGTHS))
    found = gradient(merged, States(tuple(layer.float() for layer in states.layers), states.lengths))
    assert 1e-4 < distance(found, exact) < 0.1
    assert torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0) > 0.99


def published_in_half(folder: Path, *names: str) -> None:
    """Base and experts in the precision that Whisper is published in."""
    model = whisper(**SIZES)
    model.half().save_pretrained(folder / "base")
    for seed, name in enumerate(names, start=1):
        expert = whisper(**SIZES)
        shifted(expert, seed)
        expert.half().save_pretrained(folder / name)


@pytest.mark.parametrize("granularity", ["layer", "global", "static"])
def test_the_ends_of_the_line_are_base_and_expert_bit_for_bit(tmp_path: Path, granularity: str) -> None:
    """Differences of half precision fit into single precision: nothing is rounded."""
    published_in_half(tmp_path, "asr", "ser")
    for name, start in (
        ("base", {"asr": 0.0, "ser": 0.0}),
        ("asr", {"asr": 1.0, "ser": 0.0}),
        ("ser", {"asr": 0.0, "ser": 1.0}),
    ):
        merged = merge(tmp_path, "asr", "ser", granularity=granularity, init=start, spread=False)
        state = load_backbone(tmp_path / name).model.state_dict()
        found = merged.merged_state()
        assert set(found) == set(state)
        for tensor, value in found.items():
            assert torch.equal(value, state[tensor]), tensor
        expected = load_backbone(tmp_path / name)(*clips(LENGTHS)).layers
        for ours, theirs in zip(merged(*clips(LENGTHS)).layers, expected, strict=True):
            assert torch.equal(ours, theirs)


def test_in_single_precision_the_expert_is_met_to_the_rounding_of_its_difference(folder: Path) -> None:
    merged = merge(folder, "all", init=1.0, spread=False)
    expert = load_backbone(folder / "all").weights()
    unit = torch.finfo(torch.float32).eps / 2
    for name, value in merged.merged_state().items():
        delta = (expert[name] - merged.base.weights()[name]).abs()
        assert ((value - expert[name]).abs() <= unit * (delta + expert[name].abs())).all(), name


def test_positions_stay_the_bases_own_under_all_coefficients(folder: Path) -> None:
    merged = merge(folder, "all", "layers", init=5.0, spread=False)
    assert torch.equal(merged.merged_state()[POSITIONS], merged.base.weights()[POSITIONS])
    assert merged.weights()[POSITIONS].data_ptr() == merged.base.weights()[POSITIONS].data_ptr()


def test_what_no_fine_tuning_moved_is_found(folder: Path) -> None:
    base = load_backbone(folder / "base")
    zero = {name: TaskVector.between(base, folder / name).zero_groups() for name in CHANGES}
    assert zero["all"] == () and zero["decoder"] == (0, 1, 2, 3)
    assert zero["layers"] == () and zero["upper"] == (0, 1, 2) and zero["middle"] == (1,)
    fixed = {name: merge(folder, name).fixed_layers for name in CHANGES}
    assert fixed == {"all": None, "layers": 0, "upper": 2, "middle": 1, "decoder": 2}
    assert merge(folder, "upper", "middle").fixed_layers == 1
    waveforms, lengths = clips(LENGTHS)
    with pytest.raises(CheckpointError, match="the vectors all change the convolutional front end"):
        merge(folder, "all", "layers").front(waveforms, lengths)
    with pytest.raises(CheckpointError, match=r"states of 2 layers depend .* 1 may be kept"):
        merge(folder, "middle").front(waveforms, lengths, 2)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("names", "layers"), [(("layers", "upper"), 0), (("middle", "upper"), 1)])
@pytest.mark.parametrize("attention", ["fast", "reference"])
def test_from_the_front_on_all_is_the_same(
    folder: Path,
    window: Window,
    how: str,
    names: tuple[str, ...],
    layers: int,
    attention: Attention,
) -> None:
    merged = merge(folder, *names, window=window, attention=attention, **HOW[how])
    waveforms, lengths = clips(LENGTHS)
    fronts = [
        merged.front(waveforms, lengths, layers),
        kept_and_read(Front(merged, layers), waveforms, lengths),
    ]
    frames = 25 if window == "clip" else 100
    assert fronts[0].shape == ((3, 32, frames) if not layers else (3, layers, 32, frames))
    assert torch.equal(fronts[0], fronts[1])
    expected = merged(waveforms, lengths)
    exact = gradient(merged, expected)
    for front in fronts:
        states = merged(waveforms, lengths, front)
        assert torch.equal(states.lengths, expected.lengths)
        for row, count in enumerate(states.lengths.tolist()):
            for ours, theirs in zip(states.layers, expected.layers, strict=True):
                assert distance(ours[row, :count], theirs[row, :count]) < 1e-5
        assert distance(gradient(merged, states), exact) < 1e-5


@pytest.mark.parametrize("window", WINDOWS)
def test_layers_whose_states_are_known_are_not_run(folder: Path, window: Window) -> None:
    merged = merge(folder, "upper", window=window)
    waveforms, lengths = clips(LENGTHS)
    front = merged.front(waveforms, lengths, 2)
    run: list[str] = []
    encoder = merged._skeleton[0].model.encoder
    for name, module in encoder.named_modules():
        if name in ("conv1", "conv2") or name.endswith("fc1"):
            module.register_forward_hook(lambda *_, name=name: run.append(name))
    merged(waveforms, lengths, front)
    assert run == ["layers.2.fc1"]
    with pytest.raises(CheckpointError, match="are not those of these clips"):
        merged(waveforms, lengths, front[..., 1:])


def test_each_window_has_fronts_of_its_own(folder: Path) -> None:
    fronts = [Front(merge(folder, "layers", window=window)) for window in WINDOWS]
    assert fronts[0].identity() != fronts[1].identity()
    frames = {front.merged.base.window: front.frames(torch.tensor(LENGTHS)).tolist() for front in fronts}
    assert frames == {"clip": [25, 16, 21], "30s": [100, 100, 100]}


SHAPES = {
    "base": {"d_model": 512, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048},
    "small": {"d_model": 768, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072},
    "large-v3": {
        "d_model": 1280,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "num_mel_bins": 128,
    },
}


def drawn(base: SpeechEncoder, seed: int) -> TaskVector:
    """A task vector as if fine-tuning had moved all but the positions."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {
        name: 0.01 * torch.randn(weight.shape, generator=generator) * float(name != POSITIONS)
        for name, weight in base.weights().items()
    }
    return TaskVector(deltas, fingerprint(base.weights()), "drawn")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_of_releases_merge(shape: str) -> None:
    base = build_backbone(whisper_config(**SHAPES[shape]), seed=0).requires_grad_(False).eval()
    vector = drawn(base, 1)
    waveforms, lengths = clips((3000, 2000))
    found = []
    for engine in ("lean", "plain"):
        merged = MergedBackbone(base, {"a": vector}, engine=engine)
        found.append(gradient(merged, merged(waveforms, lengths)))
    assert distance(found[0], found[1]) < 1e-4 and found[0].shape == (3, 1)
    with torch.no_grad():
        merged.coefficients.fill_(0)
        states = merged(waveforms, lengths).layers
    for ours, theirs in zip(states, base(waveforms, lengths).layers, strict=True):
        assert torch.equal(ours, theirs)
