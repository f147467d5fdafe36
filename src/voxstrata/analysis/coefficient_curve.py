"""What one coefficient of a fine-tune does to emotions and to words: W = W_base + c dW, for several c.

One coefficient for all layers, nothing trained: emotions by the expert's own head, words by a CTC head of the
base and by Whisper's decoder. At c = 0 stands the base, at c = 1 the expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.batches.batch import Batch
from voxstrata.errors import CheckpointError
from voxstrata.evaluation.metrics import Metric
from voxstrata.evaluation.score import score
from voxstrata.heads.ctc import CTCHead
from voxstrata.inference.path import predict
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector, require_a_change
from voxstrata.methods.encoder_models import Backbone, EmotionModel, MultitaskModel, TranscriptionModel
from voxstrata.methods.model_folder import find_model, load_model
from voxstrata.methods.transcribers.published_whisper import load_transcriber
from voxstrata.predictions import Prediction

#: Names of what is measured, in the order of a table.
MEASURES = ("uar", "wer_ctc", "wer_decoder")


@dataclass(frozen=True)
class Point:
    """What was measured at one coefficient.

    Args:
        coefficient: c.
        scores: name of `MEASURES` -> value with intervals; what was not asked for is absent.
        clips: the same names -> clips.
    """

    coefficient: float
    scores: Mapping[str, Metric]
    clips: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Readers:
    """What reads a merged encoder.

    Args:
        emotion: the expert's model; its layer sum and head are used.
        ctc: a CTC head of the base; None: not measured.
        decoder: folder or hub id of a whole Whisper; None: not measured.
        normalizer: of transcripts.
    """

    emotion: EmotionModel
    ctc: CTCHead | None = None
    decoder: str | None = None
    normalizer: str = "basic"


def coefficient_curve(
    base: str | Path,
    expert: str | Path,
    readers: Readers,
    coefficients: Sequence[float],
    *,
    emotions: Callable[[], Iterable[Batch]],
    words: Callable[[], Iterable[Batch]],
    advance: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Point]:
    """Measures a merge at each coefficient.

    Args:
        base: see `load_backbone`.
        expert: fine-tuned from it.
        readers: what reads the merged encoder.
        coefficients: c, in the order in which points are wanted.
        emotions: gives the clips that are asked for emotions, anew at each call.
        words: gives those that are asked for words.
        advance: called with passes done, of how many, and what comes next.

    Raises:
        CheckpointError: if parts do not belong together.
    """
    encoder = load_backbone(base)
    vector = TaskVector.between(encoder, expert)
    require_a_change({"expert": vector})
    padded = load_backbone(base, window="30s", final_norm=True) if readers.decoder is not None else None
    passes = 1 + (readers.ctc is not None) + (readers.decoder is not None)
    points = []
    for number, coefficient in enumerate(coefficients):
        advance(number * passes, passes * len(coefficients), f"coefficient {coefficient:g}")
        merged = _merged(encoder, vector, coefficient)
        answers = {"uar": _answers(head_over(readers.emotion, merged), emotions())}
        if readers.ctc is not None:
            answers["wer_ctc"] = _answers(TranscriptionModel(merged, readers.ctc), words())
        if readers.decoder is not None:
            assert padded is not None
            listener = load_transcriber(readers.decoder, _merged(padded, vector, coefficient))
            answers["wer_decoder"] = _answers(listener, words())
        points.append(_point(coefficient, answers, readers.normalizer))
    advance(passes * len(coefficients), passes * len(coefficients), "done")
    return points


def _merged(encoder: SpeechEncoder, vector: TaskVector, coefficient: float) -> MergedBackbone:
    return MergedBackbone(encoder, {"expert": vector}, granularity="static", init=coefficient).eval()


def head_over(model: EmotionModel, merged: Backbone) -> EmotionModel:
    """An expert's layer sum and head over another encoder.

    Raises:
        CheckpointError: if the encoder has another number of layers.
    """
    if merged.num_layers != len(model.layer_sum.logits):
        raise CheckpointError(
            f"the expert's head weighs {len(model.layer_sum.logits)} layers, the base has "
            f"{merged.num_layers}; give the base that it was fine-tuned from"
        )
    over = EmotionModel(merged, model.labels, model.options)
    over.layer_sum, over.head = model.layer_sum, model.head
    return over.eval()


def emotion_model_of(run: str | Path) -> EmotionModel:
    """The model with an emotion head that a finished run holds.

    Raises:
        CheckpointError: if it has none.
    """
    folder = find_model(run)
    model = None if folder is None else load_model(folder)
    if not isinstance(model, EmotionModel):
        raise CheckpointError(f"{run} has no emotion head; give a finished run that learned emotions")
    return model


def ctc_head_of(run: str | Path) -> CTCHead:
    """The CTC head that a finished run holds.

    Raises:
        CheckpointError: if it has none.
    """
    folder = find_model(run)
    model = None if folder is None else load_model(folder)
    if isinstance(model, MultitaskModel):
        return model.transcriber
    if isinstance(model, TranscriptionModel):
        return model.head
    raise CheckpointError(f"{run} has no CTC head; give a finished run that learned words")


@torch.no_grad()
def _answers(model: nn.Module, batches: Iterable[Batch]) -> list[Prediction]:
    return list(predict(model, batches))


def _point(coefficient: float, answers: Mapping[str, list[Prediction]], normalizer: str) -> Point:
    scores: dict[str, Metric] = {}
    for name, rows in answers.items():
        if name == "uar":
            emotions = score([replace(row, transcript=None) for row in rows]).emotion
            assert emotions is not None
            scores[name] = emotions.metrics["uar"]
        else:
            transcripts = score(rows, normalizer=normalizer).transcript
            assert transcripts is not None
            scores[name] = transcripts.metrics["wer"]
    return Point(coefficient, scores, {name: len(rows) for name, rows in answers.items()})
