"""The recipe as the README has it, on a corpus of a few hundred real clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.ravdess import read
from voxstrata.experiments.run import execute
from voxstrata.recipes.reading import read_recipe
from voxstrata.runs import RunFolder

#: Actors of each split.
ACTORS = {"train": range(1, 7), "dev": range(7, 9), "test": range(9, 15)}


def own_corpus(root: Path, folder: Path) -> Path:
    """Six speakers to learn from, 30 clips each: a table such as a user makes."""
    splits = {f"ravdess-{actor:02d}": split for split, actors in ACTORS.items() for actor in actors}
    rows = [
        {
            "path": str(clip.path),
            "emotion": clip.emotion,
            "speaker": clip.speaker,
            "split": splits[clip.speaker],
        }
        for clip in read(root / "RAVDESS")
        if clip.speaker in splits and clip.extras["repetition"] == "01"
    ]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", folder / "mine.jsonl", folder / "prepared", skip_bad=True, trim_silence=True)
    return folder / "prepared"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fine_tuning_as_the_readme_has_it_is_above_acoustic_statistics(
    real_data: Path, tmp_path: Path
) -> None:
    corpus = own_corpus(real_data, tmp_path)
    uars: dict[str, Any] = {}
    for name in ("finetune-ser", "statistics"):
        run = execute(read_recipe(name, [f"data.corpora={corpus}"]), RunFolder(tmp_path / name))
        scores = json.loads(run.metrics.read_text())["test"]
        assert scores["clips"] > 170 and scores["speakers"] == 6
        uars[name] = scores["emotion"]["uar"]["value"]
    assert uars["finetune-ser"] > uars["statistics"], uars
