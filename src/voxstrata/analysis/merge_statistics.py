"""What `fisher` and `regmean` need of an expert: measured on recordings, clip by clip, in eval mode.

Fisher information (Matena and Raffel 2022, arXiv 2111.09832, section 3.2), here the empirical one: the mean
over clips of the squared gradient of the expert's own loss with the clip's own label or transcript. Gram
matrices (Jin et al. 2023, arXiv 2212.09849, section 3): sums of x x^T over all frames x that a linear layer
gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet
from torch import Tensor, nn

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CheckpointError, CorpusError
from voxstrata.losses import ctc_loss
from voxstrata.merging.parents import Parent
from voxstrata.merging.statistics import KINDS, write_statistics
from voxstrata.methods.encoder_models import EmotionModel, MultitaskModel, TranscriptionModel
from voxstrata.methods.model_folder import find_model, load_model

Expert = EmotionModel | TranscriptionModel


def measure_statistics(
    source: str,
    corpora: Sequence[str | Path],
    out: Path,
    *,
    kind: str,
    split: str = "train",
    fold: int | None = None,
    limit: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> int:
    """Measures an expert on recordings and writes the statistics.

    Args:
        source: run or model folder of an expert with an emotion head or a CTC head.
        corpora: prepared corpora.
        out: file of safetensors.
        kind: "fisher" or "gram".
        split: whose clips are used.
        fold: of corpora that have folds, so that an expert of one is measured on its own training clips;
            None: their own division.
        limit: at most so many clips, evenly over the split; None: all.
        progress: called with clips done, clips in all, and the clip that is next.

    Returns:
        How many clips were used.

    Raises:
        CheckpointError: if there is no such expert, or the file cannot be written.
        CorpusError: if no clip has what the head needs.
    """
    if kind not in KINDS:
        raise CheckpointError(f"unknown kind {kind!r}; allowed are {', '.join(KINDS)}")
    folder = find_model(source)
    if folder is None:
        raise CheckpointError(f"{source} holds no model with a head; give a run or a model folder")
    model = load_model(folder)
    if isinstance(model, MultitaskModel) or not isinstance(model, EmotionModel | TranscriptionModel):
        raise CheckpointError(
            f"{source} is no expert with one head for emotions or words; give a run of finetune-ser or "
            "finetune-asr"
        )
    parent = Parent.open("expert", str(folder))
    clips = _clips(model, corpora, split, fold, limit)
    total = len(clips)
    measure = fisher_information if kind == "fisher" else gram_matrices
    found = measure(model, _told(clips, total, progress))
    write_statistics(out, kind, {name: one.float() for name, one in found.items()}, parent.hashes(), total)
    return total


def fisher_information(model: Expert, batches: Iterator[Batch]) -> dict[str, Tensor]:
    """The mean over clips of the squared gradient of the clip's loss, float64 by name in the backbone.

    Args:
        model: in eval mode.
        batches: of one clip each.
    """
    parameters = {
        name: parameter
        for name, parameter in _encoder(model).model.named_parameters()
        if name not in _encoder(model).family.fixed
    }
    sums = {name: torch.zeros_like(one, dtype=torch.float64) for name, one in parameters.items()}
    clips = 0
    with _learning(parameters.values()):
        for batch in batches:
            gradients = torch.autograd.grad(_loss(model, batch), [*parameters.values()], allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.double().square())
            clips += 1
    return {name: total / max(clips, 1) for name, total in sums.items()}


@torch.no_grad()
def gram_matrices(model: Expert, batches: Iterator[Batch]) -> dict[str, Tensor]:
    """The sum of x x^T over what each linear layer of the encoder gets, float64 [in, in] by weight.

    Args:
        model: in eval mode.
        batches: of one clip each, so that no frame is padding.
    """
    sums: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for path, module in _encoder(model).model.named_modules():
            if isinstance(module, nn.Linear):
                hook = partial(_add_inputs, sums, f"{path}.weight")
                stack.callback(module.register_forward_pre_hook(hook).remove)
        for batch in batches:
            model.encoder(batch.waveforms, batch.lengths)
    return sums


def _add_inputs(sums: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    frames = inputs[0].detach().double().flatten(0, -2)
    if name not in sums:
        sums[name] = frames.new_zeros(frames.shape[1], frames.shape[1])
    sums[name].addmm_(frames.T, frames)


def _loss(model: Expert, batch: Batch) -> Tensor:
    """The loss that the expert was trained with, of one clip."""
    if isinstance(model, EmotionModel):
        return model.loss(batch, None)
    assert batch.tokens is not None and batch.token_lengths is not None
    logits, lengths = model.logits(batch)
    return ctc_loss(logits, lengths, batch.tokens, batch.token_lengths).mean()


def _encoder(model: Expert) -> SpeechEncoder:
    assert isinstance(model.encoder, SpeechEncoder)
    return model.encoder


@contextmanager
def _learning(parameters: Any) -> Iterator[None]:
    """Inside, parameters of a frozen encoder have gradients."""
    given = [*parameters]
    for parameter in given:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in given:
            parameter.requires_grad_(False)


def _clips(
    model: Expert, corpora: Sequence[str | Path], split: str, fold: int | None, limit: int | None
) -> BatchSource:
    """Batches of one clip each, with what the head needs."""
    cuts = [cut for place in corpora for cut in PreparedCorpus.load(place).cuts(split, fold)]
    if limit is not None and limit < len(cuts):
        cuts = [cuts[number * len(cuts) // limit] for number in range(limit)]
    if not cuts:
        raise CorpusError(
            f"{', '.join(map(str, corpora))} has no clip in split {split}; give another corpus or --split"
        )
    if isinstance(model, EmotionModel):
        options = BatchOptions(batch_size=1, shuffle=False, labels=model.labels)
    else:
        options = BatchOptions(batch_size=1, shuffle=False, vocabulary=model.head.vocabulary)
    return BatchSource(CutSet.from_cuts(cuts), options)


def _told(
    clips: BatchSource, total: int, progress: Callable[[int, int, str], None] | None
) -> Iterator[Batch]:
    for done, batch in enumerate(clips.epoch(0)):
        if progress is not None:
            progress(done, total, batch.references[0].id)
        yield batch
