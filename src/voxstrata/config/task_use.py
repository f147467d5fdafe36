"""Tasks of a recipe that learns several, each from its own corpora."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from voxstrata.config.data import CorpusUse, different
from voxstrata.config.strict import Positive, PositiveNumber, Strict, Text


class TaskUse(Strict):
    """One task of several, each with corpora of its own.

    Batches of the tasks alternate by seed and step alone; each task gets its share of the seconds of audio.
    Clips come whole, and classes stand here instead of in `data.labels`.

    Args:
        corpora: corpora of the task, with the keys of `data.corpora`; none: those of `data`.
        field: what of a clip is the target: "transcript", "emotion" or a column such as gender. None:
            "transcript" for a task named asr, "emotion" for ser, else the task's name. Of `harmonifuse`
            only.
        labels: classes in the order of the outputs; None: those of the training clips.
        weight: of the task's loss.
        share: of the seconds of audio, relative to the other tasks' shares.
        batch_size: clips per batch; None: `data.batch_size`.
    """

    corpora: Annotated[tuple[CorpusUse, ...], AfterValidator(different)] = ()
    field: Text | None = None
    labels: tuple[Text, ...] | None = None
    weight: PositiveNumber = 1.0
    share: PositiveNumber = 1.0
    batch_size: Positive | None = None
