"""What is said of warnings, faults and notes: one line each, whatever a file or a name put into it."""

from __future__ import annotations

import re
import sys

#: A word that is longer is no word: a number of thousands of digits, a file in the place of a name.
_LONG_WORD = re.compile(r"\S{1000,}")


def one_line(text: str) -> str:
    r"""The text with control characters, ends of lines and halves of characters escaped.

    >>> one_line("no speaker 'a\nb' in \x1b[31mx")
    "no speaker 'a\\nb' in \\x1b[31mx"
    """
    from voxstrata.labels import is_one_line

    return "".join(c if is_one_line(c) else ascii(c)[1:-1] for c in text)


def _shorter(text: str) -> str:
    return _LONG_WORD.sub(lambda word: f"{word[0][:100]}...{word[0][-100:]}", text)


def tell(line: str, label: str = "voxstrata") -> None:
    """Prints a line to standard error.

    Args:
        line: may hold anything, also more than a line; of words of 1,000 characters the middle is left out.
        label: what it is: "warning", "fault", "note", or whose; "" for none.
    """
    text = _shorter(one_line(line))
    print(f"{label}: {text}" if label else text, file=sys.stderr, flush=True)


def asked(question: str) -> bool:
    """Whether somebody says yes on the terminal; the question goes to standard error."""
    import typer

    return typer.confirm(question, err=True)
