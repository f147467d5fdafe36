"""From a planned clip to samples and a FLAC file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxstrata.corpora.synthetic import voice_quality
from voxstrata.corpora.synthetic.espeak import ESPEAK_RATE, SILENCE, Request, speak
from voxstrata.corpora.synthetic.partition import generator
from voxstrata.corpora.synthetic.plan import Utterance
from voxstrata.corpora.synthetic.prosody import STEPS, prosody

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
        settings = prosody(clip.voice, clip.delivery, STEPS[clip.clarity])
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


@dataclass(frozen=True, eq=False)
class Rendered:
    """A clip, spoken.

    Args:
        samples: [N] at 16 kHz.
        phonemes: (start in seconds, symbol) in order of time; the first starts at 0.
    """

    samples: NDArray[np.float32]
    phonemes: tuple[tuple[float, str], ...]


def render(clip: Rendering) -> Rendered:
    """Speaks a clip: espeak-ng, then the signal processing."""
    import soxr

    rng = generator(clip.id, "noise")
    said = speak(clip.espeak)
    loud = np.flatnonzero(np.abs(said.samples) > 1e-3)
    spoken = said.samples[loud[0] : loud[-1] + 1]
    spoken = voice_quality.jitter(spoken, clip.jitter, ESPEAK_RATE, rng)
    rate = ESPEAK_RATE * clip.formant_scale
    speech = soxr.resample(spoken, rate, SAMPLE_RATE, quality="HQ")
    speech = voice_quality.tilt(speech, clip.tilt_db, SAMPLE_RATE)
    speech = voice_quality.breath(speech, clip.breath_db, SAMPLE_RATE, rng)
    speech = voice_quality.at_level(speech, clip.loudness_db)
    before, after = (int(SAMPLE_RATE * s) for s in rng.uniform(0.05, 0.2, 2))
    out = np.pad(speech, (before, after))
    out += 10 ** (clip.floor_db / 20) * rng.standard_normal(len(out), dtype=np.float32)
    starts = [(before / SAMPLE_RATE + max(0, at - int(loud[0])) / rate, name) for at, name in said.phonemes]
    end = (before + len(speech)) / SAMPLE_RATE
    spans = [(0.0, SILENCE), *((start, name) for start, name in starts if start < end), (end, SILENCE)]
    return Rendered(np.clip(out, -1, 1).astype(np.float32), tuple(spans))


def phoneme_text(phonemes: Iterable[tuple[float, str]]) -> str:
    """Phonemes as the column `phonemes` of a table: "start_s:symbol" with spaces between."""
    return " ".join(f"{start:.3f}:{symbol}" for start, symbol in phonemes)


def encode(clip: Rendered) -> bytes:
    """A FLAC file, mono, 16 bits, 16 kHz; its comment tells the phonemes."""
    import soundfile

    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        file.comment = phoneme_text(clip.phonemes)
        file.write(np.round(clip.samples * 32767).astype(np.int16))
    return buffer.getvalue()


def audio_path(folder: Path, clip_id: str, split: str) -> Path:
    """Where the audio of a clip lies: a folder a split, and a thousand clips a folder."""
    return folder / "audio" / split / clip_id[-6:-3] / f"{clip_id}.flac"
