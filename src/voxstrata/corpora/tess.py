"""TESS: two women, 7 emotions, 200 words in one carrier phrase.

Pichora-Fuller and Dupuis, "Toronto emotional speech set", 2020, doi:10.5683/SP2/E8H2MF.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import audio_files, corpus_folder, nothing_found, strange_names
from voxstrata.corpora.options import ReaderOption
from voxstrata.errors import CorpusError

EMOTIONS = {
    "angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness",
    "neutral": "neutral", "ps": "surprise", "sad": "sadness",
}  # fmt: skip
SPLITS = {"OAF": "train", "YAF": "test"}
OPTIONS = (
    ReaderOption(
        "split",
        ("speaker", "both"),
        "both: by words too; about one word in five is only tested on, the others are only trained on",
    ),
)
#: One word in so many is tested on where words are divided.
TEST_SHARE = 5

# The release has one file that begins with OA_ instead of OAF_.
_NAME = re.compile(r"(OAF?|YAF)_([^_]+)_([^_]+)", re.IGNORECASE)
_LAYOUT = "YAF_happy/YAF_shawl_happy.wav"


def read(folder: Path, split: str = "speaker") -> list[Clip]:
    """Reads every recording below the folder.

    The emotion is the last field of the file's name, since folders are spelt in several ways. One that
    the corpus does not define stays as it is, to be found as an unknown label.

    Args:
        folder: in which the corpus was unpacked.
        split: `speaker`: the older one (OAF) is train, the younger (YAF) test; `both`: train and test share
            no word either, and recordings that would break that are left out.

    Raises:
        CorpusError: if there are no recordings, some whose names are not of TESS, or only ones left out.
    """
    clips, strange, left_out = [], [], []
    for path in audio_files(corpus_folder(folder)):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            strange.append(path)
            continue
        speaker = "YAF" if match[1].upper() == "YAF" else "OAF"
        word, emotion = match[2].lower(), match[3].lower()
        if split == "both" and kept_for_test(word) != (SPLITS[speaker] == "test"):
            left_out.append(path)
            continue
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
    if left_out and not clips:
        raise CorpusError(
            f"option split=both leaves out all {len(left_out)} TESS recordings in {folder}, such as "
            f"{left_out[0].name}: it needs words that are trained on from OAF, or words that are tested on "
            "from YAF; unpack the whole corpus there, or take split=speaker"
        )
    if not clips:
        raise nothing_found("TESS", folder, _LAYOUT)
    return clips


def kept_for_test(word: str) -> bool:
    """Whether a word is tested on where words are divided.

    >>> kept_for_test("shawl"), kept_for_test("dog")
    (False, True)
    """
    return hashlib.sha256(word.encode()).digest()[0] % TEST_SHARE == 0
