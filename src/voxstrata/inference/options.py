"""How recordings are answered: what a caller gives, checked."""

from __future__ import annotations

from pathlib import Path

from voxstrata.errors import AudioError
from voxstrata.inference.rttm import Turns
from voxstrata.inference.timeline import METHODS, Options
from voxstrata.inference.vad import require_installed

#: How the channels of a recording are answered.
CHANNELS = ("mix", "split")


def checked_options(timeline: bool, channels: str, turns: str | Path | None, speech: str) -> Options:
    """The options of a call.

    Args:
        timeline: answer short recordings in segments too.
        channels: one of `CHANNELS`.
        turns: an RTTM file, or a folder of them.
        speech: how segments are found.

    Raises:
        AudioError: if one is none of those allowed, or the turns cannot be read.
    """
    for name, value, allowed in (("channels", channels, CHANNELS), ("speech", speech, METHODS)):
        if value not in allowed:
            raise AudioError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
    if speech == "silero":
        require_installed()
    found = None if turns is None else Turns(Path(turns))
    return Options(timeline, channels == "split", speech, found)
