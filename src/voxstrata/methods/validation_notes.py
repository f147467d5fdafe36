"""What HarmoniFuse tells after a validation: how its layers were weighed, and the loss of each task."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class ValidationNotes:
    """Sums over the batches since they were last cleared.

    Args:
        clips: task -> validation clips, of all processes; None: not known, a batch's loss is left as it is.
    """

    def __init__(self, clips: Mapping[str, int] | None = None) -> None:
        self.clips = dict(clips or {})
        self._alpha: dict[str, tuple[Tensor, int]] = {}
        self._losses: dict[str, tuple[float, int]] = {}

    def clear(self) -> None:
        """Forgets what was noted."""
        self._alpha.clear()
        self._losses.clear()

    def alpha(self, task: str, weights: Tensor) -> None:
        """Takes up weights [N, L] of the language model's layers."""
        total, count = self._alpha.get(task, (0.0, 0))
        self._alpha[task] = (total + weights.detach().double().sum(0), count + len(weights))

    def loss(self, task: str, mean: Tensor, clips: int) -> Tensor:
        """Takes up a batch's mean loss; scaled so that the mean over all clips is the mean over the tasks.

        Args:
            task: of the batch.
            mean: loss over the batch's clips, [].
            clips: in the batch.
        """
        total, count = self._losses.get(task, (0.0, 0))
        self._losses[task] = (total + float(mean.detach()) * clips, count + clips)
        return mean * self._scale(task)

    def summary(self) -> dict[str, float]:
        """`loss/TASK`, and `alpha/TASK/LAYER` from layer 1 on, its mean over the positions that answer.

        Of several processes, each tells its part: weighed by their validation clips, the parts add up.
        """
        numbers: dict[str, float] = {}
        for task, (total, count) in self._losses.items():
            numbers[f"loss/{task}"] = self._part(task) * total / count
        for task, (weights, count) in self._alpha.items():
            mean = (self._part(task) * weights / count).tolist()
            numbers |= {f"alpha/{task}/{layer}": value for layer, value in enumerate(mean, start=1)}
        return numbers

    def _part(self, task: str) -> float:
        """Share of a task in this process's clips over its share in all; 1 where there is one process."""
        own = {name: count for name, (_, count) in self._losses.items()}
        if not self.clips or task not in own:
            return 1.0
        return own[task] * sum(self.clips.values()) / (sum(own.values()) * self.clips[task])

    def _scale(self, task: str) -> float:
        if not self.clips:
            return 1.0
        return sum(self.clips.values()) / (len(self.clips) * self.clips[task])
