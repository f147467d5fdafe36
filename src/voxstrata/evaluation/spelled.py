"""Spelled words and numbers in one form, whether written letter by letter or in a row.

Corpora of spelled words write "r a l" and "five ninety eight", recognisers write "R-A-L" or "RAL" and "598".
"""

from __future__ import annotations

import re

_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = [
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_DIGITS = {
    **{word: str(value) for value, word in enumerate(_UNITS)},
    "oh": "0",
    **{word: str(10 + value) for value, word in enumerate(_TEENS)},
}
#: Two capitals or more in a row are letters, not a word.
_ACRONYM = re.compile(r"\b[A-Z]{2,}\b")


def spaced_capitals(text: str) -> str:
    """Capitals in a row as single letters.

    >>> spaced_capitals("Erase PQY now")
    'Erase P Q Y now'
    """
    return _ACRONYM.sub(lambda match: " ".join(match[0]), text)


def spelled_digits(text: str) -> str:
    """Numbers, in words or figures, as single digits; the text is in lower case, without punctuation.

    >>> spelled_digits("enter five ninety eight"), spelled_digits("enter 598")
    ('enter 5 9 8', 'enter 5 9 8')
    """
    out: list[str] = []
    words = text.split()
    for place, word in enumerate(words):
        if word in _TENS:
            tens = str(_TENS.index(word) + 2)
            following = words[place + 1] if place + 1 < len(words) else ""
            out.append(tens if following in _UNITS[1:] else f"{tens}0")
        else:
            out.append(_DIGITS.get(word, word))
    return " ".join(" ".join(word) if word.isdigit() else word for word in out)
