"""The lean engine: equal to the plain merge and to float64, and nothing of a merged weight's size is kept."""

import contextlib

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef

from tiny_merges import KINDS, batch, by_hand, moved, parts, score, tiny
from voxstrata.backbone.encoder import build_backbone
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm import merged
from voxstrata.methods.adaltm.lean import engine, rebuilt
from voxstrata.methods.adaltm.lean.heap import Heap
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.sums import inner_products, merge_values
from voxstrata.methods.adaltm.task_vector import TaskVector

GRANULARITIES = ["layer", "global"]


@pytest.fixture
def tidied(monkeypatch):
    """Idle memory is given back also between tiny layers, as it is between large ones."""
    monkeypatch.setattr(engine, "_LARGE_BYTES", 1)
    monkeypatch.setattr(engine, "_IDLE_SHARE", 0)


def unequal(merged):
    with torch.no_grad():
        values = torch.linspace(-0.4, 1.3, merged.coefficients.numel()).view_as(merged.coefficients)
        merged.coefficients.copy_(values)
    return merged


def gradient(merged, waveforms, lengths):
    merged.coefficients.grad = None
    states = merged(waveforms, lengths)
    score([_precise(layer) for layer in states.layers], states.lengths).backward()
    return merged.coefficients.grad.clone()


def _precise(layer):
    return layer.float() if layer.dtype == torch.bfloat16 else layer


def worst(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_near_float64_and_values_those_of_the_plain_merge(
    tidied, kind, stable, norm, granularity, checkpointed
):
    base, vectors = parts(kind, stable, norm)
    lean = unequal(
        MergedBackbone(base, vectors, granularity=granularity, gradient_checkpointing=checkpointed)
    )
    plain = unequal(MergedBackbone(base, vectors, granularity=granularity, engine="plain"))
    waveforms, lengths = batch()
    _, _, exact = by_hand(base, vectors, lean.coefficients.detach(), waveforms, lengths)
    if granularity == "global":
        exact = exact.sum(0, keepdim=True)
    assert worst(gradient(lean, waveforms, lengths), exact) < 1e-5
    for ours, theirs in zip(lean(waveforms, lengths).layers, plain(waveforms, lengths).layers, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("attention", ["fast", "reference"])
def test_the_lean_gradient_is_the_plain_one_in_float64(tidied, attention):
    base = build_backbone(tiny(), seed=0, attention=attention).requires_grad_(False).eval()
    vectors = {"asr": moved(base, 1), "ser": moved(base, 2)}
    waveforms, lengths = batch()
    found = [
        gradient(unequal(MergedBackbone(base, vectors, **how)).double(), waveforms.double(), lengths)
        for how in ({"engine": "plain"}, {}, {"gradient_checkpointing": True})
    ]
    for ours in found[1:]:
        torch.testing.assert_close(ours, found[0], rtol=1e-6, atol=1e-7)


def test_a_small_encoder_takes_the_plain_engine_and_a_large_one_the_lean_one(monkeypatch):
    base, _ = parts("wavlm", True, "layer")
    assert merged.engine_for(base) == "plain"
    size = sum(weight.nbytes for weight in base.weights().values())
    monkeypatch.setattr(merged, "_SMALL_BYTES", size)
    assert merged.engine_for(base) == "lean"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_may_be_held_in_half_precision(dtype):
    base, vectors = parts()
    rounded = {
        name: TaskVector({n: d.to(dtype).float() for n, d in v.deltas.items()}, v.base_fingerprint, v.source)
        for name, v in vectors.items()
    }
    merged = unequal(MergedBackbone(base, vectors, dtype=dtype))
    assert {delta.dtype for vector in merged._deltas for delta in vector.values()} == {dtype}
    waveforms, lengths = batch()
    _, _, exact = by_hand(base, rounded, merged.coefficients.detach(), waveforms, lengths)
    assert worst(gradient(merged, waveforms, lengths), exact) < 1e-5


def test_a_vector_that_does_not_fit_the_dtype_is_refused():
    base, vectors = parts()
    large = TaskVector(
        {n: d * 1e7 for n, d in vectors["asr"].deltas.items()}, vectors["asr"].base_fingerprint, "large"
    )
    with pytest.raises(CheckpointError, match=r"infinite .*does not fit its number format"):
        MergedBackbone(base, {"asr": large}, dtype=torch.float16)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_bfloat16_autocast_gives_the_plain_engines_gradient(tidied, checkpointed):
    base, vectors = parts()
    found = []
    for how in ({"engine": "plain"}, {"gradient_checkpointing": checkpointed}):
        merged = unequal(MergedBackbone(base, vectors, **how))
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradient(merged, *batch()))
    assert worst(found[1], found[0]) < 0.02


def probe(monkeypatch):
    """Bytes of merged tensors and of their gradients that were alive at once, in and after the forward."""
    alive = []

    def watched(function, pick):
        def call(*args):
            result = function(*args)
            tensor = pick(args, result)
            alive.append((StorageWeakRef(tensor.untyped_storage()), tensor.nbytes))
            most[0] = max(most[0], now())
            return result

        return call

    def now():
        return sum(size for reference, size in alive if not reference.expired())

    most = [0]
    monkeypatch.setattr(engine, "merge_values", watched(merge_values, lambda args, result: result))
    monkeypatch.setattr(engine, "inner_products", watched(inner_products, lambda args, result: args[0]))
    return now, most


def test_neither_merged_weights_nor_their_gradients_are_kept(monkeypatch):
    base, vectors = layers_moved()
    sizes = {n: t.nbytes for n, t in base.weights().items()}
    layer = sum(size for name, size in sizes.items() if name.startswith("encoder.layers.0."))
    largest = max(size for name, size in sizes.items() if name.startswith("encoder.layers."))
    now, most = probe(monkeypatch)
    states = MergedBackbone(base, vectors)(*batch())
    loss = score(states.layers, states.lengths)
    assert now() == 0
    assert 0 < most[0] <= layer
    most[0] = 0
    loss.backward()
    assert now() == 0
    assert 0 < most[0] <= 2.5 * largest < 0.7 * layer


def test_the_probe_sees_weights_that_are_kept(monkeypatch):
    base, vectors = layers_moved()
    layers = sum(t.nbytes for n, t in base.weights().items() if n.startswith("encoder.layers."))
    now, _ = probe(monkeypatch)
    monkeypatch.setattr(engine, "rebuilding", contextlib.nullcontext)
    states = MergedBackbone(base, vectors)(*batch())
    assert now() > 0.8 * layers
    assert states.layers[0].requires_grad


def layers_moved():
    base, _ = parts(num_hidden_layers=6)
    return base, {f"vector {k}": moved(base, k, only="encoder.layers.") for k in (1, 2)}


def test_autocasts_copies_of_weights_are_not_kept(monkeypatch):
    base, vectors = parts(num_hidden_layers=3, hidden_size=48, intermediate_size=104)
    kept = []
    take = rebuilt.Kept.__init__
    monkeypatch.setattr(
        rebuilt.Kept,
        "__init__",
        lambda self, tensor, version: kept.append(tensor) or take(self, tensor, version),
    )
    with torch.autocast("cpu", torch.bfloat16):
        MergedBackbone(base, vectors)(*batch())
    low = [tensor for tensor in kept if tensor.dtype == torch.bfloat16]
    shapes = {tuple(t.shape) for n, t in base.weights().items() if t.ndim == 2 and "layers" in n}
    assert low and not [t for t in low if tuple(t.shape) in shapes or tuple(t.shape[::-1]) in shapes]


def test_what_no_vector_changes_is_the_bases_own_and_has_no_graph(monkeypatch):
    base, _ = parts()
    vectors = {
        "asr": moved(base, 1, only="encoder.layers.1.feed_forward"),
        "ser": moved(base, 2, only="encoder.layers.1.attention.q_proj"),
    }
    merged = MergedBackbone(base, vectors)
    names = []
    merge_one = engine.Merge.tensor

    def watched(self, name):
        tensor = merge_one(self, name)
        if tensor.requires_grad:
            names.append(name)
        else:
            assert tensor.data_ptr() == base.weights()[name].data_ptr()
        return tensor

    monkeypatch.setattr(engine.Merge, "tensor", watched)
    seen = []
    layers = merged._skeleton[0].model.encoder.layers
    layers[0].register_forward_hook(lambda module, args, output: seen.append(output[0].requires_grad))
    states = merged(*batch())
    assert seen == [False] and not states.layers[0].requires_grad and states.layers[1].requires_grad
    assert names and all("layers.1.feed_forward" in n or "layers.1.attention.q_proj" in n for n in names)
    score(states.layers, states.lengths).backward()
    exact = by_hand(base, vectors, merged.coefficients.detach(), *batch())[2]
    assert worst(merged.coefficients.grad, exact) < 1e-5
    assert merged.coefficients.grad[:2].abs().max() == 0


def test_a_vector_may_lack_what_another_has():
    base, _ = parts()
    vectors = {"asr": moved(base, 1, only="encoder."), "ser": moved(base, 2, only="feature_")}
    merged = unequal(MergedBackbone(base, vectors))
    exact = by_hand(base, vectors, merged.coefficients.detach(), *batch())[2]
    assert worst(gradient(merged, *batch()), exact) < 1e-5


def test_transformers_own_checkpointing_and_unknown_engines_are_refused():
    base, vectors = parts()
    base.model.gradient_checkpointing_enable()
    with pytest.raises(CheckpointError, match="gradient_checkpointing=True"):
        MergedBackbone(base, vectors)(*batch())
    base.model.gradient_checkpointing_disable()
    MergedBackbone(base, vectors)(*batch())
    for how in ({"engine": "fast"}, {"engine": "plain", "gradient_checkpointing": True}):
        with pytest.raises(CheckpointError, match="engine"):
            MergedBackbone(base, vectors, **how)


def test_checkpointing_runs_each_layer_again(monkeypatch):
    base, vectors = parts()
    merged = MergedBackbone(base, vectors, gradient_checkpointing=True)
    runs = []
    dense = type(merged._skeleton[0].model.encoder.layers[0].feed_forward)
    forward = dense.forward
    monkeypatch.setattr(dense, "forward", lambda self, x: runs.append(1) or forward(self, x))
    states = merged(*batch())
    assert len(runs) == 2
    score(states.layers, states.lengths).backward()
    assert len(runs) == 4


@pytest.mark.parametrize("checkpointed", [False, True])
def test_an_exception_in_a_layer_leaves_everything_as_it_was(monkeypatch, checkpointed):
    base, vectors = parts()
    kept = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    merged = MergedBackbone(base, vectors, gradient_checkpointing=checkpointed)
    expected = gradient(merged, *batch())
    skeleton = merged._skeleton[0]

    def fail(*_):
        raise KeyboardInterrupt

    hook = skeleton.model.encoder.layers[1].feed_forward.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        merged(*batch())
    hook.remove()
    assert all(tensor.is_meta for tensor in skeleton.parameters())
    assert not any("forward" in layer.__dict__ for layer in skeleton.model.encoder.layers)
    assert all(torch.equal(base.model.state_dict()[name], tensor) for name, tensor in kept.items())
    torch.testing.assert_close(gradient(merged, *batch()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_forwards_may_come_between_a_forward_and_its_backward(tidied, checkpointed):
    base, vectors = parts()
    merged = unequal(MergedBackbone(base, vectors, gradient_checkpointing=checkpointed))
    first, second = batch(), batch((2500, 900), seed=7)
    alone = [gradient(merged, *clips) for clips in (first, second)]
    merged.coefficients.grad = None
    losses = []
    for clips in (first, second):
        states = merged(*clips)
        losses.append(score(states.layers, states.lengths))
        with torch.no_grad():
            merged.eval()(*first)
        del states
    losses[1].backward()
    torch.testing.assert_close(merged.coefficients.grad, alone[1], rtol=0, atol=0)
    losses[0].backward()
    torch.testing.assert_close(merged.coefficients.grad, alone[0] + alone[1], rtol=1e-6, atol=1e-6)


def test_a_backward_may_run_twice_and_over_a_part_of_the_layers(tidied):
    base, vectors = parts()
    merged = MergedBackbone(base, vectors)
    states = merged(*batch())
    loss = score(states.layers, states.lengths)
    one, two = (torch.autograd.grad(loss, merged.coefficients, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, two)
    part = torch.autograd.grad(states.layers[0].square().sum(), merged.coefficients, retain_graph=True)[0]
    assert part[2].abs().max() == 0 and part[1].abs().min() > 0
    assert torch.equal(torch.autograd.grad(loss, merged.coefficients)[0], one)


def test_the_gradient_is_of_the_coefficients_in_the_forward():
    base, vectors = parts()
    merged = MergedBackbone(base, vectors)
    expected = gradient(merged, *batch())
    merged.coefficients.grad = None
    states = merged(*batch())
    loss = score(states.layers, states.lengths)
    merged.coefficients.data.zero_()
    loss.backward()
    torch.testing.assert_close(merged.coefficients.grad, expected, rtol=0, atol=0)


def test_a_state_that_was_overwritten_is_no_silent_fault():
    base, vectors = parts()
    states = MergedBackbone(base, vectors)(*batch())
    with torch.no_grad():
        states.layers[0].mul_(2)
    with pytest.raises(RuntimeError, match="in place"):
        states.layers[1].sum().backward()


def test_under_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        base, vectors = parts()
        for how in ({}, {"gradient_checkpointing": True}):
            merged = MergedBackbone(base, vectors, **how)
            expected = gradient(merged, *batch())
            merged.coefficients.grad = None
            states = torch.nn.parallel.DistributedDataParallel(merged)(*batch())
            score(states.layers, states.lengths).backward()
            torch.testing.assert_close(merged.coefficients.grad, expected)
    finally:
        torch.distributed.destroy_process_group()


@given(
    size=st.integers(1, 300_000),
    vectors=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 1000),
)
@example(size=299_999, vectors=2, dtype=torch.float32, seed=329)
def test_blockwise_arithmetic_is_that_of_a_plain_expression(size, vectors, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    weight, slope = (torch.randn(size, generator=generator) for _ in range(2))
    deltas = [torch.randn(size, generator=generator).to(dtype) for _ in range(vectors)] + [None]
    values = [0.5 * k - 0.7 for k in range(vectors + 1)]
    exact = weight.double() + sum(
        v * d.double() for v, d in zip(values, deltas, strict=True) if d is not None
    )
    torch.testing.assert_close(merge_values(weight, deltas, values).double(), exact, atol=1e-6, rtol=1e-6)
    products = [float((slope.double() * d.double()).sum()) if d is not None else 0.0 for d in deltas]
    scale = 1e-6 * (1 + size**0.5)
    torch.testing.assert_close(
        inner_products(slope, deltas), torch.tensor(products, dtype=torch.float64), atol=scale, rtol=1e-5
    )


def test_idle_memory_is_looked_at_around_large_layers_only(monkeypatch):
    base, vectors = parts()
    calls = []
    monkeypatch.setattr(Heap, "give_back", lambda heap, allowed: calls.append(allowed))
    merged = MergedBackbone(base, vectors)
    gradient(merged, *batch())
    assert not calls
    monkeypatch.setattr(engine, "_LARGE_BYTES", 1)
    gradient(merged, *batch())
    weights = sum(weight.nbytes for weight in merged.weights().values())
    assert len(calls) == 2 * (7 + 2) and set(calls) == {weights // 6}
