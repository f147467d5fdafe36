"""A yardstick that reads and does not listen: emotions from the words alone.

What an ASR expert can bring beside the voice is what the words tell. Learned from reference transcripts;
asked with reference ones, or with those that a system recognised. scikit-learn's TF-IDF over words and their
sequences, and logistic regression with classes balanced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from voxstrata.batches.batch import Reference
from voxstrata.errors import PredictionsError, RecipeError
from voxstrata.labels import LabelSet
from voxstrata.predictions import Prediction

#: Also words of one letter, and those with an apostrophe.
_WORD = r"[^\W_]+(?:'[^\W_]+)*"


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

    told = [reference for reference in train if reference.transcript]
    found = {str(reference.emotion) for reference in told}
    if len(found) < 2:
        raise RecipeError(
            f"{len(told)} training clips have words, of {len(found)} classes; text needs words of at least "
            "two classes: give a corpus with transcripts"
        )
    reader = make_pipeline(
        TfidfVectorizer(token_pattern=_WORD, ngram_range=(1, ngrams), sublinear_tf=True),
        LogisticRegression(C=cost, class_weight="balanced", max_iter=1000),
    )
    reader.fit(
        [str(reference.transcript) for reference in told], [str(reference.emotion) for reference in told]
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
            f"e.g. {missing[0]}; give transcripts of a system that heard the same clips"
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
