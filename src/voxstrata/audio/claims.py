"""What any recording claims to hold, against what it holds, by its kind."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import BinaryIO

from voxstrata.audio.behind import next_file, remark_on
from voxstrata.audio.boxes import (
    claim_of_ac3,
    claim_of_adts,
    claim_of_avi,
    claim_of_flv,
    claim_of_matroska,
    claim_of_mp4,
    claim_of_ts,
    claim_of_voc,
)
from voxstrata.audio.chunks import claim_of_au, claim_of_chunks, claim_of_sphere
from voxstrata.audio.claim import Claim
from voxstrata.audio.flac import claim_of_flac
from voxstrata.audio.mp3 import claim_of_mp3
from voxstrata.audio.ogg import claim_of_ogg
from voxstrata.audio.spliced import Spliced

_CHUNKED = ("WAV", "AIFF", "W64", "CAF")
_CLAIMS: Mapping[str, Callable[[BinaryIO], Claim]] = {
    "FLAC": claim_of_flac, "AU": claim_of_au, "SPHERE": claim_of_sphere, "Ogg": claim_of_ogg,
    "MP3": claim_of_mp3, "MP4": claim_of_mp4, "Matroska": claim_of_matroska, "VOC": claim_of_voc,
    "AVI": claim_of_avi, "MPEG-TS": claim_of_ts, "FLV": claim_of_flv, "AC-3": claim_of_ac3,
    "AAC": claim_of_adts,
    **{kind: partial(claim_of_chunks, kind=kind) for kind in _CHUNKED},
}  # fmt: skip


def claim_of(file: BinaryIO, kind: str) -> Claim:
    """What was found of a file.

    Args:
        file: at any place.
        kind: its name.
    """
    claim = _CLAIMS.get(kind, _unknown)
    first = None if kind in _CHUNKED else next_file(file, kind, 0)
    behind = None if first is None else next_file(file, kind, first + 4)
    if behind is None:
        return claim(file)
    alone = (slice(0, behind),)
    found = claim(io.BufferedReader(Spliced(file, alone)))
    remark = remark_on(behind, file.seek(0, 2))
    return replace(found, remarks=(*found.remarks, remark), parts=found.parts or (alone,))


def _unknown(file: BinaryIO) -> Claim:
    return Claim()
