"""What HarmoniFuse's parts cost: decoding with a cache, fusions in a training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.encoder import build_backbone
from voxstrata.batches.batch import Batch, Reference
from voxstrata.batches.buckets import plan_epoch
from voxstrata.benchmarks.measure import Progress, Step, interleaved, machine
from voxstrata.benchmarks.result import BenchmarkResult, Row
from voxstrata.benchmarks.shapes import Shape, wavlm_config
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.heads.task import Task
from voxstrata.methods.harmonifuse.lm.decoding import decode
from voxstrata.methods.harmonifuse.lm.language_model import small_lm
from voxstrata.methods.harmonifuse.lm.pretrained import build_lm
from voxstrata.methods.harmonifuse.lm.sequences import join
from voxstrata.methods.harmonifuse.options import (
    ConnectorOptions,
    DecodingOptions,
    EncoderFusionOptions,
    HarmoniFuseOptions,
    LayerFusionOptions,
    LMOptions,
)
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.training.seeding import seed_everything
from voxstrata.vocabulary import Vocabulary

COMPARES = {
    "plain": "decoding reads all anew for each token; a step takes last layers only",
    "ours": "decoding keeps keys and values; a step has both fusions",
}
CASES = ("decoding", "training step")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
_EOS = 0


@dataclass(frozen=True)
class HarmoniFuseBenchOptions:
    """What is measured.

    Args:
        shape: of the encoder: "base" or "large".
        lm: shape of the language model.
        batch_size: clips in a batch, all of one length.
        clip_s: length of each clip.
        tokens: decoded for each clip, and in each transcript of a training step.
        corpora: prepared corpora whose training clips' padding is counted; none: of drawn lengths.
        repeats: timed runs of each.
        threads: of torch; None leaves its choice.
    """

    shape: Shape = "base"
    lm: LMOptions = field(default_factory=lambda: LMOptions(layers=12, size=768, heads=12, feed_forward=3072))
    batch_size: int = 4
    clip_s: float = 5.0
    tokens: int = 100
    corpora: tuple[str, ...] = ()
    repeats: int = 5
    threads: int | None = None

    def quick(self) -> HarmoniFuseBenchOptions:
        """The same, small enough for a test: its figures say nothing."""
        lm = LMOptions(layers=2, size=32, heads=2, feed_forward=64)
        return replace(self, shape="tiny", lm=lm, batch_size=2, clip_s=0.5, tokens=8, repeats=2)


def run(options: HarmoniFuseBenchOptions, progress: Progress | None = None) -> BenchmarkResult:
    """Measures each part in both ways; padding is counted, not timed.

    Args:
        options: what is measured.
        progress: called before each run.

    Raises:
        VoxstrataError: if the shape is unknown, a corpus is none, or memory is out.
    """
    wavlm_config(options.shape)
    padding = padding_figures(options)
    found = interleaved(
        {way: partial(_prepare, way, options) for way in COMPARES},
        CASES,
        repeats=options.repeats,
        threads=options.threads,
        progress=progress,
    )
    return BenchmarkResult(
        name="harmonifuse",
        compares=COMPARES,
        reference="plain",
        settings=asdict(options) | {"lm": options.lm.model_dump()},
        machine=machine(),
        rows=tuple(Row({"part": case}, found[case]) for case in CASES),
        figures=padding,
    )


def padding_figures(options: HarmoniFuseBenchOptions) -> dict[str, float]:
    """Share of a batch's samples that are speech, over an epoch of 16 clips a batch, by task."""
    if options.corpora:
        lengths = {
            Path(folder).name: [cut.duration for cut in PreparedCorpus.load(Path(folder)).stream("train")]
            for folder in options.corpora
        }
    else:
        rng = np.random.default_rng(0)
        # Near LibriSpeech (most clips of 12 to 16 s) and near acted emotions.
        read = np.where(rng.random(5000) < 0.7, rng.uniform(11, 16.5, 5000), rng.uniform(1.5, 11, 5000))
        lengths = {"asr": read.tolist(), "ser": rng.lognormal(1.2, 0.4, 2000).tolist()}
    return {f"padding efficiency, {name}": padding_efficiency(seconds) for name, seconds in lengths.items()}


def padding_efficiency(lengths_s: Sequence[float], *, batch_size: int = 16, buckets: int = 10) -> float:
    """Seconds of speech over seconds of padded batches, as a source plans them."""
    known = {str(index): seconds for index, seconds in enumerate(lengths_s)}
    plan = plan_epoch(
        list(known.items()), batch_size=batch_size, buckets=buckets, shuffle=True, seed=0, epoch=0
    )
    return sum(lengths_s) / sum(len(ids) * max(known[name] for name in ids) for ids in plan)


def _prepare(way: str, options: HarmoniFuseBenchOptions) -> Step:
    build = {"decoding": _decoding, "training step": _training_step}
    steps: dict[str, Callable[[], object]] = {}

    def step(case: str) -> None:
        if case not in steps:
            steps.clear()
            steps[case] = build[case](way == "ours", options)
        steps[case]()

    return step


def _decoding(cached: bool, options: HarmoniFuseBenchOptions) -> Callable[[], object]:
    lm = small_lm(options.lm, len(_ALPHABET) + 1, seed=0).eval()
    rows, frames = options.batch_size, max(1, int(10 * options.clip_s))
    generator = torch.Generator().manual_seed(1)
    values = 0.02 * torch.randn(rows, frames, lm.size, generator=generator)
    head = torch.randn(len(_ALPHABET) + 1, lm.size, generator=generator) / lm.size**0.5
    never = torch.zeros(len(head)).index_fill(0, torch.tensor([_EOS]), -1e4)
    prefix = join([(values, torch.full((rows,), frames))], pad_left=True)
    how = DecodingOptions(cache=cached, repeats=0)

    @torch.no_grad()
    def search() -> object:
        def score(layers: tuple[Tensor, ...]) -> Tensor:
            scored: Tensor = layers[-1][:, 0] @ head.T + never
            return scored

        return decode(lm, score, prefix, torch.full((rows,), options.tokens), eos=_EOS, options=how)

    return search


def _training_system(fused: bool, options: HarmoniFuseBenchOptions) -> HarmoniFuse:
    """ASR alone, with both fusions or with last layers only."""
    chosen = HarmoniFuseOptions(
        lm=options.lm,
        encoder_fusion=EncoderFusionOptions(mode="gated" if fused else "last"),
        layer_fusion=LayerFusionOptions(scores="both" if fused else "last"),
        connector=ConnectorOptions(width=2048 if options.shape != "tiny" else 32),
    )
    encoder = build_backbone(wavlm_config(options.shape), seed=0).eval()
    lm, tokenizer = build_lm(chosen, Vocabulary(tuple(_ALPHABET)), seed=0)
    seed_everything(0)
    return HarmoniFuse(encoder, lm, tokenizer, [Task("asr")], chosen).train()


def _training_step(fused: bool, options: HarmoniFuseBenchOptions) -> Callable[[], object]:
    system = _training_system(fused, options)
    parameters = [parameter for group in system.parameter_groups() for parameter in group.parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    samples = int(options.clip_s * SAMPLE_RATE)
    generator = torch.Generator().manual_seed(2)
    batch = Batch(
        references=tuple(Reference(str(row)) for row in range(options.batch_size)),
        waveforms=0.1 * torch.randn(options.batch_size, samples, generator=generator),
        lengths=torch.full((options.batch_size,), samples),
        tokens=torch.randint(1, len(_ALPHABET), (options.batch_size, options.tokens), generator=generator),
        token_lengths=torch.full((options.batch_size,), options.tokens),
    )

    def learn() -> object:
        optimizer.zero_grad(set_to_none=False)
        torch.autograd.backward(system.loss(batch))
        return optimizer.step()

    return learn
