"""What a step and a validation compute: weighted losses, gradients, one update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from voxstrata.batches.batch import Batch
from voxstrata.errors import TrainingError
from voxstrata.systems.system import ParameterGroup, System


class LossModule(nn.Module):
    """A system's loss as a forward pass, which is what Accelerate wraps.

    Args:
        system: whose loss.
        bf16: compute in bfloat16 where autocast deems it safe.
    """

    def __init__(self, system: System, *, bf16: bool) -> None:
        super().__init__()
        self.system = system
        self.bf16 = bf16

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss over the batch's clips, []."""
        # Not Accelerator(mixed_precision=...): that is fixed for a process at its first use.
        with torch.autocast(batch.waveforms.device.type, torch.bfloat16, enabled=self.bf16):
            return self.system.loss(batch).float()


class Learner:
    """A system with its optimizer, AdamW, on the device that Accelerate chooses.

    A batch weighs as many clips as it holds, in steps and in validation, so neither depends on how clips are
    divided into batches.

    Args:
        system: its loss is minimised.
        groups: its parameter groups.
        bf16: autocast to bfloat16; weights and optimizer stay in float32.
        betas: decay rates of AdamW's two moments.
        clip_norm: largest norm of the gradient of all parameters together; None: no limit.

    Raises:
        TrainingError: if started with several processes.
    """

    def __init__(
        self,
        system: System,
        groups: Sequence[ParameterGroup],
        *,
        bf16: bool,
        betas: tuple[float, float],
        clip_norm: float | None,
    ) -> None:
        self.accelerator = Accelerator(mixed_precision="no")
        if self.accelerator.num_processes > 1:
            raise TrainingError(
                f"started with {self.accelerator.num_processes} processes; training uses one, "
                "start it without a launcher"
            )
        self.system, self.clip_norm = system, clip_norm
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        optimizer = torch.optim.AdamW(
            [{"params": g.parameters, "lr": g.lr, "weight_decay": g.weight_decay} for g in groups],
            betas=betas,
        )
        self.model, self.optimizer = self.accelerator.prepare(LossModule(system, bf16=bf16), optimizer)

    def step(self, batches: Sequence[Batch], rates: Iterable[float], *, number: int) -> float:
        """One update from the batches together; the mean loss over their clips.

        Args:
            batches: at least one.
            rates: learning rate of each group.
            number: of the step, for messages.

        Raises:
            TrainingError: if loss or gradient are not finite; nothing has been updated then.
        """
        self.system.train()
        clips = self._over_processes(sum(len(batch) for batch in batches))
        summed = 0.0
        for batch in batches:
            loss = self.model(batch.to(self.accelerator.device))
            summed += _finite(loss, "loss", number, [batch]) * len(batch)
            # Accelerate averages gradients over processes; the loss is a mean over the clips of all.
            self.accelerator.backward(loss * (len(batch) * self.accelerator.num_processes / clips))
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.clip_norm or math.inf)
        _finite(norm, "gradient norm", number, batches)
        for slot, rate in zip(self.optimizer.param_groups, rates, strict=True):
            slot["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self._over_processes(summed) / clips

    @torch.no_grad()
    def mean_loss(self, batches: Iterable[Batch], *, number: int) -> float:
        """Mean loss over all clips of the batches, in eval mode.

        Args:
            batches: at least one.
            number: of the step, for messages.

        Raises:
            TrainingError: if a loss is not finite, or there is no batch.
        """
        self.system.eval()
        summed, clips = 0.0, 0
        for batch in batches:
            loss = self.model(batch.to(self.accelerator.device))
            summed += _finite(loss, "validation loss", number, [batch]) * len(batch)
            clips += len(batch)
        if not clips:
            raise TrainingError("the validation source gave no batch; leave validation out, or give it clips")
        return self._over_processes(summed) / self._over_processes(clips)

    def optimizer_state(self) -> dict[str, Any]:
        """The state of AdamW."""
        return self.optimizer.state_dict()

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Sets the state of AdamW."""
        self.optimizer.load_state_dict(state)

    def _over_processes(self, value: float) -> float:
        """The sum of a number over all processes: the one place where they meet, beside the gradients."""
        if self.accelerator.num_processes == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(total, reduction="sum"))


def _finite(value: Tensor, name: str, number: int, batches: Sequence[Batch]) -> float:
    number_found = float(value.detach())
    if not math.isfinite(number_found):
        ids = ", ".join(clip for batch in batches for clip in batch.ids)
        raise TrainingError(
            f"{name} is {number_found} at step {number}, with the clips {ids}; look at these recordings, "
            "or lower the learning rate; the last checkpoint is kept"
        )
    return number_found
