"""Scores of merge methods beside each other, and paired differences between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxstrata.documents import read_json_object
from voxstrata.errors import RecipeError
from voxstrata.evaluation.comparison import Difference, compare_repeats
from voxstrata.evaluation.metrics import Metric
from voxstrata.evaluation.repeats import score_repeats
from voxstrata.experiments.merge_methods.answering import DECODER, FITTED, LEARNED
from voxstrata.experiments.merge_methods.choosing import Tuning, both_scores, experts_in
from voxstrata.experiments.merge_methods.comparison import ABOUT, TUNING, Comparison
from voxstrata.experiments.merge_methods.settings import EMOTIONS, WORDS, settings_of
from voxstrata.experiments.tables.archive import placeless, published, write_packed
from voxstrata.predictions import Prediction, as_lines, read_predictions

#: Kind of answer -> what its score is called here, and among scores.
_SCORES = {EMOTIONS: ("uar", "uar"), WORDS: ("wer", "wer"), DECODER: ("wer_decoder", "wer")}
_EXPERTS = ("expert-emotions", "expert-words")


@dataclass(frozen=True)
class MethodRow:
    """A merge method, or what stands beside the methods.

    Args:
        name: of the method, or of a reference.
        settings: fold -> the setting in words that it was scored with.
        scores: "uar", "wer", "wer_decoder" -> value with intervals, all folds pooled.
        kept: mean over folds of the lesser skill that is kept, on test clips; see `Tuning.kept`.
        differences: of the same names, this row less `over`.
        over: the row that it is compared with; "" for that row itself.
    """

    name: str
    settings: Mapping[str, str]
    scores: Mapping[str, Metric]
    kept: float
    differences: Mapping[str, Difference]
    over: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "scores": {name: metric.as_dict() for name, metric in self.scores.items()},
            "kept": self.kept,
            "over": self.over,
            "differences": {name: found.as_dict() for name, found in self.differences.items()},
        }


def table_of(comparison: Comparison, over: str | None = None, *, fitted: bool = False) -> list[MethodRow]:
    """The rows, those that keep most of both skills first; all folds pooled, intervals by speaker.

    Args:
        comparison: whose answers are there.
        over: the row that the others are compared with; None: the learned merge, else one half of each.
        fitted: as read by heads that were fitted to each merge, on the folds where they were.

    Raises:
        RecipeError: if there is no such row.
    """
    scored = _Answers(comparison, fitted)
    rows = scored.rows()
    over = over or (LEARNED if LEARNED in rows else "halves")
    if over not in rows:
        raise RecipeError(f"there is no row {over!r}; the rows are {', '.join(rows)}")
    base = scored.pooled(rows[over])
    settings = settings_of(comparison.methods)
    found = []
    for name, by_fold in rows.items():
        pooled = scored.pooled(by_fold)
        found.append(
            MethodRow(
                name,
                {fold: settings[one].described() if one in settings else "" for fold, one in by_fold.items()},
                _scores(pooled, comparison.normalizer),
                scored.kept(by_fold),
                {} if name == over else _differences(pooled, base, comparison.normalizer),
                "" if name == over else over,
            )
        )
    return sorted(found, key=lambda row: -row.kept)


def write_archive(comparison: Comparison, path: Path) -> None:
    """Packs what the tables are computed from: what was compared, tuning, and the answers of their rows.

    Raises:
        VoxstrataError: if the archive cannot be written.
    """
    found = {comparison.file(f, one, kind) for f in comparison.folds for one in _EXPERTS for kind in _SCORES}
    for answers in (_Answers(comparison, False), _Answers(comparison, True)):
        found |= {file for by_fold in answers.rows().values() for file in answers.files(by_fold)}
    about = placeless(read_json_object(comparison.folder / ABOUT), comparison.folder)
    texts = [(ABOUT, f"{json.dumps(about, indent=2)}\n")]
    texts.append((TUNING, (comparison.folder / TUNING).read_text(encoding="utf-8")))
    for file in sorted(file for file in found if file.is_file()):
        rows = "".join(as_lines(map(published, read_predictions(file))))
        texts.append((str(file.relative_to(comparison.folder)), rows))
    write_packed(path, texts)


@dataclass(frozen=True)
class _Answers:
    """Answers of a comparison by the experts' heads, or by heads that were fitted to each merge."""

    comparison: Comparison
    fitted: bool

    def rows(self) -> dict[str, dict[str, str]]:
        """Row -> fold -> the merge that it is scored with, of those that are there."""
        folds = self.comparison.head_folds if self.fitted else self.comparison.folds
        rows = {
            row: {fold: by_fold[fold] for fold in folds}
            for row, by_fold in self.comparison.rows_by_fold.items()
        }
        return {
            row: by_fold
            for row, by_fold in rows.items()
            if all(self._file(fold, name, EMOTIONS).is_file() for fold, name in by_fold.items())
        }

    def files(self, by_fold: Mapping[str, str]) -> list[Path]:
        """The files of a row."""
        places = [self._file(fold, name, kind) for fold, name in by_fold.items() for kind in _SCORES]
        return [file for file in places if file.is_file()]

    def pooled(self, by_fold: Mapping[str, str]) -> dict[str, list[Prediction]]:
        """Answers to the test clips of all folds, kind by kind; ids say of which fold."""
        found: dict[str, list[Prediction]] = {}
        for kind in _SCORES:
            folds = [fold for fold in by_fold if kind != DECODER or fold in self.comparison.decoder_folds]
            files = {fold: self._file(fold, by_fold[fold], kind) for fold in folds}
            if files and all(file.is_file() for file in files.values()):
                found[kind] = [
                    replace(row, id=f"{row.id}@{fold}")
                    for fold, file in files.items()
                    for row in read_predictions(file)
                ]
        return found

    def kept(self, by_fold: Mapping[str, str]) -> float:
        """The mean over folds of what is kept on test clips, of the experts' skills with their own heads."""
        total, normalizer = 0.0, self.comparison.normalizer
        for fold, name in by_fold.items():
            plain = {
                one: {
                    fold: both_scores(
                        normalizer, [self.comparison.file(fold, one, kind) for kind in (EMOTIONS, WORDS)]
                    )
                }
                for one in _EXPERTS
            }
            own = both_scores(normalizer, [self._file(fold, name, kind) for kind in (EMOTIONS, WORDS)])
            tuning = Tuning({name: {fold: own}}, experts_in(plain, [fold]), across=False)
            total += tuning.kept(name, fold)
        return total / len(by_fold)

    def _file(self, fold: str, name: str, kind: str) -> Path:
        """A learned merge's own heads were fitted with it."""
        place = f"{name}/{FITTED}" if self.fitted and name != LEARNED else name
        return self.comparison.file(fold, place, kind)


def _clip(row: str) -> str:
    """The clip behind an id; of several folds it has several."""
    return row.rsplit("@", 1)[0]


def _scores(pooled: Mapping[str, list[Prediction]], normalizer: str) -> dict[str, Metric]:
    found = {}
    for kind, rows in pooled.items():
        metrics = score_repeats([rows], normalizer=normalizer, clip_of=_clip).metrics
        name, metric = _SCORES[kind]
        found[name] = metrics[metric]
    return found


def _differences(
    ours: Mapping[str, list[Prediction]], theirs: Mapping[str, list[Prediction]], normalizer: str
) -> dict[str, Difference]:
    found = {}
    for kind in ours:
        if kind in theirs:
            name, metric = _SCORES[kind]
            pairs = [(theirs[kind], ours[kind])]
            found[name] = compare_repeats(pairs, normalizer=normalizer, clip_of=_clip)[metric]
    return found
