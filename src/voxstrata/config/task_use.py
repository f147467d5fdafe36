"""Tasks of a recipe that learns several, each from its own corpora."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from voxstrata.config.data import CorpusUse, different
from voxstrata.config.strict import Positive, PositiveNumber, Strict


class TaskUse(Strict):
    """One task of several, and its corpora; none: those of `data`.

    Field: what of a clip is the answer, "transcript" for its words; None takes that for a task named asr,
    "emotion" for ser, else the task's name. Labels: None takes those of the training clips.
    """

    corpora: Annotated[tuple[CorpusUse, ...], AfterValidator(different)] = ()
    field: str | None = None
    labels: tuple[str, ...] | None = None
    weight: PositiveNumber = 1.0
    share: PositiveNumber = 1.0
    batch_size: Positive | None = None
