"""A model and a table of labels to a run: candidates, cross-validation, the choice, and what it is worth."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import CORPUS_FILE, PreparedCorpus
from voxstrata.errors import CorpusError, RecipeError, counted
from voxstrata.evaluation.comparison import Difference, compare
from voxstrata.evaluation.score import score
from voxstrata.experiments.adapt.candidates import Candidate, candidates
from voxstrata.experiments.adapt.clips import LabelledClips, parts
from voxstrata.experiments.adapt.validation import Validation, as_it_is, baselines
from voxstrata.experiments.run import execute
from voxstrata.methods.cuts import split_cuts
from voxstrata.methods.method import Notify
from voxstrata.methods.model_folder import find_model, load_model
from voxstrata.methods.sources import batch_options
from voxstrata.predictions import Prediction, write_predictions
from voxstrata.reporting.page import write_report
from voxstrata.runs import RunFolder, write_json

#: Name of the answers of the cross-validation, beside the splits.
SPLIT = "cv"
#: File of all numbers, in the run.
ADAPTATION = "adaptation.json"
#: Shares of the labels of the learning curve.
SHARES = (0.25, 0.5, 1.0)
AS_IT_IS = "the model as it is"


@dataclass(frozen=True)
class Adaptation:
    """What came of it.

    Args:
        run: with the model that was trained on all labels.
        chosen: name of the candidate.
        scores: candidate or baseline -> UAR in cross-validation.
        curve: share of the labels -> UAR of the chosen candidate.
        against: baseline -> its difference to the chosen candidate.
        sentences: for whoever decides, the first one says whether it helps.
        left_out: clips with faults, a line each.
    """

    run: RunFolder
    chosen: str
    scores: Mapping[str, float]
    curve: Mapping[float, float]
    against: Mapping[str, Difference]
    sentences: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "chosen": self.chosen,
            "uar": dict(self.scores),
            "curve": {f"{share:g}": value for share, value in self.curve.items()},
            "against": {name: difference.as_dict() for name, difference in self.against.items()},
            "sentences": list(self.sentences),
        }


def adapt(
    model: str,
    data: Path,
    out: Path,
    *,
    seed: int = 0,
    maps: Sequence[str] = (),
    skip_bad: bool = False,
    notify: Notify,
) -> Adaptation:
    """Adapts a model to labelled clips.

    Args:
        model: run or model folder, or an encoder.
        data: a table as `corpus prepare table` takes it, or a prepared corpus. Its test clips are not
            learned from.
        out: the run's folder, new or empty, or with an interrupted run of the same.
        seed: of heads and batches.
        maps: of labels, see `prepare`.
        skip_bad: leave out clips with faults.
        notify: receives lines for the user.

    Raises:
        VoxstrataError: if the table has faults or too few labels, or there is no such model.
    """
    run = RunFolder(out)
    if run.is_complete or (
        out.exists() and not run.recipe.is_file() and (out.is_file() or any(out.iterdir()))
    ):
        raise RecipeError(f"{out} is there already; choose an empty or new folder with --out")
    corpus = _prepared(data, out, maps, skip_bad, notify)
    ways = candidates(model, corpus.folder, seed=seed, notify=notify)
    clips = LabelledClips.of(list(split_cuts(ways[0].recipe.data, "train")))
    divided = parts(clips, seed)
    notify(f"{counted(len(clips.cuts), 'labelled clip')} in {counted(len(divided), 'part')}")
    scratch = Path(tempfile.mkdtemp(prefix="voxstrata-adapt-"))
    try:
        found, chosen, curve = _tried(ways, clips, divided, scratch, notify)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rivals = _rivals(model, clips, divided, ways[0])
    best = found[chosen.name]
    against = {name: compare(rows, best).differences["uar"] for name, rows in rivals.items()}
    scores = {name: _uar(rows) for name, rows in {**found, **rivals}.items()}
    execute(chosen.recipe, run, notify=notify)
    sentences = _sentences(scores, chosen.name, against, clips, len(ways))
    done = Adaptation(run, chosen.name, scores, curve, against, sentences, tuple(corpus.left_out))
    _write(done, best)
    return done


def _prepared(data: Path, out: Path, maps: Sequence[str], skip_bad: bool, notify: Notify) -> PreparedCorpus:
    """The prepared corpus of a table; it lies beside the run."""
    if (data / CORPUS_FILE).is_file():
        if maps:
            raise CorpusError(f"{data} is prepared already; give its table, or --map when you prepare it")
        return PreparedCorpus.load(data)
    place = out.absolute().parent / "corpora" / out.name
    corpus = prepare("table", data, place, maps=maps, skip_bad=skip_bad)
    notify(f"{data} is prepared in {place}")
    return corpus


def _tried(
    ways: Sequence[Candidate],
    clips: LabelledClips,
    divided: Sequence[frozenset[int]],
    scratch: Path,
    notify: Notify,
) -> tuple[dict[str, list[Prediction]], Candidate, dict[float, float]]:
    """The answers of each candidate, the best one (of equal ones the first), and its learning curve."""
    found: dict[str, list[Prediction]] = {}
    best: tuple[float, Candidate, Validation] | None = None
    for number, way in enumerate(ways):
        validation = Validation(way, clips, scratch / str(number), notify)
        found[way.name] = validation.answers(divided)
        reached = _uar(found[way.name])
        notify(f"{way.name}: UAR {100 * reached:.1f} in cross-validation")
        if best is None or reached > best[0]:
            best = reached, way, validation
    assert best is not None
    reached, chosen, validation = best
    curve = {share: _uar(validation.answers(divided, share)) for share in SHARES if share < 1}
    return found, chosen, {**curve, 1.0: reached}


def _rivals(
    model: str, clips: LabelledClips, divided: Sequence[frozenset[int]], way: Candidate
) -> dict[str, list[Prediction]]:
    options = batch_options(way.recipe)
    found = baselines(clips, divided, options)
    folder = find_model(model)
    trained = None if folder is None else load_model(folder)
    known = None if trained is None else trained.emotions
    if trained is not None and known is not None and set(known) == set(clips.labels):
        found[AS_IT_IS] = as_it_is(trained, clips, options)
    return found


def _uar(rows: Sequence[Prediction]) -> float:
    emotion = score(rows, resamples=2).as_dict()["emotion"]
    return float(emotion["uar"]["value"])


def _sentences(
    scores: Mapping[str, float],
    chosen: str,
    against: Mapping[str, Difference],
    clips: LabelledClips,
    ways: int,
) -> tuple[str, ...]:
    """Whether it helps, against the strongest of what there is without it; then all that is doubtful."""
    strongest = max(against, key=lambda name: scores[name])
    difference = against[strongest]
    low, high = (100 * bound for bound in difference.interval)
    numbers = (
        f"UAR {100 * scores[chosen]:.1f} against {100 * scores[strongest]:.1f} of {strongest} "
        f"(difference {100 * difference.difference:+.1f}, 95 % interval {low:+.1f} to {high:+.1f} by "
        f"{difference.unit})"
    )
    if difference.interval[0] > 0 and not difference.missing:
        first = f"adapting helps: {numbers}"
    elif difference.interval[1] < 0 and not difference.missing:
        first = f"adapting does not help, it is worse: {numbers}; use {strongest}"
    else:
        first = f"it is not shown that adapting helps: {numbers}; label more clips"
    found = [first, *([difference.missing] if difference.missing else []), *clips.doubts()]
    if ways > 1:
        found.append(
            f"the best of {ways} candidates was chosen on the same clips, so its score is a little too high"
        )
    found.append("adapters (LoRA) were not tried")
    return tuple(found)


def _write(done: Adaptation, rows: Sequence[Prediction]) -> None:
    """Adds the answers of the cross-validation and all numbers to the run."""
    run = done.run
    write_predictions(run.predictions(SPLIT), rows)
    scored = score(rows).as_dict()
    scored["warnings"] = [*scored.get("warnings", []), *done.sentences]
    write_json(run.metrics, {**run.scores(), SPLIT: scored})
    write_json(run.path / ADAPTATION, done.as_dict())
    write_report(run)
