"""How much of the emotion the words and the prosody tell: classifiers that see the plan itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from voxstrata.corpora.synthetic.lexicon import Lexicon
from voxstrata.corpora.synthetic.plan import SynthesisOptions, Utterance, utterances
from voxstrata.labels import EMOTIONS

#: Planned clips that the oracles are fitted on and tested on, whatever the size of the corpus.
FITTED, TESTED = 10000, 4000

#: How much the words may count beside the prosody.
_SHARES = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class Oracles:
    """Unweighted average recall on test voices and sentences; chance is 1/8.

    Args:
        words: from the true words only.
        prosody: from the drawn delivery only.
        both: from both.
    """

    words: float
    prosody: float
    both: float


def measure(
    options: SynthesisOptions, lexicon: Lexicon, *, fitted: int = FITTED, tested: int = TESTED
) -> Oracles:
    """Fits and tests the oracles on planned clips of the same design, all of them with their intended label.

    Words: multinomial naive Bayes on word counts. Prosody: a Gaussian for each emotion (quadratic
    discriminant analysis) on the eight drawn dimensions, speaker habits left in. Both: the sum of the two
    log posteriors, for words and delivery are drawn independently given the emotion; that of the words
    counts by the share that predicts a fifth of the clips best, held back for it, since naive Bayes is too
    sure of words that say nothing. They are ceilings: a listener hears neither the words nor the drawn
    numbers without error.

    Args:
        options: dials, voices and seed of the corpus; its clip counts are not used.
        lexicon: what can be said.
        fitted: train clips planned for fitting.
        tested: test clips planned for testing.
    """
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    train_voices, dev_voices, test_voices = (max(1, n) for n in options.voices)
    voices = (train_voices, dev_voices, test_voices)
    design = replace(options, clips=(fitted, 0, tested), voices=voices, labelled=0.0)
    planned = list(utterances(design, "train", lexicon))
    train, held = planned[: -fitted // 5], planned[-fitted // 5 :]
    test = list(utterances(design, "test", lexicon))
    by_words = make_pipeline(CountVectorizer(), MultinomialNB()).fit(_texts(train), _labels(train))
    by_prosody = QuadraticDiscriminantAnalysis(reg_param=0.01).fit(_deliveries(train), _labels(train))

    def scores(clips: Sequence[Utterance]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return by_words.predict_log_proba(_texts(clips)), by_prosody.predict_log_proba(_deliveries(clips))

    words, prosody = scores(held)
    truth = np.arange(len(held)), _labels(held)
    share = max(_SHARES, key=lambda part: log_softmax(part * words + prosody, axis=1)[truth].mean())
    words, prosody = scores(test)

    def uar(scored: NDArray[np.float64]) -> float:
        return float(balanced_accuracy_score(_labels(test), scored.argmax(axis=1)))

    return Oracles(words=uar(words), prosody=uar(prosody), both=uar(share * words + prosody))


def _labels(clips: Sequence[Utterance]) -> NDArray[np.int64]:
    return np.asarray([EMOTIONS.index(clip.intended) for clip in clips])


def _texts(clips: Sequence[Utterance]) -> list[str]:
    return [clip.sentence.transcript for clip in clips]


def _deliveries(clips: Sequence[Utterance]) -> NDArray[np.float64]:
    return np.stack([clip.delivery for clip in clips])
