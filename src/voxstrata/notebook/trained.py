"""A run as an object: trained here, or opened from its folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxstrata.errors import VoxstrataError
from voxstrata.evaluation.predicted import DEFAULT_SPLIT, predicted_splits, read_path
from voxstrata.evaluation.score import Scores
from voxstrata.evaluation.shown import METRIC_HEADINGS, html_table, metric_rows, metrics_in, metrics_in_line
from voxstrata.evaluation.stored import scores_from
from voxstrata.predictions import Prediction
from voxstrata.runs import RunFolder, as_left

if TYPE_CHECKING:
    from voxstrata.evaluation.priors import GivenPrior
    from voxstrata.inference.recognizer import Recognizer
    from voxstrata.training.progress import Progress

_LOG = logging.getLogger("voxstrata")


class Run:
    """A run folder: its recipe, scores, predictions and model.

    It may stand where the path of a run folder may: in `vs.evaluate`, in `vs.compare`, and in a recipe
    (`base=run`).

    Args:
        path: of a run folder, as `vs.train`, `voxstrata train` or `voxstrata reproduce` made it.

    Raises:
        VoxstrataError: if the folder holds no run.

    Example:
        ``vs.Run("runs/ser").scores["test"].emotion.metrics["uar"].value``
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = RunFolder(Path(path))
        if not self._folder.recipe.is_file():
            raise VoxstrataError(
                f"{self.path} is no run folder (it has no {self._folder.recipe.name}); give one that "
                "`voxstrata train` or vs.train made"
            )

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._folder.path

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe: all values that the run was trained with."""
        from voxstrata.reporting.files import read_recipe

        return read_recipe(self._folder)

    @property
    def is_complete(self) -> bool:
        """Whether the run is done; if not, `vs.train` with the same recipe goes on with it."""
        return self._folder.is_complete

    @property
    def scores(self) -> dict[str, Scores]:
        """Split ("dev", "test") -> its scores; empty before the run was scored.

        Raises:
            VoxstrataError: if metrics.json does not hold what a run leaves.
        """
        with as_left(self._folder):
            return {split: scores_from(about) for split, about in self._folder.scores().items()}

    @property
    def splits(self) -> list[str]:
        """The splits that were predicted."""
        return predicted_splits(self.path)

    def predictions(self, split: str = DEFAULT_SPLIT) -> list[Prediction]:
        """The rows of one split: answers beside references.

        Args:
            split: "dev" or "test".

        Raises:
            PredictionsError: if the run has no predictions of it.
        """
        return read_path(self.path, split)[1]

    def recognizer(
        self,
        *,
        transcriber: str | Path | None = None,
        language: str | None = None,
        words: str | None = None,
        unsure_below: float | None = None,
        prior: GivenPrior | None = None,
        int8: bool = False,
    ) -> Recognizer:
        """The run's model, ready for recordings; see `Recognizer.load` for the options.

        Raises:
            CheckpointError: if the run has no model.
        """
        from voxstrata.inference.recognizer import Recognizer

        return Recognizer.load(
            self.path,
            transcriber=transcriber,
            language=language,
            words=words,
            unsure_below=unsure_below,
            prior=prior,
            int8=int8,
        )

    @property
    def report(self) -> Path:
        """The run's page, one HTML file.

        Raises:
            VoxstrataError: if the run has none.
        """
        return self._there(self._folder.report, "report")

    @property
    def model(self) -> Path:
        """The folder of the trained model.

        Raises:
            VoxstrataError: if the run has none, as one without training.
        """
        return self._there(self._folder.model, "model")

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        """One line: place, method, whether it is done, and one metric a task of each split."""
        splits = {split: metrics_in_line(metrics_in(scores)) for split, scores in self.scores.items()}
        shown = [self._state(), *(f"{split}: {metrics}" for split, metrics in splits.items())]
        return f"Run({str(self.path)!r}, {'; '.join(shown)})"

    def _repr_html_(self) -> str:
        rows = [(split, *row) for split, scores in self.scores.items() for row in metric_rows(scores)]
        notes = [f"{split}: {line}" for split, scores in self.scores.items() for line in scores.warnings]
        return html_table(f"{self.path} ({self._state()})", ("split", *METRIC_HEADINGS), rows, notes)

    def _state(self) -> str:
        return f"{self.recipe.get('system')}, {'complete' if self.is_complete else 'not complete'}"

    def _there(self, path: Path, what: str) -> Path:
        if not path.exists():
            why = "a run without training has none" if self.is_complete else "the run is not complete"
            raise VoxstrataError(f"{self.path} has no {what}: {why}")
        return path


def train(
    recipe: str | Path | Mapping[str, Any],
    *overrides: str,
    out: str | Path | None = None,
    limit: int | None = None,
    notify: Callable[[str], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **values: Any,
) -> Run:
    """Trains a recipe, predicts dev and test, scores them and writes a report, as `voxstrata train` does.

    A run that was interrupted goes on from its last checkpoint; one that is complete is not trained again.
    Messages go to the logger "voxstrata" (progress at level INFO, doubts about the scores at WARNING), so a
    script is quiet unless there is something to be careful about.

    Args:
        recipe: name of a packaged recipe, a YAML file, or a mapping with a recipe's keys.
        overrides: "KEY=VALUE" as on the command line, e.g. "training.epochs=3".
        out: run folder; None: runs/NAME, by the name of the recipe. A mapping has no name and needs one.
        limit: of each corpus at most so many clips a split, for a quick try; None: all.
        notify: receives each message in place of the logger, e.g. `print`.
        progress: called after each step with its `step`, `steps_total`, `epoch`, `loss` and `val_loss`.
        values: keys of the recipe and their values, laid over all else, e.g. `base="wavlm-tiny"` or
            `training={"epochs": 3}`. Folders may be paths, runs and prepared corpora.

    Returns:
        The run.

    Raises:
        RecipeError: if the recipe has faults, or the folder holds a run of another one.
        LeakError: if clips or speakers of the test were trained on.
        VoxstrataError: if data or weights cannot be used, or training cannot go on.

    Example:
        ``run = vs.train("finetune-ser", base="wavlm-tiny", data={"corpora": "calls"}, notify=print)``
    """
    from voxstrata.experiments.start import planned, start

    inform = notify or _LOG.info
    resolved, folder = planned(
        recipe, overrides, values, out=None if out is None else Path(out), limit=limit, notify=inform
    )
    start(resolved, folder, notify=inform, progress=progress)
    run = Run(folder.path)
    warn = (lambda line: notify(f"warning: {line}")) if notify else _LOG.warning
    for split, scores in run.scores.items():
        for line in scores.warnings:
            warn(f"{split}: {line}")
    return run
