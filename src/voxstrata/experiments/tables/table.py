"""A table of experiments as data: runs, what each needs, rows, axes. Read from YAML, no Python per paper.

In values, `$corpus.NAME`, `$run.NAME`, `$fold`, `$part` and `$seed` stand for a prepared corpus, another
run's folder and the axes' values; in a synthetic corpus `$lexical_strength` does.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from voxstrata.errors import RecipeError, VoxstrataError
from voxstrata.evaluation.recognition import normalizer_named
from voxstrata.experiments.tables.sweeps import grid_points, settings
from voxstrata.recipes.reading import merged_values, read_yaml
from voxstrata.recipes.schema.strict import Strict

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

    Options, maps and trimming are those of `corpus prepare`.
    """

    reader: str | None = None
    folder: str | None = None
    options: dict[str, str] = Field(default_factory=dict)
    maps: tuple[str, ...] = ()
    skip_bad: bool = False
    trim_silence: bool = False
    synth: dict[str, Any] | None = None


#: Dotted key of a recipe -> the values that are tried.
GridSpec = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]


class RunSpec(Strict):
    """A recipe (packaged name or file) and what is laid over it.

    With a grid it stands for a run of each combination of values; a row shows the one that is best on dev.
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

    Of a run with a grid it is the setting with the best `choose` (a metric) on dev. Transcripts are scored
    after the `normalizer`.
    """

    run: str
    title: str
    choose: str = "uar"
    normalizer: Annotated[str, AfterValidator(_known_normalizer)] = "basic"
    paper: dict[str, float] = Field(default_factory=dict)


class ContrastSpec(Strict):
    """A paired difference that is named beforehand: the row of `run` less the row of `over`."""

    run: str
    over: str


class Axes(Strict):
    """What every run is repeated over.

    Predictions are pooled over folds and parts (of the training speakers), metrics over seeds; each lexical
    strength has rows of its own.
    """

    seed: tuple[int, ...] = (0,)
    fold: tuple[int, ...] = ()
    part: tuple[int, ...] = ()
    lexical_strength: tuple[float, ...] = ()


class Scale(Strict):
    """Corpora, axes and settings of one scale. `set` maps a recipe's name to what is laid over it.

    `rows` names the runs whose rows this scale has; None: all. `grids` stand in the place of runs' own.
    """

    note: str = ""
    corpora: dict[str, CorpusSpec]
    axes: Axes = Axes()
    set: dict[str, dict[str, Any]] = Field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    rows: tuple[str, ...] | None = None
    grids: dict[str, GridSpec] = Field(default_factory=dict)


class Table(Strict):
    """Runs, rows, paired differences between rows, and scales."""

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
            raise RecipeError(f"no scale {name!r}; this table has {', '.join(self.scales)}")
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


def read_table(source: str | Path) -> Table:
    """A packaged table by name, or one from a file.

    Raises:
        RecipeError: naming every key at fault.
    """
    try:
        table = Table.model_validate(read_yaml(source, "tables"))
    except ValidationError as fault:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in fault.errors()]
        raise RecipeError(f"table {source}: " + "; ".join(problems)) from None
    if problems := _unknown_names(table):
        raise RecipeError(f"table {source}: " + "; ".join(problems))
    return table


def _unknown_names(table: Table) -> list[str]:
    recipes = {"all", *(run.recipe for run in table.runs.values())}
    problems = [
        f"row {r.title!r} names run {r.run!r}, which is not there"
        for r in table.rows
        if r.run not in table.runs
    ]
    problems += [
        f"column {c!r} is not one of {', '.join(COLUMNS)}, or METRIC_FIELD of a further class task"
        for c in table.columns
        if c not in COLUMNS and not CLASS_COLUMN.fullmatch(c)
    ]
    problems += [
        f"row {r.title!r} is chosen by {r.choose!r}, which is not one of {', '.join(COLUMNS)}"
        for r in table.rows
        if r.choose not in COLUMNS
    ]
    problems += [
        f"a contrast names {key!r}, which no row shows"
        for contrast in table.contrasts
        for key in (contrast.run, contrast.over)
        if key not in {row.run for row in table.rows}
    ]
    problems += [
        f"run {name!r} is no word of letters, digits, - and _"
        for name in table.runs
        if not re.fullmatch(r"[\w-]+", name)
    ]
    for name, scale in table.scales.items():
        problems += [
            f"scales.{name}.rows names {key!r}, which no row shows"
            for key in scale.rows or ()
            if key not in {row.run for row in table.rows}
        ]
        problems += [f"scales.{name}.grids.{key} is no run" for key in scale.grids if key not in table.runs]
        problems += [
            f"scales.{name}.set.{key} is no recipe of this table" for key in scale.set if key not in recipes
        ]
        problems += [f"scales.{name}.runs.{key} is no run" for key in scale.runs if key not in table.runs]
    return problems


REFERENCE = re.compile(r"^\$(?:(corpus|run)\.([\w-]+)|(fold|part|seed))$")


def references(value: Any, kind: str) -> set[str]:
    """Names behind `$corpus.` or `$run.` anywhere in a value.

    >>> references({"a": ["$run.asr", {"b": "$corpus.x"}]}, "run")
    {'asr'}
    """
    if isinstance(value, Mapping):
        return set().union(*(references(v, kind) for v in value.values()), set())
    if isinstance(value, list | tuple):
        return set().union(*(references(v, kind) for v in value), set())
    match = REFERENCE.match(value) if isinstance(value, str) else None
    return {match[2]} if match and match[1] == kind else set()


def substitute(value: Any, known: Mapping[str, Any]) -> Any:
    """Puts values in the place of references, e.g. {"$fold": 2, "$run.asr": "runs/asr-1"}.

    Raises:
        RecipeError: for a reference that is not known.
    """
    if isinstance(value, Mapping):
        return {key: substitute(v, known) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [substitute(v, known) for v in value]
    if isinstance(value, str) and value.startswith("$"):
        if value not in known:
            raise RecipeError(f"{value} is not known here; there are {', '.join(sorted(known))}")
        return known[value]
    return value


def run_values(table: Table, scale: Scale, name: str) -> dict[str, Any]:
    """A run's recipe before substitution.

    Laid over each other: the recipe, the scale's settings for all and for this recipe, the run's own, and
    the scale's for this run, and the point of its grid.
    """
    group = name.partition(".")[0]
    spec = table.runs[group]
    values = read_yaml(spec.recipe)
    scale_values = scale.set.get("all", {}), scale.set.get(spec.recipe, {})
    point = settings(table.members(scale, group)[name])
    for layer in (*scale_values, spec.set, scale.runs.get(group, {}), point):
        values = merged_values(values, layer)
    return merged_values(values, {"seed": "$seed"})


def order(table: Table, scale: Scale) -> list[str]:
    """Names of the runs that the rows need, parents before children.

    Raises:
        RecipeError: if runs need each other in a circle, or one that is not there.
    """
    done: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise RecipeError(f"runs need each other: {' -> '.join((*path, name))}")
        group = name.partition(".")[0]
        if group not in table.runs:
            raise RecipeError(f"run {path[-1]!r} needs {name!r}, which is not there")
        if name not in table.members(scale, group):
            raise RecipeError(
                f"run {path[-1]!r} needs {name!r}, which stands for several runs: it has a grid"
            )
        if name not in done:
            for parent in sorted(references(run_values(table, scale, name), "run")):
                visit(parent, (*path, name))
            done.append(name)

    for row in table.shown(scale):
        for member in table.members(scale, row.run):
            visit(member, ())
    return done


@dataclass(frozen=True)
class Piece:
    """A part of a scale: some of its rows with the runs that they need, one fold, part, seed; None for all.

    >>> str(Piece(rows=("frozen", "dual"), fold=2)), Piece(rows=("dual",), fold=2).name
    ('--only frozen,dual --fold 2', '-rows-fold2')
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
        return axes if self.rows is None else f"-rows{axes}"

    def __str__(self) -> str:
        rows = [] if self.rows is None else [f"--only {','.join(self.rows)}"]
        return " ".join([*rows, *(f"--{name} {value}" for name, value in self.axes.items())])


WHOLE = Piece()


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


def content_key(value: Any) -> str:
    """Ten hex digits of the hash of a JSON value.

    >>> content_key({"b": 1, "a": 2}) == content_key({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
