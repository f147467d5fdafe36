"""What a recording's own header and marks claim, held against what the file holds."""

from __future__ import annotations

from dataclasses import dataclass

from voxstrata.audio.content import Remark
from voxstrata.audio.spliced import Pieces

#: More recordings one after the other are refused.
MOST_JOINED = 1000


@dataclass(frozen=True)
class Claim:
    """What was found.

    Args:
        fault: what is wrong with the file, in words that follow its name; empty where it can be used.
        remarks: what one should know of it.
        parts: what is decoded in its place, one after the other; none: the file as it is.
        in_order: it is decoded without going to any place in it, for behind a hole places are wrong.
    """

    fault: str = ""
    remarks: tuple[Remark, ...] = ()
    parts: tuple[Pieces, ...] = ()
    in_order: bool = False


def breaks_off(what: str) -> Claim:
    """The claim of a file that ends too early."""
    return Claim(f"breaks off: {what}; copy it again")


def damaged(detail: str) -> Remark:
    """Of a file with a hole in it."""
    return Remark("damaged", detail)


def joined(count: int) -> Remark:
    """Of a file that is several recordings one after the other, all of which are read."""
    return Remark("joined", f"it holds {count} recordings one after the other; all of them are read")


def too_many(count: int) -> Claim:
    """The claim of a file that is more recordings than are read."""
    return Claim(f"holds {count:,} recordings one after the other; up to {MOST_JOINED:,} are read: split it")
