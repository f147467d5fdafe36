"""Errors that a user can act on: what was asked, what was found, what is allowed, what to do next."""


class VoxstrataError(Exception):
    """A fault in what was given: shown as one line, without a traceback; the command exits with 2."""

    exit_code = 2


class AudioError(VoxstrataError):
    """A recording that cannot be read or used."""


class CorpusError(VoxstrataError):
    """A corpus folder, manifest or split that does not hold what is needed."""


class LabelError(VoxstrataError):
    """A label outside the label set."""


class CheckpointError(VoxstrataError):
    """A checkpoint that cannot be read, or does not fit the model it is meant for."""


class RecipeError(VoxstrataError):
    """A recipe with unknown keys, wrong values, or parts that do not fit together."""


class PredictionsError(VoxstrataError):
    """A predictions file that cannot be scored."""


class TrainingError(VoxstrataError):
    """Training that cannot start or go on: a full disk, a loss that is not finite."""


class ProcessLost(TrainingError):
    """Another process of the same training is no longer there."""


class Interrupted(VoxstrataError):
    """Stopped by Ctrl-C after a clean checkpoint; the same command goes on from there."""

    exit_code = 130


def counted(count: int, noun: str) -> str:
    """A number of things, in words of a message.

    >>> counted(1, "clip"), counted(1200, "clip")
    ('1 clip', '1,200 clips')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"
