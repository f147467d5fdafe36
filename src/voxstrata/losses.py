"""Losses: class-balanced soft cross-entropy and CCC for emotions, CTC and token cross-entropy for words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from voxstrata.errors import LabelError


def class_balanced_weights(targets: Tensor) -> Tensor:
    """Weights of the classes by their effective number of clips.

    Cui et al. 2019 (arXiv 1901.05555), equation 2, with beta = (N - 1) / N; as used for soft labels in
    EMO-SUPERB. n_c counts the targets with y_c > 1/C; w_c = (1 - beta) / (1 - beta^n_c).

    Args:
        targets: [N, C] soft targets of the training clips, rows sum to 1.

    Returns:
        [C] weights that sum to C; a class without clips has weight 0.

    Raises:
        LabelError: if no target prefers a class, so that none has clips.

    >>> class_balanced_weights(torch.eye(2)[[0, 0, 0, 1]]).round(decimals=3)
    tensor([0.6040, 1.3960])
    """
    clips, classes = targets.shape
    counts = (targets > 1 / classes).sum(0).to(torch.float64)
    if not counts.any():
        raise LabelError(f"none of {clips} targets prefers a class: every one is even over all {classes}")
    beta = (clips - 1) / clips
    effective = 1 - beta**counts
    weights = torch.where(counts > 0, (1 - beta) / effective.clamp_min(1e-12), 0.0)
    return (weights * classes / weights.sum()).to(torch.float32)


def soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Class-balanced soft cross-entropy per clip: (sum_c w_c y_c) * -sum_c y_c log p_c.

    AdaLTM section 3.3. With one-hot targets this is `F.cross_entropy(weight=w, reduction="none")`;
    with soft targets it is not: there the weight of a clip is the mean weight of its target.

    Args:
        logits: [B, C].
        targets: [B, C], rows sum to 1.
        weights: [C], or None for equal weights.

    Returns:
        [B].
    """
    entropy = -(targets * F.log_softmax(logits.float(), dim=-1)).sum(-1)
    return entropy if weights is None else entropy * (targets * weights).sum(-1)


def ccc_loss(answers: Tensor, targets: Tensor) -> Tensor:
    """1 - the concordance correlation coefficient over the batch, per dimension.

    Lin 1989; Trigeorgis et al. 2016. It is a loss of the whole batch, not a mean over its clips:
    micro-batches that are accumulated each have their own. One clip alone has the loss 1.

    Args:
        answers: [B, K].
        targets: [B, K].

    Returns:
        [K], each in [0, 2].
    """
    answers, targets = answers.float(), targets.float()
    answer_mean, target_mean = answers.mean(0), targets.mean(0)
    covariance = ((answers - answer_mean) * (targets - target_mean)).mean(0)
    spread = answers.var(0, correction=0) + targets.var(0, correction=0)
    return 1 - 2 * covariance / (spread + (answer_mean - target_mean).square()).clamp_min(1e-8)


def ctc_loss(logits: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """CTC loss per clip and token; blank is index 0.

    Args:
        logits: [B, T, V].
        lengths: [B] valid frames.
        tokens: [B, U].
        token_lengths: [B].

    Returns:
        [B]; infinite where a clip has fewer frames than `ctc_frames` of its tokens.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
    loss = F.ctc_loss(log_probabilities, tokens, lengths, token_lengths, blank=0, reduction="none")
    return loss / token_lengths.clamp_min(1)


def ctc_frames(tokens: Sequence[int]) -> int:
    """Frames that CTC needs to write tokens: one each, and a blank between two alike.

    >>> ctc_frames([3, 1, 1, 2])
    5
    """
    return len(tokens) + sum(first == second for first, second in pairwise(tokens))


def token_loss(logits: Tensor, targets: Tensor, lengths: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy per clip, the mean over its tokens.

    Args:
        logits: [B, U, V].
        targets: int64 [B, U]; behind a clip's end any token.
        lengths: [B] valid tokens.
        smoothing: share of a target that is spread evenly over the vocabulary.

    Returns:
        [B].
    """
    each = F.cross_entropy(
        logits.float().transpose(1, 2), targets, reduction="none", label_smoothing=smoothing
    )
    counted = torch.arange(targets.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    return each.masked_fill(~counted, 0).sum(1) / lengths.clamp_min(1)
