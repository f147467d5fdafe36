"""The folds and parts of the packaged table do not leak: its corpora made, its runs planned and guarded."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from test_leak_guard import SER, corpus
from voxstrata.config.leaks import MATCHES
from voxstrata.corpora.prepared import PreparedCorpus, write_prepared
from voxstrata.corpora.ravdess import EMOTIONS as RAVDESS_EMOTIONS
from voxstrata.corpora.ravdess import FOLDS
from voxstrata.corpora.ravdess import read as read_ravdess
from voxstrata.corpora.summary import summarize
from voxstrata.experiments.leaks.guard import guard
from voxstrata.experiments.leaks.report import LeakError
from voxstrata.experiments.leaks.training_clips import TrainingClips
from voxstrata.experiments.setup import Setup
from voxstrata.experiments.tables.pieces import Piece, narrowed
from voxstrata.experiments.tables.planned_runs import plan
from voxstrata.experiments.tables.table import Table, read_table_spec
from voxstrata.recipes.reading import dump, validate
from voxstrata.runs import RunFolder


@pytest.fixture
def acted(tmp_path: Path) -> dict[str, PreparedCorpus]:
    """The corpora of the packaged table: RAVDESS by the names of its files, the others made."""
    root = tmp_path / "RAVDESS"
    for actor, emotion, sentence in product(range(1, 25), (1, 3, 5), (1, 2)):
        folder = root / f"Actor_{actor:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"03-01-{emotion:02d}-01-{sentence:02d}-01-{actor:02d}.wav").touch()
    clips = read_ravdess(root)
    labels = tuple(sorted(RAVDESS_EMOTIONS.values()))
    audio = [(16000, f"{i:016x}") for i in range(len(clips))]
    summary = summarize(clips, [16000] * len(clips), labels)
    ravdess = write_prepared(
        tmp_path / "r", "ravdess", clips, audio, labels=labels, folds=FOLDS, summary=summary
    )
    rows = [("train", "ann"), ("train", "bea"), ("dev", "cyd"), ("test", "dan")]
    others = {
        name: PreparedCorpus.load(
            Path(
                corpus(
                    tmp_path / name,
                    *(
                        (f"{name}{i}", split, f"{name}-{who}", "say it")
                        for i, (split, who) in enumerate(rows)
                    ),
                )
            )
        )
        for name in read_table_spec("adaltm-wavlm-tiny").scale("real").corpora
        if name != "ravdess"
    }
    return {"ravdess": ravdess, **others}


@pytest.mark.parametrize("fold", [2, 6])
def test_the_folds_of_the_packaged_table_do_not_leak(
    fold: int, acted: dict[str, PreparedCorpus], tmp_path: Path
) -> None:
    content = read_table_spec("adaltm-wavlm-tiny").model_dump()
    scale = content["scales"]["real"]
    scale["axes"]["fold"], scale["grids"] = (fold,), {}
    for run in content["runs"].values():
        run["grid"] = {}
    table = Table.model_validate(content)
    runs = plan(table, table.scale("real"), acted, tmp_path / "runs")
    assert {row.run for row in table.shown(table.scale("real"))} <= {run.name for run in runs}
    for run in runs:
        guarded = guard(Setup.of(run.recipe), run.folder.path.name)
        guarded.report.require_none()
        assert not guarded.report.leaks
        guarded.write(run.folder)
    dual = next(run for run in runs if run.name == "dual")
    stages = {use.stage for use in TrainingClips.read(dual.folder.training_clips).uses}
    assert stages == {"lambda-fit", "fine-tuning", "pretraining", "selection"}
    assert json.loads(dual.folder.leaks.read_text())["sentences"], "RAVDESS has two sentences in all splits"


@pytest.mark.parametrize("part", [1, 4])
def test_cross_fitting_fits_on_speakers_that_the_expert_has_not_heard(
    part: int, acted: dict[str, PreparedCorpus], tmp_path: Path
) -> None:
    table = read_table_spec("adaltm-wavlm-tiny")
    scale = narrowed(table, table.scale("heldout"), Piece(part=part))
    runs = {run.name: run for run in plan(table, scale, acted, tmp_path / "runs")}
    speakers = {}
    for name in ("asr", "ser-rest", "dual-heard", "dual-unheard"):
        run = runs[name]
        guarded = guard(Setup.of(run.recipe), run.folder.path.name)
        guarded.report.require_none()
        guarded.write(run.folder)
        (run.folder.recipe).write_text(dump(run.recipe))
        (use,) = (use for use in guarded.trained.uses if use.run == run.folder.path.name)
        speakers[name] = {clip.speaker for clip in guarded.trained.uses[use]}
    assert len(speakers["ser-rest"]) == 12
    assert len(speakers["dual-heard"]) == len(speakers["dual-unheard"]) == 4
    assert speakers["dual-heard"] <= speakers["ser-rest"]
    assert not speakers["dual-unheard"] & speakers["ser-rest"]
    assert speakers["dual-unheard"] <= speakers["asr"], "who learned words may have heard them"
    # What the scale says is held out is refused where it is not.
    careless = runs["dual-heard"].recipe.model_copy(update={"fit_on": "heldout"})
    with pytest.raises(LeakError, match=r"4 speakers of fit in the fine-tuning of ser-rest-.*allow_leaks=\["):
        guard(Setup.of(careless), "careless").report.require_none()
    names = tuple(f"fine-tuning/fit/{match}" for match in MATCHES)
    allowed = careless.model_copy(update={"allow_leaks": names})
    guard(Setup.of(allowed), "allowed").report.require_none()


def test_an_expert_of_another_fold_does_leak(acted: dict[str, PreparedCorpus], tmp_path: Path) -> None:
    data = {"corpora": [{"path": str(acted["ravdess"].folder), "fold": 2}]}
    expert = validate(SER | {"data": data}, "ser")
    guard(Setup.of(expert), "ser").write(RunFolder(tmp_path / "ser"))
    data = {"corpora": [{"path": str(acted["ravdess"].folder), "fold": 3}]}
    merge = validate(
        {
            "system": "adaltm",
            "vectors": {"ser": str(tmp_path / "ser")},
            "data": data,
            "training": {"steps": 1},
        },
        "m",
    )
    with pytest.raises(LeakError, match=r"4 speakers of (dev|test) in the fine-tuning of ser"):
        guard(Setup.of(merge), "m").report.require_none()
