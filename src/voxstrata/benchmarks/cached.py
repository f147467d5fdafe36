"""A whole training of a static merge, with the encoder's states computed once or in every epoch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
from torch import Tensor

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.encoder import SpeechEncoder, build_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.batches.cached import cached_states
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.benchmarks.measure import Progress, Step, interleaved, machine
from voxstrata.benchmarks.result import BenchmarkResult, Row
from voxstrata.benchmarks.shapes import Shape, wavlm_config
from voxstrata.config.training import Training
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.labels import LabelSet
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.recipe import AdaLTMRates
from voxstrata.methods.adaltm.system import AdaLTM
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.frozen_encoder import FrozenLayers
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit
from voxstrata.training.seeding import seed_everything
from voxstrata.training.shares import Batches

COMPARES = {
    "uncached": "the encoder runs over every clip in every epoch",
    "cached": "the encoder runs once over every clip, its pooled states are read in every epoch",
}
LABELS = LabelSet(("anger", "happiness", "neutral", "sadness"))
#: One clip of so many is for validation.
_DEV_SHARE = 5


@dataclass(frozen=True)
class CachedOptions:
    """What is measured.

    Args:
        shape: "base" or "large".
        epochs: of a training; it never stops earlier.
        clips: recordings of noise; a fifth of them is for validation, once an epoch.
        clip_s: length of each.
        batch_size: clips in a batch.
        repeats: timed trainings of each way.
        threads: of torch; None leaves its choice.
    """

    shape: Shape = "base"
    epochs: int = 100
    clips: int = 40
    clip_s: float = 3.0
    batch_size: int = 8
    repeats: int = 1
    threads: int | None = None

    def quick(self) -> CachedOptions:
        """The same, small enough for a test: its figures say nothing."""
        return replace(self, shape="tiny", epochs=3, clips=10, clip_s=0.5, batch_size=4, repeats=2)


def run(options: CachedOptions, progress: Progress | None = None) -> BenchmarkResult:
    """Measures trainings through the real loop, with validation, checkpoints and journal.

    What a training writes and what it keeps is removed after it: each computes its states anew.

    Args:
        options: what is measured.
        progress: called before each run.

    Raises:
        VoxstrataError: if an option is none of those allowed, or memory is out.
    """
    wavlm_config(options.shape)
    stated = machine()
    with TemporaryDirectory() as folder:
        _write_corpus(Path(folder), options)
        found = interleaved(
            {way: partial(_prepare, way, options, Path(folder)) for way in COMPARES},
            [options.epochs],
            repeats=options.repeats,
            threads=options.threads,
            short=min(2, options.epochs),
            progress=progress,
        )
    return BenchmarkResult(
        name="cached",
        compares=COMPARES,
        reference="uncached",
        settings=asdict(options),
        machine=stated,
        rows=(Row({"epochs": options.epochs}, found[options.epochs]),),
    )


def _write_corpus(folder: Path, options: CachedOptions) -> None:
    noise = np.random.default_rng(0)
    rows = []
    for i in range(options.clips):
        split = "train" if i % _DEV_SHARE else "dev"
        samples = noise.normal(scale=0.1, size=int(options.clip_s * SAMPLE_RATE)).clip(-1, 1)
        soundfile.write(folder / f"{i}.wav", samples, SAMPLE_RATE)
        emotion = LABELS.names[i % len(LABELS)]
        rows.append({"path": f"{i}.wav", "emotion": emotion, "speaker": f"{split} {i % 2}", "split": split})
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prepare("table", folder / "clips.jsonl", folder / "prepared")


def _prepare(way: str, options: CachedOptions, folder: Path) -> Step:
    merged = _static_merge(options)
    corpus = PreparedCorpus.load(folder / "prepared")
    numbers = count()

    def source(split: str) -> BatchSource:
        how = BatchOptions(batch_size=options.batch_size, labels=LABELS, shuffle=split == "train")
        return BatchSource(corpus.cuts(split), how)

    def step(epochs: int) -> None:
        seed_everything(0)
        model = EmotionModel(merged, LABELS)
        system = AdaLTM(model, torch.ones(len(LABELS)), AdaLTMRates())
        with TemporaryDirectory(dir=folder, prefix=f"{way}-{next(numbers)}-") as run_folder:
            batches: dict[str, Batches] = {split: source(split) for split in ("train", "dev")}
            if way == "cached":
                frozen = FrozenLayers.of(model)
                batches = {
                    split: cached_states(
                        frozen, source(split), Path(run_folder) / "cache", budget_bytes=2**40
                    )
                    for split in batches
                }
            fit(
                system,
                batches["train"],
                batches["dev"],
                RunFolder(Path(run_folder)),
                Training(epochs=epochs),
            )

    return step


def _static_merge(options: CachedOptions) -> MergedBackbone:
    base = build_backbone(wavlm_config(options.shape), seed=0).requires_grad_(False).eval()
    found = fingerprint(base.weights())
    vectors = {f"vector {k}": TaskVector(_change(base, k), found, "random") for k in range(2)}
    return MergedBackbone(base, vectors, granularity="static")


def _change(base: SpeechEncoder, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1 + seed)
    return {
        name: torch.empty_like(weight).uniform_(-0.001, 0.001, generator=generator)
        for name, weight in base.weights().items()
    }
