"""Both fusions against their equations as plain loops in float64, and what they may and may not see."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.errors import RecipeError
from voxstrata.methods.harmonifuse.gated_encoder import GatedEncoderFusion
from voxstrata.methods.harmonifuse.prompt_adaptive import PromptAdaptiveFusion

TASKS = ("asr", "ser")
L, B, T, D = 3, 2, 4, 5


def states(*, seed: int = 0, dtype=torch.float64) -> list[torch.Tensor]:
    """L states, each of another scale."""
    generator = torch.Generator().manual_seed(seed)
    return [
        10.0**layer * torch.randn(B, T, D, generator=generator, dtype=torch.float64).to(dtype)
        for layer in range(L)
    ]


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def normalized(vector: list[float]) -> list[float]:
    mean = sum(vector) / len(vector)
    variance = sum((value - mean) ** 2 for value in vector) / len(vector)
    return [(value - mean) / math.sqrt(variance + 1e-5) for value in vector]


@pytest.mark.parametrize("normalize", [True, False])
def test_gated_fusion_is_its_equation(normalize):
    fusion = GatedEncoderFusion(L, TASKS, normalize=normalize).double()
    logits = [0.3, -1.0, 2.0]
    fusion.logits["ser"].data = torch.tensor(logits, dtype=torch.float64)
    layers = states()
    found = fusion(layers, "ser")
    weights = softmax(logits)
    for b in range(B):
        for t in range(T):
            vectors = [layer[b, t].tolist() for layer in layers]
            vectors = [normalized(vector) for vector in vectors] if normalize else vectors
            for d in range(D):
                expected = sum(w * vector[d] for w, vector in zip(weights, vectors, strict=True))
                assert found[b, t, d].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_half_precision_states_are_summed_in_float32():
    # Drawn so that no sum lies where float32 and float64 round to different sides.
    torch.manual_seed(1)
    layers = states(dtype=torch.bfloat16)
    fusion = GatedEncoderFusion(L, TASKS, normalize=False)
    fusion.logits["asr"].data = torch.randn(L)
    weights = torch.softmax(fusion.logits["asr"].double(), 0)
    exact = sum(weight * layer.double() for weight, layer in zip(weights, layers, strict=True))
    found = fusion(layers, "asr")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.to(torch.bfloat16))


@given(st.lists(st.floats(-30, 30), min_size=L, max_size=L))
def test_gates_sum_to_one(logits):
    fusion = GatedEncoderFusion(L, TASKS)
    fusion.logits["asr"].data = torch.tensor(logits)
    weights = fusion.weights("asr")
    assert (weights >= 0).all() and weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert fusion.weights("ser").tolist() == pytest.approx([1 / L] * L)


def test_a_task_trains_its_own_gate_or_the_shared_one():
    fusion = GatedEncoderFusion(L, TASKS).double()
    fusion(states(), "asr").square().sum().backward()
    assert fusion.logits["asr"].grad.abs().min() > 0 and fusion.logits["ser"].grad is None
    shared = GatedEncoderFusion(L, TASKS, per_task=False)
    assert len(list(shared.parameters())) == 1
    shared.logits["shared"].data = torch.randn(L)
    assert torch.equal(shared.weights("asr"), shared.weights("ser"))


def test_fixed_and_last_take_one_layer_and_have_no_parameters():
    layers = states()
    for options, taken in [({"mode": "fixed", "layer": 2}, 1), ({"mode": "last"}, 2)]:
        fusion = GatedEncoderFusion(L, TASKS, normalize=False, **options)
        assert torch.equal(fusion(layers, "asr"), layers[taken])
        assert fusion.weights("asr").tolist() == [float(layer == taken) for layer in range(L)]
        assert not list(fusion.parameters())
    fusion = GatedEncoderFusion(L, TASKS, mode="last")
    assert fusion(layers, "asr")[1, 2].tolist() == pytest.approx(normalized(layers[2][1, 2].tolist()))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mode": "fixed", "layer": 4}, "layers 1 to 3"),
        ({"mode": "fixed"}, "layers 1 to 3"),
        ({"mode": "mean"}, "gated, fixed, last"),
        ({"layer": 2}, "needs 'fixed'"),
    ],
)
def test_wrong_encoder_fusion_is_refused(options, told):
    with pytest.raises(RecipeError, match=told):
        GatedEncoderFusion(L, TASKS, **options)


def test_another_number_of_states_is_refused():
    with pytest.raises(ValueError, match="2 states for 3 layers"):
        GatedEncoderFusion(L, TASKS)(states()[:2], "asr")
    with pytest.raises(ValueError, match="2 states for 3 layers"):
        PromptAdaptiveFusion(L, D, TASKS)(states()[:2], "asr")


def adaptive(scores: str = "both", **options) -> PromptAdaptiveFusion:
    """A fusion whose parameters have all left their start."""
    torch.manual_seed(0)
    fusion = PromptAdaptiveFusion(L, D, TASKS, scores=scores, width=7, **options).double()
    for parameter in fusion.parameters():
        parameter.data = torch.randn_like(parameter)
    return fusion


@pytest.mark.parametrize("scores", ["both", "task", "input", "last"])
def test_prompt_adaptive_fusion_is_its_equation(scores):
    fusion, layers = adaptive(scores), states()
    found = fusion(layers, "ser")

    def network(vector: list[float]) -> float:
        first, _, last = fusion.network
        total = 0.0
        for row, bias, out in zip(
            first.weight.tolist(), first.bias.tolist(), last.weight[0].tolist(), strict=True
        ):
            z = sum(w * v for w, v in zip(row, vector, strict=True)) + bias
            total += out * 0.5 * z * (1 + math.erf(z / math.sqrt(2)))
        return total

    for b in range(B):
        for t in range(T):
            score = [0.0] * L
            for layer in range(L):
                if scores in ("both", "task"):
                    score[layer] += fusion.task_scores["ser"][layer].item()
                if scores in ("both", "input"):
                    score[layer] += network(layers[layer][b, t].tolist())
            alpha = softmax(score) if scores != "last" else [0.0, 0.0, 1.0]
            assert found.alpha[b, t].tolist() == pytest.approx(alpha, abs=1e-12)
            for d in range(D):
                expected = sum(a * layer[b, t, d].item() for a, layer in zip(alpha, layers, strict=True))
                assert found.states[b, t, d].item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@given(st.integers(0, 2**31), st.sampled_from(["both", "task", "input", "last"]))
def test_alpha_sums_to_one_at_every_position(seed, scores):
    alpha = adaptive(scores)(states(seed=seed), "asr").alpha
    assert (alpha >= 0).all()
    torch.testing.assert_close(alpha.sum(-1), torch.ones(B, T, dtype=alpha.dtype))


def test_a_position_does_not_see_the_others():
    fusion, layers = adaptive(), states()
    before = fusion(layers, "asr")
    others = [layer.clone() for layer in layers]
    for layer in others:
        layer[:, 2:] = 7.0
    after = fusion(others, "asr")
    assert torch.equal(before.states[:, :2], after.states[:, :2])
    assert torch.equal(before.alpha[:, :2], after.alpha[:, :2])


def test_fusion_starts_uniform_or_near_the_last_layer():
    layers = states()
    start = PromptAdaptiveFusion(L, D, TASKS).double()(layers, "asr")
    assert start.alpha.flatten().tolist() == pytest.approx([1 / L] * (B * T * L))
    near = PromptAdaptiveFusion(L, D, TASKS, last_start=5.0).double()(layers, "asr")
    assert near.alpha[0, 0].tolist() == pytest.approx(softmax([0.0, 0.0, 5.0]))


def test_every_parameter_of_the_task_learns_and_the_other_task_none():
    fusion = adaptive()
    fusion(states(), "asr").states.square().sum().backward()
    idle = {name for name, parameter in fusion.named_parameters() if parameter.grad is None}
    assert idle == {"task_scores.ser"}
    learned = [parameter for parameter in fusion.parameters() if parameter.grad is not None]
    assert all(parameter.grad.abs().sum() > 0 for parameter in learned)


def test_unknown_scores_are_refused():
    with pytest.raises(RecipeError, match="both, task, input, last"):
        PromptAdaptiveFusion(L, D, TASKS, scores="mean")
