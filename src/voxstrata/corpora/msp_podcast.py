"""MSP-Podcast: emotional speech cut from podcasts, rated by a crowd; releases up to 1.12.

Lotfian and Busso, "Building naturalistic emotionally balanced speech corpus by retrieving emotional speech
from existing podcast recordings", IEEE Trans. Affective Computing 10(4), 2019. Filter: AdaLTM, section 3.1.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import corpus_folder, utf8_lines
from voxstrata.corpora.msp_ratings import Ratings, read_ratings
from voxstrata.corpora.options import Note, ReaderOption, counted, no_note
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.errors import CorpusError

EMOTIONS = {
    "A": "anger", "C": "contempt", "D": "disgust", "F": "fear",
    "H": "happiness", "N": "neutral", "S": "sadness", "U": "surprise",
}  # fmt: skip
#: Consensus without one of the eight classes, and why.
NO_CLASS = {"O": "another emotion (O)", "X": "no plurality (X)"}
NO_TEXT = "no transcript"
PARTS = {
    "train": "train", "development": "dev", "validation": "dev", "test1": "test", "test2": "test",
}  # fmt: skip
#: Clips of release 1.12 that the paper's filter leaves (AdaLTM, section 3.1).
PAPER_CLIPS = {"train": 89_752, "dev": 25_232, "test": 46_366}
#: The challenge's test set: its labels are not public.
HIDDEN = "test3"

OPTIONS = (
    ReaderOption("test", ("pooled", "test1", "test2"), "which test set is the split test"),
    ReaderOption("keep", ("all", "paper"), "paper: only clips of the eight classes that have a transcript"),
    ReaderOption("votes", ("primary", "both", "none"), "annotators' emotions that count as votes"),
)

_NO_VOTES = "--option votes=none"
_COLUMNS = ("FileName", "EmoClass", "SpkrID")
_RATINGS = {"EmoAct": "arousal", "EmoVal": "valence", "EmoDom": "dominance"}
_TAG = re.compile(r"\[([^\[\]]*)\]")
_TIME = re.compile(r"\b\d{1,2}:\d\d(:\d\d)?([.,]\d+)?")
# What transcribers put into brackets that is no speech of the turn.
_EVENTS = ("inaudible", "crosstalk", "foreign language", "laughter", "laughs", "music", "applause", "silence")


def read(
    folder: Path, *, test: str = "pooled", keep: str = "all", votes: str = "primary", note: Note = no_note
) -> list[Clip]:
    """Reads the labelled turns of a release; a speaker `Unknown` becomes None, never one speaker.

    Consensus O (another emotion) and X (no plurality) give no emotion; the letter stays in the extras.

    Args:
        folder: holds Audios, Labels and Transcripts, in any of the spellings of the releases.
        test: `test1`, `test2`, or both `pooled`; Test3 is always left out.
        keep: `all` turns, or those that the `paper` keeps: one of eight classes, and a transcript.
        votes: each annotator's `primary` emotion, `both` primary and secondary ones, or `none`.
        note: receives what was left out.

    Raises:
        CorpusError: if a file or a column is missing, or cannot be read.
    """
    root = corpus_folder(folder)
    labels = _subfolder(root, "Labels", "label")
    audio = _subfolder(root, "Audios", "audio")
    table = _first(labels, "labels_consensus.csv", "labels_concensus.csv")
    ratings = Ratings()
    if votes != "none":
        answers = _first(labels, "labels_detailed.csv", also=f", or go without votes: {_NO_VOTES}")
        ratings = read_ratings(answers, both=votes == "both")
        note(
            f"votes ({votes}): {ratings.counted:,} for the eight classes; "
            f"{ratings.other:,} for other emotions count for no class"
        )
    transcripts = Transcripts(root)
    other_parts: Counter[str] = Counter()
    filtered: Counter[str] = Counter()
    clips = []
    for row in _consensus(table, _partition(root)):
        rated = ratings.of(row["FileName"])
        part = row["Split_Set"].lower()
        letter = row["EmoClass"]
        if part == HIDDEN or (part in ("test1", "test2") and test not in ("pooled", part)):
            other_parts[row["Split_Set"]] += 1
            continue
        if keep == "paper" and letter in NO_CLASS:
            filtered[NO_CLASS[letter]] += 1
            continue
        text = transcripts.of(row["FileName"])
        if keep == "paper" and text is None:
            filtered[NO_TEXT] += 1
            continue
        clips.append(_clip(row, audio, text, rated))
    if not clips:
        raise CorpusError(
            f"no turn of {table} is left ({counted(other_parts + filtered) or 'it has no rows'})"
        )
    if other_parts:
        note(f"left out (other parts): {counted(other_parts)}")
    if filtered:
        note(f"left out (the paper's filter): {counted(filtered)}")
    _tell(clips, transcripts, note)
    if votes != "none":
        _tell_votes(clips, ratings, table, answers, note)
    return clips


def clean_transcript(text: str) -> str | None:
    """The spoken words: tags are taken off, names inside them stay; None if no word is left.

    >>> clean_transcript("... and [Ann 00:01:12] said, [inaudible 00:01:14] I wen-")
    'and ann said i wen'
    """

    def inside(tag: re.Match[str]) -> str:
        words = _TIME.sub(" ", tag[1]).strip()
        return " " if words.lower().startswith(_EVENTS) else f" {words} "

    return normalize_transcript(_TAG.sub(inside, text))


class Transcripts:
    """The human transcripts of a release, read one by one when they are asked for.

    Args:
        root: of the release; without a folder of transcripts no clip has a text.
    """

    def __init__(self, root: Path) -> None:
        folder = _find_folder(root, "transcripts", "transcript")
        self.folder = folder or root / "Transcripts"
        self.there = folder is not None
        self._names = {path.name for path in folder.iterdir()} if folder is not None else set()

    def of(self, file_name: str) -> str | None:
        """The words of a turn; None where there is no file, or nothing in it."""
        name = f"{Path(file_name).stem}.txt"
        if name not in self._names:
            return None
        content = (self.folder / name).read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            # Some transcribers' editors wrote Windows' curly quotes.
            text = content.decode("cp1252", errors="replace")
        return clean_transcript(text)


def _consensus(table: Path, partition: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Rows of the table; what the columns lack, `Partition.txt` tells."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            needed = _COLUMNS if partition else (*_COLUMNS, "Split_Set")
            if missing := [name for name in needed if name not in header]:
                raise CorpusError(
                    f"{table}, line 1: no column {', '.join(missing)}; found {', '.join(header) or 'nothing'}"
                )
            for cells in reader:
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise CorpusError(
                        f"{table}, line {reader.line_num}: {len(cells)} fields where the header has "
                        f"{len(header)}; mend the file"
                    )
                row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
                row["Split_Set"] = row.get("Split_Set") or partition.get(row["FileName"], "")
                yield row
    except (csv.Error, UnicodeDecodeError) as fault:
        raise CorpusError(f"{table} is not a table in UTF-8: {fault}; mend the file") from None


def _partition(root: Path) -> dict[str, str]:
    """File name -> part, from lines `Train; MSP-PODCAST_0001_0008.wav`."""
    parts: dict[str, str] = {}
    for name in ("Partition.txt", "Partitions.txt"):
        path = root / name
        if path.is_file():
            for _, line in utf8_lines(path):
                part, separator, file_name = line.partition(";")
                if separator:
                    parts[file_name.strip(" ;\r\n")] = part.strip()
    return parts


def _clip(row: Mapping[str, str], audio: Path, text: str | None, votes: Mapping[str, float]) -> Clip:
    speaker, letter = row["SpkrID"], row["EmoClass"]
    extras = {
        name: row[column]
        for column, name in _RATINGS.items()
        if row.get(column, "").lower() not in ("", "nan")
    }
    return Clip(
        id=f"msp-podcast/{Path(row['FileName']).stem}",
        path=audio / row["FileName"],
        speaker=None if speaker.lower() in ("unknown", "") else f"msp-podcast-{speaker}",
        split=PARTS.get(row["Split_Set"].lower(), row["Split_Set"]),
        emotion=None if letter in NO_CLASS else EMOTIONS.get(letter, letter),
        votes=dict(sorted(votes.items())),
        text=text,
        extras={
            **extras,
            "consensus": letter,
            "part": row["Split_Set"],
            "gender": row.get("Gender", "").lower(),
        },
    )


def _tell(clips: list[Clip], transcripts: Transcripts, note: Note) -> None:
    none = Counter(NO_CLASS[letter] for clip in clips if (letter := clip.extras["consensus"]) in NO_CLASS)
    if none:
        note(f"without an emotion: {counted(none)}")
    if not transcripts.there:
        note(f"no folder {transcripts.folder}: no clip has a transcript")
    tests = Counter(clip.extras["part"] for clip in clips if clip.split == "test")
    note(f"the split test is {counted(tests) or 'empty'}")


def _tell_votes(clips: list[Clip], ratings: Ratings, table: Path, answers: Path, note: Note) -> None:
    """Says which turns no answer is on, and which answers are on no turn; refuses if all are."""
    strange = next(iter(ratings.unasked), None)
    if len(ratings.unasked) == len(ratings.votes):
        raise CorpusError(
            f"no row of {answers} names a turn of {table} ({strange or 'no rows'} there, "
            f"{clips[0].path.name} here); take both from one release, or go without votes: {_NO_VOTES}"
        )
    if unrated := sum(clip.path.name not in ratings.votes for clip in clips):
        note(f"{unrated:,} turns have no votes: no row of {answers.name} names them")
    if strange is not None:
        rows = sum(ratings.unasked.values())
        note(f"{rows:,} rows of {answers.name} name no turn of {table.name}, such as {strange!r}")


def _find_folder(root: Path, *names: str) -> Path | None:
    found = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() in names]
    return found[0] if found else None


def _subfolder(root: Path, name: str, other: str) -> Path:
    folder = _find_folder(root, name.lower(), other)
    if folder is None:
        raise CorpusError(f"no folder {name} in {root}; give the folder of an MSP-Podcast release")
    return folder


def _first(folder: Path, *names: str, also: str = "") -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CorpusError(f"no {' or '.join(names)} in {folder}; give the folder of an MSP-Podcast release{also}")
