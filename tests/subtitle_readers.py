"""Readers of SubRip, WebVTT and RTTM, written from their descriptions, with nothing of the package."""

from __future__ import annotations

import html
import re


def read_srt(text: str) -> list[tuple[float, float, str]]:
    """Start, end and text of each cue; refuses what a player would."""
    cues = []
    for number, block in enumerate(text.rstrip("\n").split("\n\n") if text.strip() else [], start=1):
        index, times, *lines = block.split("\n")
        assert index == str(number) and lines and all(line.strip() for line in lines), block
        match = re.fullmatch(
            r"(\d{2,}):([0-5]\d):([0-5]\d),(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d),(\d{3})", times
        )
        assert match, times
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        start, end = 3600 * h + 60 * m + s + ms / 1000, 3600 * h2 + 60 * m2 + s2 + ms2 / 1000
        assert end > start, times
        cues.append((start, end, " ".join(lines)))
    return cues


def read_vtt(text: str) -> list[tuple[float, float, str | None, str]]:
    """Start, end, voice and text of each cue."""
    first, *rest = text.split("\n\n")
    assert first == "WEBVTT"
    cues = []
    for block in rest:
        if not block.strip():
            continue
        times, *lines = block.strip("\n").split("\n")
        match = re.fullmatch(
            r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})", times
        )
        assert match, times
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        payload = " ".join(lines)
        assert "-->" not in payload and payload.strip()
        voice = re.match(r"<v ([^>]*)>", payload)
        payload = payload[voice.end() :] if voice else payload
        assert not re.search(r"<|&(?!amp;|lt;|gt;)", payload), payload
        start, end = 3600 * h + 60 * m + s + ms / 1000, 3600 * h2 + 60 * m2 + s2 + ms2 / 1000
        assert end > start
        cues.append((start, end, html.unescape(voice[1]) if voice else None, html.unescape(payload)))
    return cues


def read_rttm(text: str) -> list[tuple[str, int, float, float, str]]:
    """File, channel, start, end and speaker of each turn."""
    turns = []
    for line in text.splitlines():
        kind, file, channel, start, duration, ortho, _, speaker, _, slat = line.split(" ")
        assert (kind, ortho, slat) == ("SPEAKER", "<NA>", "<NA>") and float(duration) > 0
        turns.append((file, int(channel), float(start), float(start) + float(duration), speaker))
    return turns
