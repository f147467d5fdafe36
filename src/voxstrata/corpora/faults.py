"""What can be wrong with the clips of a corpus, found all at once."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxstrata.audio import (
    QUIET,
    SAMPLE_RATE,
    NoSound,
    Remark,
    Sound,
    peak_of,
    read_sound,
    remarks_on_band,
    resampled_length,
    shown,
)
from voxstrata.corpora.clip import BAD_ID, ROUNDING_S, SPLITS, Clip, told_faults
from voxstrata.corpora.files import is_lfs_stub
from voxstrata.corpora.silence import without_silence
from voxstrata.errors import AudioError, CorpusError, counted

#: The shortest clip, in samples at 16 kHz: one frame of a speech encoder's convolutions (25 ms).
SHORTEST = 400

#: Start and end in seconds; None: the end of the file.
Stretch = tuple[float, float | None]
WHOLE: Stretch = (0.0, None)

#: Clips with the same fault that are listed one by one, and examples of more.
_ALONE = 3

#: The one kind that lies in no single clip, so that leaving a clip out does not mend it.
SPLIT_LEAK = "speaker in two splits"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Args:
        kind: "missing file", "git-lfs stub", "unreadable", "undecodable", "empty", "too short",
            "wrong stretch",
            "unusable id", "unusable rating", "unusable votes", "unknown label", "unknown split",
            "duplicate id", "duplicate audio" or "speaker in two splits".
        id: the clip, or the speaker where a speaker is in two splits.
        detail: what was found.
        position: the clip's place in the reader's order; None for a speaker.
    """

    kind: str
    id: str
    detail: str
    position: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.id}: {self.detail}"


def gathered(faults: Iterable[Fault]) -> list[str]:
    """Faults as lines: those with equal words are one line with their number and the first clips.

    >>> gathered([Fault("unknown label", str(n), "'calm' is none of anger, fear") for n in range(9)])
    ["unknown label: 'calm' is none of anger, fear: 9 clips, such as 0, 1, 2"]
    """
    equal: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    for fault in faults:
        equal[fault.kind, fault.detail].append(fault)
    lines: list[str] = []
    for (kind, detail), same in equal.items():
        if len(same) <= _ALONE:
            lines += map(str, same)
        else:
            such = ", ".join(fault.id for fault in same[:_ALONE])
            lines.append(f"{kind}: {detail}: {counted(len(same), 'clip')}, such as {such}")
    return lines


class FaultyCorpusError(CorpusError):
    """A corpus with faults: `faults` has every one of them, `counts` says how many of which kind.

    Args:
        faults: at least one.
        clips: how many clips were looked at.
    """

    def __init__(self, faults: Sequence[Fault], clips: int) -> None:
        self.faults = tuple(faults)
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(f.kind for f in faults).items()))
        advice = ["nothing was written"]
        if any(fault.kind != SPLIT_LEAK for fault in faults):
            advice.append("mend the clips, or leave them out with --skip-bad")
        if any(fault.kind == SPLIT_LEAK for fault in faults):
            advice.append("put all clips of a speaker into one split (--skip-bad cannot decide that)")
        self.counts = f"faults in {counted(clips, 'clip')}: {kinds}; {'; '.join(advice)}"
        super().__init__(f"{self.counts}; the first is {faults[0]}")


@dataclass(frozen=True)
class Inspection:
    """What decoding a clip found.

    Args:
        samples: length of the file after resampling to 16 kHz.
        sha256: of the clip's mono samples before resampling, so that format and header do not matter.
        heard: the stretch that is used, in samples at 16 kHz: the clip, or what lies between its silences.
        fault: kind and detail, if the audio cannot be used.
        peak: the largest magnitude of the mono samples; full scale is 1.
        remarks: what one should know of the recording.
    """

    samples: int = 0
    sha256: str = ""
    heard: tuple[int, int] = (0, 0)
    fault: tuple[str, str] | None = None
    peak: float = 0.0
    remarks: tuple[Remark, ...] = ()


def inspect_audio(path: Path, *, trim_silence: bool = False) -> Inspection:
    """Decodes a file and says what is wrong with it, if anything, and which stretch of it is used."""
    return inspect_stretches(path, [WHOLE], trim_silence=trim_silence)[0]


def inspect_stretches(
    path: Path, stretches: Sequence[Stretch], *, trim_silence: bool = False
) -> list[Inspection]:
    """As `inspect_audio`, of clips that are stretches of one file, which is decoded once.

    Args:
        path: of the file.
        stretches: start and end of each clip, in seconds.
        trim_silence: use no silence at either end of a clip.
    """
    try:
        if not path.exists():
            link = f" (a link to {shown(path.readlink())})" if path.is_symlink() else ""
            missing = Inspection(fault=("missing file", f"no file at {shown(path)}{link}"))
            return [missing] * len(stretches)
        if path.is_file() and is_lfs_stub(path):
            stub = f"{shown(path)} names audio that is not here; run `git lfs pull`"
            return [Inspection(fault=("git-lfs stub", stub))] * len(stretches)
        sound = read_sound(path)
    except (AudioError, OSError, MemoryError, ValueError) as fault:
        return [_failed(path, fault)] * len(stretches)
    return [_inspect(path, sound, stretch, trim_silence) for stretch in stretches]


def _failed(path: Path, fault: Exception) -> Inspection:
    if isinstance(fault, AudioError):
        return Inspection(fault=("empty" if isinstance(fault, NoSound) else "undecodable", str(fault)))
    what = getattr(fault, "strerror", None) or str(fault) or type(fault).__name__
    return Inspection(fault=("unreadable", f"cannot read {shown(path)}: {what}"))


def _inspect(path: Path, sound: Sound, stretch: Stretch, trim_silence: bool) -> Inspection:
    rate, length = sound.sample_rate, resampled_length(len(sound.samples), sound.sample_rate)
    start, end = 0, length
    name = shown(path)
    if stretch != WHOLE:
        start_s, end_s = stretch
        duration_s = len(sound.samples) / rate
        if start_s >= duration_s or (end_s or 0) > duration_s + ROUNDING_S:
            asked = f"{start_s:g} s to {'its end' if end_s is None else f'{end_s:g} s'}"
            detail = f"{asked} of {name}, which has {duration_s:.3f} s"
            return Inspection(length, fault=("wrong stretch", detail))
        start = round(start_s * SAMPLE_RATE)
        end = length if end_s is None else min(length, round(end_s * SAMPLE_RATE))
        # As `load_audio` takes it for a cut.
        first = round(start / SAMPLE_RATE * rate)
        last = first + round((end - start) / SAMPLE_RATE * rate)
        sound = Sound(sound.samples[first:last], rate, sound.remarks)
        name = f"{name} from {start_s:g} s on"
    try:
        mono, remarks = sound.mono(name)
    except AudioError as fault:
        return _failed(path, fault)
    digest = hashlib.sha256(f"{rate}\n".encode() + mono.tobytes()).hexdigest()
    if end - start < SHORTEST:
        detail = f"{end - start} of at least {SHORTEST} samples at {SAMPLE_RATE} Hz"
        return Inspection(length, digest, fault=("too short", detail))
    if trim_silence:
        low, high = _between_silences(mono, rate, end - start)
        start, end = start + low, start + high
    remarks += remarks_on_band(mono, rate)
    return Inspection(length, digest, (start, end), peak=peak_of(mono), remarks=remarks)


def _between_silences(mono: NDArray[np.float32], sample_rate: int, length: int) -> tuple[int, int]:
    start_s, end_s = without_silence(mono, sample_rate)
    start, end = int(start_s * SAMPLE_RATE), min(length, math.ceil(end_s * SAMPLE_RATE))
    # A click in silence is no clip of its own.
    return (start, end) if end - start >= SHORTEST else (0, length)


def inspect_all(
    paths: Sequence[Path],
    progress: Callable[[int, int], None] | None = None,
    *,
    stretches: Sequence[Stretch] | None = None,
    trim_silence: bool = False,
    threads: int = 4,
) -> list[Inspection]:
    """Decodes many files; the decoder and the hash release the interpreter lock, so threads help.

    Args:
        paths: audio file of each clip.
        progress: called with (clips done, clips in all).
        stretches: of each clip, which part of its file it is; None: all are whole files.
        trim_silence: use no silence at either end of a clip.
        threads: how many files at a time.
    """
    places: dict[Path, list[int]] = defaultdict(list)
    for position, path in enumerate(paths):
        places[path].append(position)
    asked = [[stretches[position] if stretches else WHOLE for position in same] for same in places.values()]
    found: dict[int, Inspection] = {}
    with ThreadPoolExecutor(threads) as pool:
        inspected = pool.map(partial(inspect_stretches, trim_silence=trim_silence), places, asked)
        for same, inspections in zip(places.values(), inspected, strict=True):
            found |= zip(same, inspections, strict=True)
            if progress is not None:
                progress(len(found), len(paths))
    return [found[position] for position in range(len(paths))]


def notes_on_levels(inspections: Iterable[Inspection]) -> list[str]:
    """How many recordings `audio.leveled` scales, and why: a note, for nothing is wrong with their speech."""
    peaks = [one.peak for one in inspections if one.fault is None]
    loud, quiet = [peak for peak in peaks if peak > 1], [peak for peak in peaks if peak < QUIET]
    stated = [f"{len(loud)} over full scale (the loudest {max(loud):.5g} times)"] if loud else []
    stated += [f"{len(quiet)} with a peak under {QUIET:g} of full scale"] if quiet else []
    if not stated:
        return []
    return [
        f"level: {' and '.join(stated)}, of {counted(len(peaks), 'recording')}; these are scaled to full "
        "scale"
    ]


def notes_on_remarks(clips: Sequence[Clip], inspections: Sequence[Inspection]) -> list[str]:
    """Of how many recordings what is true that one should know, and the first of them."""
    found: dict[str, list[str]] = defaultdict(list)
    good = 0
    for clip, inspection in zip(clips, inspections, strict=True):
        good += inspection.fault is None
        for remark in inspection.remarks:
            found[remark.kind].append(f"{clip.id}: {remark.detail}")
    return [
        f"{kind}: {len(stated)} of {counted(good, 'recording')}, such as {stated[0]}"
        for kind, stated in sorted(found.items())
    ]


def clip_faults(
    clips: Sequence[Clip], inspections: Sequence[Inspection], labels: Collection[str] = ()
) -> list[Fault]:
    """Every fault that lies in a single clip, in the clips' order.

    Of clips with the same audio, or the same id, the first without another fault is the good one.

    Args:
        clips: as a reader gives them.
        inspections: of the same length.
        labels: allowed class names; empty allows all.
    """
    faults = []
    for position, (clip, inspection) in enumerate(zip(clips, inspections, strict=True)):
        if inspection.fault is not None:
            faults.append(Fault(inspection.fault[0], clip.id, inspection.fault[1], position))
        for kind, detail in told_faults(clip):
            faults.append(Fault(kind, ascii(clip.id)[1:-1] if kind == BAD_ID else clip.id, detail, position))
        named = {*clip.votes, *([clip.emotion] if clip.emotion is not None else [])}
        for name in sorted(named - set(labels)) if labels else []:
            faults.append(
                Fault("unknown label", clip.id, f"{name!r} is none of {', '.join(labels)}", position)
            )
        if clip.split not in SPLITS:
            detail = f"{clip.split!r} is none of {', '.join(SPLITS)}"
            faults.append(Fault("unknown split", clip.id, detail, position))
    bad = {fault.position for fault in faults}
    faults += _repeated([clip.id for clip in clips], clips, bad, "duplicate id")
    faults += _repeated(
        [i.sha256 if i.fault is None else "" for i in inspections], clips, bad, "duplicate audio"
    )
    return sorted(faults, key=lambda fault: fault.position or 0)


def split_faults(clips: Sequence[Clip]) -> list[Fault]:
    """Speakers whose clips are in more than one split: what a model is tested on, it was trained on."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        if clip.speaker is not None:
            counts[clip.speaker][clip.split] += 1
    return [
        Fault(
            SPLIT_LEAK,
            speaker,
            ", ".join(f"{counted(n, 'clip')} in {split}" for split, n in sorted(splits.items())),
        )
        for speaker, splits in sorted(counts.items())
        if len(splits) > 1
    ]


def _repeated(
    keys: Sequence[str], clips: Sequence[Clip], bad: Collection[int | None], kind: str
) -> list[Fault]:
    positions: dict[str, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        if key:
            positions[key].append(position)
    faults = []
    for same in positions.values():
        kept = next((position for position in same if position not in bad), same[0])
        for position in same:
            if position != kept:
                detail = f"{clips[position].path} repeats {clips[kept].id} ({clips[kept].path})"
                faults.append(Fault(kind, clips[position].id, detail, position))
    return faults
