"""WER and CER against jiwer and against a plain-loop edit distance."""

import jiwer
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from voxstrata.errors import VoxstrataError
from voxstrata.evaluation.recognition import (
    NORMALIZERS,
    basic,
    cer,
    error_rows,
    no_apostrophe,
    normalizer_named,
    wer,
    word_errors,
)

texts = st.lists(st.sampled_from(["the", "dog", "it's", "a", "ran", "Fox,"]), max_size=8).map(" ".join)
corpora = st.lists(st.tuples(texts, texts), min_size=1, max_size=12)


def edit_distance(a, b) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


@given(corpora)
def test_error_rates_equal_jiwer(rows):
    references, transcripts = map(list, zip(*rows, strict=True))
    assume(any(references))
    total = error_rows(references, transcripts, "none").sum(axis=0)
    assert wer(total) == pytest.approx(jiwer.wer(references, transcripts))
    assert cer(total) == pytest.approx(jiwer.cer(references, transcripts))


@given(corpora)
def test_errors_of_each_clip_equal_a_plain_loop(rows):
    references, transcripts = map(list, zip(*rows, strict=True))
    found = error_rows(references, transcripts, "basic").toarray().tolist()
    for (reference, transcript), counts in zip(rows, found, strict=True):
        a, b = basic(reference), basic(transcript)
        words = edit_distance(a.split(), b.split()), len(a.split())
        assert counts == [*words, edit_distance(a, b), len(a)]


@given(corpora)
def test_substitutions_deletions_and_insertions_equal_jiwer_and_sum_to_the_errors(rows):
    references, transcripts = map(list, zip(*rows, strict=True))
    found = word_errors(references, transcripts, "none")
    expected = jiwer.process_words(references, transcripts)
    assert found.by_kind == {kind: getattr(expected, kind) for kind in found.by_kind}
    assert sum(found.by_kind.values()) == error_rows(references, transcripts, "none").sum(axis=0)[0]
    assert found.words == sum(len(text.split()) for text in references)


@pytest.mark.parametrize(
    ("reference", "transcript", "kinds"),
    [
        ("go on now", "go in now", [1, 0, 0]),
        ("go on now", "go now", [0, 1, 0]),
        ("go on now", "oh go on now", [0, 0, 1]),
        ("go on", None, [0, 2, 0]),
        ("", "uh huh", [0, 0, 2]),
        ("Go on!", "go on", [0, 0, 0]),
    ],
)
def test_kinds_of_word_errors_by_hand(reference, transcript, kinds):
    found = word_errors([reference, "stop"], [transcript, "stop"], "basic")
    assert list(found.by_kind.values()) == kinds
    rates = [kind["rate"] for kind in found.as_dict().values()]
    assert rates == [count / found.words for count in kinds]


@pytest.mark.parametrize(
    ("transcript", "kinds"),
    [("say the word dog uh", [0, 0, 1]), ("hay thee wort log", [1, 0, 0]), ("hay the word", [0, 1, 0])],
)
def test_kinds_leave_out_the_words_of_a_carrier_phrase(transcript, kinds):
    found = word_errors(["say the word dog"], [transcript], "basic without say the word")
    assert list(found.by_kind.values()) == kinds and found.words == 1


def test_an_empty_reference_adds_its_insertions_and_an_empty_transcript_loses_all_words():
    total = error_rows(["", "go on", "stop"], ["uh huh", "", None], "basic").sum(axis=0)
    assert total.tolist() == [2 + 2 + 1, 3, 6 + 5 + 4, 9]
    assert wer(total) == pytest.approx(5 / 3)


def test_a_corpus_weighs_words_not_clips():
    assert wer(error_rows(["a", "b c d"], ["x", "b c d"], "none").sum(axis=0)) == 0.25


def test_no_reference_words_have_no_rate():
    assert np.isnan(wer(np.array([2.0, 0.0, 5.0, 0.0])))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello,   WORLD!\n", "hello world"),
        ("don’t 'quote' the dogs' bones", "don't quote the dogs bones"),
        ("state-of-the-art... ok?", "state of the art ok"),
        ("ÉCOLE, Straße; £5 & more", "école straße 5 more"),
        ("e\u0301te\u0301", "été"),
        ("ŉ ＡＢ", "n ab"),
        ("0'_", "0"),
        ("नमस्ते।", "नमस्ते"),
        ("' -- '", ""),
    ],
)
def test_basic_normaliser(text, expected):
    assert basic(text) == expected


@given(st.text(max_size=30))
def test_normalisers_settle_at_once(text):
    assert basic(basic(text)) == basic(text)
    assert "'" not in no_apostrophe(text)


def test_normalisers_decide_what_counts():
    def errors(normalizer):
        return error_rows(["It's  late."], ["its late"], normalizer).toarray()[0, 0]

    assert [errors(name) for name in ("none", "basic", "no-apostrophe")] == [2, 1, 0]
    assert set(NORMALIZERS) == {"none", "basic", "no-apostrophe", "spelled"}


@pytest.mark.parametrize(
    ("read", "written"),
    [
        ("rubout g m e f three nine", "Rubout G-M-E-F 39."),
        ("erase p q y v t five ninety eight", "Erase PQYVT-598"),
        ("enter eight thirteen", "Enter 8 13"),
        ("two two six", "2-2-6"),
        ("twenty oh five", "20 0 5"),
        ("i v a n", "IVAN."),
        ("thirty", "30"),
        ("one a one", "1 A 1"),
    ],
)
def test_spelled_words_and_numbers_are_one_however_they_are_written(read, written):
    assert error_rows([read], [written], "spelled").toarray()[0, 0] == 0
    assert error_rows([read], [written + " more"], "spelled").toarray()[0, 0] == 1


@given(st.text(max_size=30))
def test_spelling_out_settles_at_once(text):
    once = NORMALIZERS["spelled"](text)
    assert NORMALIZERS["spelled"](once) == once


def test_words_of_a_carrier_phrase_need_not_be_scored():
    def counts(transcript, reference="Say the word dog."):
        return error_rows([reference], [transcript], "basic without say the word").toarray()[0].tolist()

    assert (
        counts("say the word dog") == counts("a wort dog") == counts("uh say a thee wort dog") == [0, 1, 0, 3]
    )
    assert counts("say the word log") == [1, 1, 1, 3]
    assert counts("say the word dog house") == [1, 1, 6, 3]
    assert counts(None) == counts("") == [1, 1, 3, 3]
    assert counts("uh say it", "say the word") == [0, 0, 0, 0]
    assert counts("dogs of", "dog say") == [1, 1, 1, 4]

    with pytest.raises(VoxstrataError, match="unknown normaliser 'whisper'; choose one of none"):
        error_rows(["a"], ["a"], "whisper without the")


@pytest.mark.parametrize(
    ("name", "unscored"),
    [
        ("basic", set()),
        ("basic without say the word", {"say", "the", "word"}),
        ("basic without Say  The WORD, \n", {"say", "the", "word"}),
        ("basic without it’s 'well-known'", {"it's", "well", "known"}),
        ("basic without without", {"without"}),
        ("no-apostrophe without it's", {"its"}),
        ("none without Say it's -", {"Say", "it's", "-"}),
    ],
)
def test_words_that_are_not_scored_are_normalised_like_the_texts(name, unscored):
    normal = normalizer_named(name)
    assert normal.unscored == unscored
    assert normal.form is NORMALIZERS[name.partition(" ")[0]]


def test_a_reference_word_is_not_scored_however_the_name_spells_it():
    rows = error_rows(["Say: it's dog."], ["hay is log"], "no-apostrophe without SAY it’s").toarray()
    assert rows[0].tolist() == [1, 1, 1, 3]


@pytest.mark.parametrize("name", ["basic without", "basic without ", "none without  \n"])
def test_without_takes_at_least_one_word(name):
    with pytest.raises(
        VoxstrataError, match=r"has no words after 'without'; give at least one.*alone"
    ) as found:
        normalizer_named(name)
    assert len(str(found.value).splitlines()) == 1


def test_what_the_normaliser_leaves_nothing_of_is_no_word():
    with pytest.raises(
        VoxstrataError, match=r"'basic' leaves nothing of '-', '\.\.\.'; .*take the others out"
    ):
        normalizer_named("basic without say - ... word")


def test_an_unknown_normaliser_is_named_with_those_there_are():
    with pytest.raises(VoxstrataError, match=r"'whisper'; choose one of none, basic, no-apostrophe"):
        error_rows(["a"], ["a"], "whisper")
