"""Compressed task vectors: what is lost, and merges that compute through the factors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import WhisperConfig

from tiny_merges import KINDS, assert_merged_as_by_hand, batch, by_hand, moved, parts
from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.compressed import CompressedVector
from voxstrata.methods.adaltm.factors import Factors
from voxstrata.methods.adaltm.low_rank import called_linears, joined, low_rank_linears, scales_of
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector


def changing(vector, *endings):
    """The vector without what it changes elsewhere."""
    kept = {
        name: d if any(name.endswith(end) for end in endings) else torch.zeros_like(d)
        for name, d in vector.deltas.items()
    }
    return replace(vector, deltas=kept)


def compressed_parts(*kind, rank=2):
    base, vectors = parts(*kind)
    return base, {name: vector.compress(rank=rank) for name, vector in vectors.items()}


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
@pytest.mark.parametrize("engine", ["lean", "plain", "checkpointed"])
@pytest.mark.parametrize("granularity", ["layer", "global"])
def test_states_and_gradients_equal_a_plain_loop_over_the_products(kind, stable, norm, engine, granularity):
    base, small = compressed_parts(kind, stable, norm)
    merged = MergedBackbone(
        base,
        small,
        granularity=granularity,
        engine="plain" if engine == "plain" else "lean",
        gradient_checkpointing=engine == "checkpointed",
    ).double()
    assert len(merged.held.linears) >= 12  # the linear layers of both
    products = {
        name: replace(
            vector.expanded(),
            deltas={
                **vector.factored.dense,
                **{n: f.left.double() @ f.right.double() for n, f in vector.factored.factors.items()},
            },
        )
        for name, vector in small.items()
    }
    states, _ = assert_merged_as_by_hand(merged, base, products)
    waveforms, lengths = batch()
    with torch.no_grad():  # built once from the factors
        built = merged(waveforms.double(), lengths)
    for one, other in zip(built.layers, states.layers, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-10, rtol=1e-9)


def test_the_attention_of_transformers_which_reads_weights_gets_merged_ones():
    base, small = compressed_parts("wavlm", True, "layer")
    reference = build_backbone(base.model.config, seed=0, attention="reference").requires_grad_(False)
    waveforms, lengths = batch()
    ours = MergedBackbone(base, small)(waveforms, lengths)
    merged = MergedBackbone(reference, small)
    assert not any("attention" in name for name in merged.held.linears) and merged.held.linears
    for one, other in zip(merged(waveforms, lengths).layers, ours.layers, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_an_encoder_that_reads_a_weight_without_calling_its_layer_is_refused():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(9, 9), nn.Linear(9, 9)

        def forward(self, states):
            return self.first(states) @ self.second.weight.T

    model = Reads()
    pair = Factors(torch.ones(9, 1), torch.ones(1, 9))
    linears, _ = joined([{"first.weight": pair, "second.weight": pair}], called_linears(model))
    with (
        pytest.raises(CheckpointError, match=r"second.weight without calling"),
        low_rank_linears(model, linears, scales_of(linears, torch.ones(1, 1))),
    ):
        model(torch.ones(2, 9))


def per_clip(base, count, seed=5):
    return torch.rand(count, 1 + base.num_layers, 2, generator=torch.Generator().manual_seed(seed)).double()


LINEAR = ("proj.weight", "proj.bias", "dense.weight", "dense.bias")
CHANGED = {
    "low rank": LINEAR,
    "norms and convolutions too": (
        *LINEAR,
        "final_layer_norm.weight",
        "encoder.layers.0.layer_norm.bias",
        "original1",
        "linear.bias",
    ),
    "shared by clips": (*LINEAR, "rel_attn_embed.weight"),
    "front end": (*LINEAR, "conv.weight"),
}


@pytest.mark.parametrize("kind", ["wavlm", "wav2vec2"])
@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("given", ["waveforms", "front"])
def test_coefficients_of_each_clip_equal_clips_one_by_one(monkeypatch, kind, changed, given):
    base, vectors = parts(kind, True, "layer")
    small = {name: changing(v, *CHANGED[changed]).compress(rank=2) for name, v in vectors.items()}
    merged = MergedBackbone(base, small).double()
    waveforms, lengths = batch((3000, 1300, 2200, 1700))
    waveforms = waveforms.double()
    each = per_clip(base, 4)
    each[3] = each[1]
    front = None
    if given == "front":
        if changed == "front end":
            pytest.skip("it has no front that stays")
        front = merged.front(waveforms, lengths)
    runs = []
    encode = type(merged.skeleton).from_features
    monkeypatch.setattr(
        type(merged.skeleton), "from_features", lambda *a, **k: runs.append(1) or encode(*a, **k)
    )
    with torch.no_grad():
        states = merged(waveforms, lengths, front, coefficients=each)
    shared = changed == "front end" or (kind == "wavlm" and changed == "shared by clips")
    assert len(runs) == (3 if shared else 1)  # of four clips two have the same coefficients
    for row in range(4):
        products = {name: vector.expanded() for name, vector in small.items()}
        _, hidden, _ = by_hand(base, products, each[row], waveforms[row : row + 1], lengths[row : row + 1])
        for together, alone in zip(states.layers, hidden[0], strict=True):
            found = together[row, : alone.shape[1]]
            torch.testing.assert_close(found, alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changed", ["norms and convolutions too", "shared by clips"])
def test_gradients_of_each_clips_coefficients_are_those_of_the_clip_alone(changed):
    base, vectors = parts("wavlm", True, "layer")
    small = {name: changing(v, *CHANGED[changed]).compress(rank=2) for name, v in vectors.items()}
    merged = MergedBackbone(base, small).double()
    waveforms, lengths = batch()
    each = per_clip(base, 3)
    each[2] = each[0]
    each.requires_grad_()
    states = merged(waveforms.double(), lengths, coefficients=each)
    loss = sum((1 + row) * layer[row, :2].square().sum() for layer in states.layers for row in range(3))
    loss.backward()
    for row in range(3):
        with torch.no_grad():
            merged.coefficients.copy_(each[row])
        merged.coefficients.grad = None
        alone = merged(waveforms[row : row + 1, : lengths[row]].double(), lengths[row : row + 1])
        ((1 + row) * sum(layer[0, :2].square().sum() for layer in alone.layers)).backward()
        torch.testing.assert_close(each.grad[row], merged.coefficients.grad, atol=1e-9, rtol=1e-7)
        assert each.grad[row].abs().max() > 1e-3


def test_whisper_answers_each_clip_under_its_own_coefficients_in_one_run():
    config = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, num_mel_bins=8
    )
    base = build_backbone(config, seed=0).requires_grad_(False).eval()
    vectors = {"asr": moved(base, 1, only="encoder.layers"), "ser": moved(base, 2, only="encoder.layers")}
    merged = MergedBackbone(base, {name: one.compress(rank=2) for name, one in vectors.items()})
    waveforms, lengths = batch((8000, 5000))
    each = per_clip(base, 2).float()
    states = merged(waveforms, lengths, coefficients=each)
    for row in range(2):
        with torch.no_grad():
            merged.coefficients.copy_(each[row])
            alone = merged(waveforms[row : row + 1, : lengths[row]], lengths[row : row + 1])
        for one, other in zip(states.layers, alone.layers, strict=True):
            torch.testing.assert_close(one[row, : other.shape[1]], other[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 2), (3, 3, 3)])
def test_coefficients_of_another_shape_are_refused(shape):
    base, small = compressed_parts()
    with pytest.raises(CheckpointError, match="clips, layers 0 to L, vectors"):
        MergedBackbone(base, small)(*batch(), coefficients=torch.zeros(shape))


def test_a_vector_of_another_dtype_and_a_rule_that_edits(tmp_path):
    base, small = compressed_parts()
    waveforms, lengths = batch()
    half = MergedBackbone(base, small, dtype=torch.bfloat16)
    full = MergedBackbone(base, small)
    assert next(iter(half.held.linears.values())).left.dtype == torch.bfloat16
    for one, other in zip(half(waveforms, lengths).layers, full(waveforms, lengths).layers, strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
    edited = MergedBackbone(base, small, rule="ties")
    plain = MergedBackbone(base, {name: one.expanded() for name, one in small.items()}, rule="ties")
    assert all(torch.equal(edited.weights()[name], one) for name, one in plain.weights().items())


def test_twins_and_their_saved_vectors_stay_factors(tmp_path):
    base, small = compressed_parts()
    held = MergedBackbone(base, small).twin().task_vectors()
    assert all(isinstance(vector, CompressedVector) for vector in held.values())
    for name, vector in held.items():
        vector.save(tmp_path / f"{name}.safetensors")
        again = TaskVector.load(tmp_path / f"{name}.safetensors")
        torch.testing.assert_close(dict(again.deltas), {n: small[name].deltas[n] for n in again.deltas})


def test_the_packaged_encoder_takes_compressed_vectors():
    base = load_backbone("whisper-tiny.en")
    vector = moved(base, 3, scale=0.01, only="encoder.layers")
    one = {n: d for n, d in vector.deltas.items() if not n.startswith("encoder.layers.3")}
    vector = replace(vector, deltas={n: one.get(n, torch.zeros_like(d)) for n, d in vector.deltas.items()})
    small = vector.compress(rank=8)
    assert small.errors[4] == 0.0 and 0.5 < small.errors[1] < 1.0
    merged = MergedBackbone(base, {"asr": small})
    dense = MergedBackbone(base, {"asr": small.expanded()})
    waveforms, lengths = batch((16000, 9000))
    for one_layer, other in zip(
        merged(waveforms, lengths).layers, dense(waveforms, lengths).layers, strict=True
    ):
        torch.testing.assert_close(one_layer, other, atol=2e-3, rtol=1e-3)
