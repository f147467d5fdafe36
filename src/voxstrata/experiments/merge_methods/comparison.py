"""Merge methods beside each other on two experts: each tuned alike, and scored on both skills.

Each method is tried with the same number of settings (`settings.GRID`). With experts of several folds a
fold's setting is the one that keeps most of both skills on the other folds; with one, on its dev clips. Test
clips of a fold never choose its setting. Nothing is trained: the experts' own heads read the merged encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from voxstrata.documents import read_json_object
from voxstrata.errors import RecipeError
from voxstrata.experiments.merge_methods.answering import DECODER, LEARNED, LEARNED_CTC, Answering
from voxstrata.experiments.merge_methods.choosing import Tuning, both_scores, experts_in
from voxstrata.experiments.merge_methods.settings import EMOTIONS, REFERENCES, WORDS, settings_of
from voxstrata.runs import write_json

#: Beside the answers: what was compared, and the scores that settings were chosen by.
ABOUT, TUNING = "comparison.json", "tuning.json"


@dataclass(frozen=True)
class Comparison:
    """A folder of answers: a folder for each fold, in it one for each merge.

    Args:
        folder: where the answers lie.
        folds: names of the folds' folders.
        methods: the methods that are compared.
        normalizer: of transcripts.
        decoder_folds: of which Whisper's decoder was asked, too.
        head_folds: of which heads were fitted to each merge, too.
    """

    folder: Path
    folds: tuple[str, ...]
    methods: tuple[str, ...]
    normalizer: str = "basic"
    decoder_folds: tuple[str, ...] = ()
    head_folds: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """A comparison that was made.

        Raises:
            RecipeError: if the folder holds none.
        """
        if not (folder / ABOUT).is_file():
            raise RecipeError(f"{folder} holds no comparison of merges; make one by voxstrata compare-merges")
        about = read_json_object(folder / ABOUT)
        return cls(
            folder,
            tuple(about["folds"]),
            tuple(about["methods"]),
            about["normalizer"],
            tuple(about["decoder_folds"]),
            tuple(about["head_folds"]),
        )

    def write(self, about: Mapping[str, Any]) -> None:
        """Writes what is compared, and from what."""
        stated = {"folds": self.folds, "methods": self.methods, "normalizer": self.normalizer}
        asked = {"decoder_folds": self.decoder_folds, "head_folds": self.head_folds}
        write_json(self.folder / ABOUT, {**stated, **asked, **about})

    @property
    def across(self) -> bool:
        """Whether a fold's setting is chosen on the other folds."""
        return len(self.folds) > 1

    @property
    def tuned_on(self) -> dict[str, str]:
        """What settings are chosen by: kind of answer -> split."""
        return {EMOTIONS: "test" if self.across else "dev", WORDS: "dev"}

    def file(self, fold: str, name: str, kind: str, split: str = "test") -> Path:
        """Where the answers of a merge lie."""
        return self.folder / fold / name / f"{kind}-{split}.jsonl"

    def write_tuning(self) -> None:
        """Scores every setting on what settings are chosen by."""
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for name in settings_of(self.methods):
            for fold in self.folds:
                files = [self.file(fold, name, kind, split) for kind, split in self.tuned_on.items()]
                found.setdefault(name, {})[fold] = both_scores(self.normalizer, files)
        write_json(self.folder / TUNING, found)

    @cached_property
    def tuning(self) -> Tuning:
        """The scores that settings are chosen by."""
        scores = {
            name: {fold: (float(uar), float(wer)) for fold, (uar, wer) in by_fold.items()}
            for name, by_fold in read_json_object(self.folder / TUNING).items()
        }
        return Tuning(scores, experts_in(scores, self.folds), self.across)

    @cached_property
    def rows_by_fold(self) -> dict[str, dict[str, str]]:
        """Row -> fold -> the setting that it is scored with."""
        settings = settings_of(self.methods)
        found = {name: dict.fromkeys(self.folds, name) for name in REFERENCES}
        for method in self.methods:
            names = [n for n, one in settings.items() if one.method == method and n not in REFERENCES]
            found[method] = {fold: self.tuning.chosen(names, fold) for fold in self.folds}
        for name in (LEARNED, LEARNED_CTC):
            if all((self.folder / fold / name).is_dir() for fold in self.folds):
                found[name] = dict.fromkeys(self.folds, name)
        return found


def make_comparison(
    comparison: Comparison,
    folds: Mapping[str, Answering],
    *,
    epochs: int = 16,
    advance: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> None:
    """Asks every merge; answers that are there are kept.

    Args:
        comparison: where answers go; `write` was called.
        folds: name of each fold -> its experts.
        epochs: of heads that are fitted.
        advance: called with merges done, of how many, and what comes next.

    Raises:
        VoxstrataError: if experts cannot be merged, or were trained on clips that they are asked.
    """
    for answering in folds.values():
        answering.require_unheard(comparison.tuned_on[EMOTIONS])
    settings = settings_of(comparison.methods)
    chosen = len(comparison.methods) + len(REFERENCES) + 1
    total, done = len(folds) * (len(settings) + chosen) + len(comparison.head_folds) * (chosen - 1), 0
    for fold, answering in folds.items():
        for name, setting in settings.items():
            advance(done, total, f"{fold}, {name}")
            answering.answer(name, setting, comparison.tuned_on)
            done += 1
    comparison.write_tuning()
    for fold, answering in folds.items():
        wanted = {EMOTIONS: "test", WORDS: "test"}
        if fold in comparison.decoder_folds:
            wanted[DECODER] = "test"
        advance(done, total, f"{fold}, learned")
        answering.answer_learned(wanted)
        done += 1
        for row, by_fold in comparison.rows_by_fold.items():
            if (name := by_fold[fold]) in settings:
                advance(done, total, f"{fold}, {row}")
                answering.answer(name, settings[name], wanted)
                done += 1
        if fold in comparison.head_folds:
            for row, by_fold in comparison.rows_by_fold.items():
                if (name := by_fold[fold]) in settings:
                    advance(done, total, f"{fold}, heads of {row}")
                    answering.fit_heads(name, settings[name], epochs)
                    done += 1
    advance(total, total, "done")
