"""LibriSpeech: read English.

Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP 2015.
"""

from __future__ import annotations

import re
from pathlib import Path

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import audio_files, corpus_folder, nothing_found, strange_names, utf8_lines
from voxstrata.corpora.options import ReaderOption
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.errors import CorpusError

_SUBSET = re.compile(r"(train|dev|test)-[\w-]+")
_NAME = re.compile(r"(\d+)-(\d+)-(\d+)")
_LAYOUT = "train-clean-100/19/198/19-198-0001.flac beside 19-198.trans.txt"


OPTIONS = tuple(
    ReaderOption(
        split, ("pooled", "clean", "other"), f"what {split} is: {split}-clean and {split}-other, or one"
    )
    for split in ("dev", "test")
)


def read(folder: Path, *, dev: str = "pooled", test: str = "pooled") -> list[Clip]:
    """Reads the subsets in a folder, or one subset; `train-*`, `dev-*` and `test-*` are the splits.

    Clean and other are of different difficulty and are kept apart in all reports of this corpus: `dev` and
    `test` take one of them, and the extra `subset` tells a clip's own.

    An utterance that a `.trans.txt` names without a recording is given back all the same, to be found
    missing. A chapter that has no `.trans.txt` yields clips without a text.

    Args:
        folder: in which it was unpacked, or one subset.
        dev: `pooled`, or the subset that is the split dev: `clean` or `other`.
        test: the same of the split test.

    Raises:
        CorpusError: if there are no recordings, some whose names are not of LibriSpeech, or a recording
            that its chapter's `.trans.txt` does not name.
    """
    root = corpus_folder(folder)
    if (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    subsets = [root] if _SUBSET.fullmatch(root.name) else sorted(filter(Path.is_dir, root.iterdir()))
    clips, strange = [], []
    for subset in subsets:
        split = _SUBSET.fullmatch(subset.name)
        if split is None or not _chosen(subset.name, {"dev": dev, "test": test}.get(split[1], "pooled")):
            continue
        paths = list(audio_files(subset))
        strange += [path for path in paths if not _NAME.fullmatch(path.stem)]
        texts = _read_texts(subset)
        _check_named(paths, texts)
        found = {path.stem for path in paths}
        paths += [chapter / f"{name}.flac" for (chapter, name) in texts if name not in found]
        clips += [_clip(subset.name, split[1], path, texts.get((path.parent, path.stem))) for path in paths]
    if strange:
        raise strange_names("LibriSpeech", strange, "like " + _LAYOUT)
    if not clips:
        chosen = "" if dev == test == "pooled" else f" (with dev={dev} and test={test})"
        raise nothing_found("LibriSpeech", folder, _LAYOUT + chosen)
    return sorted(clips, key=lambda clip: clip.id)


def _chosen(subset: str, choice: str) -> bool:
    return choice == "pooled" or subset.partition("-")[2] == choice


def _clip(subset: str, split: str, path: Path, text: str | None) -> Clip:
    speaker, chapter, *_ = path.stem.split("-")
    return Clip(
        id=f"librispeech/{path.stem}",
        path=path,
        speaker=f"librispeech-{speaker}",
        split=split,
        text=text,
        extras={"subset": subset, "chapter": chapter},
    )


def _read_texts(subset: Path) -> dict[tuple[Path, str], str | None]:
    """(Chapter folder, utterance id) -> text, from all `.trans.txt` below a subset."""
    texts: dict[tuple[Path, str], str | None] = {}
    for path in sorted(subset.rglob("*.trans.txt")):
        if path.name.startswith("._"):
            continue
        for number, line in utf8_lines(path):
            name, _, text = line.strip().partition(" ")
            if not line.strip():
                continue
            if not _NAME.fullmatch(name):
                raise CorpusError(f"{path}, line {number}: expected `19-198-0001 TEXT`; found {line[:80]!r}")
            texts[path.parent, name] = normalize_transcript(text)
    return texts


def _check_named(paths: list[Path], texts: dict[tuple[Path, str], str | None]) -> None:
    written = {chapter for chapter, _ in texts}
    unnamed = [path for path in paths if path.parent in written and (path.parent, path.stem) not in texts]
    if unnamed:
        raise CorpusError(
            f"{len(unnamed)} recordings have no line in the .trans.txt beside them: "
            f"{', '.join(map(str, unnamed[:20]))}; mend the text file or move them away"
        )
