"""Words that are equal in a table are equal in a score: one rule for what of a text counts."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.evaluation.letters import visible
from voxstrata.evaluation.recognition import NORMALIZERS, basic, error_rows, wer

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(CHARACTERS, max_size=30)
IGNORABLE = regex.compile(r"\p{Default_Ignorable_Code_Point}")
#: Characters of which Unicode makes others, or that lie between letters and none.
ODD = "’`´\u02bc\u1fef\u1ffd\uff07\uff40™℃㎏½²①⒜¨΅ﬁŉİΣςϹϲ\u0301\u20e3\u0345_-'.,€ \u3000\xa0\x00\x85\ue000"


@given(TEXT | st.text(ODD + "ab", max_size=12))
@example("a\u03f9")
@example("it\uff07s")
def test_scoring_reads_the_words_of_a_table_as_it_reads_the_text_they_came_from(text: str) -> None:
    assert basic(normalize_transcript(text) or "") == basic(text)


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_equal_words_have_no_error_whichever_side_went_through_a_table(texts: list[str]) -> None:
    tabled = [normalize_transcript(text) or "" for text in texts]
    for name in ("basic", "no-apostrophe"):
        counts = error_rows([*tabled, *texts], [*texts, *tabled], name).sum(axis=0)
        assert counts[0] == counts[2] == 0
        assert np.isnan(wer(counts)) or wer(counts) == 0


def test_what_drops_is_what_unicode_calls_ignorable() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assert [c for c in characters if not visible(c)] == [c for c in characters if IGNORABLE.match(c)]


@given(st.lists(st.text("abcé'ß", min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_what_is_not_seen_parts_no_word_and_changes_none(words: list[str], data: st.DataObject) -> None:
    hidden = st.sampled_from("\u00ad\u200b\u200c\u200d\u2060\ufeff\u034f\u180e\ufe0f\u3164\U000e0020\u202e")
    strewn = "".join(c + "".join(data.draw(st.lists(hidden, max_size=2))) for c in " ".join(words))
    plain = " ".join(words)
    assert normalize_transcript(strewn) == normalize_transcript(plain)
    for name in ("basic", "no-apostrophe", "spelled"):
        assert NORMALIZERS[name](strewn) == NORMALIZERS[name](plain)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("می\u200cخواهم", "میخواهم"),  # Persian: one word, with or without the non-joiner
        ("co\u00adop\u00aderate", "cooperate"),
        ("\ufeffgo\u200b on\ufeff", "go on"),
        ("I \u2764\ufe0f it", "i it"),  # an emoji's variation selector is no word
        ("क्\u200dष", "क्ष"),
        ("5 ㎏ ™", "5 kg tm"),
    ],
)
def test_both_spell_the_same(text: str, expected: str) -> None:
    assert normalize_transcript(text) == basic(text) == expected


@pytest.mark.parametrize("hidden", ["\u00ad", "\u200b", "\u200c", "\u200d", "\ufeff"])
def test_a_transcript_with_invisible_characters_has_a_word_error_rate_of_zero(hidden: str) -> None:
    table = normalize_transcript("the cooperation")
    assert table is not None
    assert wer(error_rows([table], [f"the co{hidden}operation"], "basic").sum(axis=0)) == 0
    assert wer(error_rows([table], [f"the co {hidden}operation"], "basic").sum(axis=0)) == 1  # a real space
