"""MSP-Podcast's `labels_detailed.csv`: what each annotator said, in either of its two layouts."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from voxstrata.errors import CorpusError

#: The words of the questionnaire that are classes; every other answer is a word of the annotator's own.
WORDS = {
    "angry": "anger", "contempt": "contempt", "disgust": "disgust", "fear": "fear",
    "happy": "happiness", "neutral": "neutral", "sad": "sadness", "surprise": "surprise",
}  # fmt: skip

_SHOWN = 20


@dataclass
class Ratings:
    """Votes of all clips.

    Args:
        votes: file name -> class -> annotators.
        counted: votes for one of the eight classes.
        other: votes for anything else; they count for no class.
        unasked: file name -> rows, of the clips whose votes were not asked for.
    """

    votes: dict[str, dict[str, float]] = field(default_factory=dict)
    counted: int = 0
    other: int = 0
    unasked: dict[str, int] = field(default_factory=dict)

    def of(self, file_name: str) -> dict[str, float]:
        """Votes of a clip; none where no row names it."""
        self.unasked.pop(file_name, None)
        return self.votes.get(file_name, {})

    def add(self, file_name: str, primary: str, secondary: str, *, both: bool) -> None:
        """Counts one annotator: the primary emotion, or each emotion named once."""
        named = [emotion_of(primary)]
        if both:
            named += [emotion_of(word) for word in secondary.split(",") if word.strip()]
        of_clip = self.votes.setdefault(file_name, {})
        self.unasked[file_name] = self.unasked.get(file_name, 0) + 1
        for emotion in dict.fromkeys(named):
            if emotion is None:
                self.other += 1
            else:
                self.counted += 1
                of_clip[emotion] = of_clip.get(emotion, 0.0) + 1.0


def emotion_of(word: str) -> str | None:
    """The class of an answer; None for "Other", "Other-confused" and all else that is no class.

    >>> emotion_of(" Happy"), emotion_of("Other-happy, sort of")
    ('happiness', None)
    """
    return WORDS.get(word.strip().lower())


def split_detail(detail: str) -> tuple[str, str]:
    """Primary and secondary emotions of `WORKER00000001; Other-confused; Concerned,Confused; A:3.0; V:3.0; D:4.0;`.

    The secondary ones may be missing. The words after "Other-" are the annotator's own and may hold `;`.

    Raises:
        ValueError: if there is no annotator, no emotion, or the three ratings do not stand at the end.

    >>> split_detail("WORKER1; Other-well; hm; Sad,Calm; A:3.0; V:3.0; D:4.0;")
    ('Other-well; hm', 'Sad,Calm')
    """  # noqa: E501
    fields = [part.strip() for part in detail.strip().rstrip(";").split(";")]
    if len(fields) < 5 or [part[:2] for part in fields[-3:]] != ["A:", "V:", "D:"]:
        raise ValueError
    words = fields[1:-3]
    if not words[0]:
        raise ValueError
    # A free answer is cut by its own semicolons: the last part is the list of secondary emotions then.
    head = max(1, len(words) - 1) if words[0].lower().startswith("other") else 1
    return "; ".join(words[:head]), "; ".join(words[head:])


def read_ratings(path: Path, *, both: bool = False) -> Ratings:
    """Reads the votes of a release.

    Args:
        path: `labels_detailed.csv`, with the columns `FileName,EmoDetail`, or with a column for each answer.
        both: count primary and secondary emotions; else the primary ones alone.

    Raises:
        CorpusError: if the file cannot be read, naming lines, or has neither layout.
    """
    ratings = Ratings()
    faults: list[str] = []
    for line, row in _rows(path):
        if row is None:
            faults.append(f"line {line}")
        else:
            file_name, primary, secondary = row
            ratings.add(file_name, primary, secondary, both=both)
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise CorpusError(
            f"{path}: not the answers of an annotator in {', '.join(faults[:_SHOWN])}{more}; mend the file"
        )
    return ratings


def _rows(path: Path) -> Iterator[tuple[int, tuple[str, str, str] | None]]:
    """Line, and file name with primary and secondary emotions; None where a line holds something else."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if header[:2] == ["FileName", "EmoDetail"]:
                yield from _detail_rows(reader)
            elif {"FileName", "EmoClass_Major", "EmoClass_Second"} <= set(header):
                yield from _column_rows(reader, header)
            else:
                raise CorpusError(
                    f"{path}, line 1: need FileName,EmoDetail or FileName,EmoClass_Major,EmoClass_Second; "
                    f"found {','.join(header) or 'nothing'}"
                )
    except csv.Error as fault:
        raise CorpusError(f"{path} is not a table: {fault}") from None


def _detail_rows(reader: Iterator[list[str]]) -> Iterator[tuple[int, tuple[str, str, str] | None]]:
    for line, cells in enumerate(reader, start=2):
        if not any(cells):
            continue
        try:
            # The answers hold commas and are not always quoted.
            primary, secondary = split_detail(",".join(cells[1:]))
        except ValueError:
            yield line, None
            continue
        yield line, (cells[0].strip(), primary, secondary)


def _column_rows(
    reader: Iterator[list[str]], header: list[str]
) -> Iterator[tuple[int, tuple[str, str, str] | None]]:
    name, major, second = (header.index(c) for c in ("FileName", "EmoClass_Major", "EmoClass_Second"))
    for line, cells in enumerate(reader, start=2):
        if not any(cells):
            continue
        good = len(cells) == len(header) and cells[major].strip()
        yield line, (cells[name].strip(), cells[major], cells[second]) if good else None
