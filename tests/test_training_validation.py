"""A validation that does not end costs no step, and is done when training goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from test_training_resume import BATCHES, Drawn, Noisy
from voxstrata.batches.batch import Batch
from voxstrata.config.training import Training
from voxstrata.errors import CheckpointError, Interrupted
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit

EPOCHS = Training(epochs=5, accumulate=2, warmup_steps=3)
BETWEEN = Training(epochs=5, accumulate=2, warmup_steps=3, validate_every=2)


class Drawing(Noisy):
    """Validation draws random numbers, too."""

    def validation_loss(self, batch: Batch) -> Tensor:
        return self.loss(batch) * (1 + torch.rand(()))


class Ended(Drawn):
    """Validation batches, at one of which something happens."""

    def __init__(self, at: int, happen: Callable[[], None]) -> None:
        super().__init__()
        self.at, self.happen, self.read = at, happen, 0

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(index, skip=skip):
            self.read += 1
            if self.read == self.at:
                self.happen()
            yield batch


class Killed(Exception):
    """Stands for the end of the process."""


def kill() -> None:
    raise Killed


def ask() -> None:
    signal.raise_signal(signal.SIGTERM)


def checkpoints(run: RunFolder) -> list[str]:
    return [path.name for path in run.checkpoints.iterdir()]


def assert_goes_on_as_undisturbed(run: RunFolder, options: Training) -> None:
    undisturbed = RunFolder(run.path.with_name("undisturbed"))
    ours, theirs = Drawing(), Drawing()
    result = fit(ours, Drawn(), Drawn(), run, options)
    assert result == fit(theirs, Drawn(), Drawn(), undisturbed, options)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    for kind in ("step", "validation"):
        rows, expected = run.journal_rows(kind), undisturbed.journal_rows(kind)
        assert [{**row, "time_s": 0} for row in rows] == [{**row, "time_s": 0} for row in expected]
    assert checkpoints(run) == checkpoints(undisturbed) == ["step-000000015"]


@pytest.mark.parametrize(
    ("options", "validation", "happen", "left"),
    [
        (EPOCHS, 2, kill, "step-000000006-unvalidated"),
        (EPOCHS, 5, kill, "step-000000015-unvalidated"),
        # Between two checkpoints only what stood on the disk is left.
        (BETWEEN, 2, kill, "step-000000003"),
        (EPOCHS, 2, ask, "step-000000006-unvalidated"),
        (EPOCHS, 5, ask, "step-000000015-unvalidated"),
        (BETWEEN, 2, ask, "step-000000004-unvalidated"),
    ],
)
def test_a_validation_that_does_not_end_costs_no_step(
    tmp_path: Path, options: Training, validation: int, happen: Callable[[], None], left: str
) -> None:
    run = RunFolder(tmp_path / "run")
    dev = Ended(BATCHES * (validation - 1) + 3, happen)
    with pytest.raises((Killed, Interrupted)) as ended:
        fit(Drawing(), Drawn(), dev, run, options)
    # Asked to stop, it reads no further batch.
    assert dev.read == dev.at and checkpoints(run) == [left]
    if happen is ask:
        assert str(ended.value).startswith(f"stopped after step {int(left.split('-')[1])} of 15; the same")
    assert_goes_on_as_undisturbed(run, options)


def test_a_validation_may_be_ended_again_and_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for happen, at in ((ask, BATCHES + 3), (ask, 1), (kill, 4), (ask, BATCHES)):
        with pytest.raises((Killed, Interrupted)):
            fit(Drawing(), Drawn(), Ended(at, happen), run, EPOCHS)
        assert checkpoints(run) == ["step-000000006-unvalidated"]
    assert_goes_on_as_undisturbed(run, EPOCHS)


def test_a_stop_in_the_last_step_of_an_epoch_does_not_wait_for_validation(tmp_path: Path) -> None:
    class Asked(Drawn):
        def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
            for number, batch in enumerate(super().epoch(index, skip=skip), start=skip):
                if (index, number) == (1, BATCHES - 1):
                    ask()
                yield batch

    run = RunFolder(tmp_path / "run")
    with pytest.raises(Interrupted, match="stopped after step 6 of 15"):
        fit(Drawing(), Asked(), Drawn(), run, EPOCHS)
    assert checkpoints(run) == ["step-000000006-unvalidated"] and len(run.journal_rows("validation")) == 1
    assert_goes_on_as_undisturbed(run, EPOCHS)


def checkpoint_without(run: RunFolder, *names: str) -> None:
    """Takes names out of a checkpoint, as a version wrote it that did not know them."""
    (file,) = run.checkpoints.glob("*/state.json")
    counters = json.loads(file.read_text())
    for part in counters.values():
        for name in names:
            part.pop(name, None)
    file.write_text(json.dumps(counters))


def stopped(run: RunFolder, options: Training) -> None:
    with pytest.raises(Killed):
        fit(Drawing(), Drawn(), Drawn(), run, options, lambda told: kill() if told.step == 5 else None)
    assert checkpoints(run) == ["step-000000003"]


def test_a_checkpoint_of_a_version_with_fewer_names_loads(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    stopped(run, EPOCHS)
    checkpoint_without(run, "unvalidated", "keep_best", "betas")
    assert_goes_on_as_undisturbed(run, EPOCHS)


def test_an_option_that_the_older_version_did_not_have_is_refused_unless_it_is_the_default(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path / "run")
    stopped(run, EPOCHS)
    checkpoint_without(run, "clip_norm")
    other = Training(epochs=5, accumulate=2, warmup_steps=3, clip_norm=0.5)
    with pytest.raises(CheckpointError, match=r"clip_norm was 1\.0, is 0\.5"):
        fit(Drawing(), Drawn(), Drawn(), run, other)
