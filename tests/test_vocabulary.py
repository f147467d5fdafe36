"""Label sets and character vocabularies."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.errors import LabelError
from voxstrata.labels import EMOTIONS, LabelSet
from voxstrata.vocabulary import Vocabulary

WORDS = st.text(alphabet="abcé ", max_size=12)


@given(WORDS, st.lists(st.integers(1, 3)))
def test_a_path_that_repeats_and_blanks_every_character_collapses_to_the_text(text, repeats):
    vocabulary = Vocabulary.of(["abcé "])
    counts = itertools.chain(repeats, itertools.repeat(1))
    path = [t for token, n in zip(vocabulary.encode(text), counts, strict=False) for t in ([token] * n + [0])]
    assert vocabulary.collapse([0, *path]) == text.strip()


@given(st.lists(st.integers(0, 2), max_size=10))
def test_collapse_merges_runs_then_drops_blanks(path):
    expected = "".join("-ab"[token] for token, _ in itertools.groupby(path) if token)
    assert Vocabulary(("a", "b")).collapse(path) == expected


@given(st.lists(WORDS, max_size=5))
def test_the_vocabulary_of_texts_encodes_them_all_without_the_blank(texts):
    vocabulary = Vocabulary.of(texts)
    assert list(vocabulary.characters) == sorted({c for text in texts for c in text})
    assert len(vocabulary) == len(vocabulary.characters) + 1
    assert all(0 < token < len(vocabulary) for text in texts for token in vocabulary.encode(text))


def test_characters_outside_the_vocabulary_are_all_named():
    with pytest.raises(LabelError, match=r"\['x', 'z'\], outside the vocabulary 'ab'"):
        Vocabulary(("a", "b")).encode("zabx")


def test_label_sets_keep_their_order_and_refuse_what_is_no_set():
    assert [LabelSet(EMOTIONS).index(name) for name in EMOTIONS] == list(range(8))
    assert tuple(LabelSet.of(["sad", None, "angry", "sad"])) == ("angry", "sad")
    for names in ((), ("only",), ("a", "b", "a")):
        with pytest.raises(LabelError, match="at least two distinct names"):
            LabelSet(names)
    with pytest.raises(LabelError, match="unknown label 'joy'; this label set has a, b"):
        LabelSet(("a", "b")).index("joy")
