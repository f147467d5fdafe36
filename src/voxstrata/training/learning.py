"""What a step and a validation compute: weighted losses, gradients, one update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from voxstrata.batches.batch import Batch
from voxstrata.batches.processes import Processes
from voxstrata.errors import AudioError, TrainingError
from voxstrata.heads.whole_batch import WholeBatch, sharing
from voxstrata.system import ParameterGroup, System


class Learner:
    """A system with its optimizer, AdamW, on this process's device.

    A batch weighs as many clips as it holds, in steps and in validation, so neither depends on how clips are
    divided into batches, or batches among processes. Gradients are added up explicitly, once a step: unlike
    torch's DistributedDataParallel that asks nothing of a process without clips, or of a part of the system
    that a step does not use.

    Args:
        system: its loss is minimised.
        groups: its parameter groups.
        bf16: autocast to bfloat16; weights and optimizer stay in float32.
        betas: decay rates of AdamW's two moments.
        clip_norm: largest norm of the gradient of all parameters together; None: no limit.
        processes: that share the batches.

    Raises:
        TrainingError: if the system has torch's own batch norm and the batches are shared.
    """

    def __init__(
        self,
        system: System,
        groups: Sequence[ParameterGroup],
        *,
        bf16: bool,
        betas: tuple[float, float],
        clip_norm: float | None,
        processes: Processes,
    ) -> None:
        self.system, self.bf16, self.clip_norm, self.processes = system, bf16, clip_norm, processes
        self.whole = [module for module in system.modules() if isinstance(module, WholeBatch)]
        if processes.count > 1:
            _refuse_batch_norm(system)
        system.to(processes.device)
        self.validated = 0
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        self.optimizer = torch.optim.AdamW(
            [{"params": g.parameters, "lr": g.lr, "weight_decay": g.weight_decay} for g in groups],
            betas=betas,
        )

    def step(self, batches: Sequence[Batch], rates: Iterable[float], *, number: int) -> float:
        """One update from the batches together; the mean loss over their clips.

        Args:
            batches: at least one; of each this process's clips, perhaps none.
            rates: learning rate of each group.
            number: of the step, for messages.

        Raises:
            TrainingError: if loss or gradient are not finite; nothing has been updated then.
        """
        self.system.train()
        sizes = self.processes.rows([len(batch) for batch in batches])
        clips = sum(map(sum, sizes))
        summed = 0.0
        for batch, held in zip(batches, zip(*sizes, strict=True), strict=True):
            with self._sharing(held):
                if not len(batch):
                    continue
                loss = self._computed(self.system.loss, batch)
                summed += _finite(loss, "loss", number, batch.ids) * len(batch)
                torch.autograd.backward(loss * (len(batch) / clips))
        self.processes.add_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm or math.inf)
        if not math.isfinite(norm):
            own = [clip for batch in batches for clip in batch.ids]
            _finite(norm, "gradient norm", number, chain.from_iterable(self.processes.gathered(own)))
        for slot, rate in zip(self.optimizer.param_groups, rates, strict=True):
            slot["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self._added(summed) / clips

    @torch.no_grad()
    def mean_loss(self, batches: Iterable[Batch], *, number: int) -> float:
        """Mean validation loss over all clips of the batches, in eval mode.

        Args:
            batches: at least one; of each this process's clips.
            number: of the step, for messages.

        Raises:
            TrainingError: if a loss is not finite, or there is no batch.
        """
        self.system.eval()
        summed, clips = 0.0, 0
        for batch in batches:
            held = [row[0] for row in self.processes.rows([len(batch)])] if self.whole else ()
            with self._sharing(held):
                if len(batch):
                    loss = self._computed(self.system.validation_loss, batch)
                    summed += _finite(loss, "validation loss", number, batch.ids) * len(batch)
                    clips += len(batch)
        self.validated = clips
        clips_in_all = self._added(clips)
        if not clips_in_all:
            raise TrainingError("the validation source gave no batch; leave validation out, or give it clips")
        return self._added(summed) / clips_in_all

    def summary(self) -> dict[str, float]:
        """The system's numbers; what hangs on validation clips is the mean over those of all processes."""
        stated = self.processes.gathered((self.validated, self.system.summary()))
        if len(stated) == 1:
            return stated[0][1]
        clips = sum(count for count, _ in stated)
        return {
            name: value
            if all(count == 0 or numbers[name] == value for count, numbers in stated)
            else sum(count * numbers[name] for count, numbers in stated if count) / clips
            for name, value in stated[0][1].items()
        }

    def optimizer_state(self) -> dict[str, Any]:
        """The state of AdamW."""
        return self.optimizer.state_dict()

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Sets the state of AdamW."""
        self.optimizer.load_state_dict(state)

    def _computed(self, loss: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        device = self.processes.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            try:
                return loss(batch.to(device)).float()
            except AudioError as fault:
                raise AudioError(f"{fault}; this batch has the clips {', '.join(batch.ids)}") from None

    def _sharing(self, held: Sequence[float]) -> AbstractContextManager[None]:
        """Tells the modules that need the whole batch which processes have clips of it: the first ones."""
        members = sum(count > 0 for count in held)
        return sharing(self.whole, self.processes.group(members) if self.whole else None)

    def _added(self, value: float) -> float:
        return sum(row[0] for row in self.processes.rows([value]))


def _refuse_batch_norm(system: System) -> None:
    for name, module in system.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, WholeBatch):
            raise TrainingError(
                f"{name} is a batch norm of torch, which knows one process's clips only; use "
                "heads.whole_batch.WholeBatchNorm there, or train in one process"
            )


def _finite(value: Tensor, name: str, number: int, clips: Iterable[str]) -> float:
    number_found = float(value.detach())
    if not math.isfinite(number_found):
        raise TrainingError(
            f"{name} is {number_found} at step {number}, with the clips {', '.join(clips)}; look at these "
            "recordings, or lower the learning rate; the last checkpoint is kept"
        )
    return number_found


def lr_factor(step: int, *, total: int, warmup: int, schedule: str) -> float:
    """Share of the peak learning rate at a step, in [0, 1].

    Args:
        step: index of the step, from 0.
        total: steps of the whole training.
        warmup: steps of linear rise; the first step after them has the peak rate.
        schedule: "constant", "linear" (to zero after the last step) or "cosine" (half a wave to zero).

    >>> [lr_factor(s, total=6, warmup=2, schedule="linear") for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
