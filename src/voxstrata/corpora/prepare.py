"""From a corpus as its owner ships it to a prepared one: read, checked as a whole, then written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxstrata.audio import SAMPLE_RATE
from voxstrata.corpora.clip import SPLITS, Clip
from voxstrata.corpora.faults import (
    Fault,
    FaultyCorpusError,
    Inspection,
    clip_faults,
    inspect_all,
    notes_on_levels,
    notes_on_remarks,
    split_faults,
)
from voxstrata.corpora.label_maps import LabelMap, label_map_named, map_all
from voxstrata.corpora.options import chosen_options, counted
from voxstrata.corpora.prepared import PreparedCorpus, write_prepared
from voxstrata.corpora.readers import READERS, Reader
from voxstrata.corpora.silence import BELOW_DB, MARGIN_S
from voxstrata.corpora.speaker_parts import folds_by_speaker, told_folds
from voxstrata.corpora.summary import summarize
from voxstrata.errors import CorpusError, did_you_mean, first_of
from voxstrata.evaluation.letters import one_form
from voxstrata.labels import LabelSet, differing_in_case

#: What a corpus without the clips of a split means.
_WITHOUT = {
    "train": "nothing can be trained on it",
    "dev": "training keeps its last weights, not its best ones",
    "test": "training ends without a score of new clips",
}


def prepare(
    name: str,
    folder: str | Path,
    out: str | Path,
    *,
    skip_bad: bool = False,
    labels: Sequence[str] | None = None,
    options: Mapping[str, str] | None = None,
    maps: Sequence[str] = (),
    folds: int | None = None,
    trim_silence: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedCorpus:
    """Reads a corpus, looks at every clip and writes the prepared corpus; on any fault nothing is written.

    Args:
        name: one of `READERS`.
        folder: where the corpus was unpacked; for "table", the table or its folder.
        out: folder to write; made if need be.
        skip_bad: leave out clips with faults instead of refusing; of the same audio the first clip stays.
            A speaker in two splits is refused all the same: dropping either side would change the experiment.
        labels: allowed class names after the maps, in the order of a model's outputs; None: the corpus's own,
            or all that occur.
        options: of the reader, name -> value; what is not given takes the reader's default.
        maps: names of label maps, applied in this order.
        folds: number of groups of speakers, made anew; None: the corpus's own, or of a table's column `fold`.
        trim_silence: let clips begin and end where speech does (`corpora.silence`); files stay as they are.
        progress: called with (clips looked at, clips in all).

    Returns:
        The corpus; `PreparedCorpus.load` opens it again.

    Raises:
        CorpusError: if there is no such reader or option, nothing to read, nowhere to write, or clips to be
            trimmed have times of their phonemes.
        FaultyCorpusError: with every fault.
        LabelError: if the labels are no label set, or there is no such map or it does not know a label.

    Example:
        ``vs.prepare("table", "calls.csv", "prepared/calls", folds=5)``
    """
    reader = _reader(name)
    label_maps = [label_map_named(label_map) for label_map in maps]
    allowed = _allowed(reader, label_maps, labels)
    choices = chosen_options(name, reader.options, options or {})
    _check_writable(Path(out))
    clips, notes = _read(reader, Path(folder), choices, label_maps)
    _folds(reader, clips, folds)
    inspections = _inspected(clips, progress, trim_silence)
    chosen, audio, faults = _good(clips, inspections, allowed, skip_bad)
    about: dict[str, Any] = {"left_out": tuple(map(str, faults)), "options": choices, "maps": tuple(maps)}
    about["folds"] = _folds(reader, chosen, folds)
    about["notes"] = (*notes, *_notes_on(name, chosen, audio, trim_silence))
    if not about["folds"]:
        about["notes"] += tuple(_notes_on_splits(chosen))
    return _written(Path(out), name, chosen, audio, allowed or _labels_of(chosen), **about)


def _written(
    out: Path,
    name: str,
    clips: Sequence[Clip],
    audio: Sequence[Inspection],
    labels: tuple[str, ...],
    **about: Any,
) -> PreparedCorpus:
    """Writes clips with what looking at them found."""
    return write_prepared(
        out,
        name,
        clips,
        [(one.samples, one.sha256) for one in audio],
        labels=labels,
        spans=[one.heard for one in audio],
        summary=summarize(clips, [one.heard[1] - one.heard[0] for one in audio], labels),
        **about,
    )


def _reader(name: str) -> Reader:
    if name not in READERS:
        raise CorpusError(f"no corpus {name!r}{did_you_mean(name, READERS)}; there are {', '.join(READERS)}")
    return READERS[name]


def _read(
    reader: Reader, folder: Path, options: Mapping[str, str], label_maps: Sequence[LabelMap]
) -> tuple[list[Clip], list[str]]:
    """The clips with their labels mapped, and what reader and maps have to say."""
    notes: list[str] = []
    clips = [_in_one_form(clip) for clip in reader.clips(folder, options, notes.append)]
    clips, accounts = map_all(clips, label_maps)
    _require_one_spelling(clips)
    return clips, [*notes, *accounts]


def _require_one_spelling(clips: Sequence[Clip]) -> None:
    """Refuses classes (once labels were mapped) and speakers that differ only in capitals or spaces."""
    first: dict[str, str] = {}
    for clip in clips:
        for name in (*([clip.emotion] if clip.emotion else []), *clip.votes):
            first.setdefault(name, clip.id)
    voices = {clip.speaker: clip.id for clip in reversed(clips) if clip.speaker is not None}
    faults = []
    if alike := differing_in_case(sorted(voices)):
        faults.append(
            f"speakers differ only in capitals or spaces: {_pairs(alike, voices)}; write them alike"
        )
    if alike := differing_in_case(first):
        faults.append(
            f"classes differ only in capitals or spaces: {_pairs(alike, first)}; write them alike, or map "
            f"one: --map {alike[0][1]}={alike[0][0]}"
        )
    if faults:
        raise CorpusError("; ".join(faults))


def _pairs(alike: Sequence[Sequence[str]], clips: Mapping[str, str]) -> str:
    """Names that are alike, each with a clip that has it."""
    told = (" and ".join(f"{name!r} (clip {clips[name]})" for name in group) for group in alike)
    return first_of(told, between="; ")


def _in_one_form(clip: Clip) -> Clip:
    """A clip whose speaker and classes are spelled as they are compared."""
    speaker = None if clip.speaker is None else one_form(clip.speaker)
    emotion = None if clip.emotion is None else one_form(clip.emotion)
    votes: dict[str, float] = {}
    for name, count in clip.votes.items():
        votes[one_form(name)] = votes.get(one_form(name), 0) + count
    return replace(clip, speaker=speaker, emotion=emotion, votes=votes)


def _allowed(reader: Reader, label_maps: Sequence[LabelMap], labels: Sequence[str] | None) -> tuple[str, ...]:
    allowed = reader.labels
    for label_map in label_maps:
        allowed = label_map.targets(allowed)
    return allowed if labels is None else LabelSet(tuple(labels)).names


def _folds(reader: Reader, clips: Sequence[Clip], count: int | None) -> tuple[tuple[str, ...], ...]:
    return (reader.folds or told_folds(clips)) if count is None else folds_by_speaker(clips, count)


def _inspected(
    clips: Sequence[Clip], progress: Callable[[int, int], None] | None, trim_silence: bool
) -> list[Inspection]:
    stretches = [(clip.start_s, clip.end_s) for clip in clips]
    paths = [clip.path for clip in clips]
    return inspect_all(paths, progress, stretches=stretches, trim_silence=trim_silence)


def _good(
    clips: Sequence[Clip], inspections: Sequence[Inspection], allowed: Sequence[str], skip_bad: bool
) -> tuple[list[Clip], list[Inspection], list[Fault]]:
    """The clips to keep, and the faults of the others; raises unless those may be left out."""
    faults = clip_faults(clips, inspections, allowed)
    bad = {fault.position for fault in faults} if skip_bad else set()
    kept = [position for position in range(len(clips)) if position not in bad]
    chosen = [clips[position] for position in kept]
    leaks = split_faults(chosen)
    if leaks or (faults and not skip_bad) or not kept:
        raise FaultyCorpusError([*faults, *leaks], len(clips))
    return chosen, [inspections[position] for position in kept], faults


def _notes_on(name: str, clips: Sequence[Clip], audio: Sequence[Inspection], trim_silence: bool) -> list[str]:
    trimmed = _notes_on_silence(name, clips, audio) if trim_silence else []
    heard = [*notes_on_levels(audio), *notes_on_remarks(clips, audio)]
    return [*trimmed, *heard, *_notes_on_speakers(clips)]


def _notes_on_splits(clips: Sequence[Clip]) -> list[str]:
    """What a division without dev or test clips means for training, and what to do."""
    held = {clip.split for clip in clips}
    missing = {split: what for split, what in _WITHOUT.items() if split not in held}
    if not missing:
        return []
    return [
        f"no {' and no '.join(missing)} clips: {'; '.join(missing.values())}; to have them, mark clips in "
        "the column split of a table, or divide the speakers into folds: --folds by-speaker 5"
    ]


def _notes_on_speakers(clips: Sequence[Clip]) -> list[str]:
    unknown = Counter(clip.split for clip in clips if clip.speaker is None)
    if not unknown:
        return []
    held = {split: unknown[split] for split in SPLITS if unknown[split]}
    return [
        f"speaker unknown: {counted(held)}; each of these clips may be of any speaker, also of one in "
        "another split"
    ]


def _notes_on_silence(name: str, clips: Sequence[Clip], audio: Sequence[Inspection]) -> list[str]:
    timed = sum("phonemes" in clip.extras for clip in clips)
    if timed:
        raise CorpusError(
            f"{timed} clips of {name} have times of their phonemes, from the start of the file; "
            "prepare them with their silence"
        )
    whole = sum(one.samples for one in audio)
    heard = sum(end - start for start, end in (one.heard for one in audio))
    return [
        f"silence at both ends trimmed ({BELOW_DB:g} dB under the loudest, {MARGIN_S:g} s kept): "
        f"{whole / SAMPLE_RATE / 60:.1f} min become {heard / SAMPLE_RATE / 60:.1f}"
    ]


def _labels_of(clips: Sequence[Clip]) -> tuple[str, ...]:
    found = {name for clip in clips for name in (clip.emotion, *clip.votes) if name is not None}
    return tuple(sorted(found))


def _check_writable(out: Path) -> None:
    """Says before hours of decoding, not after, that the result has no place."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise CorpusError(
            f"cannot write into {out}: {place} is not a folder one may write to; choose another"
        )
