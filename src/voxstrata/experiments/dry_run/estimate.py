"""Memory, disk and time of a run, estimated from its recipe, its encoder's sizes and its batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from voxstrata.audio import SAMPLE_RATE
from voxstrata.config.recipe import TrainedRecipe
from voxstrata.experiments.dry_run.costs import (
    FP32_BYTES,
    TRAINED_BYTES,
    EncoderSizes,
    Flops,
    Load,
    forward_bytes,
    merge_step_bytes,
    tuning_step_bytes,
)
from voxstrata.methods.method import Work

#: Mean turn of MSP-Podcast 1.12 (207,136 in 324 h 23 min, by its readme) and the longest (Lotfian and Busso
#: 2019: 2.75 to 11 s), for a corpus that is not prepared yet.
ASSUMED_CLIP_S = 5.64
ASSUMED_LONGEST_S = 11.0
#: What Python, torch and decoded audio (`BatchOptions.cache_bytes`) hold.
_HOST_BYTES = 4e9
#: A row of a predictions file, and of a journal.
_ROW_BYTES = 500


@dataclass(frozen=True)
class Assumptions:
    """What is assumed, since no header tells it.

    Args:
        fp32_tflops: sustained by one GPU in float32; half of what an A100 can (19.5).
        bf16_tflops: sustained under autocast; a fifth of what an A100 can (312).
        two_gpus: speed of two GPUs, each with half of a batch, over that of one.
        slack: what an allocator holds beyond what is counted.
        cpu_tflops: that the CPU here has in float32 at the most, as measured; None: its time is not
            estimated.
    """

    fp32_tflops: float = 10.0
    bf16_tflops: float = 60.0
    two_gpus: float = 1.9
    slack: float = 1.2
    cpu_tflops: float | None = None

    def lines(self) -> list[str]:
        """For the user."""
        lines = [
            f"one GPU sustains {self.fp32_tflops:g} TFLOP/s in fp32 and {self.bf16_tflops:g} in bf16",
            f"two GPUs are {self.two_gpus:g} times as fast as one",
            f"memory is {self.slack:g} times what is counted",
        ]
        if self.cpu_tflops is not None:
            lines.append(
                f"this CPU has {1000 * self.cpu_tflops:.3g} GFLOP/s in fp32, measured just now by products "
                "of matrices: training is slower than those, so its time here is the least that it can be"
            )
        return lines


@dataclass(frozen=True)
class Loads:
    """A recipe's batches.

    Args:
        train: an epoch, cropped.
        dev: of the validation loss; None without one.
        evaluated: split -> clips that predictions are written for.
    """

    train: Load
    dev: Load | None
    evaluated: Mapping[str, Load] = field(default_factory=dict)

    @classmethod
    def assumed(cls, sizes: EncoderSizes, clips: Mapping[str, int], batch_size: int) -> Loads:
        """Of splits whose clips are all of `ASSUMED_CLIP_S`; only the largest batch is as long as can be."""
        samples = round(ASSUMED_CLIP_S * SAMPLE_RATE)

        def load(count: int) -> Load:
            batches = [[samples] * min(batch_size, count - i) for i in range(0, count, batch_size)]
            largest = (min(batch_size, count), round(ASSUMED_LONGEST_S * SAMPLE_RATE))
            return replace(Load.of(sizes, batches), largest=largest)

        tested = {split: load(clips[split]) for split in ("dev", "test") if clips.get(split)}
        return cls(load(clips["train"]), tested.get("dev"), tested)


@dataclass(frozen=True)
class Costs:
    """An estimate.

    Args:
        steps: optimiser steps, if nothing stops the run early.
        training_flops: in the recipe's precision.
        prediction_flops: in float32.
        one_gpu_s: time on one GPU.
        two_gpus_s: time on two, each with half of a batch.
        gpu_bytes: peak of one GPU.
        gpu_of_two_bytes: peak of each of two.
        host_bytes: peak of the host.
        disk_bytes: peak of the run folder.
        kept_bytes: of the finished run folder.
        cached: an encoder's states are computed once per clip and kept.
        cpu_s: the least time on the CPU here; None where that was not measured.
    """

    steps: int
    training_flops: float
    prediction_flops: float
    one_gpu_s: float
    two_gpus_s: float
    gpu_bytes: float
    gpu_of_two_bytes: float
    host_bytes: float
    disk_bytes: float
    kept_bytes: float
    cached: bool
    cpu_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)


def estimate(
    recipe: TrainedRecipe, work: Work, sizes: EncoderSizes, loads: Loads, assumed: Assumptions
) -> Costs:
    """What a run costs.

    Time: FLOPs of training over the throughput of its precision, and of predictions over that of float32. A
    step of training costs the forward and a backward of twice that; a frozen encoder costs one forward an
    epoch, or one in all where its states are kept. The head and the merge itself (6 FLOPs a weight, vector
    and step) are left out: together under 1 %.

    Args:
        recipe: of the run.
        work: what its method runs and trains.
        sizes: of its encoder.
        loads: its batches.
        assumed: throughput and slack.
    """
    epochs = recipe.training.epochs or 0
    batches = loads.train.batches
    steps = recipe.training.steps or epochs * -(-batches // recipe.training.accumulate)
    passes = steps * recipe.training.accumulate / max(1, batches)
    checked = passes if recipe.training.validate_every is None else steps / recipe.training.validate_every
    encoders = work.encoders
    cache = encoders * _states_bytes(recipe, work, sizes, loads)
    cached = 0 < cache <= work.cache_gb * 1e9
    if cached:
        passes = checked = 1.0
    dev = loads.dev.flops if loads.dev else Flops()
    front, rest = _forwards(work)
    training = encoders * (loads.train.flops.times(front * passes, rest * passes) + dev.times(checked))
    predicted = encoders * sum(load.flops.times(1) for load in loads.evaluated.values())
    speed = assumed.bf16_tflops if recipe.training.precision == "bf16" else assumed.fp32_tflops
    seconds = training / (speed * 1e12) + predicted / (assumed.fp32_tflops * 1e12)
    model = encoders * FP32_BYTES * sizes.parameters
    checkpoints = 2 * TRAINED_BYTES * sizes.parameters if work.trained != "none" else 0
    rows = (sum(load.clips for load in loads.evaluated.values()) + steps) * _ROW_BYTES
    return Costs(
        steps=steps,
        training_flops=training,
        prediction_flops=predicted,
        one_gpu_s=seconds,
        two_gpus_s=seconds / assumed.two_gpus,
        gpu_bytes=assumed.slack * _gpu_bytes(recipe, work, sizes, loads, gpus=1),
        gpu_of_two_bytes=assumed.slack * _gpu_bytes(recipe, work, sizes, loads, gpus=2),
        host_bytes=_HOST_BYTES
        + FP32_BYTES * sizes.parameters * (encoders + work.vectors + 1)
        + checkpoints / 4,
        disk_bytes=model + rows + checkpoints + (cache if cached else 0),
        kept_bytes=model + rows,
        cached=cached,
        cpu_s=None if assumed.cpu_tflops is None else (training + predicted) / (assumed.cpu_tflops * 1e12),
    )


def _forwards(work: Work) -> tuple[int, int]:
    """Forwards that a training step costs, of the front end and of the rest."""
    if work.still:
        return 1, 1
    return (1, 3) if work.trained == "layers" else (3, 3)


def _states_bytes(recipe: TrainedRecipe, work: Work, sizes: EncoderSizes, loads: Loads) -> float:
    """Disk of the states of training and validation clips; 0 where they cannot be kept."""
    varies = recipe.data.augment != type(recipe.data.augment)()
    longest = loads.train.largest[1] / SAMPLE_RATE
    cropped = recipe.data.crop_s is not None and longest >= recipe.data.crop_s
    if not work.still or varies or cropped:
        return 0.0
    used = [loads.train, *([loads.dev] if loads.dev else [])]
    rows = sum(load.clips for load in used)
    if not work.pooled:
        rows = sum(sizes.frames(load.samples) for load in used)
    return float(rows) * sizes.layers * sizes.hidden * FP32_BYTES


def _gpu_bytes(recipe: TrainedRecipe, work: Work, sizes: EncoderSizes, loads: Loads, *, gpus: int) -> float:
    """Peak of training and of predicting, with what lies there all the time: weights, vectors, optimiser."""

    def part(load: Load) -> tuple[int, int]:
        return -(-load.largest[0] // gpus), load.largest[1]

    precision, batch = recipe.training.precision, part(loads.train)
    others = [part(load) for load in (loads.dev, *loads.evaluated.values()) if load is not None]
    forwards = max((forward_bytes(sizes, largest) for largest in [batch, *others]), default=0.0)
    weights = FP32_BYTES * sizes.parameters
    if work.trained != "none":
        step = tuning_step_bytes(sizes, batch, precision, front=work.trained == "all")
        return TRAINED_BYTES * sizes.parameters + max(step, forwards)
    if work.encoders > 1:
        return weights * work.encoders + forwards
    resident = weights * (1 + work.vectors)
    merged = weights if work.vectors else 0
    if work.still:
        return resident + merged + forwards
    return resident + max(merge_step_bytes(sizes, batch, precision), merged + forwards)
