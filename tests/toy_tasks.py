"""Toy corpora for several tasks: one with words, one with emotions and gender; and a recipe over both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from voxstrata.corpora.prepare import prepare
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe
from voxstrata.recipes.reading import merged_values, read_yaml, validate

EMOTIONS = ("anger", "neutral", "sadness")
TEXTS = ("ab ba", "ba", "a b")


def write_corpus(folder: Path, name: str, counts: tuple[int, int, int], **columns: Any) -> Path:
    """A prepared corpus; a column is a tuple of values, taken in turn, or a fixed length in seconds."""
    folder = folder / name
    folder.mkdir(parents=True)
    duration_s = columns.pop("duration_s", 0.3)
    rows = []
    for i, split in enumerate(
        s for s, n in zip(("train", "dev", "test"), counts, strict=True) for _ in range(n)
    ):
        samples = int(16_000 * duration_s) + 300 * (i % 5)
        wave = 0.02 * np.random.default_rng(i).normal(size=samples)
        wave[:: 60 + 9 * (i % 11)] += 0.5
        soundfile.write(folder / f"{i:02d}.wav", wave.astype(np.float32), 16_000)
        row = {
            "path": f"{i:02d}.wav",
            "id": f"{name}-{i:02d}",
            "speaker": f"{name}-{split}-{i % 2}",
            "split": split,
        }
        rows.append(row | {key: values[i % len(values)] for key, values in columns.items()})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", folder / f"{name}.jsonl", folder / "prepared")
    return folder / "prepared"


def two_corpora(folder: Path) -> dict[str, str]:
    """Words in clips of 0.6 s; emotions and gender in more clips of 0.3 s."""
    words = write_corpus(folder, "words", (8, 3, 3), text=TEXTS, duration_s=0.6)
    feelings = write_corpus(folder, "feelings", (18, 4, 4), emotion=EMOTIONS, gender=("female", "male"))
    return {"words": str(words), "feelings": str(feelings)}


def recipe(base: str | Path, corpora: dict[str, str], **changes: Any) -> HarmoniFuseRecipe:
    """The packaged recipe, made tiny: asr from words, ser from feelings."""
    tiny = {
        "base": str(base),
        "tasks": {
            "asr": {"corpora": [{"path": corpora["words"]}]},
            "ser": {"corpora": [{"path": corpora["feelings"]}]},
        },
        "lm": {"layers": 2, "size": 32, "heads": 2, "feed_forward": 64},
        "connector": {"width": 32},
        "layer_fusion": {"width": 16},
        "decoding": {"tokens_per_s": 10.0, "tokens_extra": 2},
        "data": {"batch_size": 4, "alphabet": "ab "},
        "training": {"steps": 8, "warmup_steps": 2},
    }
    found = validate(merged_values(merged_values(read_yaml("harmonifuse"), tiny), changes), "toy")
    assert isinstance(found, HarmoniFuseRecipe)
    return found
