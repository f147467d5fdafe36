"""What a report is made of: the files of a run folder, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from voxstrata.errors import VoxstrataError
from voxstrata.predictions import Prediction, read_predictions
from voxstrata.reporting.coefficients import Coefficients, coefficients_so_far, read_coefficients
from voxstrata.reporting.files import first_fault, read_json, read_recipe
from voxstrata.reporting.fusion import FusionWeights, read_fusion
from voxstrata.reporting.heading import run_heading
from voxstrata.reporting.scores import SplitScores
from voxstrata.runs import RunFolder


class LeakFound(BaseModel):
    """A leak in `leaks.json`."""

    model_config = ConfigDict(frozen=True)
    name: str
    run: str
    found: int
    clips: int
    examples: tuple[str, ...] = ()


class SharedClips(BaseModel):
    """What two uses, or a use and a split, have in common in `leaks.json`."""

    model_config = ConfigDict(frozen=True)
    first: str
    second: str
    shared: int
    of: int


class LeakNotes(BaseModel):
    """`leaks.json`."""

    model_config = ConfigDict(frozen=True)
    checked: dict[str, int] = {}
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
        recipe=run.recipe.read_text(encoding="utf-8"),
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
    keeps_best = (recipe.get("training") or {}).get("keep_best", True)
    best = [row for row in validations if row.get("best")] if keeps_best else []
    return (best or list(validations))[-1]


def _leaks(path: Path) -> LeakNotes | None:
    if not path.is_file():
        return None
    try:
        return LeakNotes.model_validate(read_json(path))
    except ValidationError as fault:
        raise VoxstrataError(f"{path}: {first_fault(fault)}; train the run again") from None


def read_scores(path: Path) -> dict[str, SplitScores]:
    """Reads `metrics.json`: split -> scores; empty where there is no file.

    Raises:
        VoxstrataError: if it holds something else.
    """
    if not path.is_file():
        return {}
    try:
        scores = {name: SplitScores.model_validate(value) for name, value in read_json(path).items()}
    except ValidationError as fault:
        raise VoxstrataError(f"{path}: {first_fault(fault)}; score the predictions again") from None
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


def _journal(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    """Rows by step; a step that was repeated after a resume counts once, as it went last."""
    rows: dict[int, dict[str, Any]] = {}
    for row in run.journal_rows(kind):
        if not isinstance(row.get("step"), int) or not isinstance(row.get("loss"), int | float):
            raise VoxstrataError(f'{run.journal}: a {kind} row needs numbers "step" and "loss"; found {row}')
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]
