"""What each of several processes does under torchrun: small trainings, or the command, slow or at fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from voxstrata.backbone.encoder import build_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.batches import cached
from voxstrata.batches.batch import Batch, Reference
from voxstrata.batches.processes import Processes
from voxstrata.config.head import HeadOptions
from voxstrata.config.training import Training
from voxstrata.errors import Interrupted, TrainingError
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import PooledLinearHead
from voxstrata.inference.path import predict_together
from voxstrata.labels import LabelSet
from voxstrata.losses import soft_cross_entropy
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.recipe import AdaLTMRates
from voxstrata.methods.adaltm.system import AdaLTM
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.baselines.finetune import FinetuneRates
from voxstrata.methods.baselines.multitask import Multitask
from voxstrata.methods.encoder_models import DimensionModel, MultitaskModel
from voxstrata.methods.pretraining.tiny_encoder import start_front_end, tiny_config
from voxstrata.predictions import Prediction
from voxstrata.runs import RunFolder
from voxstrata.system import ParameterGroup, System
from voxstrata.training import loop
from voxstrata.training.learning import Learner
from voxstrata.training.loop import fit
from voxstrata.training.progress import Progress
from voxstrata.vocabulary import Vocabulary

WIDTH, TASKS = 6, ("loud", "long", "never")


class Heads(System):
    """Frames under head A with batch norm, and one more linear head a task; each batch is for one task."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.frames = nn.Linear(1, 4)
        self.pool = PooledLinearHead(4, 5, width=8, dropout=dropout, batch_norm=True)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in TASKS})

    def logits(self, batch: Batch) -> Tensor:
        frames = torch.tanh(self.frames(batch.waveforms.unsqueeze(-1)))
        pooled = self.pool(frames, torch.ones_like(batch.waveforms, dtype=torch.bool))
        return self.heads[str(batch.task)](pooled)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.emotion_targets is not None
        return soft_cross_entropy(self.logits(batch), batch.emotion_targets).mean()

    def predict(self, batch: Batch) -> list[Prediction]:
        rows = self.logits(batch).argmax(-1).tolist()
        return [Prediction(id=name, emotion=str(row)) for name, row in zip(batch.ids, rows, strict=True)]

    def parameter_groups(self) -> list[ParameterGroup]:
        # Before a batch norm a bias has no gradient but rounding, of which AdamW makes whole steps.
        trained = (p for p in self.parameters() if p is not self.pool.projector.bias)
        return [ParameterGroup("all", tuple(trained), lr=0.001, weight_decay=0.1)]


class Lists:
    """Batches from memory, the same in every epoch."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        self.batches = [batch(size, 100 * seed + i) for i, size in enumerate(sizes)]

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
        emotion_targets=torch.stack([waveforms[:, 0] > 0, waveforms[:, 0] <= 0], dim=-1).float(),
        task=TASKS[seed % 2],
    )


def tiny_encoder():
    sizes = {"hidden_size": 32, "layers": 2, "attention_heads": 2, "feed_forward": 64}
    encoder = build_backbone(tiny_config(**sizes, channels=36, position_kernel=8), seed=0)
    start_front_end(encoder)
    return encoder


class Rated(Lists):
    """Padded waveforms with ratings of arousal, valence and dominance."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        super().__init__([], 0)
        generator = torch.Generator().manual_seed(seed)
        for number, size in enumerate(sizes):
            lengths = torch.randint(2000, 4000, (size,), generator=generator)
            waveforms = torch.randn(size, 4000, generator=generator)
            waveforms[torch.arange(4000) >= lengths.unsqueeze(1)] = 0
            names = tuple(Reference(id=f"{seed}-{number}-{i}") for i in range(size))
            ratings = torch.rand(size, 3, generator=generator)
            self.batches.append(Batch(names, waveforms, lengths, ratings=ratings))


class Spoken(Rated):
    """Waveforms with classes and words; a clip of each batch lacks words, the next one perhaps a class."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        super().__init__(sizes, seed)
        generator = torch.Generator().manual_seed(seed)
        for number, rated in enumerate(self.batches):
            size = len(rated)
            targets = torch.eye(3)[torch.randint(3, (size,), generator=generator)]
            words = torch.randint(1, 3, (size,), generator=generator)
            words[number % size] = 0
            if size > 2:
                targets[(number + 1) % size] = 0
            self.batches[number] = replace(
                rated,
                ratings=None,
                emotion_targets=targets,
                tokens=torch.tensor([[1, 2]]) * (torch.arange(2) < words.unsqueeze(1)),
                token_lengths=words,
            )


def multitask_system() -> Multitask:
    """All of the encoder under the joint loss, in float64.

    Keys' biases have no gradient but rounding; beside that of float32, AdamW would make whole steps of it.
    """
    torch.manual_seed(0)
    encoder = tiny_encoder()
    head = HeadOptions(width=8, batch_norm=True)
    transcriber = CTCHead(encoder.hidden_size, Vocabulary(("a", "b")))
    model = MultitaskModel(encoder, LabelSet(("anger", "neutral", "sadness")), transcriber, head)
    rates = FinetuneRates(encoder=1e-4, head=1e-2, layer_weights=1e-2)
    return Multitask(model, torch.tensor([0.5, 1.0, 1.5]), rates, asr_weight=0.3).double()


def merged_system() -> AdaLTM:
    """Learned coefficients only, and a loss (CCC) and a batch norm that need the whole batch."""
    base = tiny_encoder().requires_grad_(False).eval()
    deltas = [
        {
            name: 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(k))
            for name, weight in base.weights().items()
        }
        for k in (1, 2)
    ]
    vectors = {f"v{k}": TaskVector(d, fingerprint(base.weights()), "drawn") for k, d in enumerate(deltas)}
    torch.manual_seed(0)
    model = DimensionModel(MergedBackbone(base, vectors), HeadOptions(width=8, batch_norm=True))
    return AdaLTM(model, None, AdaLTMRates(coefficients=1e-2, layer_weights=1e-2, head=0))


#: Name -> system, sizes of training batches, of validation batches, kind of batches, options.
CASES: dict[str, tuple[Callable[[], System], Any, Any, Training]] = {
    "heads": (
        Heads,
        Lists([4, 1, 3, 4, 2, 1], 1),
        Lists([5, 1], 2),
        Training(epochs=4, accumulate=2, schedule="linear", warmup_steps=2, keep_best=False),
    ),
    "best": (Heads, Lists([5, 3], 3), Lists([1, 4], 4), Training(epochs=6, patience=2)),
    "multitask": (
        multitask_system,
        Spoken([3, 1, 4, 2], 1),
        Spoken([3, 1], 2),
        Training(epochs=2, accumulate=2, keep_best=False),
    ),
    "merged": (merged_system, Rated([3, 1, 4], 1), Rated([3, 1], 2), Training(epochs=2, keep_best=False)),
}
STOPPED_AT = 5
STOPPED = Training(epochs=4, accumulate=2, keep_best=False)


def train(name: str, out: Path, processes: Processes | None = None) -> System:
    make, batches, dev, options = CASES[name]
    system = make()
    fit(system, batches, dev, RunFolder(out / name), options, processes=processes)
    if processes is None or processes.leads:
        save_file({k: t.clone() for k, t in system.state_dict().items()}, out / f"{name}.safetensors")
    return system


def stop_and_resume(out: Path, name: str, dropout: float, *, resume: bool, processes: Processes) -> System:
    """A training that is stopped by a signal to the last process."""

    def ask(progress: Progress) -> None:
        if progress.step == STOPPED_AT and processes.share.index == processes.count - 1:
            signal.raise_signal(signal.SIGTERM)

    arguments = CASES["heads"][1], CASES["heads"][2], RunFolder(out / name), STOPPED
    try:
        fit(Heads(dropout), *arguments, ask, processes)
        raise AssertionError("it was not stopped")
    except Interrupted as fault:
        assert f"step {STOPPED_AT} of" in str(fault)
    system = Heads(dropout)
    if resume:
        fit(system, *arguments, processes=processes)
    return system


class Asking(Lists):
    """Validation batches, at whose n-th one this process is asked to stop."""

    def __init__(self, batches: list[Batch], at: int) -> None:
        super().__init__([], 0)
        self.batches, self.at, self.read = batches, at, 0

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        for one in super().epoch(index, skip=skip):
            self.read += 1
            if self.read == self.at:
                signal.raise_signal(signal.SIGTERM)
            yield one


def stop_in_validation(out: Path, processes: Processes) -> tuple[System, list[str]]:
    """A training whose second validation a signal to the last process ends; its end, and what was left."""
    _, train, dev, _ = CASES["heads"]
    run, last = RunFolder(out / "unvalidated"), processes.share.index == processes.count - 1
    asking = Asking(dev.batches, len(dev.batches) + 1 if last else 0)
    try:
        fit(Heads(0.3), train, asking, run, STOPPED, processes=processes)
        raise AssertionError("it was not stopped")
    except Interrupted:
        assert asking.read == len(dev.batches) + 1
    left = [path.name for path in run.checkpoints.iterdir()]
    processes.wait()
    system = Heads(0.3)
    fit(system, train, dev, run, STOPPED, processes=processes)
    return system, left


def work(out: Path) -> None:
    """What each process does: all cases, a record of what fell to it, and stops."""
    processes = Processes.join()
    seen: list[list[int]] = []
    step = Learner.step

    def recorded(learner: Learner, batches: Sequence[Batch], *args: Any, **kwargs: Any) -> float:
        seen.append([len(one) for one in batches])
        return step(learner, batches, *args, **kwargs)

    Learner.step = recorded  # type: ignore[method-assign]
    for name in CASES:
        seen.clear()
        system = train(name, out, processes)
        rows = predict_together(system, CASES[name][1], processes)
        told = {"pid": os.getpid(), "seen": seen, "ids": [row.id for row in rows]}
        (out / f"{name}-{processes.share.index}.json").write_text(json.dumps(told))
    undisturbed = Heads(0.3)
    arguments = CASES["heads"][1], CASES["heads"][2]
    fit(undisturbed, *arguments, RunFolder(out / "undisturbed"), STOPPED, processes=processes)
    resumed = stop_and_resume(out, "resumed", 0.3, resume=True, processes=processes)
    stop_and_resume(out, "stopped", 0.0, resume=False, processes=processes)
    validated, left = stop_in_validation(out, processes)
    expected = undisturbed.state_dict()
    same, same_validated = (
        all(torch.equal(tensor, expected[name]) for name, tensor in system.state_dict().items())
        for system in (resumed, validated)
    )
    refused = ""
    try:
        plain = Heads()
        plain.pool.normalizer = nn.BatchNorm1d(8)
        fit(plain, *arguments, RunFolder(out / "plain"), STOPPED, processes=processes)
    except TrainingError as fault:
        refused = str(fault)
    told = {"same": same, "same_validated": same_validated, "left": left, "refused": refused}
    (out / f"end-{processes.share.index}.json").write_text(json.dumps(told))


def launch(script: Sequence[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *script]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def slow_or_faulty() -> None:
    """Lets the command train slowly, or the second process fail at the fifth step."""
    learn = loop._Fitting.learn
    fault, pause_s = os.environ.get("FAULT"), float(os.environ.get("PAUSE", "0"))

    def changed(fitting: Any, batches: list[Batch]) -> float:
        time.sleep(pause_s)
        if fitting.state.step == 4 and fitting.processes.share.index == 1:
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "error":
                raise TrainingError("cannot read x.wav")
        return learn(fitting, batches)

    loop._Fitting.learn = changed  # type: ignore[method-assign]


def record_writes(file: Path) -> None:
    """A file of states for every batch; writes down which process writes which, a line each."""
    write = cached._write

    def noted(states: Any, *args: Any) -> None:
        path = states.path
        with file.open("a") as lines:
            lines.write(f"{os.environ['RANK']} {path.parent.name}/{path.name}\n")
        write(states, *args)

    cached._FILE_BYTES, cached._write = 1, noted


if __name__ == "__main__":
    if sys.argv[1] == "command":
        from voxstrata.cli.main import main

        del sys.argv[1]
        slow_or_faulty()
        if "WRITES" in os.environ:
            record_writes(Path(os.environ["WRITES"]))
        main()
    else:
        work(Path(sys.argv[1]))
