"""What is said of warnings, faults and notes: one line each, whatever a file or a name put into it."""

from __future__ import annotations

import sys


def one_line(text: str) -> str:
    r"""The text with control characters, ends of lines and halves of characters escaped.

    >>> one_line("no speaker 'a\nb' in \x1b[31mx")
    "no speaker 'a\\nb' in \\x1b[31mx"
    """
    from voxstrata.labels import is_one_line

    return "".join(c if is_one_line(c) else ascii(c)[1:-1] for c in text)


def tell(line: str, label: str = "voxstrata") -> None:
    """Prints a line to standard error.

    Args:
        line: may hold anything, also more than a line.
        label: what it is: "warning", "fault", "note", or whose; "" for none.
    """
    print(f"{label}: {one_line(line)}" if label else one_line(line), file=sys.stderr, flush=True)
