"""Losses against plain numpy formulas, torch's own class, and a sum over all alignments."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from voxstrata.errors import LabelError
from voxstrata.losses import ccc_loss, class_balanced_weights, ctc_loss, soft_cross_entropy


def soft_targets(seed: int, clips: int, classes: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), clips)).float()


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 8))
def test_class_weights_are_the_effective_numbers_of_clips(seed, clips, classes):
    targets = soft_targets(seed, clips, classes)
    counts = [sum(float(y) > 1 / classes for y in column) for column in targets.T]
    beta = (clips - 1) / clips
    raw = np.array([(1 - beta) / (1 - beta**n) if n else 0.0 for n in counts])
    expected = raw / raw.sum() * classes
    np.testing.assert_allclose(class_balanced_weights(targets).numpy(), expected, rtol=1e-5, atol=1e-7)


@given(arrays(np.int64, 4, elements=st.integers(0, 50)).filter(lambda counts: counts.sum() > 0))
def test_class_weights_sum_to_the_classes_and_rare_classes_weigh_more(counts):
    weights = class_balanced_weights(torch.eye(4)[np.repeat(np.arange(4), counts)])
    assert float(weights.sum()) == pytest.approx(4, rel=1e-5)
    for (n, w), (m, v) in itertools.permutations(zip(counts, weights.tolist(), strict=True), 2):
        assert w == 0 if n == 0 else w > 0
        if 0 < n <= m:
            assert w >= v * (1 - 1e-6)


def test_class_weights_refuse_targets_that_prefer_no_class():
    with pytest.raises(LabelError, match="prefers a class"):
        class_balanced_weights(torch.full((3, 4), 0.25))


@pytest.fixture
def one_hot():
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(7, 4, generator=generator)
    return logits, torch.tensor([0, 1, 2, 3, 3, 0, 3]), torch.tensor([0.2, 0.6, 1.2, 2.0])


def test_soft_cross_entropy_of_one_hot_targets_is_torchs_without_reduction(one_hot):
    logits, classes, weights = one_hot
    ours = soft_cross_entropy(logits, torch.eye(4)[classes], weights)
    torch.testing.assert_close(ours, F.cross_entropy(logits, classes, weight=weights, reduction="none"))
    torch.testing.assert_close(
        soft_cross_entropy(logits, torch.eye(4)[classes]), F.cross_entropy(logits, classes, reduction="none")
    )


def test_soft_cross_entropy_is_not_torchs_weighted_mean(one_hot):
    logits, classes, weights = one_hot
    ours = soft_cross_entropy(logits, torch.eye(4)[classes], weights).mean()
    assert abs(float(ours - F.cross_entropy(logits, classes, weight=weights))) > 0.05


def test_soft_cross_entropy_of_soft_targets_weighs_clips_and_not_classes(one_hot):
    logits, _, weights = one_hot
    targets = soft_targets(3, 7, 4)
    rows = []
    for x, y in zip(logits.double().tolist(), targets.double().tolist(), strict=True):
        total = math.log(sum(math.exp(v) for v in x))
        clip_weight = sum(w * t for w, t in zip(weights.tolist(), y, strict=True))
        rows.append(clip_weight * -sum(t * (v - total) for v, t in zip(x, y, strict=True)))
    ours = soft_cross_entropy(logits, targets, weights)
    torch.testing.assert_close(ours.double(), torch.tensor(rows, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    torchs = F.cross_entropy(logits, targets, weight=weights, reduction="none")
    assert float((ours - torchs).abs().max()) > 0.05


def test_soft_cross_entropy_keeps_its_weights_exact_under_autocast(one_hot):
    logits, classes, _ = one_hot
    weights = torch.tensor([1.0009765625] * 4)  # next to 1, and not to be had in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        ours = soft_cross_entropy(logits, torch.eye(4)[classes], weights)
    torch.testing.assert_close(ours, weights[0] * F.cross_entropy(logits, classes, reduction="none"))


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token)


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float64, (5, 3), elements=st.floats(-3, 3)),
    st.integers(1, 5),
    st.lists(st.integers(1, 2), max_size=3).map(tuple),
)
def test_ctc_is_the_sum_over_all_alignments(logits, frames, tokens):
    log_p = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[:frames]
    paths = (p for p in itertools.product(range(3), repeat=frames) if collapse(p) == tokens)
    total = sum(math.exp(sum(log_p[t, token] for t, token in enumerate(path))) for path in paths)
    expected = -math.log(total) / max(1, len(tokens)) if total else math.inf
    padded = torch.tensor([[*tokens, *[0] * (4 - len(tokens))]])
    found = ctc_loss(
        torch.tensor(logits)[None], torch.tensor([frames]), padded, torch.tensor([len(tokens)])
    ).item()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_ctc_of_a_clip_does_not_depend_on_its_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 4, generator=generator)
    lengths, tokens, sizes = torch.tensor([9, 6]), torch.tensor([[1, 2, 3], [3, 3, 0]]), torch.tensor([3, 2])
    both = ctc_loss(logits, lengths, tokens, sizes)
    alone = ctc_loss(logits[1:, :6], lengths[1:], tokens[1:, :2], sizes[1:])
    torch.testing.assert_close(both[1:], alone)
    assert both.shape == (2,)


def ccc_in_words(x: list[float], y: list[float]) -> float:
    """Lin's coefficient from Pearson's, the bias of the means and that of the scales."""
    rho = np.corrcoef(x, y)[0, 1]
    shift = (np.mean(x) - np.mean(y)) / np.sqrt(np.std(x) * np.std(y))
    scale = np.std(x) / np.std(y)
    return rho * 2 / (scale + 1 / scale + shift**2)


@given(st.integers(0, 10_000), st.integers(3, 40))
def test_ccc_loss_is_one_less_the_coefficient(seed, clips):
    rng = np.random.default_rng(seed)
    targets = rng.normal([4, 3, 5], [1, 0.5, 2], size=(clips, 3))
    answers = 0.5 * targets + rng.normal(1, 1, size=(clips, 3))
    found = ccc_loss(torch.from_numpy(answers), torch.from_numpy(targets))
    expected = [1 - ccc_in_words(answers[:, k], targets[:, k]) for k in range(3)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_ccc_loss_at_its_ends():
    targets = torch.tensor([[1.0], [2.0], [3.0]])
    assert ccc_loss(targets, targets).item() == pytest.approx(0, abs=1e-6)
    assert ccc_loss(4 - targets, targets).item() == pytest.approx(2)
    assert ccc_loss(torch.full((3, 1), 2.0), targets).item() == pytest.approx(1)
    alone = torch.tensor([[5.0]], requires_grad=True)
    loss = ccc_loss(alone, torch.tensor([[2.0]])).sum()
    loss.backward()
    assert loss.item() == 1 and alone.grad.item() == 0
