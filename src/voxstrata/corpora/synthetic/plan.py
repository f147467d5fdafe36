"""What is said, by whom and how: the plan of a corpus, before any sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxstrata.corpora.clip import SPLITS
from voxstrata.corpora.synthetic.delivery import draw_delivery
from voxstrata.corpora.synthetic.free_speech import draw_free, draw_numbers
from voxstrata.corpora.synthetic.lexicon import VOCABULARIES, Lexicon, Sentence
from voxstrata.corpora.synthetic.partition import generator
from voxstrata.corpora.synthetic.raters import POOL, draw_votes
from voxstrata.corpora.synthetic.voices import Voice, draw_voices
from voxstrata.errors import CorpusError
from voxstrata.labels import EMOTIONS

#: How well words can be heard -> mean length of a clip in seconds, to turn minutes into clips.
CLIP_S = {"natural": 3.0, "clear": 2.4}
#: Kinds of words that "any" draws from.
KINDS = (*VOCABULARIES, "free")
#: Clips, voices and seeds are below.
LARGEST = 2**63 - 1
#: Spoken numbers alone: few words, which a small recogniser can learn.
NUMBERS = "numbers"


@dataclass(frozen=True)
class SynthesisOptions:
    """Options of a synthetic corpus.

    Args:
        clips: clips of train, dev and test.
        voices: voices of train, dev and test.
        seed: of everything drawn.
        lexical_strength: in [0, 1]; 0: the words say nothing about the emotion.
        prosody_strength: in [0, 1]; 0: the prosody says nothing about the emotion.
        labelled: share of the train clips with an emotion label; dev and test have all of them.
        raters: annotators who vote on a labelled clip.
        read: read speech: no emotion labels, and words drawn independently of the delivery.
        prosody: "emotional" (all eight deliveries) or "neutral".
        vocabulary: "everyday" (with emotion words), "bookish" (none of the everyday words), "free" (letters,
            numbers and made-up words), "any" of the three, or "numbers".
        clarity: "natural" (all voices, wide deliveries), or "clear" (short sentences that recognisers follow:
            common words, clear voices, slow deliveries with little breath).
    """

    clips: tuple[int, int, int] = (2100, 300, 600)
    voices: tuple[int, int, int] = (40, 10, 20)
    seed: int = 0
    lexical_strength: float = 0.5
    prosody_strength: float = 0.5
    labelled: float = 0.2
    raters: int = 5
    read: bool = False
    prosody: str = "emotional"
    vocabulary: str = "everyday"
    clarity: str = "natural"

    def __post_init__(self) -> None:
        self._require_kinds()
        for name in ("lexical_strength", "prosody_strength", "labelled"):
            if not 0 <= getattr(self, name) <= 1:
                raise CorpusError(f"{name} must lie in [0, 1]; found {getattr(self, name)}")
        if min(self.clips) < 0 or sum(self.clips) == 0:
            raise CorpusError(
                f"clips of train, dev, test must be at least 0 and not all 0; found {self.clips}"
            )
        for split, clips, voices in zip(SPLITS, self.clips, self.voices, strict=True):
            if clips and voices < 1:
                raise CorpusError(f"{split} has {clips} clips but {voices} voices; at least one is needed")
        if not 1 <= self.raters <= POOL:
            raise CorpusError(f"raters must lie in [1, {POOL}]; found {self.raters}")
        if self.prosody not in ("emotional", "neutral"):
            raise CorpusError(f"prosody is 'emotional' or 'neutral'; found {self.prosody!r}")
        if self.vocabulary not in (allowed := (*KINDS, "any", NUMBERS)):
            raise CorpusError(f"vocabulary is one of {', '.join(allowed)}; found {self.vocabulary!r}")
        if self.clarity not in CLIP_S:
            raise CorpusError(f"clarity is one of {', '.join(CLIP_S)}; found {self.clarity!r}")

    def _require_kinds(self) -> None:
        """Refuses values of other kinds than the options have: tables of experiments tell them as well."""
        for name, default in {field.name: field.default for field in fields(self)}.items():
            value = getattr(self, name)
            if isinstance(default, tuple):
                good = isinstance(value, tuple) and len(value) == 3 and all(_is_whole(one) for one in value)
                wanted = f"three whole numbers from 0 to {LARGEST:,}, for train, dev and test"
            elif isinstance(default, bool | str):
                good, wanted = type(value) is type(default), "true or false" if default is False else "a text"
            elif isinstance(default, int):
                good, wanted = _is_whole(value), f"a whole number from 0 to {LARGEST:,}"
            else:
                good, wanted = type(value) in (int, float), "a number"
            if not good:
                raise CorpusError(f"{name} must be {wanted}; found {str(value)[:60]!r}")

    @property
    def prefix(self) -> str:
        """Beginning of the clip ids: corpora that may stand side by side have different ones."""
        design = f"read-{self.prosody}-{self.vocabulary}" if self.read else "acted"
        clarity = "" if self.clarity == "natural" else f"{self.clarity}-"
        return f"{clarity}{design}-s{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """The options that identify a corpus, by name; without what the first corpora could not choose."""
        options = asdict(self)
        if self.clarity == "natural":
            del options["clarity"]
        return options


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


@dataclass(frozen=True, eq=False)
class Utterance:
    """One planned clip.

    Args:
        id: unique in the corpus.
        split: "train", "dev" or "test".
        voice: who speaks.
        sentence: what is said.
        intended: what the speaker feels; decides the delivery, and the label where there is one.
        delivery: how it is said, [8] in the order of `delivery.DIMENSIONS`.
        labelled: whether the corpus tells the emotion.
        votes: annotators' votes; empty where not labelled.
        clarity: how clearly it is said.
    """

    id: str
    split: str
    voice: Voice
    sentence: Sentence
    intended: str
    delivery: NDArray[np.float64]
    labelled: bool
    votes: dict[str, int]
    clarity: str = "natural"


def utterances(options: SynthesisOptions, split: str, lexicon: Lexicon) -> Iterator[Utterance]:
    """The planned clips of a split, in order; each is drawn from a stream of its own.

    Args:
        options: of the corpus.
        split: "train", "dev" or "test".
        lexicon: what can be said.
    """
    position = SPLITS.index(split)
    count = options.clips[position]
    voices = draw_voices(split, options.voices[position], options.seed, options.clarity) if count else []
    said = lexicon.of(options.clarity)
    intended = _emotions(options, split, count)
    labelled = _labelled(options, split, intended)
    speakers = generator(options.seed, "speakers", split).permutation(count)
    for index in range(count):
        key = (options.seed, "read" if options.read else "acted", split, index)
        voice = voices[int(speakers[index]) % len(voices)]
        emotion = intended[index] if options.prosody == "emotional" else "neutral"
        strength = options.prosody_strength
        delivery = draw_delivery(generator(*key, "delivery"), emotion, strength, voice.habits)
        votes = draw_votes(generator(*key, "votes"), emotion, options.raters) if labelled[index] else {}
        yield Utterance(
            id=f"{options.prefix}-{split}-{index:06d}",
            split=split,
            voice=voice,
            sentence=_sentence(options, split, emotion, said, generator(*key, "words")),
            intended=emotion,
            delivery=delivery,
            labelled=bool(labelled[index]),
            votes=votes,
            clarity=options.clarity,
        )


def _sentence(
    options: SynthesisOptions, split: str, emotion: str, lexicon: Lexicon, rng: np.random.Generator
) -> Sentence:
    vocabulary = options.vocabulary
    if vocabulary == "any":
        vocabulary = KINDS[int(rng.integers(len(KINDS)))]
    if vocabulary == "free":
        return draw_free(rng, split=split)
    if vocabulary == NUMBERS:
        return draw_numbers(rng, split=split)
    strength = 0.0 if options.read else options.lexical_strength
    return lexicon.draw(rng, split=split, vocabulary=vocabulary, emotion=emotion, strength=strength)


def _emotions(options: SynthesisOptions, split: str, count: int) -> list[str]:
    """As many clips of each emotion as the count allows, in random order."""
    order = generator(options.seed, "emotions", split).permutation(count)
    return [EMOTIONS[int(place) % len(EMOTIONS)] for place in order]


def _labelled(options: SynthesisOptions, split: str, intended: list[str]) -> NDArray[np.bool_]:
    """Which clips carry a label: the same share of every emotion, and at least one if not 0."""
    labelled = np.full(len(intended), not options.read)
    if options.read or split != "train":
        return labelled
    rng = generator(options.seed, "labels", split)
    for emotion in EMOTIONS:
        places = np.flatnonzero(np.asarray(intended) == emotion)
        keep = max(round(options.labelled * len(places)), min(1, len(places)) if options.labelled else 0)
        labelled[rng.permutation(places)[keep:]] = False
    return labelled
