"""The training loop on small systems, against plain torch loops."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from voxstrata.batches.batch import Batch, Reference
from voxstrata.config.training import Training
from voxstrata.errors import CheckpointError, TrainingError
from voxstrata.predictions import Prediction
from voxstrata.runs import RunFolder
from voxstrata.system import ParameterGroup, System
from voxstrata.training import checkpoint, disk
from voxstrata.training.loop import fit
from voxstrata.training.progress import Progress

WIDTH = 6


class Regression(System):
    """Two layers, one of them frozen, that regress emotion targets on samples."""

    def __init__(self, *, lr: float = 0.05) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.frozen = nn.Linear(WIDTH, WIDTH)
        self.hidden = nn.Linear(WIDTH, 4)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(4, 2)
        self.lr = lr

    def loss(self, batch: Batch) -> Tensor:
        assert batch.emotion_targets is not None
        hidden = self.dropout(torch.tanh(self.hidden(self.frozen(batch.waveforms))))
        return (self.head(hidden) - batch.emotion_targets).square().sum(-1).mean()

    def predict(self, batch: Batch) -> list[Prediction]:
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup("hidden", tuple(self.hidden.parameters()), lr=self.lr, weight_decay=0.1),
            ParameterGroup("head", tuple(self.head.parameters()), lr=self.lr / 10),
        ]

    def summary(self) -> dict[str, float]:
        return {"bias": self.head.bias[0].item()}


class Lists:
    """Batches from memory, the same in every epoch."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = list(batches)

    def batches_per_epoch(self) -> int:
        return len(self.batches)

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        return iter(self.batches[skip:])


def batch(size: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    waveforms = torch.randn(size, WIDTH, generator=generator)
    return Batch(
        references=tuple(Reference(id=f"clip-{seed}-{i}") for i in range(size)),
        waveforms=waveforms,
        lengths=torch.full((size,), WIDTH),
        emotion_targets=torch.stack([waveforms[:, 0], waveforms[:, 1:3].sum(-1)], dim=-1),
    )


def together(batches: Sequence[Batch]) -> Batch:
    return Batch(
        references=tuple(reference for b in batches for reference in b.references),
        waveforms=torch.cat([b.waveforms for b in batches]),
        lengths=torch.cat([b.lengths for b in batches]),
        emotion_targets=torch.cat([b.emotion_targets for b in batches if b.emotion_targets is not None]),
    )


TRAIN = Lists([batch(4, 1), batch(1, 2), batch(3, 3), batch(4, 4), batch(2, 5)])
DEV = Lists([batch(5, 6), batch(1, 7)])


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def weights(system: System) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in system.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def plain_loop(system: Regression, steps: Sequence[Batch], factors: Sequence[float]) -> None:
    groups = system.parameter_groups()
    optimizer = torch.optim.AdamW(
        [{"params": g.parameters, "lr": g.lr, "weight_decay": g.weight_decay} for g in groups]
    )
    parameters = [p for g in groups for p in g.parameters]
    for one, factor in zip(steps, factors, strict=True):
        for slot, group in zip(optimizer.param_groups, groups, strict=True):
            slot["lr"] = group.lr * factor
        optimizer.zero_grad()
        system.loss(one).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def test_steps_are_those_of_a_plain_loop_with_two_rates_and_a_schedule(run: RunFolder) -> None:
    ours, oracle = Regression(), Regression()
    result = fit(
        ours, TRAIN, None, run, Training(epochs=2, schedule="linear", warmup_steps=2, keep_best=False)
    )
    factors = [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    plain_loop(oracle, TRAIN.batches * 2, factors)
    assert_same(weights(ours), weights(oracle))
    rows = run.journal_rows("step")
    assert [row["lr"]["hidden"] for row in rows] == pytest.approx([0.05 * f for f in factors])
    assert [row["lr"]["head"] for row in rows] == pytest.approx([0.005 * f for f in factors])
    assert [row["epoch"] for row in rows] == [0] * 5 + [1] * 5
    assert (result.steps, result.epochs, result.best_loss, result.stopped_early) == (10, 2, None, False)


def test_accumulated_batches_make_the_step_of_one_large_batch(run: RunFolder) -> None:
    ours, oracle = Regression(), Regression()
    fit(ours, TRAIN, None, run, Training(epochs=2, accumulate=3))
    # Five batches a pass: a step of three, and one of the two that are left.
    plain_loop(oracle, [together(TRAIN.batches[:3]), together(TRAIN.batches[3:])] * 2, [1.0] * 4)
    for name, tensor in weights(oracle).items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    first = Regression().loss(together(TRAIN.batches[:3])).item()
    assert run.journal_rows("step")[0]["loss"] == pytest.approx(first)


def test_validation_loss_weighs_clips_and_runs_in_eval_mode(run: RunFolder) -> None:
    system = Regression()
    system.dropout.p = 0.9
    seen: list[bool] = []
    system.dropout.register_forward_hook(lambda m, *_: seen.append(m.training or torch.is_grad_enabled()))
    fit(system, TRAIN, DEV, run, Training(steps=5, keep_best=False))
    assert seen == [True] * 5 + [False] * 2
    with torch.no_grad():
        expected = system.loss(together(DEV.batches)).item()
    (row,) = run.journal_rows("validation")
    assert row["loss"] == pytest.approx(expected)
    assert (row["step"], row["epoch"], row["best"]) == (5, 0, True)
    assert row["bias"] == system.head.bias[0].item()


def test_best_weights_come_back_and_patience_ends_the_training(run: RunFolder) -> None:
    backwards = Lists([Batch(b.references, -b.waveforms, b.lengths, b.emotion_targets) for b in DEV.batches])
    system = Regression()
    result = fit(system, TRAIN, backwards, run, Training(epochs=50, patience=3))
    rows = run.journal_rows("validation")
    losses = [row["loss"] for row in rows]
    assert result.best_loss == min(losses) < losses[-1]
    assert result.stopped_early and len(rows) == losses.index(min(losses)) + 1 + 3
    assert result.best_step == rows[losses.index(min(losses))]["step"]
    with torch.no_grad():
        assert system.loss(together(backwards.batches)).item() == pytest.approx(min(losses))
    assert not system.training


def test_validation_every_few_steps_and_after_the_last(run: RunFolder) -> None:
    fit(Regression(), TRAIN, DEV, run, Training(steps=8, validate_every=3))
    assert [(row["step"], row["epoch"]) for row in run.journal_rows("validation")] == [(3, 0), (6, 1), (8, 1)]


def test_progress_is_told_after_each_step(run: RunFolder) -> None:
    told: list[Progress] = []
    fit(Regression(), TRAIN, DEV, run, Training(steps=6), told.append)
    assert [(p.step, p.steps_total, p.epoch) for p in told] == [
        (1, 6, 0), (2, 6, 0), (3, 6, 0), (4, 6, 0), (5, 6, 0), (6, 6, 1),
    ]  # fmt: skip
    assert told[3].val_loss is None
    assert told[4].val_loss == run.journal_rows("validation")[0]["loss"]


def test_parameters_in_no_group_stay_and_are_not_in_checkpoints(run: RunFolder) -> None:
    system = Regression()
    before = weights(system)
    fit(system, TRAIN, None, run, Training(steps=3))
    assert torch.equal(system.frozen.weight, before["frozen.weight"])
    assert not any(p.requires_grad for p in system.frozen.parameters())
    (folder,) = run.checkpoints.iterdir()
    assert set(load_file(folder / "weights.safetensors")) == {
        "hidden.weight", "hidden.bias", "head.weight", "head.bias",
    }  # fmt: skip


@pytest.mark.parametrize("groups", [[], [("a", "hidden"), ("b", "hidden")], [("a", None)]])
def test_faulty_parameter_groups_are_refused(run: RunFolder, groups: list[tuple[str, str | None]]) -> None:
    system = Regression()
    stranger = nn.Linear(2, 2)
    made = [
        ParameterGroup(name, tuple((getattr(system, part) if part else stranger).parameters()), lr=0.1)
        for name, part in groups
    ]
    system.parameter_groups = lambda: made  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"no parameters to train|again in 'b'|not part of the system"):
        fit(system, TRAIN, None, run, Training(steps=1))


def test_a_loss_that_is_not_finite_stops_with_the_clips_and_keeps_weights_and_checkpoint(
    run: RunFolder,
) -> None:
    bad = batch(2, 9)
    bad.waveforms[1, 0] = float("nan")
    system = Regression()
    with pytest.raises(TrainingError, match=r"loss is nan at step 4, with the clips clip-9-0, clip-9-1;"):
        fit(
            system,
            Lists([*TRAIN.batches[:3], bad]),
            None,
            run,
            Training(epochs=1, checkpoint_every_steps=2),
        )
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000002"]
    assert all(torch.isfinite(tensor).all() for tensor in system.state_dict().values())


def test_a_gradient_that_is_not_finite_stops_before_the_update(run: RunFolder) -> None:
    class Cusp(Regression):
        def loss(self, batch: Batch) -> Tensor:
            return super().loss(batch) + (self.head.bias * 0).abs().sqrt().sum()

    system = Cusp()
    before = weights(system)
    with pytest.raises(TrainingError, match=r"gradient norm is nan at step 1, with the clips clip-1-0"):
        fit(system, TRAIN, None, run, Training(steps=1))
    assert_same(weights(system), before)


def test_a_validation_loss_that_is_not_finite_names_the_clips(run: RunFolder) -> None:
    bad = batch(1, 9)
    bad.waveforms[0, 0] = float("inf")
    bad = Batch(bad.references, torch.zeros(1, WIDTH), bad.lengths, bad.waveforms[:, :2])
    with pytest.raises(TrainingError, match=r"validation loss is inf at step 5, with the clips clip-9-0;"):
        fit(Regression(), TRAIN, Lists([bad]), run, Training(epochs=1))


def test_too_little_space_is_said_before_the_work(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=300_000))
    with pytest.raises(TrainingError, match=r"needs 0\.5 MB for checkpoints .* has 0\.3 MB free") as fault:
        fit(Regression(), TRAIN, None, run, Training(steps=1))
    assert "\n" not in str(fault.value)
    assert not run.journal.exists()


def test_checkpoint_size_is_estimated_from_the_parameters(run: RunFolder) -> None:
    system = Regression()
    system.hidden = nn.Linear(WIDTH, 40_000)
    system.head = nn.Linear(40_000, 2)
    fit(system, TRAIN, DEV, run, Training(steps=5))
    (folder,) = run.checkpoints.iterdir()
    real = sum(path.stat().st_size for path in folder.iterdir())
    assert 0.9 < disk.checkpoint_bytes(system) / real < 1.2


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match=r"cannot write into .*file/run .*choose another folder"):
        fit(Regression(), TRAIN, None, RunFolder(tmp_path / "file" / "run"), Training(steps=1))


@pytest.mark.parametrize("failing", ["save_file", "torch.save"])
def test_a_disk_that_fills_up_keeps_the_old_checkpoint_and_the_training_goes_on_from_it(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    undisturbed = Regression()
    options = Training(epochs=3)
    fit(undisturbed, TRAIN, DEV, RunFolder(tmp_path / "other"), options)
    calls = 0

    def full(*args: object, **kwargs: object) -> None:
        nonlocal calls
        calls += 1
        if calls > (6 if failing == "save_file" else 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args, **kwargs)

    where, name = (torch, "save") if failing == "torch.save" else (checkpoint, "save_file")
    real = getattr(where, name)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, full)
        with pytest.raises(
            TrainingError, match=r"checkpoint of step 10 .*No space left.*the one before it is kept"
        ):
            fit(Regression(), TRAIN, DEV, run, options)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000000005"]
    resumed = Regression()
    fit(resumed, TRAIN, DEV, run, options)
    assert_same(weights(resumed), weights(undisturbed))
    assert [row["step"] for row in run.journal_rows("step")] == list(range(1, 16))


def test_a_journal_that_cannot_be_written_is_one_line(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, "append", full)
    with pytest.raises(TrainingError, match=r"journal\.jsonl: No space left on device; free space"):
        fit(Regression(), TRAIN, None, run, Training(steps=1))


def test_other_options_are_refused_and_named(run: RunFolder) -> None:
    fit(Regression(), TRAIN, None, run, Training(steps=2))
    with pytest.raises(CheckpointError, match=r"steps was 2, is 3") as fault:
        fit(Regression(), TRAIN, None, run, Training(steps=3))
    assert "\n" not in str(fault.value)
    with pytest.raises(CheckpointError, match=r"group head was .*'lr': 0\.005.* is .*'lr': 0\.1"):
        fit(Regression(lr=1.0), TRAIN, None, run, Training(steps=2))
    fit(Regression(), TRAIN, None, run, Training(steps=2, checkpoint_every_steps=1))


def test_a_damaged_checkpoint_is_one_line(run: RunFolder) -> None:
    fit(Regression(), TRAIN, None, run, Training(steps=2))
    (folder,) = run.checkpoints.iterdir()
    (folder / "training.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*step-000000002.*to start again"):
        fit(Regression(), TRAIN, None, run, Training(steps=2))


def test_a_finished_training_answers_again_without_training(run: RunFolder) -> None:
    first, second = Regression(), Regression()
    options = Training(epochs=4)
    result = fit(first, TRAIN, DEV, run, options)
    journal = run.journal.read_bytes()
    assert fit(second, TRAIN, DEV, run, options) == result
    assert_same(weights(first), weights(second))
    assert run.journal.read_bytes() == journal


def test_bfloat16_learns_and_keeps_float32_weights(run: RunFolder, tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()
    system = Regression()
    system.head.register_forward_hook(lambda m, i, out: seen.add(out.dtype))
    fit(system, TRAIN, DEV, run, Training(epochs=20, precision="bf16"))
    losses = [row["loss"] for row in run.journal_rows("step")]
    assert seen == {torch.bfloat16}
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert all(p.dtype == torch.float32 for p in system.parameters())
    fit(Regression(), TRAIN, DEV, RunFolder(tmp_path / "fp32"), Training(epochs=20))  # in the same process
    fp32 = RunFolder(tmp_path / "fp32").journal_rows("step")
    assert losses[0] == pytest.approx(fp32[0]["loss"], rel=0.05)


def test_a_source_that_ends_early_is_a_fault(run: RunFolder) -> None:
    short = Lists(TRAIN.batches)
    short.batches_per_epoch = lambda: 7  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="epoch 0 ended 2 batches before the 7 announced"):
        fit(Regression(), short, None, run, Training(epochs=1))


def test_an_empty_validation_source_is_a_fault(run: RunFolder) -> None:
    with pytest.raises(TrainingError, match="validation source gave no batch"):
        fit(Regression(), TRAIN, Lists([]), run, Training(epochs=1))


def test_training_works_outside_the_main_thread(run: RunFolder) -> None:
    thread = threading.Thread(target=fit, args=(Regression(), TRAIN, None, run, Training(steps=2)))
    thread.start()
    thread.join()
    assert len(run.journal_rows("step")) == 2


def test_checkpoints_hold_no_pickled_objects(run: RunFolder) -> None:
    fit(Regression(), TRAIN, DEV, run, Training(epochs=1))
    (folder,) = run.checkpoints.iterdir()
    assert sorted(p.name for p in folder.iterdir()) == [
        "best.safetensors", "state.json", "training.pt", "weights.safetensors",
    ]  # fmt: skip
    torch.load(folder / "training.pt", weights_only=True)
    assert json.loads((folder / "state.json").read_text())["state"]["step"] == 5
