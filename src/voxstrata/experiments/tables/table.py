"""A table of experiments as data: runs, what each needs, rows, axes. Read from YAML, no Python per paper.

Values may hold references such as `$corpus.NAME`: see `references`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from voxstrata.config.problems import problems_in
from voxstrata.config.strict import Number, Strict, Whole
from voxstrata.corpora.readers import READERS
from voxstrata.errors import RecipeError, VoxstrataError, did_you_mean
from voxstrata.evaluation.recognition import normalizer_named
from voxstrata.recipes.reading import TABLES, read_yaml

#: Metrics that a table can show.
COLUMNS = (
    "uar",
    "precision",
    "macro_f1",
    "accuracy",
    "wer",
    "cer",
    "ccc",
    "ccc_arousal",
    "ccc_valence",
    "ccc_dominance",
)


#: A metric of a further class task, by its field: `uar_gender`.
CLASS_COLUMN = re.compile(r"(uar|precision|macro_f1|accuracy)_[a-z]\w*")


class CorpusSpec(Strict):
    """A corpus to prepare: a reader over a folder of the data root, or synthetic speech.

    Args:
        reader: corpus name, as `corpus list` prints it.
        folder: its folder under `--data`.
        options: of the reader, as `corpus prepare --option`.
        maps: label maps, as `corpus prepare --map`.
        skip_bad: leave out clips with faults.
        trim_silence: cut silence at both ends of clips.
        synth: instead of a reader: options of synthetic speech.
    """

    reader: str | None = None
    folder: str | None = None
    options: dict[str, str] = Field(default_factory=dict)
    maps: tuple[str, ...] = ()
    skip_bad: bool = False
    trim_silence: bool = False
    synth: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _read_or_spoken(self) -> CorpusSpec:
        if self.reader is None and self.synth is None:
            raise ValueError("neither reader nor synth is given; give a reader and its folder, or synth")
        if self.reader is not None and self.synth is not None:
            raise ValueError(f"reader is {self.reader} and synth is given too; keep one of them")
        return self


#: Dotted key of a recipe -> the values that are tried.
GridSpec = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]


class RunSpec(Strict):
    """A recipe and what overrides it.

    Args:
        recipe: packaged name or file.
        set: keys that override the recipe.
        grid: dotted key -> values; one run per combination. The row shows the one that is best on dev.
    """

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    grid: GridSpec = Field(default_factory=dict)


def _known_normalizer(name: str) -> str:
    try:
        normalizer_named(name)
    except VoxstrataError as fault:
        raise ValueError(str(fault)) from None
    return name


class RowSpec(Strict):
    """A row: a run's predictions on the test split, and the paper's numbers where it has them.

    Args:
        run: name of the run whose test predictions are scored.
        title: shown in the table.
        choose: metric on dev by which a grid's run is chosen, for each fold by its own dev speakers.
        normalizer: of transcripts, as `evaluate --normalizer`.
        paper: the paper's numbers in percent, metric -> number, shown beside ours.
    """

    run: str
    title: str
    choose: str = "uar"
    normalizer: Annotated[str, AfterValidator(_known_normalizer)] = "basic"
    paper: dict[str, Number] = Field(default_factory=dict)


class ContrastSpec(Strict):
    """A paired difference that is named beforehand: one row minus another, on the clips of both.

    Its interval resamples the same speakers for both. Over lexical strengths the change from first to last
    is shown too.

    Args:
        run: the row.
        over: the row that is subtracted.
    """

    run: str
    over: str


class Axes(Strict):
    """What every run is repeated over.

    Args:
        seed: seeds; scores are means over them.
        fold: folds; predictions are pooled.
        part: parts of the training speakers, for runs that name `$part`; predictions are pooled.
        lexical_strength: of synthetic speech, as `$lexical_strength`; each has rows of its own.
    """

    seed: tuple[Whole, ...] = (0,)
    fold: tuple[Whole, ...] = ()
    part: tuple[Whole, ...] = ()
    lexical_strength: tuple[Number, ...] = ()


class Scale(Strict):
    """Corpora, axes and settings of one scale.

    Args:
        note: shown with the table.
        corpora: name -> corpus.
        axes: what every run is repeated over.
        set: recipe name, or `all` -> keys that override it at this scale.
        runs: run name -> keys that override it at this scale.
        rows: runs whose rows this scale has; None: all rows.
        grids: run name -> grid that replaces the run's own; empty for none.
    """

    note: str = ""
    corpora: dict[str, CorpusSpec]
    axes: Axes = Axes()
    set: dict[str, dict[str, Any]] = Field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    rows: tuple[str, ...] | None = None
    grids: dict[str, GridSpec] = Field(default_factory=dict)


class Table(Strict):
    """Runs, rows, paired differences between rows, and scales.

    Args:
        title: of the table.
        columns: metrics shown: uar, precision, macro_f1, accuracy, wer, cer, ccc, ccc_arousal, ccc_valence,
            ccc_dominance; of another class task `uar_FIELD` and so on.
        runs: name -> recipe and overrides.
        rows: what the table shows, in order.
        contrasts: paired differences shown below the rows.
        scales: name -> corpora, axes and settings, so that the same table runs small or large.
    """

    title: str
    columns: tuple[str, ...] = ("uar", "precision", "macro_f1")
    runs: dict[str, RunSpec]
    rows: tuple[RowSpec, ...]
    contrasts: tuple[ContrastSpec, ...] = ()
    scales: dict[str, Scale]

    def scale(self, name: str) -> Scale:
        """A scale by its name.

        Raises:
            RecipeError: if the table has none of that name.
        """
        if name not in self.scales:
            there = ", ".join(self.scales) or "none"
            raise RecipeError(f"no scale {name!r}{did_you_mean(name, self.scales)}; this table has {there}")
        return self.scales[name]

    def shown(self, scale: Scale) -> tuple[RowSpec, ...]:
        """The rows that a scale has, in the table's order."""
        return tuple(row for row in self.rows if scale.rows is None or row.run in scale.rows)

    def members(self, scale: Scale, name: str) -> dict[str, dict[str, Any]]:
        """The runs that a name stands for, each with its point: itself, or NAME.1 and so on for a grid."""
        grid = scale.grids.get(name, self.runs[name].grid)
        if not grid:
            return {name: {}}
        return {f"{name}.{number}": point for number, point in enumerate(grid_points(grid), start=1)}


def grid_points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of a grid's values: dotted key -> value; one empty point for an empty grid.

    >>> grid_points({"rate": [1, 2], "weight": [3]})
    [{'rate': 1, 'weight': 3}, {'rate': 2, 'weight': 3}]
    """
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def read_table_spec(source: str | Path) -> Table:
    """A packaged table by name, or one from a file.

    Raises:
        RecipeError: naming every key at fault.
    """
    try:
        table = Table.model_validate(read_yaml(source, TABLES))
    except ValidationError as fault:
        raise RecipeError(
            f"table {source}: {'; '.join(problems_in(fault, Table.model_json_schema()))}"
        ) from None
    if problems := list(_faults(table)):
        raise RecipeError(f"table {source}: " + "; ".join(problems))
    return table


def _faults(table: Table) -> Iterator[str]:
    for name in table.runs:
        if not re.fullmatch(r"[\w-]+", name):
            yield f"run {name!r} is no word of letters, digits, - and _"
    for column in table.columns:
        if column not in COLUMNS and not CLASS_COLUMN.fullmatch(column):
            known = ", ".join(COLUMNS)
            near = did_you_mean(column, COLUMNS)
            yield f"column {column!r} is not one of {known}, or METRIC_FIELD of a further class task{near}"
    for row in table.rows:
        if row.run not in table.runs:
            near = did_you_mean(row.run, table.runs)
            yield f"row {row.title!r} names run {row.run!r}, which is not there{near}"
        if row.choose not in COLUMNS:
            yield f"row {row.title!r} is chosen by {row.choose!r}, which is not one of {', '.join(COLUMNS)}"
    yield from _contrast_faults(table)
    for name, scale in table.scales.items():
        yield from (f"scales.{name}.{fault}" for fault in _scale_faults(table, scale))


def _contrast_faults(table: Table) -> Iterator[str]:
    normalizers = {row.run: row.normalizer for row in table.rows}
    for contrast in table.contrasts:
        pair = contrast.run, contrast.over
        unknown = [name for name in pair if name not in normalizers]
        for name in unknown:
            yield f"a contrast names {name!r}, which no row shows{did_you_mean(name, normalizers)}"
        if not unknown and normalizers[contrast.run] != normalizers[contrast.over]:
            differ = " and ".join(repr(normalizers[name]) for name in pair)
            yield (
                f"contrast {contrast.run} less {contrast.over}: their rows' transcripts are scored "
                f"after {differ}; give both one normalizer"
            )


def _scale_faults(table: Table, scale: Scale) -> Iterator[str]:
    for name, corpus in scale.corpora.items():
        if corpus.reader is not None and corpus.reader not in READERS:
            near, there = did_you_mean(corpus.reader, READERS), ", ".join(READERS)
            yield f"corpora.{name}: there is no reader {corpus.reader!r}{near}; there are {there}"
    if not scale.axes.seed:
        yield "axes.seed is empty; give one seed at least, such as [0]"
    for axis, values in scale.axes.model_dump().items():
        if len(set(values)) < len(values):
            yield f"axes.{axis} holds one value twice: {', '.join(map(str, values))}; keep one"
    rows, recipes = {row.run for row in table.rows}, {"all", *(run.recipe for run in table.runs.values())}
    named: tuple[tuple[str, Iterable[str], Iterable[str]], ...] = (
        ("rows names {!r}, which no row shows", scale.rows or (), rows),
        ("grids.{} is no run", scale.grids, table.runs),
        ("set.{} is no recipe of this table", scale.set, recipes),
        ("runs.{} is no run", scale.runs, table.runs),
    )
    for sentence, given, known in named:
        for name in given:
            if name not in set(known):
                yield sentence.format(name) + did_you_mean(name, known)
