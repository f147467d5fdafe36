"""CREMA-D: 91 actors, 6 emotions, 12 sentences, rated by a crowd.

Cao et al., "CREMA-D: crowd-sourced emotional multimodal actors dataset", IEEE Trans. Affective
Computing 5(4), 2014.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import (
    audio_files,
    corpus_folder,
    is_lfs_stub,
    nothing_found,
    strange_names,
    utf8_lines,
)
from voxstrata.corpora.options import Note, ReaderOption, no_note
from voxstrata.documents import as_number
from voxstrata.errors import CorpusError

EMOTIONS = {
    "ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness",
}  # fmt: skip
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}
SENTENCES = {
    "DFA": "don't forget a jacket",
    "IEO": "it's eleven o'clock",
    "IOM": "i'm on my way to the meeting",
    "ITH": "i think i have a doctor's appointment",
    "ITS": "i think i've seen this before",
    "IWL": "i would like a new alarm clock",
    "IWW": "i wonder what this is about",
    "MTI": "maybe tomorrow it will be cold",
    "TAI": "the airplane is almost full",
    "TIE": "that is exactly what happened",
    "TSI": "the surface is slick",
    "WSI": "we'll stop in a couple of minutes",
}
OPTIONS = (
    ReaderOption(
        "emotion", ("intended", "crowd"), "intended by the actor, or what most listeners heard in the voice"
    ),
)

#: Five groups of actors, every fifth one in a group.
FOLDS = tuple(tuple(f"crema-d-{actor}" for actor in range(first, 1092, 5)) for first in range(1001, 1006))

VOTES = Path("processedResults") / "tabulatedVotes.csv"
_LETTERS = {code[0]: name for code, name in EMOTIONS.items()}
# One recording of the release has a single X.
_NAME = re.compile(r"(1\d\d\d)_([A-Z]{3})_([A-Z]{3})_(LO|MD|HI|XX?)")
_LAYOUT = "AudioWAV/1001_IEO_HAP_LO.wav"


def read(folder: Path, *, emotion: str = "intended", note: Note = no_note) -> list[Clip]:
    """Reads the recordings of `AudioWAV`; actors 1004, 1009, ... are dev, 1005, 1010, ... test.

    Votes are those of listeners who heard the voice alone. An emotion code that the corpus does not
    define stays as it is, to be found as an unknown label.

    Args:
        folder: holds AudioWAV and, for votes, processedResults.
        emotion: `intended`, the code in a name; or `crowd`, the class with most votes, none where two tie.
        note: receives what is not known.

    Raises:
        CorpusError: if there are no recordings, some are stubs of git-lfs, or names are not of CREMA-D.
    """
    root = corpus_folder(folder)
    paths = list(audio_files(root / "AudioWAV"))
    if not paths:
        raise nothing_found("CREMA-D", folder, _LAYOUT)
    _refuse_stubs(root, paths)
    if strange := [path for path in paths if not (m := _NAME.fullmatch(path.stem)) or m[2] not in SENTENCES]:
        raise strange_names("CREMA-D", strange, "like " + _LAYOUT)
    votes = _read_votes(root / VOTES, required=emotion == "crowd", note=note)
    clips = [_clip(path, emotion, votes.get(path.stem, {})) for path in paths]
    if votes and (unrated := sum(not clip.votes for clip in clips)):
        note(f"{unrated:,} recordings have no votes in {VOTES}")
    if tied := sum(clip.emotion is None for clip in clips):
        note(f"without an emotion: no class has most votes {tied:,}")
    return clips


def most_voted(votes: Mapping[str, float]) -> str | None:
    """The class with most votes; None if there are none, or two classes have as many.

    >>> most_voted({"anger": 5, "disgust": 5, "neutral": 1}) is None
    True
    """
    ranked = Counter(votes).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def _refuse_stubs(root: Path, paths: list[Path]) -> None:
    stubs = [path for path in paths if is_lfs_stub(path)]
    if stubs:
        raise CorpusError(
            f"{len(stubs)} of {len(paths)} recordings are git-lfs stubs, not audio (such as {stubs[0]}): "
            f"run `git lfs pull` in {root}"
        )


def _read_votes(path: Path, *, required: bool, note: Note) -> dict[str, dict[str, float]]:
    """Recording -> class -> listeners, from the rows whose first column begins with 1: voice only."""
    if not path.is_file():
        if required:
            raise CorpusError(f"no votes at {path}; option emotion=crowd needs them")
        note(f"no {VOTES}: no clip has votes")
        return {}
    if is_lfs_stub(path):
        raise CorpusError(f"{path} is a git-lfs stub, not a table: run `git lfs pull` in {path.parent}")
    reader = csv.reader(line for _, line in utf8_lines(path))
    try:
        return _votes_of_rows(path, next(reader, []), ((reader.line_num, cells) for cells in reader))
    except csv.Error as fault:
        raise CorpusError(
            f"{path}, line {reader.line_num}: not a table ({fault}); fetch the file again"
        ) from None


def _votes_of_rows(
    path: Path, head: list[str], rows: Iterable[tuple[int, list[str]]]
) -> dict[str, dict[str, float]]:
    header = [name.strip() for name in head]
    if missing := [name for name in (*_LETTERS, "fileName") if name not in header]:
        raise CorpusError(f"{path}, line 1: no column {', '.join(missing)}; found {', '.join(header)}")
    columns = {name: header.index(letter) for letter, name in _LETTERS.items()}
    file_name = header.index("fileName")
    votes: dict[str, dict[str, float]] = {}
    for line, cells in rows:
        if not cells or not re.fullmatch(r"1\d{5}", cells[0].strip()):
            continue
        try:
            counts = {name: as_number(cells[column]) for name, column in columns.items()}
            if not all(math.isfinite(count) and count >= 0 for count in counts.values()):
                raise ValueError
            votes[cells[file_name].strip()] = {name: count for name, count in counts.items() if count}
        except (ValueError, IndexError):
            raise CorpusError(
                f"{path}, line {line}: expected counts of votes, numbers from 0 on; found "
                f"{','.join(cells)[:80]!r}; mend the line, or fetch the file again"
            ) from None
    return votes


def _clip(path: Path, source: str, votes: Mapping[str, float]) -> Clip:
    actor, sentence, code, level = path.stem.split("_")
    intended = EMOTIONS.get(code, code)
    group = (int(actor) - 1001) % len(FOLDS)
    return Clip(
        id=f"crema-d/{path.stem}",
        path=path,
        speaker=f"crema-d-{actor}",
        split={3: "dev", 4: "test"}.get(group, "train"),
        emotion=intended if source == "intended" else most_voted(votes),
        votes=dict(sorted(votes.items())),
        text=SENTENCES[sentence],
        extras={"sentence": sentence, "level": LEVELS[level], "intended": intended},
    )
