"""What a report is made of: the files of a run folder, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from voxstrata.config.problems import shown
from voxstrata.documents.text import decoded
from voxstrata.errors import VoxstrataError
from voxstrata.predictions import Prediction, read_predictions
from voxstrata.reporting.coefficients import Coefficients, coefficients_so_far, read_coefficients
from voxstrata.reporting.files import Stored, read_json, read_recipe, read_stored
from voxstrata.reporting.fusion import FusionWeights, read_fusion
from voxstrata.reporting.heading import run_heading
from voxstrata.reporting.scores import SplitScores
from voxstrata.runs import RunFolder


class LeakFound(Stored):
    """A leak in `leaks.json`."""

    name: str
    run: str
    found: int
    clips: int
    examples: tuple[str, ...] = ()


class SharedClips(Stored):
    """What two uses, or a use and a split, have in common in `leaks.json`."""

    first: str
    second: str
    shared: int
    of: int


class LeakNotes(Stored):
    """`leaks.json`."""

    checked: dict[str, int] = Field(default_factory=dict)
    leaks: tuple[LeakFound, ...] = ()
    sentences: tuple[SharedClips, ...] = ()
    stages: tuple[SharedClips, ...] = ()
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunContents:
    """All that a report shows of a run; what the run does not have is empty or None.

    Args:
        name: name of the run folder.
        heading: what it is: system, tasks and corpora, as far as the recipe tells.
        complete: whether the run is done.
        recipe: text of the resolved recipe.
        provenance: as stored.
        steps: journal rows of training steps, one a step.
        validations: journal rows of validations, one a step.
        scores: split -> scores.
        predictions: split -> rows.
        coefficients: from the model, else from the journal.
        fusion: weights of a HarmoniFuse run, from the journal.
        leaks: what of its training meets its dev and test clips; None where that was not looked for.
    """

    name: str
    heading: str
    complete: bool
    recipe: str
    provenance: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]
    validations: Sequence[Mapping[str, Any]]
    scores: Mapping[str, SplitScores]
    predictions: Mapping[str, Sequence[Prediction]]
    coefficients: Coefficients | None
    leaks: LeakNotes | None = None
    fusion: FusionWeights | None = None

    @property
    def splits(self) -> list[str]:
        """Splits with scores or predictions, test first."""
        return sorted({*self.scores, *self.predictions}, key=lambda name: ("test" not in name, name))


def read_run(run: RunFolder) -> RunContents:
    """Reads a run folder.

    Raises:
        VoxstrataError: if it is no run folder, or holds a file that cannot be read.
    """
    if not (run.recipe.is_file() and run.provenance.is_file()):
        raise VoxstrataError(
            f"{run.path} is no run folder: recipe.yaml and provenance.json are needed; "
            "name a folder that `voxstrata train` wrote"
        )
    validations = _journal(run, "validation")
    provenance = read_json(run.provenance)
    recipe = read_recipe(run)
    scores = read_scores(run.metrics)
    kept = kept_validation(validations, recipe)
    return RunContents(
        name=run.path.resolve().name,
        heading=run_heading(recipe, scores.values()),
        complete=run.is_complete or provenance.get("finished") is not None,
        recipe=decoded(run.recipe.read_bytes()),
        provenance=provenance,
        steps=_journal(run, "step"),
        validations=validations,
        scores=scores,
        predictions={
            path.stem: read_predictions(path) for path in sorted((run.path / "predictions").glob("*.jsonl"))
        },
        coefficients=read_coefficients(run) or (None if kept is None else coefficients_so_far(run, kept)),
        leaks=_leaks(run.leaks),
        fusion=None if kept is None else read_fusion(kept),
    )


def kept_validation(
    validations: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The validation of the weights that a run ends with: the best so far; with `keep_best` off the last."""
    if not validations:
        return None
    training = recipe.get("training")
    keeps_best = training.get("keep_best", True) if isinstance(training, Mapping) else True
    best = [row for row in validations if row.get("best")] if keeps_best else []
    return (best or list(validations))[-1]


def _leaks(path: Path) -> LeakNotes | None:
    if not path.is_file():
        return None
    found: LeakNotes = read_stored(LeakNotes, path, "train the run again")
    return found


def read_scores(path: Path) -> dict[str, SplitScores]:
    """Reads `metrics.json`: split -> scores; empty where there is no file.

    Raises:
        VoxstrataError: if it holds something else.
    """
    if not path.is_file():
        return {}
    scores: dict[str, SplitScores] = read_stored(dict[str, SplitScores], path, "train the run again")
    for name, score in scores.items():
        for classes in (score.emotion, *score.classes.values()):
            if classes is None or not classes.confusion:
                continue
            wanted = len(classes.labels)
            sizes = [len(classes.confusion), *map(len, classes.confusion)]
            if any(size != wanted for size in sizes):
                raise VoxstrataError(
                    f"{path}: the confusion matrix of {name} must be {wanted} x {wanted}, one row a label"
                )
    return scores


def _no_number(row: Mapping[str, Any]) -> str:
    """The first key of a journal's row that should have a number, or numbers by name, and has none; or ""."""
    for key in ("step", "loss", *(key for key in row if "/" in key), *(("lr",) if "lr" in row else ())):
        value = row.get(key)
        numbers = list(value.values()) if key == "lr" and isinstance(value, dict) else [value]
        kinds = int if key == "step" else int | float
        if not all(isinstance(one, kinds) and not isinstance(one, bool) for one in numbers):
            return str(key)
    return ""


def _journal(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    """Rows by step; a step that was repeated after a resume counts once, as it went last."""
    rows: dict[int, dict[str, Any]] = {}
    for row in run.journal_rows(kind):
        if wrong := _no_number(row):
            raise VoxstrataError(
                f"{run.journal}: a {kind} row has {wrong} {shown(row.get(wrong))}; a number is needed there: "
                "train the run again"
            )
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]
