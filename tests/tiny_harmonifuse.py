"""A tiny HarmoniFuse, and batches for it."""

from __future__ import annotations

from dataclasses import replace

import torch

from voxstrata.batches.batch import Batch
from voxstrata.heads.task import Task
from voxstrata.labels import LabelSet
from voxstrata.methods.harmonifuse.lm.pretrained import build_lm
from voxstrata.methods.harmonifuse.options import (
    ConnectorOptions,
    HarmoniFuseOptions,
    HarmoniFuseRates,
    LayerFusionOptions,
    LMOptions,
)
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("anger", "neutral", "sadness"))
GENDERS = LabelSet(("female", "male"))
ASR, SER = Task("asr"), Task("ser", LABELS)
GENDER = Task("gender", GENDERS, field="gender")
SMALL = HarmoniFuseOptions(
    lm=LMOptions(layers=3, size=32, heads=2, feed_forward=64),
    layer_fusion=LayerFusionOptions(width=16),
    connector=ConnectorOptions(width=48),
    rates=HarmoniFuseRates(new=3e-3, fusion=3e-2, encoder=1e-3),
)


def build(encoder, tasks=(ASR, SER), options=SMALL, *, letters="ab", **more) -> HarmoniFuse:
    lm, tokenizer = build_lm(options, Vocabulary.of([letters]), seed=0)
    torch.manual_seed(0)
    return HarmoniFuse(encoder, lm, tokenizer, tasks, options, **more)


def moved(system: HarmoniFuse) -> HarmoniFuse:
    """The same with all parameters off their start, so that nothing is zero or equal by chance."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            if not name.startswith("encoder."):
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return system.eval()


def of(batch: Batch, task: str | None) -> Batch:
    return replace(batch, task=task)


def one(batch: Batch, row: int) -> Batch:
    rows = slice(row, row + 1)
    length = int(batch.lengths[row])
    return Batch(
        references=batch.references[rows],
        waveforms=batch.waveforms[rows, :length],
        lengths=batch.lengths[rows],
        emotion_targets=batch.emotion_targets[rows],
        tokens=batch.tokens[rows, : int(batch.token_lengths[row])],
        token_lengths=batch.token_lengths[rows],
        task=batch.task,
        class_targets=batch.class_targets[rows],
    )
