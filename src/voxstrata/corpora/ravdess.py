"""RAVDESS speech: 24 actors, 8 emotions, 2 sentences.

Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 13(5), 2018.
"""

from __future__ import annotations

import re
from pathlib import Path

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import audio_files, corpus_folder, nothing_found, strange_names

EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happiness", "04": "sadness",
    "05": "anger", "06": "fear", "07": "disgust", "08": "surprise",
}  # fmt: skip
SENTENCES = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}
INTENSITIES = {"01": "normal", "02": "strong"}

#: Six groups of four actors; fold k tests actors 4k-3..4k.
FOLDS = tuple(tuple(f"ravdess-{actor:02d}" for actor in range(first, first + 4)) for first in range(1, 25, 4))

_NAME = re.compile(r"03-01-(\d\d)-(0[12])-(0[12])-(\d\d)-(\d\d)")
_OTHER_MODE = re.compile(r"0[1-3]-0[12]-\d\d-\d\d-\d\d-\d\d-\d\d")
_LAYOUT = "Actor_01/03-01-05-01-02-01-01.wav"


def read(folder: Path) -> list[Clip]:
    """Reads the speech recordings of `Actor_*`, which may lie in a folder `Audio_Speech_Actors_01-24`.

    Actors 1-16 are train, 17-20 dev, 21-24 test. Song and video of the same release, known by their
    names, belong to other corpora and are passed over. An emotion code that the corpus does not define
    stays as it is, to be found as an unknown label.

    Raises:
        CorpusError: if there are no recordings, or some whose names are not of RAVDESS.
    """
    root = corpus_folder(folder)
    actors = sorted(root.glob("Actor_*"))
    if not actors:
        actors = sorted(
            a for top in root.iterdir() if "speech" in top.name.lower() for a in top.glob("Actor_*")
        )
    clips, strange = [], []
    for path in (path for actor in actors for path in audio_files(actor)):
        match = _NAME.fullmatch(path.stem)
        if match and 1 <= int(match[5]) <= 24:
            clips.append(_clip(path, *match.groups()))
        elif not _OTHER_MODE.fullmatch(path.stem) or match:
            strange.append(path)
    if strange:
        raise strange_names("RAVDESS", strange, "like " + _LAYOUT)
    if not clips:
        raise nothing_found("RAVDESS", folder, _LAYOUT)
    return clips


def _clip(path: Path, emotion: str, intensity: str, sentence: str, repetition: str, actor: str) -> Clip:
    number = int(actor)
    return Clip(
        id=f"ravdess/{path.stem}",
        path=path,
        speaker=f"ravdess-{actor}",
        split="train" if number <= 16 else "dev" if number <= 20 else "test",
        emotion=EMOTIONS.get(emotion, emotion),
        text=SENTENCES[sentence],
        extras={
            "intensity": INTENSITIES[intensity],
            "repetition": repetition,
            "gender": "male" if number % 2 else "female",
        },
    )
