"""Which experts, folds and methods a comparison of merges has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import RecipeError
from voxstrata.experiments.merge_methods.answering import Answering
from voxstrata.experiments.merge_methods.comparison import Comparison
from voxstrata.experiments.merge_methods.settings import GRID, settings_of
from voxstrata.experiments.provenance import provenance
from voxstrata.merging.run_base import chosen_base
from voxstrata.recipes.reading import read_run_recipe
from voxstrata.runs import RunFolder


@dataclass(frozen=True)
class Request:
    """What is to be compared.

    Args:
        emotion_experts: finished runs for emotions, each of another fold.
        words_expert: a finished run with a CTC head.
        learned: runs of merges that were learned for both tasks; none, or one for each fold.
        emotions: prepared corpus.
        words: prepared corpus.
        methods: names; empty: all.
        transcriber: a whole Whisper whose decoder transcribes, too; None: it is not asked.
        decoder_folds: of which it is asked; empty: all.
        decoder_clips: clips that it is asked, at most; None: all.
        fit_heads: fit both heads to each merge, too.
        head_folds: of which; empty: all.
        normalizer: of transcripts.
    """

    emotion_experts: tuple[str, ...]
    words_expert: str
    learned: tuple[str, ...]
    emotions: str
    words: str
    methods: tuple[str, ...] = ()
    transcriber: str | None = None
    decoder_folds: tuple[int, ...] = ()
    decoder_clips: int | None = None
    fit_heads: bool = False
    head_folds: tuple[int, ...] = ()
    normalizer: str = "basic"


def planned(request: Request, out: Path) -> tuple[Comparison, dict[str, Answering], dict[str, Any]]:
    """The comparison, the experts of each fold by its name, and what is written beside the answers.

    Raises:
        RecipeError: if two runs are of one fold, learned merges are not of the experts' folds, or a method or
            fold does not exist.
        CorpusError: if there is no such corpus.
    """
    experts = _by_fold(request.emotion_experts, "emotion expert")
    learned = _by_fold(request.learned, "learned merge")
    if learned and set(learned) != set(experts):
        raise RecipeError(
            f"the learned merges are of {_names(learned)}, the emotion experts of {_names(experts)}; give "
            "one for each expert, of the same fold"
        )
    if request.fit_heads and not learned:
        raise RecipeError("heads are fitted by the recipe of a learned merge; give --learned")
    settings_of(request.methods)
    acted, spoken = PreparedCorpus.load(request.emotions), PreparedCorpus.load(request.words)
    folds = {
        _name(fold): Answering(
            out=out / _name(fold),
            base=chosen_base(None, {"emotions": run, "words": request.words_expert}),
            emotions=run,
            words=request.words_expert,
            learned=learned.get(fold),
            acted=acted,
            spoken=spoken,
            fold=fold,
            transcriber=request.transcriber,
            decoder_clips=request.decoder_clips,
        )
        for fold, run in experts.items()
    }
    decoded, fitted = (
        [_name(fold) for fold in asked] or list(folds)
        for asked in (request.decoder_folds, request.head_folds)
    )
    if odd := [name for name in (*decoded, *fitted) if name not in folds]:
        raise RecipeError(f"no expert is of {odd[0]}; the experts are of {_names(experts)}")
    comparison = Comparison(
        out,
        tuple(folds),
        request.methods or tuple(GRID),
        request.normalizer,
        tuple(decoded) if request.transcriber else (),
        tuple(fitted) if request.fit_heads else (),
    )
    about = provenance(
        seed=0,
        fingerprints={request.emotions: acted.fingerprint, request.words: spoken.fingerprint},
        parents={
            "words expert": request.words_expert,
            **{f"emotion expert of {_name(fold)}": run for fold, run in experts.items()},
            **{f"learned merge of {_name(fold)}": run for fold, run in learned.items()},
        },
    )
    return comparison, folds, {"request": asdict(request), "provenance": about}


def _by_fold(runs: Sequence[str], what: str) -> dict[int | None, str]:
    found: dict[int | None, str] = {}
    for run in runs:
        folds = {fold for fold in _folds(run) if fold is not None}
        if len(folds) > 1:
            raise RecipeError(f"{run} was trained on folds {sorted(folds)}; give a run of one fold")
        fold = next(iter(folds), None)
        if fold in found:
            raise RecipeError(
                f"{found[fold]} and {run} are both of {_name(fold)}; give one {what} for each fold"
            )
        found[fold] = run
    return dict(sorted(found.items(), key=lambda pair: pair[0] or 0))


def _folds(run: str) -> Iterator[int | None]:
    """The folds of all corpora that a run was trained on."""
    folder = RunFolder(Path(run))
    if not folder.recipe.is_file():
        raise RecipeError(f"{run} is no run (no {folder.recipe.name}); give the folder of a finished run")
    recipe = read_run_recipe(folder)
    tasks = getattr(recipe, "tasks", None) or {}
    for source in (*recipe.data.corpora, *(one for task in tasks.values() for one in task.corpora)):
        yield source.fold


def _name(fold: int | None) -> str:
    return "own-splits" if fold is None else f"fold-{fold}"


def _names(folds: Sequence[int | None] | dict[int | None, str]) -> str:
    return ", ".join(map(_name, folds))
