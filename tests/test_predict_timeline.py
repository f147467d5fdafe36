"""Long recordings in segments: all speech is covered, nothing twice, and the answers are the model's own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import voxstrata.inference.vad as vad_module
from long_recordings import RATE, burst, with_bursts
from recorded import batch
from voxstrata.audio import load_audio
from voxstrata.backbone.encoder import load_backbone
from voxstrata.errors import AudioError
from voxstrata.heads.ctc import CTCHead
from voxstrata.inference.given import Given
from voxstrata.inference.path import predict
from voxstrata.inference.recognizer import Recognizer
from voxstrata.inference.scan import scan
from voxstrata.inference.speech import LONGEST_S, Lengths, chunks_of, pieces_of, speech_by_level, stretches
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import DimensionModel, EmotionModel, TranscriptionModel
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("neutral", "anger", "joy"))


pytestmark = pytest.mark.usefixtures("speech_by_level")


@pytest.fixture(scope="module")
def model(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = EmotionModel(load_backbone(encoder_folder), LABELS)
    made.head.classifier.weight.data *= 20
    folder = tmp_path_factory.mktemp("timeline") / "model"
    save_model(made, folder)
    return folder


@pytest.fixture(scope="module")
def recognizer(model: Path, expert_folders: dict[str, Path]) -> Recognizer:
    """Emotions, and letters of a CTC head."""
    torch.manual_seed(1)
    encoder = load_backbone(expert_folders["asr"])
    words = TranscriptionModel(encoder, CTCHead(encoder.hidden_size, Vocabulary(("a", " ", "c")))).eval()
    return Recognizer([load_model(model), words])


@st.composite
def bursts(draw: st.DrawFn) -> tuple[list[tuple[float, float]], float]:
    """Speech and pauses that are long enough to be told apart, and the length of the recording."""
    spans, time_s = [], 0.0
    for _ in range(draw(st.integers(1, 6))):
        start_s = time_s + draw(st.floats(0.6, 3))
        time_s = start_s + draw(st.floats(0.5, 26))
        spans.append((start_s, time_s))
    return spans, time_s + draw(st.floats(0, 3))


@given(bursts(), st.sampled_from([0.0, 0.0005, 0.003]), st.integers(0, 99))
@settings(max_examples=25)
def test_segments_cover_all_speech_and_never_overlap(made, noise: float, seed: int) -> None:
    spans, length_s = made
    samples = with_bursts(spans, length_s, noise=noise, seed=seed)
    found = scan(Given("x", sound=_sound(samples)), split=False)
    (track,) = found.tracks
    assert found.duration_s == pytest.approx(len(samples) / RATE)
    pieces = pieces_of(speech_by_level(track.levels), track.levels, found.duration_s)
    for start_s, end_s in spans:
        inside = sum(max(0, min(p.end_s, end_s) - max(p.start_s, start_s)) for p in pieces)
        assert inside >= end_s - start_s - 0.08
    edges = [edge for piece in pieces for edge in piece.span]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= found.duration_s
    assert all(0 < p.end_s - p.start_s <= LONGEST_S + 1e-6 for p in pieces)
    assert sum(p.end_s - p.start_s for p in pieces) <= sum(b - a for a, b in spans) + 0.5 * len(spans)
    for piece in pieces:
        assert piece.window[0] <= piece.start_s and piece.end_s <= piece.window[1]
    chunks = chunks_of(pieces)
    assert [p for chunk in chunks for p in chunk.pieces] == pieces
    assert all(chunk.window[1] - chunk.window[0] <= 30 for chunk in chunks)


def _sound(samples: np.ndarray, rate: int = RATE):
    from voxstrata.audio import Sound

    return Sound(samples[:, None] if samples.ndim == 1 else samples, rate)


@given(st.lists(st.booleans(), max_size=200))
def test_stretches_are_those_of_a_plain_loop(flags: list[bool]) -> None:
    """Frames of a tenth of a second: pauses under 0.3 s bridged, then bursts under 0.3 s left out."""
    speech = list(flags)
    k = 0
    while k < len(speech):
        if not speech[k]:
            end = k
            while end < len(speech) and not speech[end]:
                end += 1
            if k > 0 and end < len(speech) and end - k < 3:
                speech[k:end] = [True] * (end - k)
            k = end
        k += 1
    runs, start = [], None
    for k, flag in enumerate([*speech, False]):
        if flag and start is None:
            start = k
        if not flag and start is not None:
            if k - start >= 3:
                runs.append((max(0.0, start / 10 - 0.1), min(len(flags) / 10, k / 10 + 0.1)))
            start = None
    found = stretches(np.array(flags, bool), 0.1)
    assert found == [pytest.approx(run, abs=1e-6) for run in runs]


def test_silence_and_noise_alone_are_no_crash() -> None:
    assert speech_by_level(np.zeros(0, np.float32)) == []
    assert speech_by_level(np.full(500, -120, np.float32)) == []
    (span,) = speech_by_level(np.full(500, -30, np.float32))
    assert span == (0, pytest.approx(10.0))


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds: three stretches of speech, one of them too long for a segment."""
    path = tmp_path_factory.mktemp("long") / "call.flac"
    soundfile.write(path, with_bursts([(1, 4), (6, 8), (10, 38.5)], 40), RATE)
    return path


def test_a_segment_has_the_answer_of_its_stretch_of_the_file(recognizer, model, long_file) -> None:
    found = recognizer(long_file)
    first = found.segments[0]
    alone = load_audio(long_file, offset_s=first.start_s, duration_s=first.end_s - first.start_s)
    soundfile.write(long_file.parent / "part.wav", alone, RATE, subtype="FLOAT")
    (row,) = predict(load_model(model), [batch([long_file.parent / "part.wav"])])
    assert first.probabilities == pytest.approx(row.probabilities, abs=1e-5)
    assert first.emotion == row.emotion and sum(first.probabilities.values()) == pytest.approx(1)


def test_neighbours_of_a_cut_are_means_of_the_windows_that_reach_into_them(
    recognizer, model, long_file
) -> None:
    """The mean is worked out anew from windows of a second more on each side of a cut."""
    segments = [part for part in recognizer(long_file).segments if part.start_s > 9]
    assert len(segments) >= 3 and all(a.end_s == b.start_s for a, b in pairwise(segments))
    begin_s, end_s = segments[0].start_s, segments[-1].end_s
    answers = []
    for part in segments:
        window = (max(begin_s, part.start_s - 1), min(end_s, part.end_s + 1))
        path = long_file.parent / "window.wav"
        samples = load_audio(long_file)[round(window[0] * RATE) : round(window[1] * RATE)]
        soundfile.write(path, samples, RATE, subtype="FLOAT")
        (row,) = predict(load_model(model), [batch([path])])
        answers.append((window, row.probabilities))
    for part in segments:
        sums, total = dict.fromkeys(LABELS, 0.0), 0.0
        for window, shares in answers:
            weight = max(0.0, min(window[1], part.end_s) - max(window[0], part.start_s))
            total += weight
            for name, share in shares.items():
                sums[name] += weight * share
        assert part.probabilities == pytest.approx({k: v / total for k, v in sums.items()}, abs=1e-4)


def test_a_recording_in_any_form_has_the_same_segments(recognizer, long_file) -> None:
    expected = recognizer(long_file)
    samples, rate = soundfile.read(long_file, dtype="float32")
    assert expected.summaries and expected.duration_s == pytest.approx(40)
    with long_file.open("rb") as file:
        for form in (long_file.read_bytes(), file, (samples, rate), torch.from_numpy(samples)[None].clone()):
            found = recognizer(form, sample_rate=rate if isinstance(form, torch.Tensor) else None)
            assert [s.emotion for s in found.segments] == [s.emotion for s in expected.segments]
            for a, b in zip(found.segments, expected.segments, strict=True):
                assert (a.start_s, a.end_s, a.words) == (b.start_s, b.end_s, b.words)
                assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    assert list(recognizer.segments(long_file)) == list(expected.segments)


def test_words_stand_in_their_segments_in_order(recognizer, long_file) -> None:
    found = recognizer(long_file)
    words = [word for part in found.segments for word in part.words]
    assert words and " ".join(word.text for word in words) == found.transcript
    for part in found.segments:
        assert part.transcript == " ".join(word.text for word in part.words)
        assert all(part.start_s <= w.start_s <= w.end_s <= part.end_s for w in part.words)


def test_up_to_thirty_seconds_are_one_clip_and_more_are_segments(recognizer, model, tmp_path) -> None:
    for name, seconds in (("short", 30.0), ("long", 30.1)):
        soundfile.write(tmp_path / f"{name}.wav", with_bursts([(1, 5), (7, 12)], seconds), RATE)
    short, long = (recognizer(tmp_path / f"{name}.wav") for name in ("short", "long"))
    (row,) = predict(load_model(model), [batch([tmp_path / "short.wav"])])
    assert short.probabilities == row.probabilities and short.summaries == ()
    assert short.as_dict() == short.row.as_dict()
    assert len(long.segments) == 2 and {"segments", "summaries", "duration"} <= long.as_dict().keys()
    timed = recognizer(tmp_path / "short.wav", timeline=True)
    assert [s.emotion for s in timed.segments] == [s.emotion for s in long.segments]
    assert timed.row.id == short.row.id and timed.duration_s == 30


def test_ratings_are_means_too(encoder_folder: Path, long_file: Path) -> None:
    torch.manual_seed(2)
    found = Recognizer([DimensionModel(load_backbone(encoder_folder)).eval()])(long_file)
    seconds = [part.duration_s for part in found.segments]
    for name in ("arousal", "valence", "dominance"):
        mean = np.average([part.ratings[name] for part in found.segments], weights=seconds)
        assert found.ratings[name] == pytest.approx(mean) == found.summaries[0].ratings[name]
    assert found.emotion is None and all(part.emotion is None for part in found.segments)


def test_each_party_of_a_call_has_its_own_answers(recognizer, tmp_path) -> None:
    ours, theirs = [(1, 6), (12, 17)], [(7, 11)]
    left, right = with_bursts(ours, 20), with_bursts(theirs, 20, seed=50)
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    found = recognizer(tmp_path / "call.wav", channels="split")
    for channel, (spans, samples) in enumerate(((ours, left), (theirs, right)), start=1):
        parts = [part for part in found.segments if part.channel == channel]
        assert [(p.start_s, p.end_s) for p in parts] == [pytest.approx(span, abs=0.25) for span in spans]
        alone = recognizer((samples, RATE), timeline=True)
        for a, b in zip(parts, alone.segments, strict=True):
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
        assert found.summaries[channel - 1].channel == channel
        assert found.summaries[channel - 1].speech_s == pytest.approx(sum(p.duration_s for p in parts))
    assert [part.start_s for part in found.segments] == sorted(part.start_s for part in found.segments)


def test_a_silent_channel_is_noted_and_two_are_an_error(recognizer, tmp_path) -> None:
    voice = with_bursts([(1, 6)], 8)
    soundfile.write(tmp_path / "half.wav", np.stack([voice, 0 * voice], axis=1), RATE)
    found = recognizer(tmp_path / "half.wav", channels="split")
    assert "channel 2: silence" in found.note and {p.channel for p in found.segments} == {1}
    soundfile.write(tmp_path / "none.wav", np.zeros((40 * RATE, 2)), RATE)
    for channels in ("split", "mix"):
        with pytest.raises(AudioError, match=r"all samples are zero in .*none\.wav: silence"):
            recognizer(tmp_path / "none.wav", channels=channels)


def test_channels_that_cancel_each_other_are_read_in_long_recordings_too(recognizer, tmp_path) -> None:
    voice = with_bursts([(1, 6), (8, 33)], 35)
    soundfile.write(tmp_path / "x.wav", np.stack([voice, -voice], axis=1), RATE, subtype="FLOAT")
    found = recognizer(tmp_path / "x.wav")
    assert "channels cancel each other: channel 1 of 2" in found.note
    alone = recognizer((voice, RATE))
    assert found.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_any_level_has_the_same_segments(recognizer) -> None:
    voice = with_bursts([(1, 6), (8, 33)], 35)
    plain = recognizer((voice, RATE))
    for gain in (1e-5, 30_000):
        found = recognizer(((voice * np.float32(gain)), RATE))
        assert [(p.start_s, p.end_s) for p in found.segments] == [
            (p.start_s, p.end_s) for p in plain.segments
        ]


def test_telephone_speech_music_and_little_speech_are_noted(recognizer, tmp_path) -> None:
    phone = with_bursts([(1, 6), (8, 33)], 35, rate=8000)
    assert "narrow band" in recognizer((phone, 8000)).note
    time_s = np.arange(40 * RATE) / RATE
    chord = sum(0.1 * np.sin(2 * np.pi * hertz * time_s) for hertz in (220, 277, 330, 5000))
    found = recognizer((chord.astype(np.float32), RATE))
    assert "music-like" in found.note and all("music-like" in part.note for part in found.segments)
    assert "music-like" in recognizer((chord[: 6 * RATE].astype(np.float32), RATE)).note
    assert "music-like" not in (recognizer((with_bursts([(1, 30)], 31), RATE)).note or "")
    assert "short" in recognizer((burst(1, 0.4), RATE)).note
    silence = np.zeros(40 * RATE, np.float32)
    silence[RATE : RATE + 8] = 0.5
    found = recognizer((silence, RATE))
    assert "no speech found" in found.note and found.segments == () and found.emotion is None


TURN = "SPEAKER call 1 {} {} <NA> <NA> {} <NA> <NA>\n"


def test_turns_are_answered_and_each_speaker_has_a_summary(recognizer, long_file) -> None:
    turns = long_file.parent / "call.rttm"
    turns.write_text(TURN.format(1, 3, "ann") + TURN.format(6, 2, "bob") + TURN.format(11, 3, "ann"))
    found = recognizer(long_file, turns=turns)
    assert [(p.start_s, p.end_s, p.speaker) for p in found.segments] == [
        (1, 4, "ann"),
        (6, 8, "bob"),
        (11, 14, "ann"),
    ]
    assert {s.speaker: s.speech_s for s in found.summaries} == {"ann": 6, "bob": 2}
    samples = load_audio(long_file)
    alone = recognizer((samples[RATE : 4 * RATE], RATE))
    assert found.segments[0].probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    assert found.summaries == recognizer(long_file, turns=long_file.parent).summaries


def test_turns_of_silence_or_of_no_length_are_not_answered(recognizer, tmp_path) -> None:
    soundfile.write(tmp_path / "call.wav", with_bursts([(1, 6)], 10), RATE)
    turns = tmp_path / "call.rttm"
    turns.write_text(TURN.format(1, 5, "a") + TURN.format(8, 1, "b") + TURN.format(2, 0.01, "c"))
    found = {part.speaker: part for part in recognizer(tmp_path / "call.wav", turns=turns).segments}
    assert found["a"].emotion and found["b"].emotion is None and found["c"].emotion is None
    assert "silence" in found["b"].note and "too short" in found["c"].note


def test_speech_by_a_package_that_is_not_there_is_one_line(recognizer, long_file, monkeypatch) -> None:
    monkeypatch.setattr(vad_module, "find_spec", lambda name: None)
    with pytest.raises(AudioError, match=r"pip install 'voxstrata\[vad\]', or take energy"):
        recognizer(long_file, speech="silero")


def test_faults_of_options_and_turns_are_one_line(recognizer, long_file, tmp_path) -> None:
    turns = tmp_path / "call.rttm"
    turns.write_text(TURN.format(1, 500, "a"))
    for options, message in (
        ({"channels": "left"}, "channels is 'left'; allowed are mix, split"),
        ({"speech": "magic"}, "speech is 'magic'; allowed are auto, energy, silero"),
        ({"turns": turns}, r"ends at 501 s \(line 1\), and .*call.flac lasts 40.00 s"),
        ({"turns": tmp_path / "none"}, "cannot read turns from .*none: No such file"),
    ):
        with pytest.raises(AudioError, match=message) as fault:
            recognizer(long_file, **options)
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize("window_s", [2.0, 7.5, 30.0])
@given(bursts())
@settings(max_examples=20)
def test_windows_are_as_long_as_a_model_takes(window_s: float, made) -> None:
    """A shorter limit than 30 seconds, as of a small Whisper."""
    spans, length_s = made
    lengths = Lengths(window_s)
    levels = np.zeros(round(length_s * 50), np.float32)
    pieces = pieces_of(spans, levels, length_s, lengths)
    assert [spans[0][0], spans[-1][1]] == [pieces[0].start_s, pytest.approx(pieces[-1].end_s)]
    for chunk in chunks_of(pieces, lengths):
        assert chunk.window[1] - chunk.window[0] < window_s
        assert all(0 < p.end_s - p.start_s <= lengths.longest_s + 1e-6 for p in chunk.pieces)
    for left, right in pairwise(pieces):
        assert left.end_s <= right.start_s
        if left.end_s == right.start_s:
            assert left.window[1] > right.window[0]
