"""What may be chosen when a corpus is read: each option a name with a few allowed values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from voxstrata.errors import CorpusError

#: Receives one line about the corpus: what was left out and how often, what is not known.
Note = Callable[[str], None]


@dataclass(frozen=True)
class ReaderOption:
    """One choice that a reader leaves to its user.

    Args:
        name: keyword of the reader's `read`.
        values: what is allowed; the first is taken where nothing is said.
        description: one line.
    """

    name: str
    values: tuple[str, ...]
    description: str


def no_note(line: str) -> None:
    """Passes the line over, for callers that only want the clips."""


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """Names and values from `name=value`.

    >>> parse_options(["test=test1", "keep=paper"])
    {'test': 'test1', 'keep': 'paper'}

    Raises:
        CorpusError: if one has another form, or a name is given twice.
    """
    given: dict[str, str] = {}
    for text in texts:
        name, separator, value = map(str.strip, text.partition("="))
        if not (name and separator and value):
            raise CorpusError(f"an option has the form name=value; found {text!r}")
        if name in given:
            raise CorpusError(f"option {name} is given twice: {given[name]!r} and {value!r}; give it once")
        given[name] = value
    return given


def chosen_options(corpus: str, options: Sequence[ReaderOption], given: Mapping[str, str]) -> dict[str, str]:
    """A value for every option of a reader.

    Args:
        corpus: its name, for the error.
        options: that the reader has.
        given: what the user said.

    Raises:
        CorpusError: if the reader has no such option, or the option no such value.
    """
    allowed = {option.name: option.values for option in options}
    for name, value in given.items():
        if name not in allowed:
            stated = ", ".join(f"{option} ({'|'.join(values)})" for option, values in allowed.items())
            raise CorpusError(f"{corpus} has no option {name!r}; it has {stated or 'none'}")
        if value not in allowed[name]:
            raise CorpusError(
                f"{corpus}: option {name} is one of {', '.join(allowed[name])}; found {value!r}"
            )
    return {option.name: given.get(option.name, option.values[0]) for option in options}


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name on one line.

    >>> counted({"no transcript": 1200, "no plurality": 3})
    'no transcript 1,200, no plurality 3'
    """
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
