"""Printed lines without what differs from model to model: a page may show them of any."""

from __future__ import annotations

import re

LABELS = ("anger", "joy", "neutral")


def shape(line: str) -> str:
    """A line without its numbers, words and classes."""
    line = re.sub(r'"[^"]*"', "WORDS", line)
    line = re.sub(r"\d+(\.\d+)?", "N", line)
    line = re.sub("|".join(LABELS), "E", line)
    return re.sub(r"E N( %)?(, E N( %)?)*", "SHARES", line)


def keys(value: object) -> object:
    """The names in a JSON value, those of classes left out; of a list those of its first value."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items() if name not in LABELS}
    if isinstance(value, list):
        return [keys(inner) for inner in value[:1]]
    return type(value).__name__
