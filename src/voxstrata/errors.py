"""Errors that a user can act on: what was asked, what was found, what is allowed, what to do next."""

from collections.abc import Iterable


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


class OptionsError(RecipeError, ValueError):
    """Options, built in Python, with unknown names, wrong values, or values that do not fit together."""


class PredictionsError(VoxstrataError):
    """A predictions file that cannot be scored."""


class TrainingError(VoxstrataError):
    """Training that cannot start or go on: a full disk, a loss that is not finite."""


class ProcessLost(TrainingError):
    """Another process of the same training is no longer there."""


class Interrupted(VoxstrataError):
    """Stopped by Ctrl-C after a clean checkpoint; the same command goes on from there."""

    exit_code = 130


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things, in words of a message.

    >>> counted(1, "clip"), counted(1200, "clip"), counted(2, "class", "classes")
    ('1 clip', '1,200 clips', '2 classes')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def in_bytes(count: int) -> str:
    """A number of bytes, in words of a message.

    >>> in_bytes(2_512_000_000), in_bytes(31_000)
    ('2.5 GB', '0.0 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def first_of(names: Iterable[object], most: int = 5, *, between: str = ", ") -> str:
    """The first of many things, and how many more there are.

    >>> first_of(["a", "b"]), first_of("abcdefgh", 2)
    ('a, b', 'a, b and 6 more')
    """
    shown = [str(name) for name in names]
    more = f" and {len(shown) - most:,} more" if len(shown) > most else ""
    return between.join(shown[:most]) + more


def did_you_mean(given: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """The end of a message about a name that is not known: the nearest that is, or nothing.

    Args:
        given: the name.
        known: names that there are.
        likeness: that the nearest must have at least, in [0, 1].

    >>> did_you_mean("evaluat", ["compare", "evaluate"]), did_you_mean("xyz", ["compare"])
    ('; did you mean evaluate?', '')
    """
    # Slow to load, and needed after a fault only.
    from difflib import get_close_matches

    close = get_close_matches(given, list(known), n=1, cutoff=likeness)
    return f"; did you mean {close[0]}?" if close else ""
