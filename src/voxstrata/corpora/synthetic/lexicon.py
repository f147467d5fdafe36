"""Sentences: templates of ordinary words with slots for emotion words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import yaml

from voxstrata.corpora.synthetic.partition import split_of
from voxstrata.labels import EMOTIONS

#: Slots that hold emotion words.
EMOTION_SLOTS = ("adjective", "noun", "adverb")
VOCABULARIES = ("everyday", "bookish")
#: Clarity -> file of sentences and words; what a file does not hold is taken from that of natural speech.
FILES = {"natural": "lexicon.yaml", "clear": "clear.yaml"}
#: Share of emotion words that belong to a group of emotions instead of one.
AMBIGUITY = 0.65
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Sentence:
    """A drawn sentence.

    Args:
        text: lower-case words, with " | " where the speaker may pause.
        carrier: the same text with emotion words masked; decides the split.
        template: index of the template.
        lexical_emotion: the emotion that the words were drawn from; None in the bookish vocabulary and
            where the template has no emotion slot.
    """

    text: str
    carrier: str
    template: int
    lexical_emotion: str | None

    @property
    def transcript(self) -> str:
        """The words alone."""
        return self.text.replace(" |", "")


@dataclass(frozen=True)
class Lexicon:
    """Templates and the words of their slots.

    Args:
        templates: sentences with slots, e.g. "the {person} was {adjective}".
        ordinary: vocabulary -> slot -> words; "bookish" also fills the emotion slots.
        emotional: emotion -> slot -> words of that emotion alone.
        ambiguous: emotion -> groups it belongs to, each slot -> words.
        others: clarity other than natural -> what is said instead.
    """

    templates: tuple[str, ...]
    ordinary: dict[str, dict[str, list[str]]]
    emotional: dict[str, dict[str, list[str]]]
    ambiguous: dict[str, list[dict[str, list[str]]]]
    others: Mapping[str, Lexicon] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Lexicon:
        """The lexicon of the package, of natural speech; `of` gives those of other clarities."""
        others = {clarity: cls._read(clarity) for clarity in FILES if clarity != "natural"}
        return cls._read("natural", others)

    @classmethod
    def _read(cls, clarity: str, others: Mapping[str, Lexicon] | None = None) -> Lexicon:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        data: dict[str, Any] = {}
        for content in lexicon_files(clarity):
            data |= yaml.load(content, Loader=loader)
        groups = {e: [g for g in data["ambiguous"] if e in g["emotions"]] for e in EMOTIONS}
        ordinary = {name: data[name] for name in VOCABULARIES}
        return cls(tuple(data["templates"]), ordinary, data["emotions"], groups, others or {})

    def of(self, clarity: str) -> Lexicon:
        """What is said in speech of a clarity."""
        return self.others.get(clarity, self)

    def draw(
        self,
        rng: np.random.Generator,
        *,
        split: str,
        vocabulary: str = "everyday",
        emotion: str = "neutral",
        strength: float = 0.0,
    ) -> Sentence:
        """Draws a sentence that belongs to a split.

        With probability 1 - (1 - strength)^2 the emotion words are drawn for `emotion`, otherwise for one
        of the eight at random; so at 0 the words do not depend on the emotion at all, draw for draw.

        Args:
            rng: consumed the same way whatever the emotion.
            split: "train", "dev" or "test".
            vocabulary: "everyday", or "bookish", which has no emotion words.
            emotion: what the speaker feels.
            strength: in [0, 1].
        """
        words = self.ordinary[vocabulary]
        while True:
            index = int(rng.integers(len(self.templates)))
            carrier = self._fill(rng, self.templates[index], words)
            if split_of(f"sentence {carrier}") == split:
                break
        matched, other = rng.random() < 1 - (1 - strength) ** 2, EMOTIONS[rng.integers(len(EMOTIONS))]
        slots = _SLOT.findall(carrier)
        if vocabulary == "bookish":
            text = _SLOT.sub(lambda slot: _one(rng, words[slot[1]]), carrier)
            return Sentence(text, carrier, index, None)
        felt = emotion if matched else other
        text = _SLOT.sub(lambda slot: self._emotion_word(rng, felt, slot[1]), carrier)
        return Sentence(text, carrier, index, felt if slots else None)

    def vocabulary(self) -> set[str]:
        """All words that can occur."""
        groups = [*self.ordinary.values(), *self.emotional.values()]
        groups += [group for groups in self.ambiguous.values() for group in groups]
        entries = [
            e for group in groups for slot, words in group.items() if slot != "emotions" for e in words
        ]
        fixed = _SLOT.sub(" ", " ".join(self.templates)).replace("|", " ")
        return set(" ".join([fixed, *entries]).split())

    def _fill(self, rng: np.random.Generator, template: str, words: dict[str, list[str]]) -> str:
        def word(slot: re.Match[str]) -> str:
            return slot[0] if slot[1] in EMOTION_SLOTS else _one(rng, words[slot[1]])

        return _SLOT.sub(word, template)

    def _emotion_word(self, rng: np.random.Generator, emotion: str, slot: str) -> str:
        groups = self.ambiguous[emotion]
        shared, group, place = rng.random() < AMBIGUITY, rng.random(), rng.random()
        source = groups[int(group * len(groups))] if shared and groups else self.emotional[emotion]
        return source[slot][int(place * len(source[slot]))]


def lexicon_files(clarity: str) -> list[bytes]:
    """The files of a clarity; what a later one says replaces what an earlier one said."""
    folder = resources.files("voxstrata.corpora.synthetic")
    return [folder.joinpath(name).read_bytes() for name in dict.fromkeys((FILES["natural"], FILES[clarity]))]


def _one(rng: np.random.Generator, words: list[str]) -> str:
    return words[int(rng.integers(len(words)))]
