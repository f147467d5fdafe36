"""A yardstick that reads and does not listen: emotions from the words alone.

What an ASR expert can bring beside the voice is what the words tell. Learned from reference transcripts;
asked with reference ones, or with those that a system recognised. scikit-learn's TF-IDF over words and their
sequences, and logistic regression with classes balanced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from voxstrata.batches.batch import Reference
from voxstrata.batches.source import BatchSource
from voxstrata.config.recipe import Recipe
from voxstrata.config.strict import Positive, PositiveNumber, Text
from voxstrata.errors import PredictionsError, RecipeError
from voxstrata.labels import LabelSet
from voxstrata.methods.method import Facts, MeasuredMethod, Notify, Parent
from voxstrata.methods.sources import Sources, clip_sources
from voxstrata.methods.task_sources import AnySources
from voxstrata.predictions import Prediction, read_predictions
from voxstrata.runs import RunFolder

#: Also words of one letter, and those with an apostrophe.
_WORD = r"[^\W_]+(?:'[^\W_]+)*"


class TextRecipe(Recipe):
    """A baseline that reads words only: TF-IDF and logistic regression with balanced classes.

    Trained on the reference transcripts (see `text_answers`). Predictions and scores, no model.

    Args:
        transcripts: a run that transcribes (or a folder with `dev.jsonl` and `test.jsonl`) whose recognised
            words are classified; None: the reference transcripts.
        cost: inverse strength of the regression's penalty.
        ngrams: longest sequence of words that is a feature.
    """

    system: Literal["text"] = "text"
    transcripts: Text | None = None
    cost: PositiveNumber = 10.0
    ngrams: Positive = 2

    @model_validator(mode="after")
    def _classes(self) -> TextRecipe:
        self.data.require_classes(self.system)
        return self


def text_answers(
    train: Iterable[Reference],
    evaluated: Mapping[str, Sequence[Reference]],
    labels: LabelSet,
    *,
    recognized: Mapping[str, Mapping[str, str]] | None = None,
    cost: float = 10.0,
    ngrams: int = 2,
) -> dict[str, list[Prediction]]:
    """Learns from the words of the training clips that have any, and answers the clips of each split.

    A clip without a known word gets what is known without words.

    Args:
        train: clips with emotions.
        evaluated: split -> clips.
        labels: the classes.
        recognized: split -> clip id -> words to be asked about; None: the reference ones.
        cost: inverse strength of the regression's penalty.
        ngrams: longest sequence of words that is a feature.

    Raises:
        RecipeError: if no training clip has words, or all have one class.
        PredictionsError: if a clip has no recognised words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    stated = [reference for reference in train if reference.transcript]
    found = {str(reference.emotion) for reference in stated}
    if len(found) < 2:
        raise RecipeError(
            f"{len(stated)} training clips have words, of {len(found)} classes; text needs words of at least "
            "two classes: give a corpus with transcripts"
        )
    reader = make_pipeline(
        TfidfVectorizer(token_pattern=_WORD, ngram_range=(1, ngrams), sublinear_tf=True),
        LogisticRegression(C=cost, class_weight="balanced", max_iter=1000),
    )
    reader.fit(
        [str(reference.transcript) for reference in stated], [str(reference.emotion) for reference in stated]
    )
    answers = {}
    for split, references in evaluated.items():
        heard = None if recognized is None else _words_of(split, references, recognized.get(split, {}))
        texts = [reference.transcript or "" for reference in references] if heard is None else heard
        rows = reader.predict_proba(texts).tolist()
        read: Sequence[str | None] = [None] * len(rows) if heard is None else heard
        answers[split] = [
            _prediction(reference, dict(zip(reader.classes_.tolist(), row, strict=True)), labels, words)
            for reference, row, words in zip(references, rows, read, strict=True)
        ]
    return answers


def _words_of(split: str, references: Sequence[Reference], recognized: Mapping[str, str]) -> list[str]:
    missing = [reference.id for reference in references if reference.id not in recognized]
    if missing:
        raise PredictionsError(
            f"{len(missing)} of {len(references)} clips of {split} have no recognised words, "
            f"e.g. {missing[0]}; give transcripts of the same clips by some system"
        )
    return [recognized[reference.id] for reference in references]


def _prediction(
    reference: Reference, known: Mapping[str, float], labels: LabelSet, words: str | None
) -> Prediction:
    """With the recognised words, where these were read, so that their errors can be scored beside."""
    probabilities = {name: known.get(name, 0.0) for name in labels}
    return Prediction(
        id=reference.id,
        path=reference.path,
        speaker=reference.speaker,
        emotion=max(probabilities, key=probabilities.__getitem__),
        probabilities=probabilities,
        reference_emotion=reference.emotion,
        transcript=words,
        reference_transcript=None if words is None else reference.transcript,
    )


class TextMethod(MeasuredMethod[TextRecipe]):
    """See `methods.method`."""

    recipe = TextRecipe
    stage = "fine-tuning"
    kinds = ()

    def facts(self, recipe: TextRecipe) -> Facts:
        transcripts = recipe.transcripts
        parents = (Parent("transcripts", transcripts, ("transcripts",), "path"),) if transcripts else ()
        return Facts(
            tasks={},
            learns=frozenset({"emotion"}),
            base=None,
            parents=parents,
            fitted_on_heldout=False,
            encoders=(),
            new_encoder=None,
            writes_ctc=False,
            resting_steps=0,
            work=None,
        )

    def defaults(self, values: Mapping[str, Any]) -> None:
        return None

    def sources(self, recipe: TextRecipe) -> Sources:
        return clip_sources(recipe, words=False, classes=True)

    def answers(self, recipe: TextRecipe, sources: AnySources, notify: Notify) -> dict[str, list[Prediction]]:
        assert isinstance(sources, Sources) and sources.labels is not None
        train = _references(sources.train)
        asked = {split: _references(source) for split, source in sources.evaluated.items()}
        for split, references in {"train": train, **asked}.items():
            if wordless := sum(not reference.transcript for reference in references):
                how = (
                    "nothing is learned from them" if split == "train" else "they are answered without words"
                )
                notify(f"{split}: {wordless} of {len(references)} clips have no transcript, {how}")
        stated = None if recipe.transcripts is None else _recognized(Path(recipe.transcripts), list(asked))
        return text_answers(
            train, asked, sources.labels, recognized=stated, cost=recipe.cost, ngrams=recipe.ngrams
        )


METHOD = TextMethod()


def _references(source: BatchSource) -> list[Reference]:
    """What is known of a source's clips; no audio is read."""
    return [reference for ids in source.plan(0) for reference in source.without_audio(ids).references]


def _recognized(folder: Path, splits: list[str]) -> dict[str, dict[str, str]]:
    """Split -> clip -> words, from a run or a folder of predictions files."""
    found = {}
    for split in splits:
        places = (RunFolder(folder).predictions(split), folder / f"{split}.jsonl")
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise RecipeError(
                f"transcripts: {folder} has no predictions of {split}; name a finished run that transcribes, "
                f"or a folder with {split}.jsonl"
            )
        found[split] = {
            row.id: row.transcript for row in read_predictions(path) if row.transcript is not None
        }
    return found
