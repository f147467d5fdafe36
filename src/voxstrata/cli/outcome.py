"""What a run came to, in a few lines: scores, the best epoch, where things lie, what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from voxstrata.cli.lines import one_line
from voxstrata.cli.program import program
from voxstrata.runs import RunFolder, as_left

#: Part of a split's scores -> the metric that is shown of it.
_SHOWN = {"emotion": "uar", "transcript": "wer", "dimensions": "ccc"}


def outcome(run: RunFolder) -> Iterator[str]:
    """Lines about a finished run.

    Args:
        run: that is complete.

    Raises:
        VoxstrataError: if its scores or its journal are not what a run leaves.
    """
    with as_left(run):
        yield from [one_line(line) for line in _lines(run)]


def _lines(run: RunFolder) -> Iterator[str]:
    metrics = run.scores()
    for split, scores in metrics.items():
        yield f"{split + ':':<8}{'   '.join(_shown(scores))}"
    if metrics:
        yield f"        percent, 95 % intervals {_drawn(metrics)}"
    if (line := _best(run)) is not None:
        yield f"best:   {line}"
    if run.model.is_dir():
        yield f"model:  {run.model}"
    yield f"report: {run.report}"
    if (run.model / "model.json").is_file():
        yield f"try it: {program()} predict PATH/TO/RECORDINGS --model {run.path}"


def outcome_object(run: RunFolder) -> dict[str, Any]:
    """The same for programs: folders, scores by split, and the step whose weights the model has.

    Args:
        run: that is complete.

    Raises:
        VoxstrataError: see `outcome`.
    """
    with as_left(run):
        steps, lowest = run.journal_rows("step"), _lowest(run)
        return {
            "run": str(run.path),
            "model": str(run.model) if run.model.is_dir() else None,
            "report": str(run.report),
            "metrics": run.scores(),
            "steps": steps[-1]["step"] if steps else 0,
            "lowest_validation_loss": None if lowest is None else {k: lowest[k] for k in ("step", "loss")},
        }


def outcome_warnings(run: RunFolder) -> Iterator[str]:
    """What is to be said of its scores, with the split it is about.

    Args:
        run: that is complete.

    Raises:
        VoxstrataError: see `outcome`.
    """
    with as_left(run):
        for split, scores in run.scores().items():
            yield from [one_line(f"{split}: {line}") for line in scores.get("warnings", [])]


def _parts(scores: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """What is shown of a split: a task's scores, the key of its metric there, and the metric's name."""
    yield from ((scores[part], metric, metric) for part, metric in _SHOWN.items() if part in scores)
    yield from ((part, "uar", f"uar_{field}") for field, part in scores.get("classes", {}).items())


def _shown(scores: Mapping[str, Any]) -> list[str]:
    """The metrics of a split and its clips: once behind them all, or of each where not all tasks have all."""
    from voxstrata.reporting.wording import metric_title

    metrics = [f"{metric_title(name)} {_metric(part[metric])}" for part, metric, name in _parts(scores)]
    counts = [_counted(part if "clips" in part else scores) for part, _, _ in _parts(scores)]
    if set(counts) <= {_counted(scores)}:
        return [*metrics, _counted(scores)]
    return [f"{metric} {count}" for metric, count in zip(metrics, counts, strict=True)]


def _counted(scores: Mapping[str, Any]) -> str:
    from voxstrata.reporting.wording import counted

    return f"({counted(scores['clips'], scores.get('speakers'))})"


def _metric(metric: Mapping[str, Any]) -> str:
    bounds = metric["speaker"] or metric["iid"]
    low, high = (100 * bound for bound in bounds)
    return f"{100 * metric['value']:.1f} [{low:.1f}, {high:.1f}]"


def _drawn(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """What the intervals were resampled by."""
    shown = [part[metric] for scores in metrics.values() for part, metric, _ in _parts(scores)]
    by_speaker = {metric["speaker"] is not None for metric in shown}
    if len(by_speaker) > 1:
        return "by speaker, or by clip where there are not two speakers"
    return "by speaker" if by_speaker == {True} else "by clip"


def _best(run: RunFolder) -> str | None:
    """Which weights the model has, of how many steps."""
    from voxstrata.recipes.reading import read_yaml

    steps = run.journal_rows("step")
    if not steps:
        return None
    training = read_yaml(run.recipe).get("training") or {}
    last = steps[-1]
    epochs = training.get("epochs") or last["epoch"] + 1
    early = " (stopped early)" if training.get("epochs") and last["epoch"] + 1 < epochs else ""
    lowest = _lowest(run)
    if lowest is None:
        return f"the last of {last['step']:,} steps, as there are no dev clips to choose by"
    place = (
        f"epoch {lowest['epoch'] + 1} of {epochs}, step {lowest['step']:,} of {last['step']:,}{early}, "
        "with the "
        f"lowest validation loss, {lowest['loss']:.3f}"
    )
    if not training.get("keep_best", True) and lowest["step"] != last["step"]:
        return f"{place}; kept are the weights of the last step (training.keep_best is off)"
    return place


def _lowest(run: RunFolder) -> dict[str, Any] | None:
    """The journal's row of the validation with the lowest loss; None where there was none."""
    return next((row for row in reversed(run.journal_rows("validation")) if row["best"]), None)
