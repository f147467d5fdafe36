"""Answers as subtitles and speaker turns: an independent reader gets the same times and words back."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitle_readers import read_rttm, read_srt, read_vtt
from voxstrata.errors import AudioError
from voxstrata.inference.recognition import Recognition, Segment, of_segments, summary_line
from voxstrata.inference.rttm import Turns, file_ids, rttm_lines, within
from voxstrata.inference.rttm import read_rttm as read_turns
from voxstrata.inference.subtitles import srt_lines, vtt_lines
from voxstrata.inference.words import Word, among, joined, spread, text_of, words_in
from voxstrata.predictions import Prediction


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files that are written anew for each example."""
    return tmp_path_factory.mktemp("turns")


TEXT = st.lists(
    st.sampled_from(["go", "-->", "a<b", "&amp;", "x" * 60, "öß", "你好", "<v", "1", "no."]), max_size=40
)


@st.composite
def recognitions(draw: st.DrawFn) -> Recognition:
    """Segments from anywhere between 0 and 150 hours."""
    time_s = draw(st.floats(0, 150 * 3600))
    segments = []
    for _ in range(draw(st.integers(0, 6))):
        time_s += draw(st.floats(0, 5000))
        start_s, time_s = time_s, time_s + draw(st.floats(0.05, 12))
        words = draw(TEXT)
        timed = spread(words, [(start_s, time_s)]) if draw(st.booleans()) else []
        segments.append(
            Segment(
                start_s,
                time_s,
                draw(st.sampled_from([None, "anger", "joy & fear"])),
                None,
                " ".join(words),
                tuple(timed),
                channel=draw(st.sampled_from([None, 1, 2])),
                speaker=draw(st.sampled_from([None, "anna", "a > b", "Jörg\nB"])),
            )
        )
    return of_segments(Prediction("call", "call.wav"), segments, time_s)


@given(recognitions())
def test_subtitles_read_back_have_the_times_and_words_of_the_segments(found: Recognition) -> None:
    srt = read_srt("\n".join(srt_lines(found)) + "\n")
    vtt = read_vtt("\n".join(vtt_lines(found)) + "\n")
    assert [cue[:2] for cue in srt] == [cue[:2] for cue in vtt]
    assert all(left[1] <= right[0] + 0.0021 for left, right in pairwise(srt))
    for segment in found.segments:
        inside = [cue for cue in vtt if segment.start_s - 0.002 <= cue[0] and cue[1] <= segment.end_s + 0.002]
        assert inside[0][0] == pytest.approx(segment.start_s, abs=0.001)
        assert inside[-1][1] == pytest.approx(segment.end_s, abs=0.002)
        speaker = segment.speaker or (None if segment.channel is None else f"channel {segment.channel}")
        assert {cue[2] for cue in inside} == {speaker and " ".join(speaker.split())}
        mark = "" if segment.emotion is None else f"({segment.emotion})"
        assert all(cue[3].startswith(mark) for cue in inside)
        letters = "".join(cue[3].removeprefix(mark) for cue in inside)
        words = (segment.transcript or "").replace("-->", "->") or ("" if mark else "(speech)")
        assert "".join(letters.split()) == "".join(words.split())


@given(recognitions())
def test_turns_read_back_have_the_times_and_speakers_of_the_segments(found: Recognition) -> None:
    text = "".join(f"{line}\n" for line in rttm_lines(found, "my call"))
    turns = read_rttm(text)
    assert len(turns) == len(found.segments)
    for (file, channel, start_s, end_s, speaker), segment in zip(turns, found.segments, strict=True):
        assert (file, channel) == ("my_call", segment.channel or 1)
        assert (start_s, end_s) == pytest.approx((segment.start_s, segment.end_s), abs=0.0016)
        default = "speech" if segment.channel is None else f"channel{channel}"
        assert speaker == "_".join((segment.speaker or default).split())


@given(recognitions())
def test_turns_that_were_written_are_read(made: Path, found: Recognition) -> None:
    path = made / "call.rttm"
    path.write_text("".join(f"{line}\n" for line in rttm_lines(found, "call")))
    if not found.segments:
        with pytest.raises(AudioError, match="has no turns"):
            read_turns(path)
        return
    turns = Turns(path).of(path.with_suffix(".wav"))
    assert [turn.start_s for turn in turns] == pytest.approx(
        [part.start_s for part in found.segments], abs=1e-3
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("SPEAKER call 1 0.5", "is no line of RTTM"),
        ("speaker call 1 0.5 1 <NA> <NA> anna <NA> <NA>", "is no line of RTTM"),
        ("SPEAKER call 1 zero 1 <NA> <NA> anna <NA> <NA>", "the start is 'zero'"),
        ("SPEAKER call 1 -1 1 <NA> <NA> anna <NA> <NA>", "the start is '-1'"),
        ("SPEAKER call 1 1 nan <NA> <NA> anna <NA> <NA>", "the duration is 'nan'"),
        ("SPEAKER call 1 1 inf <NA> <NA> anna <NA> <NA>", "the duration is 'inf'"),
        ("SPEAKER call one 1 1 <NA> <NA> anna <NA> <NA>", "the channel is 'one'"),
        ("SPEAKER call 9999 1 1 <NA> <NA> anna <NA> <NA>", "the channel is '9999'"),
        ("start,end,speaker", "is no line of RTTM"),
        ('{"start": 1}', "is no line of RTTM"),
    ],
)
def test_a_broken_line_of_turns_is_named(line: str, message: str, tmp_path) -> None:
    path = tmp_path / "call.rttm"
    path.write_text(f";; a comment\nSPEAKER call 1 0 1 <NA> <NA> anna <NA> <NA>\n{line}\n")
    with pytest.raises(AudioError, match="line 3: ") as fault:
        read_turns(path)
    assert message in str(fault.value) and "\n" not in str(fault.value)


def test_what_is_no_file_of_turns_is_one_line(tmp_path) -> None:
    (tmp_path / "bytes.rttm").write_bytes(b"\xff\xfe\x00\x81" * 9 + b"\xff")
    (tmp_path / "empty.rttm").write_text("\n;; nothing\n")
    for name, message in (
        ("bytes", "no UTF-8|no RTTM|not UTF-8"),
        ("empty", "no turns"),
        ("none", "No such"),
    ):
        with pytest.raises(AudioError, match=message) as fault:
            Turns(tmp_path / f"{name}.rttm")
        assert "\n" not in str(fault.value)
    with pytest.raises(AudioError, match=r"no turns of .*call\.wav"):
        Turns(tmp_path).of(tmp_path / "call.wav")


def test_turns_are_found_by_the_name_of_the_recording(tmp_path) -> None:
    line = "SPEAKER {} 1 {} 1.5 <NA> <NA> {} <NA> <NA>\n"
    both = tmp_path / "all.rttm"
    both.write_text(line.format("a", 2, "ann") + line.format("b", 0, "bob") + line.format("a", 0, "cy"))
    (tmp_path / "c.rttm").write_text(line.format("session", 1, "dee"))
    assert [turn.speaker for turn in Turns(both).of(tmp_path / "a.wav")] == ["cy", "ann"]
    assert [turn.speaker for turn in Turns(tmp_path).of(tmp_path / "c.flac")] == ["dee"]
    with pytest.raises(AudioError, match=r"no turns of 'd', it has turns of a, b"):
        Turns(both).of(tmp_path / "d.wav")


def test_turns_of_one_speaker_that_overlap_are_one_and_end_with_the_recording(tmp_path) -> None:
    path = tmp_path / "x.rttm"
    line = "SPEAKER x 1 {} {} <NA> <NA> {} <NA> <NA>\n"
    path.write_text(line.format(0, 3, "a") + line.format(2, 2, "a") + line.format(1, 9.3, "b"))
    turns = within(Turns(path).of(tmp_path / "x.wav"), 10.0, "x.wav")
    assert [(turn.speaker, turn.start_s, turn.end_s) for turn in turns] == [("a", 0, 4), ("b", 1, 10.0)]
    with pytest.raises(AudioError, match=r"'b' ends at 10.3 s \(line 3\), and x.wav lasts 5.00 s"):
        within(Turns(path).of(tmp_path / "x.wav"), 5.0, "x.wav")


@given(
    st.lists(st.sampled_from(["a.wav", "x/a.wav", "x/a.flac", "a b.wav", "a_b.wav", "-", "a"]), unique=True)
)
def test_recordings_have_names_of_their_own_in_turns(paths: list[str]) -> None:
    names = file_ids(paths)
    assert list(names) == paths and len(set(names.values())) == len(paths)
    assert not any(" " in name for name in names.values())


SAID = words_in("the quick brown fox jumps over the lazy dog and runs away from all the hounds")


@given(st.integers(0, 12), st.integers(0, 4), st.floats(-0.3, 0.3))
def test_words_of_two_windows_stand_once(cut: int, common: int, shift: float) -> None:
    """A word a second; both windows have the words about the cut, the second one's times are a bit off."""
    left = [Word(word, k, k + 0.9) for k, word in enumerate(SAID[: cut + common])]
    right = [Word(word, cut + k + shift, cut + k + 0.9 + shift) for k, word in enumerate(SAID[cut:])]
    ours, theirs = joined(left, right, (cut, cut + common))
    if common:
        assert [word.text for word in [*ours, *theirs]] == SAID
    # Where the windows do not overlap, nothing can be lost or doubled but what lies across the cut.
    assert len(ours) <= len(left) and len(theirs) <= len(right)


def test_a_word_that_a_window_cuts_is_taken_whole() -> None:
    left = [Word(word, k, k + 0.9) for k, word in enumerate(words_in("he had been a shopboy."))]
    right = [Word(word, 4.5 + k, 5.4 + k) for k, word in enumerate(words_in("boy. You do not"))]
    ours, theirs = joined(left, right, (4, 5))
    assert text_of(word.text for word in [*ours, *theirs]) == "he had been a shopboy. You do not"
    left = [Word(word, k, k + 0.9) for k, word in enumerate(words_in("I like the under"))]
    right = [Word(word, 3 + k, 3.9 + k) for k, word in enumerate(words_in("understanding of it"))]
    ours, theirs = joined(left, right, (3, 4))
    assert text_of(word.text for word in [*ours, *theirs]) == "I like the understanding of it"


def test_a_word_that_one_window_heard_otherwise_is_taken_once() -> None:
    left = [Word(word, k, k + 0.9) for k, word in enumerate(["we", "go", "to", "the", "sto"])]
    right = [Word(word, 2 + k, 2.9 + k) for k, word in enumerate(["two", "The", "store,", "now"])]
    ours, theirs = joined(left, right, (2, 5))
    assert text_of(word.text for word in [*ours, *theirs]) == "we go to the store, now"


@given(st.lists(st.sampled_from(["go", "on,", "你", "。", "Straße"]), max_size=30), st.integers(1, 5))
def test_words_spread_over_speech_stay_in_it_and_in_order(words: list[str], count: int) -> None:
    spans = [(10.0 * k, 10.0 * k + 1 + k) for k in range(count)]
    found = spread(words, spans)
    assert [word.text for word in found] == words
    times = [time for word in found for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    for word in found:
        assert any(a - 1e-6 <= word.start_s and word.end_s <= b + 1e-6 for a, b in spans)
    assert [word for part in among(found, spans) for word in part] == found


def test_words_part_at_the_end_of_a_clause() -> None:
    words = ["I", "see", "it.", "You", "do", "not", "know"]
    assert [word.start_s < 5 for word in spread(words, [(0, 2), (5, 7)])] == [True] * 3 + [False] * 4


def test_text_of_words_is_the_text() -> None:
    for text in ("go on, now", "你好。再见", "", "Größe 5"):
        assert text_of(words_in(text)) == text


def test_summaries_are_means_over_seconds() -> None:
    parts = [
        Segment(0, 3, "anger", {"anger": 0.75, "joy": 0.25}, channel=2, ratings={"arousal": 3.0}),
        Segment(4, 5, "joy", {"anger": 0.25, "joy": 0.75}, channel=2, ratings={"arousal": 5.0}),
        Segment(1, 3, "joy", {"anger": 0.0, "joy": 1.0}, channel=1),
    ]
    found = of_segments(Prediction("a"), parts, 6.0)
    one, two = found.summaries
    assert (one.channel, one.shares, two.channel, two.speech_s) == (1, {"joy": 1.0}, 2, 4)
    assert two.shares == {"anger": 0.75, "joy": 0.25}
    assert two.probabilities == pytest.approx({"anger": 0.625, "joy": 0.375})
    assert two.ratings == {"arousal": 3.5} and found.emotion == "joy"
    assert found.probabilities == pytest.approx({"anger": 2.5 / 6, "joy": 3.5 / 6})
    assert summary_line(two).startswith("channel 2: 0:00:04 of speech: anger 75 %, joy 25 %")
    assert "<table>" in found._repr_html_() and "channel 2" in found._repr_html_()
