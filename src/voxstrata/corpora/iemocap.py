"""IEMOCAP: ten actors in five sessions of two, improvised and scripted dialogs.

Busso et al., "IEMOCAP: interactive emotional dyadic motion capture database", Language Resources and
Evaluation 42(4), 2008.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import audio_files, corpus_folder, nothing_found
from voxstrata.corpora.options import Note, no_note
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.errors import CorpusError

EMOTIONS = {
    "ang": "anger", "dis": "disgust", "exc": "excitement", "fea": "fear", "fru": "frustration",
    "hap": "happiness", "neu": "neutral", "oth": "other", "sad": "sadness", "sur": "surprise",
}  # fmt: skip
#: The annotators did not agree: no emotion.
NO_AGREEMENT = "xxx"
WORDS = {
    "anger": "anger", "disgust": "disgust", "excited": "excitement", "fear": "fear",
    "frustration": "frustration", "happiness": "happiness", "neutral": "neutral", "neutral state": "neutral",
    "other": "other", "sadness": "sadness", "surprise": "surprise", "surprised": "surprise",
}  # fmt: skip

#: Five groups of two speakers; fold k tests session k.
FOLDS = tuple((f"iemocap-Ses0{session}F", f"iemocap-Ses0{session}M") for session in range(1, 6))
SPLITS = {"1": "train", "2": "train", "3": "train", "4": "dev", "5": "test"}

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_TURN = re.compile(rf"\[{_NUMBER} - {_NUMBER}\]\s+(\S+)\s+(\S+)\s+\[{_NUMBER},\s*{_NUMBER},\s*{_NUMBER}\]\s*")
_NAME = re.compile(r"Ses0([1-5])[FM]_(impro|script)\w*_([FM])\d+")
# Turns of the other actor that the release cuts out, without labels.
_UNLABELLED = re.compile(r"\w+_[FM]XX\w*")
_TEXT_LINE = re.compile(r"(Ses0[1-5]\S+)\s+\[[^\]]*\]:?\s*(.*)")
_EVENT = re.compile(r"\[[^\]]*\]")
_LAYOUT = "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"


@dataclass
class Turn:
    """What `EmoEvaluation` says of one turn.

    Args:
        name: of the recording, without suffix.
        emotion: three letters.
        ratings: valence, arousal and dominance, from 1 to 5.
        votes: class -> annotators.
    """

    name: str
    emotion: str
    ratings: tuple[str, str, str]
    votes: dict[str, float] = field(default_factory=dict)


def read(folder: Path, *, note: Note = no_note) -> list[Clip]:
    """Reads the turns of the five sessions; sessions 1 to 3 are train, 4 is dev, 5 is test.

    The speaker is the session with the gender at the end of a turn's name: each session has two actors,
    and either may be in a file that is named after the other. `xxx` (no agreement) gives no emotion.
    `exc` is "excitement"; the map `excited-to-happy` makes it happiness. Votes are those of the
    annotators (`C-E`), not the actors' own (`C-F`, `C-M`).

    Raises:
        CorpusError: if there is no session, or a file of labels holds what is none.
    """
    root = corpus_folder(folder)
    if (root / "IEMOCAP_full_release").is_dir():
        root = root / "IEMOCAP_full_release"
    clips: list[Clip] = []
    unlabelled = without = odd = strange_words = 0
    for session in sorted(root.glob("Session[1-5]")):
        turns: dict[str, Turn] = {}
        for path in _text_files(session / "dialog" / "EmoEvaluation"):
            found, strange = read_evaluation(path)
            turns |= {turn.name: turn for turn in found}
            strange_words += strange
        texts, passed = _read_texts(session / "dialog" / "transcriptions")
        odd += passed
        paths = {path.stem: path for path in audio_files(session / "sentences" / "wav")}
        unlabelled += sum(_UNLABELLED.fullmatch(name) is not None for name in paths)
        names = sorted({name for name in {*turns, *paths} if not _UNLABELLED.fullmatch(name)})
        without += sum(name not in turns for name in names)
        clips += [_clip(session, name, paths.get(name), turns.get(name), texts.get(name)) for name in names]
    if not clips:
        raise nothing_found("IEMOCAP", folder, _LAYOUT)
    for count, what in (
        (unlabelled, "recordings of *_FXX and *_MXX are left out: they have no labels"),
        (without, "recordings stand in no file of EmoEvaluation: they carry no emotion"),
        (strange_words, "answers of annotators are none of the classes and count as other"),
        (odd, "lines of transcriptions are not `TURN [t0-t1]: text` and are passed over"),
    ):
        if count:
            note(f"{count:,} {what}")
    no_agreement = sum(clip.extras.get("consensus") == NO_AGREEMENT for clip in clips)
    note(f"without an emotion: no agreement ({NO_AGREEMENT}) {no_agreement:,}")
    return clips


def read_evaluation(path: Path) -> tuple[list[Turn], int]:
    """Turns of one dialog with the votes below each, and how many votes had a word that is no class.

    Raises:
        CorpusError: naming a line that begins like a turn and is none.
    """
    turns: list[Turn] = []
    strange = 0
    for number, line in enumerate(path.read_text(encoding="latin-1").split("\n"), start=1):
        if line.startswith("["):
            match = _TURN.fullmatch(line)
            if match is None:
                raise CorpusError(
                    f"{path}, line {number}: expected `[t0 - t1] TURN neu [v, a, d]`; found {line[:80]!r}"
                )
            turns.append(Turn(match[3], match[4], (match[5], match[6], match[7])))
        elif line.startswith("C-E") and turns:
            # `C-E2:	Neutral; Sadness;	(own words)`
            answers = line.partition(":")[2].partition("(")[0].split(";")
            for word in dict.fromkeys(answer.strip().lower() for answer in answers):
                if word:
                    strange += word not in WORDS
                    emotion = WORDS.get(word, "other")
                    turns[-1].votes[emotion] = turns[-1].votes.get(emotion, 0.0) + 1.0
    return turns, strange


def _text_files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise CorpusError(f"no folder {folder}; give the folder that holds Session1 to Session5")
    return (path for path in sorted(folder.glob("*.txt")) if not path.name.startswith("._"))


def _read_texts(folder: Path) -> tuple[dict[str, str | None], int]:
    """Turn -> words, and how many lines hold something else."""
    texts: dict[str, str | None] = {}
    passed = 0
    for path in _text_files(folder):
        for line in filter(None, map(str.strip, path.read_text(encoding="latin-1").split("\n"))):
            match = _TEXT_LINE.fullmatch(line)
            if match is None:
                passed += 1
            elif not _UNLABELLED.fullmatch(match[1]):
                texts[match[1]] = normalize_transcript(_EVENT.sub(" ", match[2]))
    return texts, passed


def _clip(session: Path, name: str, path: Path | None, turn: Turn | None, text: str | None) -> Clip:
    match = _NAME.fullmatch(name)
    if match is None:
        raise CorpusError(
            f"{session}: {name!r} is no turn of IEMOCAP (like {Path(_LAYOUT).stem}); move it away"
        )
    dialog = name.rpartition("_")[0]
    ratings = dict(zip(("valence", "arousal", "dominance"), turn.ratings, strict=True)) if turn else {}
    emotion = None if turn is None or turn.emotion == NO_AGREEMENT else turn.emotion
    return Clip(
        id=f"iemocap/{name}",
        path=path or session / "sentences" / "wav" / dialog / f"{name}.wav",
        speaker=f"iemocap-Ses0{match[1]}{match[3]}",
        split=SPLITS[match[1]],
        emotion=EMOTIONS.get(emotion, emotion) if emotion else None,
        votes=dict(sorted(turn.votes.items())) if turn else {},
        text=text,
        extras={
            **ratings,
            **({"consensus": turn.emotion} if turn else {}),
            "style": "improvised" if match[2] == "impro" else "scripted",
            "gender": "female" if match[3] == "F" else "male",
        },
    )
