"""Processes that really die. Run as a script, this file is the parent that kills them."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from voxstrata.batches.batch import Batch, Reference
from voxstrata.config.training import Training
from voxstrata.errors import CheckpointError, Interrupted
from voxstrata.predictions import Prediction
from voxstrata.runs import RunFolder
from voxstrata.system import ParameterGroup, System
from voxstrata.training import checkpoint
from voxstrata.training.loop import fit
from voxstrata.training.progress import Progress
from voxstrata.training.seeding import random_states, restore_random_states, seed_everything
from voxstrata.training.stopping import stop_requests

WIDTH, BATCHES = 32, 6


class Noisy(System):
    """Draws from all three generators, and has running statistics: nothing may be lost on the way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Linear(WIDTH, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 3)
        )

    def loss(self, batch: Batch) -> Tensor:
        noise = random.random() + np.random.rand() if self.training else 0.0
        assert batch.tokens is not None
        return nn.functional.cross_entropy(self.net(batch.waveforms) * (1 + noise), batch.tokens)

    def predict(self, batch: Batch) -> list[Prediction]:
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("net", tuple(self.net.parameters()), lr=0.01, weight_decay=0.01)]


class Drawn:
    """Batches drawn from (epoch, number); each takes a moment."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s

    def batches_per_epoch(self) -> int:
        return BATCHES

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        for number in range(skip, BATCHES):
            time.sleep(self.pause_s)
            generator = torch.Generator().manual_seed(1000 * index + number)
            yield Batch(
                references=tuple(Reference(id=f"{index}-{number}-{i}") for i in range(8)),
                waveforms=torch.randn(8, WIDTH, generator=generator),
                lengths=torch.full((8,), WIDTH),
                tokens=torch.randint(3, (8,), generator=generator),
            )


OPTIONS = Training(epochs=5, accumulate=2, schedule="cosine", warmup_steps=3, checkpoint_every_steps=1)


def train(run: RunFolder, pause_s: float = 0.0, progress: Callable[[Progress], None] | None = None) -> None:
    """Trains to the end and leaves the weights beside the run folder."""
    system = Noisy()
    fit(system, Drawn(pause_s), Drawn(), run, OPTIONS, progress)
    save_file({name: t.contiguous() for name, t in system.state_dict().items()}, f"{run.path}.safetensors")


def die_at_flush(number: int) -> None:
    """Makes this process kill itself at the n-th flush while checkpoints are written."""
    left, real = number, checkpoint._flush

    def flush(path: Path) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path)

    checkpoint._flush = flush


def die_at_removal(number: int) -> None:
    """Makes this process kill itself in the middle of the n-th removal of an old checkpoint."""
    left, real = number, shutil.rmtree

    def remove(path: Path, **options: Any) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            next(Path(path).iterdir()).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, **options)

    shutil.rmtree = remove  # type: ignore[assignment]


def in_child(work: Callable[[], None], kill_after_s: float | None = None) -> int:
    """Runs work in a process of its own; what it died of, or its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except Interrupted as stopped:
            os._exit(stopped.exit_code)
        except BaseException as fault:
            print(repr(fault), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_again_and_again(run: RunFolder, seed: int) -> None:
    """Kills a training at random moments and at each stage of writing a checkpoint, then lets it end."""

    def dying(trap: Callable[[int], None], number: int) -> Callable[[], None]:
        def work() -> None:
            trap(number)
            train(run)

        return work

    draw = random.Random(seed)
    # A checkpoint flushes four files, its folder, and after the rename the folder around it.
    outcomes = [in_child(dying(die_at_flush, number)) for number in range(1, 8)]
    outcomes += [in_child(dying(die_at_removal, number)) for number in (1, 2)]
    outcomes += [in_child(lambda: train(run, 0.02), draw.uniform(0.05, 0.4)) for _ in range(5)]
    outcomes += [in_child(lambda: train(run))]
    print(" ".join(map(str, outcomes)))


def assert_ended_as_undisturbed(run: RunFolder, undisturbed: RunFolder) -> None:
    ours, theirs = (load_file(f"{r.path}.safetensors") for r in (run, undisturbed))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    for kind in ("step", "validation"):
        rows, expected = run.journal_rows(kind), undisturbed.journal_rows(kind)
        assert [{**r, "time_s": 0} for r in rows] == [{**r, "time_s": 0} for r in expected]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("runs") / "undisturbed")
    train(run)
    assert len(run.journal_rows("step")) == 15
    return run


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are made by fork")
def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path: Path, undisturbed: RunFolder) -> None:
    run = RunFolder(tmp_path / "killed")
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    done = subprocess.run(
        [sys.executable, __file__, str(run.path), str(seed)], capture_output=True, text=True, timeout=200
    )
    outcomes = [int(outcome) for outcome in done.stdout.split()]
    assert outcomes[:9] == [-signal.SIGKILL] * 9, done.stderr
    assert set(outcomes[9:-1]) <= {-signal.SIGKILL, 0}, done.stderr
    assert outcomes[-1] == 0, done.stderr
    assert_ended_as_undisturbed(run, undisturbed)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000015"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_a_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed: RunFolder, number: signal.Signals
) -> None:
    run = RunFolder(tmp_path / "stopped")
    before = signal.getsignal(number)

    def ask(progress: Progress) -> None:
        if progress.step == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="stopped after step 5 of 15; the same command goes on") as stopped:
        train(run, progress=ask)
    assert stopped.value.exit_code == 130
    assert signal.getsignal(number) is before
    assert len(run.journal_rows("step")) == 5
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000005"]
    train(run)
    assert_ended_as_undisturbed(run, undisturbed)


def test_a_second_ctrl_c_stops_at_once_and_loses_nothing(tmp_path: Path, undisturbed: RunFolder) -> None:
    run = RunFolder(tmp_path / "stopped")

    def ask_twice(progress: Progress) -> None:
        if progress.step == 5:
            # Raised in this thread: two from outside, one right after the other, may arrive as one.
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(run, progress=ask_twice)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000004"]
    train(run)
    assert_ended_as_undisturbed(run, undisturbed)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_objects_in_a_checkpoint_are_refused_and_do_nothing(
    tmp_path: Path, write: Callable[[Any, Path], Any]
) -> None:
    run, trace = RunFolder(tmp_path / "stopped"), tmp_path / "trace"

    def ask(progress: Progress) -> None:
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(run, progress=ask)
    (file,) = run.checkpoints.glob("*/training.pt")
    content = torch.load(file, weights_only=True)
    write({**content, "randomness": {**content["randomness"], "extra": Bomb(trace)}}, file)
    with pytest.raises(
        CheckpointError, match=r"cannot read the checkpoint .*remove .* to start again"
    ) as fault:
        train(run)
    assert not trace.exists() and "\n" not in str(fault.value)
    # What is said here of the file is so: whoever unpickles it does run it.
    with suppress(RuntimeError):
        torch.load(file, weights_only=False)
    assert trace.is_dir()


def test_random_states_come_back() -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), *np.random.randn(3), *torch.rand(3).tolist()]

    seed_everything(5)
    first = draw()
    states = random_states(torch.device("cpu"))
    second = draw()
    restore_random_states(states, torch.device("cpu"))
    assert draw() == second != first
    seed_everything(5)
    assert draw() == first


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The generators' states of two GPUs that this machine need not have."""
    held = [torch.tensor([0]), torch.tensor([1])]

    def write(state: torch.Tensor, device: torch.device) -> None:
        held[device.index or 0] = state

    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: held[device.index or 0])
    monkeypatch.setattr(torch.cuda, "set_rng_state", write)
    return held


def test_of_several_gpus_the_state_of_the_own_one_is_kept(cards: list[torch.Tensor]) -> None:
    states = random_states(torch.device("cuda", 1))
    assert [state.item() for state in states["cuda"]] == [1]
    assert random_states(torch.device("cpu"))["cuda"] == []
    restore_random_states(states, torch.device("cuda"))
    assert [state.item() for state in cards] == [1, 1]


@pytest.mark.parametrize(
    ("device", "after"), [("cuda", [10, 1]), ("cuda:0", [10, 1]), ("cuda:1", [0, 11]), ("cpu", [0, 1])]
)
def test_states_of_all_gpus_of_an_older_version_load_where_there_are_fewer(
    cards: list[torch.Tensor], device: str, after: list[int]
) -> None:
    former = [torch.tensor([number]) for number in (10, 11, 12, 13)]
    states = {**random_states(torch.device("cpu")), "cuda": former}
    restore_random_states(states, torch.device(device))
    assert [state.item() for state in cards] == after


if __name__ == "__main__":
    kill_again_and_again(RunFolder(Path(sys.argv[1])), int(sys.argv[2]))
