"""What of a text counts where words are compared: letters, digits, marks on them, and apostrophes.

The one rule for transcripts of corpora (`corpora.transcripts`) and for scoring (`recognition.basic`), so that
words which are equal in a table are equal in a score.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import dropwhile
from typing import Literal

#: Written for an apostrophe: typographic ones, accents that stand alone, and what Unicode makes of these.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u00b4`\u1fef\u1ffd\uff07\uff40", "'"))

#: Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt): soft hyphen, zero-width space, joiner
#: and non-joiner, byte order mark, direction marks, variation selectors and fillers. None is seen or heard.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)


def visible(text: str) -> str:
    r"""A text without characters that are not seen: they neither part words nor make them differ.

    >>> visible("co\u00adop\u200b \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")
    'coop میخواهم'
    """
    return _INVISIBLE.sub("", text)


def one_form(name: str) -> str:
    r"""A name of a speaker or class as it is compared: composed (NFC), without what is not seen.

    >>> one_form("Ju\u0308rgen\u200b") == "J\u00fcrgen"
    True
    """
    return unicodedata.normalize("NFC", visible(name))


def letters(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """Lower case; apostrophes plain; all but letters, digits, marks and apostrophes as spaces.

    Invisible characters drop. Symbols that stand for letters or digits (™, ℃, ㎏) are written out.

    Args:
        text: any.
        form: of Unicode that the text is brought to.
    """
    text = "".join(map(_written_out, visible(text).translate(_APOSTROPHES)))
    # Lower case before and after: NFKC makes capitals, and a lunate sigma's capital another letter.
    text = unicodedata.normalize(form, text.lower()).translate(_APOSTROPHES)
    return "".join(map(_kept, unicodedata.normalize(form, text.lower())))


def split_words(text: str) -> list[str]:
    """The words of a text in `letters`: each has a letter or digit, and begins with no mark."""
    found = ("".join(dropwhile(_is_mark, word)) for word in text.split())
    return [word for word in found if any(map(str.isalnum, word))]


@cache
def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


@cache
def _kept(character: str) -> str:
    return character if character.isalnum() or character == "'" or _is_mark(character) else " "


@cache
def _written_out(character: str) -> str:
    if _kept(character) != " ":
        return character
    plain = unicodedata.normalize("NFKC", character)
    return plain if any(map(str.isalnum, plain)) else character
