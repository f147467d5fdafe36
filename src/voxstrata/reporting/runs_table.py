"""A table of runs (`table.json`): scores of its rows, the paper's numbers, the runs' coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field

from voxstrata.errors import VoxstrataError
from voxstrata.reporting.coefficients import read_coefficients
from voxstrata.reporting.files import Stored, read_stored
from voxstrata.reporting.forest import LayerCurve, layer_curves
from voxstrata.reporting.scores import Score
from voxstrata.runs import RunFolder

TABLE_FILE = "table.json"


class Counted(Stored):
    """How many clips of how many speakers answer a task."""

    clips: int
    speakers: int


class RowScores(Stored):
    """Scores, what warns of them, and task -> clips and speakers."""

    metrics: dict[str, Score | None] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    answered: dict[str, Counted] = Field(default_factory=dict)


class TableRow(RowScores):
    """A row: its runs (relative to the table folder), scores, the paper's in percent.

    Scores are of all its folds; `by_fold` has those of each.
    """

    name: str
    title: str = ""
    finished: bool = True
    runs: tuple[str, ...] = ()
    seeds: int = 1
    folds: tuple[int, ...] = ()
    by_fold: dict[int, RowScores] = Field(default_factory=dict)
    paper: dict[str, float | None] | None = None

    @property
    def shown(self) -> str:
        """The title; the name where there is none."""
        return self.title or self.name

    def by_seed(self, column: str) -> tuple[float, ...]:
        """A metric's value of each seed; empty where there is one seed only."""
        score = self.metrics.get(column)
        return () if score is None else score.by_seed

    def of_folds(self, column: str) -> tuple[float, ...]:
        """A metric's value of each fold; empty where there is one fold only, or no such metric."""
        scores = [one.metrics.get(column) for one in self.by_fold.values()]
        return tuple(score.value for score in scores if score is not None)

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
    """A paired difference of two rows, per metric: over all folds of both, and of each."""

    name: str
    title: str
    run: str = ""
    over: str = ""
    clips: int = 0
    differences: dict[str, Difference]
    folds: tuple[int, ...] = ()
    by_fold: dict[int, dict[str, Difference]] = Field(default_factory=dict)


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
    all_folds: tuple[int, ...] = ()
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
    def folds(self) -> list[int]:
        """The folds that any row has; empty where the table has none."""
        return sorted({fold for row in self.rows for fold in row.folds})

    def row(self, name: str) -> TableRow | None:
        """The row of a run; None where it is not there or not run."""
        return next((row for row in self.rows if row.name == name and row.finished), None)

    def contrast(self, run: str, over: str) -> Contrast | None:
        """The paired difference of two rows; None where it is not there or has no numbers."""
        named = (one for one in self.contrasts if (one.run, one.over) == (run, over) and one.differences)
        return next(named, None)

    def of_fold(self, fold: int) -> Table:
        """The table of one fold of several; rows without it are not run."""
        rows = [
            row.model_copy(
                update={
                    **{
                        name: getattr(row.by_fold.get(fold, RowScores()), name)
                        for name in RowScores.model_fields
                    },
                    "finished": fold in row.by_fold,
                    "folds": (fold,) if fold in row.by_fold else (),
                    "by_fold": {},
                }
            )
            for row in self.rows
        ]
        contrasts = [
            one.model_copy(update={"differences": one.by_fold[fold], "folds": (fold,), "by_fold": {}})
            for one in self.contrasts
            if fold in one.by_fold
        ]
        return self.model_copy(update={"rows": tuple(rows), "contrasts": tuple(contrasts)})

    @property
    def answered(self) -> dict[str, Counted]:
        """Task -> clips and speakers, of the row with the most clips."""
        found: dict[str, Counted] = {}
        for row in self.rows:
            for task, one in row.answered.items():
                found[task] = max(one, found.get(task, one), key=lambda counted: counted.clips)
        return found

    @property
    def warnings(self) -> list[str]:
        """What warns of the rows' intervals, and differences that give no verdict: a sentence each."""
        rows = [row for row in self.rows if row.finished]
        warned = _grouped((warning, row.shown) for row in rows for warning in row.warnings)
        compared = [one for one in self.contrasts if one.differences]
        lacking = _grouped(
            (missing, one.name)
            for one in compared
            for missing in {found.missing for found in one.differences.values()} - {""}
        )
        return _about(warned, len(rows), "rows") + _about(lacking, len(compared), "differences")

    def has_paper(self, column: str) -> bool:
        """Whether the paper states this metric for any row."""
        return any(row.paper_number(column) is not None for row in self.rows)


def _grouped(warnings: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Warning -> who has it; one that names its task takes those of the same words that name none."""
    found: dict[str, list[str]] = {}
    for warning, name in warnings:
        found.setdefault(warning, []).append(name)
    for warning in list(found):
        task, _, plain = warning.partition(": ")
        if task.replace(", ", "").isidentifier() and plain in found:
            found[warning] += found.pop(plain)
    return found


def _about(found: Mapping[str, list[str]], count: int, what: str) -> list[str]:
    """Warnings with whom they are about, where that is not all: two by name, more by their number."""
    return [
        warning
        if len(names) == count
        else f"{warning} ({'; '.join(names) if len(names) <= 2 else f'{len(names)} of {count} {what}'})"
        for warning, names in found.items()
    ]


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
