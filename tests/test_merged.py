import copy
import json

import pytest
import torch
from transformers import AutoModel

from tiny_merges import KINDS, assert_merged_as_by_hand, batch, by_hand, group_of, moved, parts, score
from voxstrata.backbone.encoder import load_backbone
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.sums import merged_weights
from voxstrata.methods.adaltm.task_vector import TaskVector, is_task_vector


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
@pytest.mark.parametrize("granularity", ["layer", "global"])
def test_values_and_gradients_equal_a_plain_loop(kind, stable, norm, granularity):
    base, vectors = parts(kind, stable, norm)
    merged = MergedBackbone(base, vectors, granularity=granularity).double()
    _, gradient = assert_merged_as_by_hand(merged, base, vectors)
    assert gradient.abs().min() > 1e-3


def test_float32_gradients_are_near_float64(tmp_path):
    base, vectors = parts()
    merged = MergedBackbone(base, vectors)
    waveforms, lengths = batch()
    states = merged(waveforms, lengths)
    score(states.layers, states.lengths).backward()
    _, _, gradient = by_hand(base, vectors, merged.coefficients.detach(), waveforms, lengths)
    worst = (merged.coefficients.grad - gradient).abs().max() / gradient.abs().max()
    assert worst < 1e-5


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
@pytest.mark.parametrize("granularity", ["layer", "global", "static"])
def test_coefficients_of_zero_give_the_base_bit_for_bit(kind, stable, norm, granularity):
    base, vectors = parts(kind, stable, norm)
    merged = MergedBackbone(base, vectors, granularity=granularity, init=0.0)
    waveforms, lengths = batch()
    expected = base(waveforms, lengths)
    for states in (merged(waveforms, lengths), merged.eval()(waveforms, lengths)):
        assert all(torch.equal(a, b) for a, b in zip(states.layers, expected.layers, strict=True))
        assert torch.equal(states.lengths, expected.lengths)
    state = base.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in merged.merged_state().items())
    assert set(merged.merged_state()) == set(state)


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
def test_one_hot_coefficients_give_the_expert(tmp_path, kind, stable, norm):
    base, vectors = parts(kind, stable, norm)
    expert = copy.deepcopy(base)
    for name, parameter in expert.model.named_parameters():
        parameter.data += vectors["ser"].deltas[name]
    merged = MergedBackbone(base, vectors, init={"ser": 1.0, "asr": 0.0})
    waveforms, lengths = batch()
    torch.testing.assert_close(merged(waveforms, lengths).layers, expert(waveforms, lengths).layers)
    for name, tensor in merged.merged_state().items():
        assert torch.equal(tensor, expert.model.state_dict()[name])


def test_the_layer_merge_starts_where_the_static_one_stays():
    base, vectors = parts()
    waveforms, lengths = batch()
    layer, static = (MergedBackbone(base, vectors, granularity=g, init=0.5) for g in ("layer", "static"))
    torch.testing.assert_close(
        layer(waveforms, lengths).layers, static(waveforms, lengths).layers, rtol=0, atol=0
    )


def test_coefficients_have_a_row_per_group_and_a_column_per_vector_in_order():
    base, vectors = parts()
    start = {"ser": 0.25, "asr": 0.75}
    layer, shared, static = (
        MergedBackbone(base, vectors, granularity=g, init=start) for g in ("layer", "global", "static")
    )
    assert layer.vectors == ("asr", "ser")
    assert layer.coefficients.tolist() == [[0.75, 0.25]] * 3 == layer.coefficients_by_layer()
    assert shared.coefficients.tolist() == static.coefficients.tolist() == [[0.75, 0.25]]
    assert shared.coefficients_by_layer() == [[0.75, 0.25]] * 3
    assert [name for name, _ in layer.named_parameters()] == ["coefficients"]
    assert [name for name, _ in shared.named_parameters()] == ["coefficients"]
    assert not list(static.parameters())
    for wrong in ({"ser": 1.0}, {"ser": 1.0, "asr": 0.0, "x": 1.0}):
        with pytest.raises(CheckpointError, match="init names"):
            MergedBackbone(base, vectors, init=wrong)
    with pytest.raises(CheckpointError, match="granularity"):
        MergedBackbone(base, vectors, granularity="tensor")


def test_no_vectors_are_the_frozen_base():
    base, _ = parts()
    merged = MergedBackbone(base, {})
    waveforms, lengths = batch()
    states = merged(waveforms, lengths)
    assert all(torch.equal(a, b) for a, b in zip(states.layers, base(waveforms, lengths).layers, strict=True))
    assert not states.layers[0].requires_grad and not list(merged.parameters())


def test_three_vectors_and_a_step_of_training_leave_base_and_vectors_unchanged():
    base, vectors = parts()
    vectors["lid"] = moved(base, 3)
    kept = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    differences = {name: delta.clone() for name, delta in vectors["lid"].deltas.items()}
    merged = MergedBackbone(base, vectors)
    optimizer = torch.optim.AdamW(merged.parameters(), lr=0.1)
    for _ in range(3):
        states = merged(*batch())
        score(states.layers, states.lengths).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (merged.coefficients - 0.5).abs().min() > 0
    assert all(torch.equal(base.model.state_dict()[name], tensor) for name, tensor in kept.items())
    assert all(torch.equal(vectors["lid"].deltas[name], delta) for name, delta in differences.items())
    merged.half()
    assert next(base.parameters()).dtype == torch.float32


def test_train_mode_is_eval_mode():
    base, vectors = parts(layerdrop=0.9, mask_time_prob=0.9, mask_time_length=2, hidden_dropout=0.5)
    merged = MergedBackbone(base, vectors)
    waveforms, lengths = batch()
    expected = merged.eval()(waveforms, lengths).layers
    model = torch.nn.Sequential(merged).train()
    for _ in range(3):
        assert all(
            torch.equal(a, b) for a, b in zip(model[0](waveforms, lengths).layers, expected, strict=True)
        )


def test_the_state_is_the_coefficients_alone():
    base, vectors = parts()
    for granularity in ("layer", "global", "static"):
        first = MergedBackbone(base, vectors, granularity=granularity, init=0.3)
        assert list(first.state_dict()) == ["coefficients"]
        second = MergedBackbone(base, vectors, granularity=granularity)
        second.load_state_dict(first.state_dict())
        waveforms, lengths = batch()
        torch.testing.assert_close(second(waveforms, lengths).layers, first(waveforms, lengths).layers)


def test_a_merge_without_gradients_is_reused_until_the_coefficients_change():
    base, vectors = parts()
    merged = MergedBackbone(base, vectors)
    waveforms, lengths = batch()
    with torch.no_grad():
        first = merged(waveforms, lengths)
        kept = merged._reused
        merged(waveforms, lengths)
        assert merged._reused is kept
        merged.coefficients.data[1, 0] = 2.0
        second = merged(waveforms, lengths)
    assert not torch.equal(first.layers[0], second.layers[0])
    learned = merged(waveforms, lengths)
    assert learned.layers[0].requires_grad and not second.layers[0].requires_grad
    torch.testing.assert_close(learned.layers, second.layers)
    with torch.inference_mode():
        torch.testing.assert_close(merged(waveforms, lengths).layers, second.layers)
    merged(waveforms, lengths).layers[-1].sum().backward()


def test_untouched_tensors_get_no_gradient_work_and_their_coefficient_none():
    base, _ = parts()
    vectors = {"ctc": moved(base, 1, only="encoder.layers.1.")}
    merged = MergedBackbone(base, vectors)
    states = merged(*batch())
    assert not states.layers[0].requires_grad and states.layers[1].requires_grad
    score(states.layers, states.lengths).backward()
    assert merged.coefficients.grad[:2].abs().max() == 0
    assert merged.coefficients.grad[2].abs() > 0


def test_vectors_may_be_stored_in_half_precision(tmp_path):
    base, vectors = parts()
    for name, vector in vectors.items():
        vector.save(tmp_path / name, dtype=torch.bfloat16)
    rounded = {name: TaskVector.load(tmp_path / name) for name in vectors}
    same = {
        name: TaskVector({n: d.float() for n, d in v.deltas.items()}, v.base_fingerprint, v.source)
        for name, v in rounded.items()
    }
    waveforms, lengths = batch()
    half, full = (MergedBackbone(base, v, init=0.3)(waveforms, lengths) for v in (rounded, same))
    assert all(torch.equal(a, b) for a, b in zip(half.layers, full.layers, strict=True))
    assert half.layers[0].dtype == torch.float32


def test_bfloat16_autocast_trains_the_coefficients():
    base, vectors = parts()
    merged = MergedBackbone(base, vectors)
    with torch.autocast("cpu", torch.bfloat16):
        states = merged(*batch())
        loss = score([layer.float() for layer in states.layers], states.lengths)
    loss.backward()
    _, _, gradient = by_hand(base, vectors, merged.coefficients.detach(), *batch())
    assert (
        torch.nn.functional.cosine_similarity(merged.coefficients.grad.flatten(), gradient.flatten(), 0)
        > 0.98
    )


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
def test_the_export_opens_in_plain_transformers(tmp_path, kind, stable, norm):
    base, vectors = parts(kind, stable, norm)
    merged = MergedBackbone(base, vectors)
    with torch.no_grad():
        merged.coefficients.copy_(torch.linspace(-0.4, 1.3, 6).view(3, 2))
    merged.export(tmp_path / "out")
    plain, info = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, parameter in plain.named_parameters():
        exact = base.model.state_dict()[name].double()
        for k, vector in enumerate(vectors.values()):
            exact += merged.coefficients[group_of(name), k].double().item() * vector.deltas[name].double()
        assert torch.equal(parameter, exact.float())
    waveforms, lengths = batch()
    exported = load_backbone(tmp_path / "out")
    for a, b in zip(exported(waveforms, lengths).layers, merged(waveforms, lengths).layers, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    told = json.loads((tmp_path / "out/coefficients.json").read_text())
    assert told == {
        "granularity": "layer",
        "vectors": ["asr", "ser"],
        "coefficients": merged.coefficients.tolist(),
    }


def test_task_arithmetic_takes_each_groups_own_row():
    base = {"encoder.layers.0.x": torch.ones(2), "encoder.layers.1.x": torch.ones(2), "y": torch.ones(2)}
    first = {name: torch.full((2,), 10.0) for name in base}
    second = {"y": torch.full((2,), 100.0)}
    coefficients = torch.tensor([[1.0, 2.0], [3.0, 5.0], [4.0, 6.0]])
    merged = merged_weights(base, [first, second], coefficients)
    assert {name: tensor.tolist() for name, tensor in merged.items()} == {
        "encoder.layers.0.x": [31, 31],
        "encoder.layers.1.x": [41, 41],
        "y": [211, 211],
    }
    assert merged_weights(base, [first, second], coefficients[:1])["encoder.layers.1.x"].tolist() == [11, 11]


def test_paths_may_be_strings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, vectors = parts()
    base.save("base")
    vectors["asr"].save("vectors/asr.safetensors")
    loaded = TaskVector.load("vectors/asr.safetensors")
    assert is_task_vector("vectors/asr.safetensors") and not is_task_vector("base/model.safetensors")
    assert all(torch.equal(delta, loaded.deltas[name]) for name, delta in vectors["asr"].deltas.items())
    MergedBackbone(load_backbone("./base"), {"asr": loaded}, init=1.0).export("merged")
    again = TaskVector.between(load_backbone("./base"), "./merged")
    torch.testing.assert_close(dict(again.deltas), dict(loaded.deltas), atol=1e-6, rtol=0)


def test_a_merged_backbone_can_be_copied():
    base, vectors = parts()
    merged = MergedBackbone(base, vectors)
    waveforms, lengths = batch()
    torch.testing.assert_close(
        copy.deepcopy(merged)(waveforms, lengths).layers, merged(waveforms, lengths).layers
    )
