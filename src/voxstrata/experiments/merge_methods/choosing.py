"""Which setting each merge method is scored with, and how much of both skills a merge keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from voxstrata.evaluation.repeats import score_repeats
from voxstrata.predictions import read_predictions

#: Fold -> UAR and WER of a setting, as shares.
ByFold = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Tuning:
    """Scores that settings are chosen by.

    Args:
        scores: name of a setting -> fold -> UAR and WER.
        experts: fold -> the UAR of the expert for emotions and the WER of the expert for words.
        across: choose for each fold by the others; False: by its own dev clips.
    """

    scores: Mapping[str, ByFold]
    experts: ByFold
    across: bool

    def kept(self, name: str, fold: str) -> float:
        """The lesser of both skills that a merge keeps, as a share of the experts'.

        min(UAR / UAR of the expert, (1 - WER) / (1 - WER of the expert)), not below 0. An expert without
        any skill counts as one of which all is kept.
        """
        uar, wer = self.scores[name][fold]
        best_uar, best_wer = self.experts[fold]
        emotions = uar / best_uar if best_uar > 0 else 1.0
        words = (1 - wer) / (1 - best_wer) if best_wer < 1 else 1.0
        return max(0.0, min(emotions, words))

    def chosen(self, names: Sequence[str], fold: str) -> str:
        """The setting that keeps most on average, the first of equal ones; see `across`."""
        asked = [other for other in self.experts if other != fold] if self.across else [fold]
        return max(names, key=lambda name: fmean(self.kept(name, other) for other in asked))


def experts_in(scores: Mapping[str, ByFold], folds: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Fold -> the UAR of the expert for emotions, and the WER of the expert for words."""
    return {fold: (scores["expert-emotions"][fold][0], scores["expert-words"][fold][1]) for fold in folds}


def both_scores(normalizer: str, files: Sequence[Path]) -> tuple[float, float]:
    """UAR and WER of two files of answers, of emotions and of words."""
    uar, wer = (
        score_repeats([read_predictions(file)], normalizer=normalizer, resamples=2).metrics for file in files
    )
    return uar["uar"].value, wer["wer"].value
