"""The one training loop: every system is trained here, and goes on exactly where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

from voxstrata.batches.batch import Batch
from voxstrata.batches.buckets import derived_seed
from voxstrata.batches.processes import Processes
from voxstrata.config.training import Training
from voxstrata.errors import Interrupted, TrainingError
from voxstrata.runs import RunFolder
from voxstrata.system import System
from voxstrata.training.checkpoint import Checkpoint, Checkpoints, TrainingState
from voxstrata.training.disk import check_disk
from voxstrata.training.journal import Journal
from voxstrata.training.learning import Learner, lr_factor
from voxstrata.training.parameters import Tensors, open_for_training, restore_tensors, trained_tensors
from voxstrata.training.progress import FitResult, Progress
from voxstrata.training.seeding import random_states, restore_random_states, seed_everything
from voxstrata.training.shares import Batches, divided
from voxstrata.training.stopping import StopRequest, stop_requests
from voxstrata.training.tracking import Track


class _StopAsked(Exception):
    """Ends a validation in all processes together."""


def fit(
    system: System,
    train: Batches,
    dev: Batches | None,
    run: RunFolder,
    options: Training,
    progress: Callable[[Progress], None] | None = None,
    processes: Processes | None = None,
    *,
    seed: int = 0,
    track: Track | None = None,
) -> FitResult:
    """Trains a system; where the run folder holds a checkpoint of this training, goes on from it.

    On the CPU, at the same number of threads, a training that was stopped at any moment ends with the same
    weights, bit for bit, as one that was not. The system ends in eval mode, on the device that was used.

    Processes that a launcher started share each batch; but for rounding, and for dropout and other random
    numbers, which each draws for itself, they do what one does. The first one writes the run folder.

    Args:
        system: what is trained: the parameters of its groups; all others are frozen.
        train: training batches.
        dev: validation batches; None: no validation, and the last weights stay.
        run: where checkpoints and journal go. The caller holds its lock.
        options: how long and how.
        progress: called after each step.
        processes: that train together; None: those that a launcher started, if there was one.
        seed: of dropout and whatever else draws random numbers in training.
        track: takes the rows of the journal too, in the process that leads.

    Raises:
        TrainingError: if the disk is full or not writable, or loss or gradient are not finite.
        CheckpointError: if the run folder holds a training with other options.
        Interrupted: after Ctrl-C or SIGTERM (to any of the processes), with a checkpoint written.
        ProcessLost: if another process ended.
    """
    processes = processes or Processes.join()
    fitting = _Fitting(system, train, dev, run, options, processes, seed, track)
    with stop_requests() as stop:
        fitting.start_or_resume()
        if fitting.state.unvalidated:
            fitting.validate(stop)
            fitting.save()
        for batches in fitting.steps():
            loss = fitting.learn(batches)
            if fitting.validation_due():
                fitting.validate(stop)
            if progress is not None:
                progress(fitting.progress(loss))
            stopping = processes.any(stop.requested)
            if stopping or fitting.checkpoint_due():
                fitting.save()
            if stopping:
                raise fitting.interrupted()
    return fitting.result()


class _Fitting:
    """One training: its parts, where it stands, and the moves that `fit` is made of."""

    def __init__(
        self,
        system: System,
        train: Batches,
        dev: Batches | None,
        run: RunFolder,
        options: Training,
        processes: Processes,
        seed: int,
        track: Track | None,
    ) -> None:
        self.system, self.options, self.processes, self.seed = system, options, processes, seed
        self.track = track
        self.train = divided(train, processes.share)
        self.dev = None if dev is None else divided(dev, processes.share)
        self.groups = open_for_training(system)
        if processes.leads:
            check_disk(run, system)
        # Not the same in all processes: their clips would be dropped out alike.
        index = processes.share.index
        seed_everything(derived_seed(seed, "process", index) if index else seed)
        self.total = options.total_steps(train.batches_per_epoch())
        self.warmup = options.warmup_of(self.total)
        self.state = TrainingState()
        self.best: Tensors = {}
        self.resumed_at: int | None = None
        self.journal = Journal(run)
        defaults = Training(steps=1).model_dump() | {"steps": None, "seed": 0}
        self.checkpoints = Checkpoints(run.checkpoints, self._fingerprint(), defaults)
        self.learner = Learner(
            system,
            self.groups,
            bf16=options.precision == "bf16",
            betas=options.betas,
            clip_norm=options.clip_norm,
            processes=processes,
        )
        self.clock = time.monotonic()

    def start_or_resume(self) -> None:
        """Takes up the newest checkpoint; the first start writes one, so that there always is one."""
        self.processes.require_equal(self.checkpoints.fingerprint, "options and batches of the training")
        checkpoint = self._loaded()
        if checkpoint is not None:
            self.state, self.best = checkpoint.state, checkpoint.best
            self.resumed_at = self.state.step
            restore_tensors(self.system, checkpoint.weights)
            self.learner.restore_optimizer(checkpoint.optimizer)
            randomness = [checkpoint.randomness, *checkpoint.others]
            # Of a process that there was not before, the seed holds.
            if self.processes.share.index < len(randomness):
                restore_random_states(randomness[self.processes.share.index], self.processes.device)
            if self.processes.leads:
                self.journal.truncate(self.state.journal_bytes)
            return
        if self.processes.count > 1:
            # Computed from the same seed; on processors of two kinds they might differ all the same.
            own = trained_tensors(self.system) if self.processes.leads else {}
            restore_tensors(self.system, self.processes.from_leader(own))
        self.save()

    def _loaded(self) -> Checkpoint | None:
        """The newest checkpoint, if the process that leads sees one."""
        checkpoint = self.checkpoints.load() if self.processes.leads else None
        if self.processes.from_leader(checkpoint is not None) and checkpoint is None:
            checkpoint = self.checkpoints.load()
            if checkpoint is None:
                raise TrainingError(
                    f"process {self.processes.share.index} sees no checkpoint in {self.checkpoints.folder}, "
                    "the first process does; put the run folder on a disk that all of them share"
                )
        return checkpoint

    def steps(self) -> Iterator[list[Batch]]:
        """The batches of each step, until the planned end or the end of patience."""
        announced = self.train.batches_per_epoch()
        while not self.finished():
            epoch = self.state.epoch
            with closing(_closable(self.train.epoch(epoch, skip=self.state.batches))) as stream:
                while self.state.epoch == epoch and not self.finished():
                    left = announced - self.state.batches
                    batches = list(islice(stream, min(self.options.accumulate, left)))
                    if not batches:
                        raise TrainingError(
                            f"epoch {epoch} ended {left} batches before the {announced} announced"
                        )
                    yield batches

    def learn(self, batches: list[Batch]) -> float:
        """One optimizer step, journaled; the mean loss over its clips."""
        state, options = self.state, self.options
        factor = lr_factor(state.step, total=self.total, warmup=self.warmup, schedule=options.schedule)
        rates = {group.name: group.lr * factor * (state.step >= group.start_step) for group in self.groups}
        loss = self.learner.step(batches, rates.values(), number=state.step + 1)
        state.step += 1
        now = time.monotonic()
        state.elapsed_s, self.clock = state.elapsed_s + now - self.clock, now
        row = {"kind": "step", "step": state.step, "epoch": state.epoch, "loss": loss, "lr": rates}
        self._tell({**row, "time_s": round(state.elapsed_s, 3)})
        state.batches += len(batches)
        if state.batches >= self.train.batches_per_epoch():
            state.epoch, state.batches = state.epoch + 1, 0
        return loss

    def validate(self, stop: StopRequest) -> None:
        """Mean loss over all validation clips; keeps the weights where it is the lowest so far.

        Whatever ends it before its time costs no step: a checkpoint that is due is written before it, and
        one in any case where it is asked to stop. Training goes on from there with this validation.
        """
        assert self.dev is not None
        state = self.state
        state.unvalidated = True
        if self.checkpoint_due():
            self.save()
        before = random_states(self.processes.device)
        try:
            with closing(_closable(self.dev.epoch(0))) as batches:
                loss = self.learner.mean_loss(self._until_stopped(batches, stop), number=state.step)
        except _StopAsked:
            self.save(before)
            raise self.interrupted() from None
        state.unvalidated = False
        best = state.best_loss is None or loss < state.best_loss
        state.val_loss = loss
        if best:
            state.best_loss, state.best_step, state.stale = loss, state.step, 0
            self.best = trained_tensors(self.system) if self.options.keep_best else {}
        else:
            state.stale += 1
        row = {"kind": "validation", "step": state.step, "epoch": self._epoch(), "loss": loss, "best": best}
        self._tell({**row, **self.learner.summary()})

    def _until_stopped(self, batches: Iterator[Batch], stop: StopRequest) -> Iterator[Batch]:
        """The batches, as long as no process is asked to stop."""
        for batch in batches:
            if self.processes.any(stop.requested):
                raise _StopAsked
            yield batch

    def interrupted(self) -> Interrupted:
        """What is raised once a checkpoint is written."""
        done = f"step {self.state.step} of {self.total}"
        return Interrupted(f"stopped after {done}; the same command goes on from there")

    def save(self, drawn: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint of this moment, for all processes.

        Args:
            drawn: the states of this process's generators that it holds; None: as they are now.
        """
        randomness, *others = self.processes.gathered(drawn or random_states(self.processes.device))
        if self.processes.leads:
            self.state.journal_bytes = self.journal.flushed_bytes()
            self.checkpoints.save(
                Checkpoint(
                    state=self.state,
                    weights=trained_tensors(self.system),
                    best=self.best,
                    optimizer=self.learner.optimizer_state(),
                    randomness=randomness,
                    others=others,
                )
            )
        self.processes.wait()

    def finished(self) -> bool:
        """Whether the planned steps are done or patience has run out."""
        patience = self.options.patience
        return self.state.step >= self.total or (patience is not None and self.state.stale >= patience)

    def validation_due(self) -> bool:
        """Whether to validate after the latest step."""
        every = self.options.validate_every
        at_boundary = self.state.batches == 0 if every is None else self.state.step % every == 0
        return self.dev is not None and (at_boundary or self.state.step >= self.total)

    def checkpoint_due(self) -> bool:
        """Whether to write a checkpoint after the latest step."""
        every = self.options.checkpoint_every_steps
        at_multiple = every is not None and self.state.step % every == 0
        return at_multiple or self.state.batches == 0 or self.finished()

    def progress(self, loss: float) -> Progress:
        """Where training stands."""
        state = self.state
        return Progress(state.step, self.total, self._epoch(), loss, state.val_loss, self.resumed_at)

    def result(self) -> FitResult:
        """Puts the best weights back, if they are kept, and sums up."""
        if self.best:
            restore_tensors(self.system, self.best)
        self.system.eval()
        return FitResult(
            steps=self.state.step,
            epochs=self.state.epoch,
            best_loss=self.state.best_loss,
            best_step=self.state.best_step,
            stopped_early=self.state.step < self.total,
        )

    def _tell(self, row: Mapping[str, Any]) -> None:
        if self.processes.leads:
            self.journal.append(row)
            if self.track is not None:
                self.track(row)

    def _epoch(self) -> int:
        """The epoch of the latest step, whose end may already have been counted."""
        return self.state.epoch - (self.state.batches == 0)

    def _fingerprint(self) -> dict[str, Any]:
        """What must not change when a training goes on; when checkpoints are written, and a tracker, may."""
        options = self.options.model_dump(exclude={"checkpoint_every_steps", "tracker"}) | {"seed": self.seed}
        groups = {
            f"group {group.name}": {
                "lr": group.lr,
                "weight_decay": group.weight_decay,
                "start_step": group.start_step,
                "values": sum(parameter.numel() for parameter in group.parameters),
            }
            for group in self.groups
        }
        dev_batches = None if self.dev is None else self.dev.batches_per_epoch()
        batches = {"batches per epoch": self.train.batches_per_epoch(), "validation batches": dev_batches}
        return {**options, **groups, **batches}


def _closable(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    """The same batches as a generator, so that leaving early ends the source's work at once."""
    yield from batches
