"""TESS: two women, 7 emotions, 200 words in one carrier phrase.

Pichora-Fuller and Dupuis, "Toronto emotional speech set", 2020, doi:10.5683/SP2/E8H2MF.
"""

from __future__ import annotations

import re
from pathlib import Path

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import audio_files, corpus_folder, nothing_found, strange_names

EMOTIONS = {
    "angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness",
    "neutral": "neutral", "ps": "surprise", "sad": "sadness",
}  # fmt: skip
SPLITS = {"OAF": "train", "YAF": "test"}

# The release has one file that begins with OA_ instead of OAF_.
_NAME = re.compile(r"(OAF?|YAF)_([^_]+)_([^_]+)", re.IGNORECASE)
_LAYOUT = "YAF_happy/YAF_shawl_happy.wav"


def read(folder: Path) -> list[Clip]:
    """Reads every recording below the folder: the older speaker (OAF) is train, the younger (YAF) test.

    The emotion is the last field of the file's name, since folders are spelt in several ways. One that
    the corpus does not define stays as it is, to be found as an unknown label.

    Raises:
        CorpusError: if there are no recordings, or some whose names are not of TESS.
    """
    clips, strange = [], []
    for path in audio_files(corpus_folder(folder)):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            strange.append(path)
            continue
        speaker = "YAF" if match[1].upper() == "YAF" else "OAF"
        word, emotion = match[2].lower(), match[3].lower()
        clips.append(
            Clip(
                id=f"tess/{speaker}_{word}_{emotion}",
                path=path,
                speaker=f"tess-{speaker}",
                split=SPLITS[speaker],
                emotion=EMOTIONS.get(emotion, emotion),
                text=f"say the word {word}",
                extras={"word": word, "gender": "female"},
            )
        )
    if strange:
        raise strange_names("TESS", strange, "like " + _LAYOUT)
    if not clips:
        raise nothing_found("TESS", folder, _LAYOUT)
    return clips
