"""From a planned clip to samples and a FLAC file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxstrata.corpora.synthetic import voice_quality
from voxstrata.corpora.synthetic.delivery import prosody
from voxstrata.corpora.synthetic.espeak import ESPEAK_RATE, Request, speak
from voxstrata.corpora.synthetic.partition import generator
from voxstrata.corpora.synthetic.plan import Utterance

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Rendering:
    """All that decides the samples of a clip.

    Args:
        id: of the clip; seeds its noise.
        espeak: what espeak-ng says.
        formant_scale: speed of playing.
        jitter: relative deviation of the period.
        tilt_db: dB per octave.
        breath_db: re speech.
        loudness_db: re full scale.
        floor_db: background noise re full scale.
    """

    id: str
    espeak: Request
    formant_scale: float
    jitter: float
    tilt_db: float
    breath_db: float
    loudness_db: float
    floor_db: float

    @classmethod
    def of(cls, clip: Utterance) -> Rendering:
        """The rendering of a planned clip."""
        settings = prosody(clip.voice, clip.delivery)
        request = Request(
            voice=clip.voice.espeak,
            phrases=tuple(clip.sentence.text.split(" | ")),
            rate_wpm=settings.rate_wpm,
            pitch=settings.pitch_dial,
            range=settings.range_dial,
            word_gap=settings.word_gap,
            pause_s=settings.pause_s,
            seed=int(generator(clip.id, "espeak").integers(1, 2**31)),
        )
        return cls(
            id=clip.id,
            espeak=request,
            formant_scale=clip.voice.formant_scale,
            jitter=settings.jitter,
            tilt_db=settings.tilt_db,
            breath_db=settings.breath_db,
            loudness_db=settings.loudness_db,
            floor_db=clip.voice.floor_db,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the worker's input."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Rendering:
        """The inverse of `as_dict`."""
        request = dict(row["espeak"])
        request["phrases"] = tuple(request["phrases"])
        return cls(**{**row, "espeak": Request(**request)})


def render(clip: Rendering) -> NDArray[np.float32]:
    """Speaks a clip, [N] samples at 16 kHz: espeak-ng, then the signal processing."""
    import soxr

    rng = generator(clip.id, "noise")
    spoken = speak(clip.espeak)
    loud = np.flatnonzero(np.abs(spoken) > 1e-3)
    spoken = spoken[loud[0] : loud[-1] + 1]
    spoken = voice_quality.jitter(spoken, clip.jitter, ESPEAK_RATE, rng)
    speech = soxr.resample(spoken, ESPEAK_RATE * clip.formant_scale, SAMPLE_RATE, quality="HQ")
    speech = voice_quality.tilt(speech, clip.tilt_db, SAMPLE_RATE)
    speech = voice_quality.breath(speech, clip.breath_db, SAMPLE_RATE, rng)
    speech = voice_quality.at_level(speech, clip.loudness_db)
    before, after = (int(SAMPLE_RATE * s) for s in rng.uniform(0.05, 0.2, 2))
    out = np.pad(speech, (before, after))
    out += 10 ** (clip.floor_db / 20) * rng.standard_normal(len(out), dtype=np.float32)
    return np.clip(out, -1, 1).astype(np.float32)


def encode(samples: NDArray[np.float32]) -> bytes:
    """A FLAC file, mono, 16 bits, 16 kHz, of samples [N]."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(
        buffer, np.round(samples * 32767).astype(np.int16), SAMPLE_RATE, format="FLAC", subtype="PCM_16"
    )
    return buffer.getvalue()


def audio_path(folder: Path, clip_id: str, split: str) -> Path:
    """Where the audio of a clip lies: a folder a split, and a thousand clips a folder."""
    return folder / "audio" / split / clip_id[-6:-3] / f"{clip_id}.flac"
