"""Whisper's words in long recordings: the times are its own, and each word stands once."""

from __future__ import annotations

import re
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch

from long_recordings import RATE, with_bursts
from tiny_whisper import LONGEST, TOKENS, WAVES, batch_of, save_whisper
from voxstrata.audio import load_audio
from voxstrata.inference.recognizer import Recognizer
from voxstrata.inference.vad import SileroVad
from voxstrata.methods.transcribers.published_whisper import load_transcriber
from voxstrata.methods.transcribers.timed_decoding import is_timed, phrases
from whisper_by_hand import real_model


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper with tokens for times from 0 to 2 seconds."""
    return save_whisper(tmp_path_factory.mktemp("whisper") / "timed", vocab_size=len(TOKENS) + 101)


def test_phrases_lie_in_the_clip_in_order(timed: Path) -> None:
    transcriber = load_transcriber(timed, language="en")
    assert is_timed(transcriber)
    with torch.no_grad():
        found = phrases(transcriber, transcriber.heard(batch_of(WAVES)))
        alone = [phrases(transcriber, transcriber.heard(batch_of([wave])))[0] for wave in WAVES]
    assert found == alone and any(found)
    for clip in found:
        times = [time for part in clip for time in (part.start_s, part.end_s) if time is not None]
        assert times == sorted(times) and all(0 <= time <= 2 for time in times)
        assert not any("<|" in part.text for part in clip)


def test_a_decoder_without_tokens_for_times_writes_what_it_writes_of_a_clip(tmp_path: Path) -> None:
    transcriber = load_transcriber(save_whisper(tmp_path / "plain"), language="en")
    assert not is_timed(transcriber)
    with torch.no_grad():
        heard = transcriber.heard(batch_of(WAVES))
        found = phrases(transcriber, heard)
        texts = transcriber.texts(transcriber.tokens(heard))
    assert [" ".join(part.text for part in clip) for clip in found] == texts
    assert all(part.start_s is None for clip in found for part in clip)


def test_a_whisper_of_two_seconds_reads_a_long_recording(timed: Path) -> None:
    recognizer = Recognizer.load(timed, language="en")
    assert recognizer.longest_s == LONGEST / RATE == 2
    found = recognizer((with_bursts([(1, 7), (8, 9), (10, 10.6)], 12), RATE), speech="energy")
    assert found.segments and found.emotion is None and found.transcript is not None
    for part in found.segments:
        assert part.duration_s < 2
        assert all(part.start_s <= w.start_s <= w.end_s <= part.end_s for w in part.words)
    short = recognizer((with_bursts([(0.2, 1.5)], 1.9), RATE))
    assert short.summaries == ()


@pytest.mark.slow
def test_real_phrases_are_those_of_transformers_own_decoding(real_data: Path) -> None:
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder = real_model("whisper-tiny.en")
    path = next(iter(sorted((real_data / "LibriSpeech").rglob("*.flac"))))
    samples = load_audio(path)[: 25 * RATE]
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    extract = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    out = model.generate(extract.input_features, return_timestamps=True, return_segments=True)
    transcriber = load_transcriber(folder)
    with torch.no_grad():
        (found,) = phrases(transcriber, transcriber.heard(batch_of([torch.from_numpy(samples)])))
    first = out["segments"][0][0]
    assert found[0].start_s == pytest.approx(float(first["start"]), abs=0.011)
    assert found[0].end_s == pytest.approx(float(first["end"]), abs=0.011)
    assert found[0].text == transcriber.texts([first["tokens"].tolist()])[0]


def spelled(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", "", text.lower()).split()


@pytest.mark.slow
def test_real_words_of_a_long_recording_stand_once_and_at_their_times(real_data: Path) -> None:
    """Utterances one after the other, longer than a window, against the same Whisper on each alone."""
    paths = sorted((real_data / "LibriSpeech").rglob("*.flac"))[:8]
    parts = [load_audio(path) for path in paths]
    recognizer = Recognizer.load(real_model("whisper-base"), language="en")
    spoken = [" ".join(spelled(recognizer(path).transcript or "")) for path in paths]
    found = recognizer((np.concatenate(parts), RATE), speech="energy")
    assert found.duration_s > 45 and len(found.segments) > 5
    said = spelled(found.transcript)
    words = " ".join(spoken).split()
    assert jiwer.wer(" ".join(words), " ".join(said)) < 0.2
    assert abs(len(said) - len(words)) < 0.05 * len(words)
    starts = np.cumsum([0, *map(len, parts)]) / RATE
    every = [word for part in found.segments for word in part.words]
    for k, text in enumerate(spoken):
        inside = [word.text for word in every if starts[k] + 1 < word.middle_s < starts[k + 1] - 1]
        said = spelled(" ".join(inside))
        assert sum(word in text.split() for word in said) >= 0.7 * len(said)


def test_silero_finds_real_speech_between_silences(real_data: Path) -> None:
    pytest.importorskip("silero_vad")
    path = next(iter(sorted((real_data / "LibriSpeech").rglob("*.flac"))))
    voice = load_audio(path)[: 5 * RATE]
    samples = np.concatenate([np.zeros(3 * RATE, np.float32), voice, np.zeros(4 * RATE, np.float32)])
    threads = torch.get_num_threads()
    spans = SileroVad().speech(samples[k : k + 7001] for k in range(0, len(samples), 7001))
    assert torch.get_num_threads() == threads
    assert spans and spans[0][0] > 2.8 and spans[-1][1] < 8.5
    assert sum(end_s - start_s for start_s, end_s in spans) > 3
    tone = np.sin(2 * np.pi * 440 * np.arange(5 * RATE) / RATE).astype(np.float32)
    assert SileroVad().speech([tone]) == []
