"""Emilia: speech from the web in six languages, with transcripts of a recogniser and no emotions.

He et al., "Emilia: an extensive, multilingual, and diverse speech dataset for large-scale speech
generation", IEEE SLT 2024.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from voxstrata.audio import AUDIO_SUFFIXES
from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import (
    PARTIAL,
    corpus_folder,
    nothing_found,
    tar_files,
    unpack_all,
    unpacked_folder,
    utf8_lines,
)
from voxstrata.corpora.options import Note, ReaderOption, counted, no_note
from voxstrata.corpora.pseudo_labels import PseudoLabel, read_pseudo_labels
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.documents import parse_json
from voxstrata.errors import CorpusError

#: One speaker in so many is dev with the option `dev=speakers`.
DEV_SHARE = 50

OPTIONS = (
    ReaderOption("language", ("all", "de", "en", "fr", "ja", "ko", "zh"), "only clips of this language"),
    ReaderOption("dev", ("none", "speakers"), "speakers: one speaker in fifty is dev; else all is train"),
    ReaderOption("unpack", ("no", "yes"), "yes: each tar file is first unpacked into a folder beside it"),
)

_SHOWN = 20
_LAYOUT = (
    "EN/EN_B00000.jsonl beside EN/EN_B00000/..., EN/EN-B000000/KEY.json beside KEY.mp3, "
    "or NAME.json beside NAME_000000.mp3"
)


def read(
    folder: Path, *, language: str = "all", dev: str = "none", unpack: str = "no", note: Note = no_note
) -> list[Clip]:
    """Reads what was unpacked: `.jsonl` lists, a `.json` beside each clip, or one for each recording.

    Splits there are none: all is train, but for `dev=speakers`. Emotions come from `pseudo-labels.csv` or
    `.jsonl` in the folder, where there is one; the clips say so in their extra `emotion_source`.

    Args:
        folder: holds the release or a part of it.
        language: `all`, or one of the release's codes.
        dev: `none`, or `speakers`: chosen by hash, so that the choice stays when more is unpacked.
        unpack: `yes` unpacks each tar file into a folder beside it, unless that is there already.
        note: receives what was left out.

    Raises:
        CorpusError: if there is nothing to read, naming tar files that wait to be unpacked; a file cannot
            be unpacked or read; or naming every row that cannot be read.
    """
    root = corpus_folder(folder)
    if unpack == "yes":
        tars = tar_files(root)
        note(f"unpacked {unpack_all(tars):,} of {len(tars):,} tar files; the others were unpacked before")
    labels = read_pseudo_labels(root, "emilia/")
    clips: list[Clip] = []
    faults: list[str] = []
    for where, place, row in _rows(root):
        try:
            clips.append(_clip(place, row, dev == "speakers"))
        except ValueError as fault:
            faults.append(f"{where}: {fault}")
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise CorpusError(f"{'; '.join(faults[:_SHOWN])}{more}")
    waiting = sum(not unpacked_folder(tar).is_dir() for tar in tar_files(root)) if unpack == "no" else 0
    if not clips and waiting:
        raise CorpusError(
            f"{waiting} tar files in {folder} and nothing unpacked; --option unpack=yes unpacks each into a "
            "folder beside it"
        )
    if not clips:
        raise nothing_found("Emilia", folder, _LAYOUT)
    if waiting:
        note(f"{waiting:,} tar files are not read; what was unpacked is (the option unpack=yes unpacks them)")
    clips = _labelled(clips, labels, note)
    kept = [clip for clip in clips if language in ("all", clip.extras.get("language"))]
    if len(kept) < len(clips):
        others = Counter(
            clip.extras.get("language", "unknown")
            for clip in clips
            if clip.extras.get("language") != language
        )
        note(f"left out (other languages): {counted(others)}")
    if not kept:
        raise CorpusError(f"no clip in {folder} is in the language {language}")
    return sorted(kept, key=lambda clip: clip.id)


def _rows(root: Path) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Where a row stands, its clip's audio, and the row, of a list with `id` and `speaker` made unique."""
    for path in sorted(root.rglob("*.json*")):
        if path.name.startswith(("._", "pseudo-labels.")) or _is_partial(path.relative_to(root)):
            continue
        if path.suffix == ".jsonl":
            for number, row in _jsonl(path):
                yield f"{path}, line {number}", path.parent / str(row.get("wav", "")), row
        elif path.suffix == ".json":
            content = _json(str(path), "".join(line for _, line in utf8_lines(path)))
            if isinstance(content, dict):
                yield str(path), _beside(path), content
            elif isinstance(content, list):
                yield from _listed(path, content)


def _is_partial(place: Path) -> bool:
    return any(name.startswith(PARTIAL) for name in place.parts)


def _jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in utf8_lines(path):
        if line.strip():
            row = _json(f"{path}, line {number}", line)
            if not isinstance(row, dict) or not isinstance(row.get("wav"), str):
                raise CorpusError(
                    f'{path}, line {number}: expected an object with "id" and "wav"; found {line[:80]!r}'
                )
            yield number, row


def _json(where: str, text: str) -> Any:
    return parse_json(text, where, error=CorpusError, advice="unpack it again")


def _beside(path: Path) -> Path:
    """The recording of a `.json`; `.mp3` where there is none, to be found missing."""
    for suffix in (".mp3", *sorted(AUDIO_SUFFIXES - {".mp3"})):
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    return path.with_suffix(".mp3")


def _listed(path: Path, rows: list[Any]) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Rows of a recording's list: row i is `NAME_i` or `NAME_00000i`; speakers are that recording's own."""
    name = re.compile(rf"{re.escape(path.stem)}_(\d+)")
    numbered = {
        int(match[1]): place
        for place in sorted(path.parent.iterdir())
        if place.suffix.lower() in AUDIO_SUFFIXES and (match := name.fullmatch(place.stem))
    }
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise CorpusError(f"{path}, row {index}: expected an object; found {str(row)[:80]!r}")
        place = numbered.get(index, path.with_name(f"{path.stem}_{index:06d}.mp3"))
        own = {"id": place.stem, **row}
        if row.get("speaker") is not None:
            own["speaker"] = f"{path.stem}-{row['speaker']}"
        yield f"{path}, row {index}", place, own


def _clip(path: Path, row: Mapping[str, Any], dev_speakers: bool) -> Clip:
    # Emilia-YODAS spells the id `_id`.
    identity = row.get("id", row.get("_id"))
    if not isinstance(identity, str) or not identity:
        raise ValueError(f'needs "id"; found {", ".join(row) or "nothing"}')
    text = row.get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(f'"text" must be a string; found {text!r}')
    speaker = row.get("speaker")
    return Clip(
        id=f"emilia/{identity}",
        path=path,
        speaker=f"emilia-{speaker}" if speaker is not None else None,
        split="dev" if dev_speakers and speaker is not None and is_dev_speaker(str(speaker)) else "train",
        text=normalize_transcript(text or ""),
        extras={name: str(row[name]).lower() for name in ("language", "dnsmos") if row.get(name) is not None},
    )


def is_dev_speaker(speaker: str) -> bool:
    """Whether a speaker is dev: a function of the name alone."""
    return int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:8]) % DEV_SHARE == 0


def _labelled(clips: list[Clip], labels: Mapping[str, PseudoLabel] | None, note: Note) -> list[Clip]:
    if labels is None:
        return clips
    ids = {clip.id.removeprefix("emilia/") for clip in clips}
    if unknown := [name for name in labels if name not in ids]:
        raise CorpusError(
            f"{len(unknown)} pseudo-labels are of clips that are not here, such as {unknown[0]!r}; "
            "take them out of the file, or unpack those clips"
        )
    note(f"pseudo-labels: {len(labels):,} of {len(clips):,} clips have one")
    return [
        labels[name].put_on(clip) if (name := clip.id.removeprefix("emilia/")) in labels else clip
        for clip in clips
    ]
