"""Estimates against what is counted: torch's own counter of FLOPs, and the tensors that live in a step."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import WavLMConfig

from voxstrata.backbone import attention, gated_attention
from voxstrata.backbone.encoder import SpeechEncoder, build_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.benchmarks.shapes import wavlm_config
from voxstrata.experiments.dry_run.costs import (
    EncoderSizes,
    Load,
    forward_bytes,
    forward_flops,
    merge_step_bytes,
    tuning_step_bytes,
)
from voxstrata.experiments.dry_run.estimate import Assumptions, Costs, Loads, estimate
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import validate

LARGE = EncoderSizes.of(wavlm_config("large"), 315_453_120)


def cost(recipe: Any, sizes: EncoderSizes, loads: Loads, assumed: Assumptions) -> Costs:
    work = method_of(recipe).facts(recipe).work
    assert work is not None
    return estimate(recipe, work, sizes, loads, assumed)


def sizes_of(encoder: SpeechEncoder) -> EncoderSizes:
    return EncoderSizes.of(encoder.model.config, sum(p.numel() for p in encoder.parameters()))


@pytest.mark.parametrize(("shape", "seconds"), [("tiny", 1), ("tiny", 7), ("base", 2)])
def test_flops_of_a_forward_are_those_that_torch_counts(shape: Any, seconds: int) -> None:
    encoder = build_backbone(wavlm_config(shape), seed=0, attention="reference").eval()
    samples = 16_000 * seconds
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        encoder(torch.randn(1, samples), torch.tensor([samples]))
    assert forward_flops(sizes_of(encoder), samples).times(1) == pytest.approx(
        counted.get_total_flops(), rel=0.01
    )


class Live(TorchDispatchMode):
    """Bytes of the tensors that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> SpeechEncoder:
    """Deep enough that what all layers keep outweighs what one of them needs; attention as on a GPU."""
    for module in (attention, gated_attention):
        monkeypatch.setattr(module, "gated_attention", gated_attention.masked_attention, raising=False)
    config = WavLMConfig(
        hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512, conv_dim=[64] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )  # fmt: skip
    return build_backbone(config, seed=0)


def peak_bytes(model: Any, batch: tuple[int, int], *, bf16: bool = False, backward: bool = True) -> int:
    waveforms, lengths = torch.randn(batch), torch.full(batch[:1], batch[1])
    gc.collect()
    with torch.set_grad_enabled(backward), Live() as live:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = sum(layer.float().pow(2).mean() for layer in model(waveforms, lengths).layers)
        if backward:
            loss.backward()
    return live.peak


@pytest.mark.parametrize("batch", [(4, 48_000), (8, 48_000), (4, 96_000)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_of_a_lambda_step_is_that_of_its_tensors(
    encoder: SpeechEncoder, batch: tuple[int, int], precision: str
) -> None:
    weights = encoder.requires_grad_(False).eval().weights()
    noise = torch.Generator().manual_seed(0)
    moved = {name: 0.01 * torch.randn(w.shape, generator=noise) for name, w in weights.items()}
    vectors = {name: TaskVector(moved, fingerprint(weights), name) for name in ("asr", "ser")}
    found = peak_bytes(MergedBackbone(encoder, vectors), batch, bf16=precision == "bf16")
    assert 1 <= merge_step_bytes(sizes_of(encoder), batch, precision) / found < 1.5


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_of_fine_tuning_is_that_of_its_tensors(
    encoder: SpeechEncoder, precision: str, front: bool
) -> None:
    encoder.model.feature_extractor.requires_grad_(front)
    sizes, batch = sizes_of(encoder.train()), (8, 24_000)
    gradients = 4 * sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    found = peak_bytes(encoder, batch, bf16=precision == "bf16") - gradients
    assert 0.75 < tuning_step_bytes(sizes, batch, precision, front=front) / found < 1.35


@pytest.mark.parametrize("batch", [(4, 48_000), (2, 300_000)])
def test_memory_of_a_forward_is_that_of_its_tensors(encoder: SpeechEncoder, batch: tuple[int, int]) -> None:
    found = peak_bytes(encoder.eval(), batch, backward=False)
    assert 1 <= forward_bytes(sizes_of(encoder), batch) / found < 1.6


def test_a_load_counts_batches_as_they_are_padded() -> None:
    load = Load.of(LARGE, [[16_000, 32_000], [48_000]])
    alone = [forward_flops(LARGE, n) for n in (32_000, 32_000, 48_000)]
    assert load.flops.times(1) == pytest.approx(sum(flops.times(1) for flops in alone))
    assert (load.clips, load.samples, load.largest) == (3, 96_000, (2, 32_000))


def test_sources_read_in_turn_weigh_by_how_many_of_their_batches_are_read() -> None:
    emotions, words = Load.of(LARGE, [[16_000] * 4] * 6), Load.of(LARGE, [[48_000] * 2] * 3)
    emotion_clip, word_clip = (forward_flops(LARGE, n).times(1) for n in (16_000, 48_000))
    once = Load.together({"ser": emotions, "asr": words})
    assert (once.batches, once.clips, once.samples) == (9, 30, 24 * 16_000 + 6 * 48_000)
    assert once.flops.times(1) == pytest.approx(24 * emotion_clip + 6 * word_clip)
    assert once.largest == (2, 48_000)
    uneven = Load.together({"ser": emotions, "asr": words}, {"ser": 3.0, "asr": 6.0})
    assert (uneven.batches, uneven.clips) == (9, 24)
    assert uneven.flops.times(1) == pytest.approx(12 * emotion_clip + 12 * word_clip)


def adaltm(**changes: Any) -> Any:
    values = {"system": "adaltm", "training": {"epochs": 10}, "data": {"batch_size": 2, "crop_s": 15}}
    return validate(values | changes, "adaltm")


TRAIN = Load.of(LARGE, [[48_000] * 2] * 5)
DEV = Load.of(LARGE, [[32_000] * 2])
TEST = Load.of(LARGE, [[64_000]])
LOADS = Loads(TRAIN, DEV, {"test": TEST})
TWO = {"vectors": {"asr": "a", "ser": "b"}}


def test_time_is_flops_over_throughput() -> None:
    """A lambda step is three forwards, validation one an epoch; a frozen encoder runs once in all."""
    speed = Assumptions(fp32_tflops=2, bf16_tflops=8, two_gpus=1.5)
    train, dev, test = (load.flops.times(1) for load in (TRAIN, DEV, TEST))
    merged = cost(adaltm(**TWO), LARGE, LOADS, speed)
    assert merged.training_flops == pytest.approx(10 * (3 * train + dev)) and merged.steps == 50
    assert merged.one_gpu_s == pytest.approx((merged.training_flops + test) / 2e12)
    assert merged.two_gpus_s == pytest.approx(merged.one_gpu_s / 1.5)
    half = cost(adaltm(**TWO, training={"epochs": 10, "precision": "bf16"}), LARGE, LOADS, speed)
    assert half.one_gpu_s == pytest.approx(merged.training_flops / 8e12 + test / 2e12)
    for fixed in ({}, TWO | {"granularity": "static"}):
        kept = cost(adaltm(**fixed), LARGE, LOADS, speed)
        assert kept.cached and kept.training_flops == pytest.approx(train + dev)
    anew = cost(adaltm(cache_gb=0), LARGE, LOADS, speed)
    assert not anew.cached and anew.training_flops == pytest.approx(10 * (train + dev))
    cropped = cost(adaltm(data={"batch_size": 2, "crop_s": 3}), LARGE, LOADS, speed)
    assert not cropped.cached


def test_the_speed_of_this_cpu_is_that_of_a_product_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    from voxstrata.experiments.dry_run import this_cpu

    clock = iter(range(0, 10**6, 2))
    monkeypatch.setattr(this_cpu, "perf_counter", lambda: float(next(clock)))
    # Each product takes two seconds by this clock: 1024 x 512 x 2048 multiplications and as many additions.
    speed = this_cpu.measured_tflops()
    assert speed == pytest.approx(2 * 1024 * 512 * 2048 / 2 / 1e12)


def test_time_on_this_cpu_is_all_flops_over_its_speed() -> None:
    found = cost(adaltm(**TWO), LARGE, LOADS, Assumptions(cpu_tflops=0.05))
    assert found.cpu_s == pytest.approx((found.training_flops + TEST.flops.times(1)) / 5e10)
    assert cost(adaltm(**TWO), LARGE, LOADS, Assumptions()).cpu_s is None
    (line,) = [line for line in Assumptions(cpu_tflops=0.05).lines() if "CPU" in line]
    assert "50 GFLOP/s" in line and "least" in line


def test_disk_and_memory_follow_from_what_is_held() -> None:
    none = Assumptions(slack=1)
    frozen, merged = (cost(adaltm(**v), LARGE, LOADS, none) for v in ({}, TWO))
    assert frozen.disk_bytes - frozen.kept_bytes == 12 * 24 * 1024 * 4, "ten training and two dev clips"
    assert merged.host_bytes - frozen.host_bytes == 2 * 4 * LARGE.parameters
    weights = 4 * LARGE.parameters
    for clips, found in ((2, merged.gpu_bytes), (1, merged.gpu_of_two_bytes)):
        step = merge_step_bytes(LARGE, (clips, 48_000), "fp32")
        predicting = weights + max(forward_bytes(LARGE, (n, s)) for n, s in ((clips, 48_000), (1, 64_000)))
        assert found == pytest.approx(3 * weights + max(step, predicting))
    tuned: Any = validate(
        {"system": "finetune", "task": "ser", "training": {"epochs": 10}, "data": {"batch_size": 2}}, "ser"
    )
    costs = cost(tuned, LARGE, LOADS, none)
    assert costs.disk_bytes - costs.kept_bytes == 2 * 16 * LARGE.parameters, "an old and a new checkpoint"
    train, dev = LOADS.train.flops, DEV.flops.times(1)
    assert costs.training_flops == pytest.approx(10 * (train.front + 3 * train.rest + dev))
