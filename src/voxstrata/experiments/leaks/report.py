"""What a comparison of training clips with dev and test clips found, and how it is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from voxstrata.errors import VoxstrataError


class LeakError(VoxstrataError):
    """A run that would be tested on what was trained on."""


@dataclass(frozen=True)
class Leak:
    """Training clips that meet a split of the run at hand.

    Args:
        name: e.g. "fine-tuning/test/speaker".
        run: the run that trained on them.
        found: speakers, ids or recordings that meet.
        clips: clips of the split concerned.
        examples: the first few of what was found.
        allowed: whether the recipe allows it.
    """

    name: str
    run: str
    found: int
    clips: int
    examples: tuple[str, ...]
    allowed: bool


@dataclass(frozen=True)
class Overlap:
    """Clips of a split, or of another stage, that training has in common with it; reported, not refused.

    Args:
        first: a use, as "stage (run)".
        second: a split, or another use.
        shared: clips of the second whose sentence (or which themselves) the first has.
        of: clips of the second that have one.
    """

    first: str
    second: str
    shared: int
    of: int


@dataclass(frozen=True)
class LeakReport:
    """What was found.

    Args:
        checked: use -> clips, of all uses that were compared.
        leaks: allowed ones, if training goes on.
        sentences: sentences that training and a split share.
        stages: clips that two uses share.
        unverified: what cannot be verified.
    """

    checked: Mapping[str, int]
    leaks: tuple[Leak, ...]
    sentences: tuple[Overlap, ...]
    stages: tuple[Overlap, ...]
    unverified: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def with_leaks(self, other: LeakReport) -> LeakReport:
        """The same with another report's leaks, and what that one cannot tell."""
        unverified = tuple(dict.fromkeys([*self.unverified, *other.unverified]))
        return replace(self, leaks=(*self.leaks, *other.leaks), unverified=unverified)

    @property
    def refused(self) -> list[Leak]:
        """The leaks that are not allowed."""
        return [leak for leak in self.leaks if not leak.allowed]

    def lines(self) -> list[str]:
        """For the user: leaks that were allowed, and what cannot be verified."""
        allowed = [f"leak allowed: {_told(leak)}" for leak in self.leaks if leak.allowed]
        unverified = f"leaks that could not be checked: {'; '.join(self.unverified)}"
        return [*allowed, *([unverified] if self.unverified else [])]

    def require_none(self) -> None:
        """Raises for leaks that are not allowed.

        Raises:
            LeakError: naming all of them, and how to allow them.
        """
        if refused := self.refused:
            names = ", ".join(sorted({leak.name for leak in refused}))
            raise LeakError(
                f"clips to be tested on were trained on: {'; '.join(map(_told, refused))}; choose other "
                f"splits, folds, speakers or experts, or allow it in the recipe: allow_leaks=[{names}]"
            )


def _told(leak: Leak) -> str:
    stage, split, match = leak.name.split("/")
    kinds = {"speaker": "speakers", "clip": "clips by id", "audio": "clips by their audio"}
    examples = ", ".join(leak.examples) + (", ..." if leak.clips > len(leak.examples) else "")
    return f"{leak.found} {kinds[match]} of {split} in the {stage} of {leak.run} ({examples})"
