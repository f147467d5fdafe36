"""A table of runs (`table.json`): scores of its rows, the paper's numbers, the runs' coefficients."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from voxstrata.errors import VoxstrataError
from voxstrata.reporting.coefficients import read_coefficients
from voxstrata.reporting.files import Stored, read_stored
from voxstrata.reporting.forest import LayerCurve, layer_curves
from voxstrata.reporting.scores import Score
from voxstrata.runs import RunFolder

TABLE_FILE = "table.json"


class TableRow(Stored):
    """A row: its runs (relative to the table folder), scores, what warns of them, the paper's in percent."""

    name: str
    title: str = ""
    runs: tuple[str, ...] = ()
    seeds: int = 1
    metrics: dict[str, Score | None] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    paper: dict[str, float | None] | None = None

    @property
    def shown(self) -> str:
        """The title; the name where there is none."""
        return self.title or self.name

    def by_seed(self, column: str) -> tuple[float, ...]:
        """A metric's value of each seed; empty where there is one seed only."""
        score = self.metrics.get(column)
        return () if score is None else score.by_seed

    def paper_number(self, column: str) -> float | None:
        """The paper's number of a metric, in percent."""
        return (self.paper or {}).get(column)


class Difference(Stored):
    """A metric's paired difference, as a rate, with its 95 % interval over `unit` (speaker or clip)."""

    difference: float
    interval: tuple[float, float]
    smallest: float
    unit: str
    missing: str = ""


class Contrast(Stored):
    """A paired difference of two rows, per metric."""

    name: str
    title: str
    clips: int
    differences: dict[str, Difference]


class Oracles(Stored):
    """The UAR, as a rate, of who knows how words, prosody or both of a synthetic corpus were drawn."""

    corpus: str
    words: float
    prosody: float
    both: float


class Table(Stored):
    """`table.json`."""

    table: str
    title: str = ""
    scale: str = ""
    command: str = ""
    date: str = ""
    commit: str | None = None
    machine: str = ""
    note: str = ""
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    contrasts: tuple[Contrast, ...] = ()
    oracles: tuple[Oracles, ...] = ()

    @property
    def contrast_columns(self) -> list[str]:
        """The metrics that any paired difference has."""
        return [name for name in self.columns if any(name in one.differences for one in self.contrasts)]

    @property
    def rows_by_seed(self) -> list[TableRow]:
        """The rows that have several seeds."""
        return [row for row in self.rows if any(map(row.by_seed, self.columns))]

    @property
    def seed_columns(self) -> list[str]:
        """The metrics that any row has for several seeds."""
        return [name for name in self.columns if any(row.by_seed(name) for row in self.rows)]

    @property
    def warnings(self) -> list[str]:
        """What warns of the rows' intervals, and differences that give no verdict."""
        told: dict[str, list[str]] = {}
        for row in self.rows:
            for warning in row.warnings:
                told.setdefault(warning, []).append(row.shown)
        lacking: dict[str, list[str]] = {}
        for one in self.contrasts:
            for missing in {found.missing for found in one.differences.values()} - {""}:
                lacking.setdefault(missing, []).append(one.title)
        return [
            warning if len(rows) == len(self.rows) else f"{warning} ({'; '.join(rows)})"
            for warning, rows in told.items()
        ] + [f"{missing} ({'; '.join(titles)})" for missing, titles in lacking.items()]

    def has_paper(self, column: str) -> bool:
        """Whether the paper states this metric for any row."""
        return any(row.paper_number(column) is not None for row in self.rows)


def read_table(folder: Path) -> Table:
    """Reads `table.json`.

    Raises:
        VoxstrataError: naming the first fault; also where the paper's numbers are rates, not percent.
    """
    path = folder / TABLE_FILE
    if not path.is_file():
        raise VoxstrataError(f"{folder} has no {TABLE_FILE}; name a folder that `voxstrata reproduce` wrote")
    table: Table = read_stored(Table, path, "run `voxstrata reproduce` again")
    for row in table.rows:
        for metric, number in (row.paper or {}).items():
            if number is not None and 0 < number <= 1:
                raise VoxstrataError(
                    f"{path}: the paper's {metric} of row {row.name!r} is {number:g}; "
                    "the paper's numbers stand there in percent, as printed: multiply by 100"
                )
    return table


def table_curves(folder: Path, table: Table) -> list[LayerCurve]:
    """Curves of the rows with coefficients per layer; rows that stand for the same runs count once.

    Raises:
        VoxstrataError: if the runs of one row differ in vectors or layers.
    """
    curves: list[LayerCurve] = []
    drawn: set[tuple[Path, ...]] = set()
    for row in table.rows:
        paths = tuple(sorted((folder / run).resolve() for run in row.runs))
        found = [c for c in (read_coefficients(RunFolder(path)) for path in paths) if c and c.per_layer]
        if not found or paths in drawn:
            continue
        drawn.add(paths)
        shapes = {(c.vectors, len(c.coefficients)) for c in found}
        if len(shapes) > 1:
            raise VoxstrataError(
                f"the runs of row {row.name!r} differ in task vectors or layers: {sorted(shapes)}; "
                "a row must repeat one recipe"
            )
        curves += layer_curves(row.shown, found)
    return curves
