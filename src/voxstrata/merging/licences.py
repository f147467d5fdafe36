"""Licences of checkpoints and corpora as far as they are stated, and what they do not allow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxstrata.documents import parse_yaml
from voxstrata.errors import VoxstrataError

CARD = "README.md"
#: Of the models that come with the package, in the hub's spelling.
PACKAGED = {"whisper-tiny.en": "mit", "wavlm-tiny": "apache-2.0", "wavlm-tiny-asr": "apache-2.0"}
#: Corpora that there are readers for -> their licences.
CORPUS_LICENCES = {
    "ravdess": "CC BY-NC-SA 4.0",
    "tess": "CC BY-NC-ND 4.0",
    "crema-d": "ODbL 1.0",
    "iemocap": "its own: research only, by agreement",
    "msp-podcast": "its own: by agreement",
    "emilia": "CC BY-NC 4.0",
    "an4": "free for any use",
    "librispeech": "CC BY 4.0",
    "synthetic": "made by voxstrata",
}
#: What a licence may not allow.
COMMERCIAL, CHANGED = "commercial use", "changed copies"
#: Bytes of a card that are looked through for its front matter.
_LARGEST_CARD = 1 << 20
_NON_COMMERCIAL = ({"non", "commercial"}, {"research", "only"})
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def read_card(folder: Path) -> dict[str, Any]:
    """The front matter of a folder's README.md; empty where there is none that can be read."""
    try:
        with (folder / CARD).open("rb") as file:
            text = file.read(_LARGEST_CARD).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return {}
    match = _FRONT.match(text)
    if match is None:
        return {}
    try:
        front = parse_yaml(match[1], CARD)
    except VoxstrataError:
        return {}
    return front if isinstance(front, dict) else {}


def licence_of(card: Mapping[str, Any]) -> str | None:
    """What a card states as its licence."""
    told = card.get("license")
    if isinstance(told, list):
        told = ", ".join(str(one) for one in told)
    if told == "other" and isinstance(card.get("license_name"), str):
        told = card["license_name"]
    if not isinstance(told, str) or not told.strip().isprintable():
        return None
    return told.strip()[:100] or None


def restrictions(licence: str) -> list[str]:
    """What a licence does not allow, by its name.

    >>> restrictions("cc-by-nc-nd-4.0"), restrictions("mit")
    (['commercial use', 'changed copies'], [])
    """
    words = set(re.split(r"[^a-z]+", licence.lower()))
    found = []
    if words & {"nc", "noncommercial"} or any(pair <= words for pair in _NON_COMMERCIAL):
        found.append(COMMERCIAL)
    if "nd" in words or "noderivatives" in words:
        found.append(CHANGED)
    return found


def conflicts(licences: Mapping[str, str | None]) -> list[str]:
    """A line for each licence that binds the whole merge.

    Args:
        licences: of each parent by name; None where it is not known.
    """
    return [
        f"{name} is under {licence}, without {' or '.join(barred)}: that holds for the whole merge"
        for name, licence in licences.items()
        if licence is not None and (barred := restrictions(licence))
    ]
