"""Pieces of a scale (rows, a fold, part or seed, a lexical strength), and the points of its axes."""

from __future__ import annotations

import hashlib
import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from voxstrata.errors import RecipeError
from voxstrata.experiments.tables.references import substitute
from voxstrata.experiments.tables.table import Axes, Scale, Table


@dataclass(frozen=True)
class Piece:
    """A part of a scale: some of its rows with the runs that they need, one fold, part, seed; None for all.

    >>> str(Piece(rows=("frozen", "dual"), fold=2)), Piece(rows=("dual",), fold=2).name
    ('--only frozen,dual --fold 2', '-rows-8ccf2f-fold2')
    """

    rows: tuple[str, ...] | None = None
    fold: int | None = None
    part: int | None = None
    seed: int | None = None

    @property
    def axes(self) -> dict[str, int]:
        """What is chosen of the axes."""
        given = {"fold": self.fold, "part": self.part, "seed": self.seed}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def name(self) -> str:
        """What is put behind the name of a whole table; "" for the whole."""
        axes = "".join(f"-{name}{value}" for name, value in self.axes.items())
        return axes if self.rows is None else f"-rows-{_digest(self.rows)}{axes}"

    def __str__(self) -> str:
        rows = [] if self.rows is None else [f"--only {','.join(self.rows)}"]
        return " ".join([*rows, *(f"--{name} {value}" for name, value in self.axes.items())])


WHOLE = Piece()


def _digest(rows: tuple[str, ...]) -> str:
    return hashlib.sha256(",".join(sorted(set(rows))).encode()).hexdigest()[:6]


def narrowed(table: Table, scale: Scale, piece: Piece) -> Scale:
    """A piece of a scale.

    Raises:
        RecipeError: if the scale has no such row, fold, part or seed.
    """
    rows = tuple(dict.fromkeys(shown.run for shown in table.shown(scale)))
    wanted: list[tuple[str, str | int, tuple[Any, ...]]] = [("row", row, rows) for row in piece.rows or ()]
    wanted += [(name, value, getattr(scale.axes, name)) for name, value in piece.axes.items()]
    for name, chosen, there in wanted:
        if chosen not in there:
            raise RecipeError(
                f"no {name} {chosen}; this scale has {', '.join(map(str, there)) or f'no {name}s'}"
            )
    axes = scale.axes.model_copy(update={name: (value,) for name, value in piece.axes.items()})
    return scale.model_copy(update={"axes": axes, "rows": rows if piece.rows is None else piece.rows})


def variants(scale: Scale) -> dict[str, Scale]:
    """A scale for each lexical strength, by what tells them apart; where it has none, itself, by "".

    >>> list(variants(Scale(corpora={}, axes=Axes(lexical_strength=(0, 0.5)))))
    ['lexical strength 0', 'lexical strength 0.5']
    """
    if not scale.axes.lexical_strength:
        return {"": scale}
    axes = scale.axes.model_copy(update={"lexical_strength": ()})
    found = {}
    for strength in scale.axes.lexical_strength:
        known = {"$lexical_strength": strength}
        corpora = {
            name: spec.model_copy(update={"synth": spec.synth and substitute(spec.synth, known)})
            for name, spec in scale.corpora.items()
        }
        update = {"axes": axes, "corpora": corpora}
        found[f"lexical strength {strength:g}"] = scale.model_copy(update=update)
    return found


def points(axes: Axes) -> Iterator[dict[str, Any]]:
    """Every combination of seed, fold and part."""
    for seed, fold, part in itertools.product(axes.seed, axes.fold or (None,), axes.part or (None,)):
        yield {"$seed": seed, "$fold": fold, "$part": part}


@dataclass(frozen=True)
class Chosen:
    """What of a table is shown.

    Args:
        table: the whole.
        source: its packaged name or file, as given.
        scale_name: one of its scales.
        piece: of that scale.
    """

    table: Table
    source: str
    scale_name: str
    piece: Piece = WHOLE

    @cached_property
    def scale(self) -> Scale:
        """The piece of the scale.

        Raises:
            RecipeError: if the table has no such scale, row, fold, part or seed.
        """
        return narrowed(self.table, self.table.scale(self.scale_name), self.piece)

    @cached_property
    def variants(self) -> dict[str, Scale]:
        """The scale for each lexical strength, see `variants`."""
        return variants(self.scale)

    @property
    def name(self) -> str:
        """Of the table's folder: NAME-SCALE, and the piece."""
        return f"{Path(self.source).stem}-{self.scale_name}{self.piece.name}"

    @property
    def command(self) -> str:
        """The command that writes this table."""
        piece = [] if self.piece == WHOLE else [str(self.piece), "--table"]
        return " ".join(["voxstrata reproduce", shlex.quote(self.source), "--scale", self.scale_name, *piece])
