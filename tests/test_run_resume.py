"""A run that was stopped goes on with what it began with, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import two_processes
from two_processes import launch
from voxstrata.backbone.encoder import load_backbone
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import RecipeError
from voxstrata.experiments.caching import cache_folder
from voxstrata.experiments.run import execute
from voxstrata.recipes.reading import read_recipe
from voxstrata.reporting import page
from voxstrata.runs import RunFolder, write_json
from voxstrata.training.progress import Progress

CLIPS = 16


@pytest.fixture(autouse=True)
def no_report(monkeypatch) -> None:
    monkeypatch.setattr(page, "write_report", lambda run: None)


def prepared(folder: Path, tested: str = "67", flipped: bool = False) -> Path:
    """A prepared corpus of eight speakers, those of `tested` in test and 4 and 5 in dev."""
    rows = []
    for i in range(CLIPS):
        speaker = str(i // 2)
        split = "test" if speaker in tested else "dev" if speaker in "45" else "train"
        emotion = ("anger", "neutral")[i % 2 ^ flipped]
        rows.append({"path": f"{i:02d}.wav", "speaker": speaker, "split": split, "emotion": emotion})
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", folder / "table.jsonl", folder / "prepared")
    return folder / "prepared"


@pytest.fixture
def place(tmp_path, encoder_folder, expert_folders) -> Path:
    """A folder with recordings, a corpus, a base, experts, and a recipe over them."""
    generator = np.random.default_rng(0)
    for i in range(CLIPS):
        soundfile.write(tmp_path / f"{i:02d}.wav", 0.1 * generator.standard_normal(5000), 16000)
    shutil.copytree(encoder_folder, tmp_path / "base")
    for name, folder in expert_folders.items():
        shutil.copytree(folder, tmp_path / name)
    values = {
        "system": "adaltm",
        "base": str(tmp_path / "base"),
        "vectors": {name: str(tmp_path / name) for name in expert_folders},
        "data": {"corpora": [{"path": str(prepared(tmp_path))}], "batch_size": 4},
        "training": {"epochs": 3},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


class Killed(Exception):
    """Stands for the end of the process."""


def begun(place: Path) -> RunFolder:
    """A run that died in its second epoch."""

    def die(progress: Progress) -> None:
        if progress.step == 3:
            raise Killed

    run = RunFolder(place / "run")
    with pytest.raises(Killed):
        execute(read_recipe(place / "recipe.yaml"), run, progress=die)
    return run


def go_on(place: Path, run: RunFolder, **options: bool) -> int:
    """Executes the recipe again; the first step that it does."""
    steps: list[int] = []
    execute(read_recipe(place / "recipe.yaml"), run, progress=lambda told: steps.append(told.step), **options)
    assert run.is_complete
    return steps[0]


def another_expert(place: Path) -> None:
    encoder = load_backbone(str(place / "ser"))
    encoder.model.encoder.layers[0].final_layer_norm.bias.data += 1
    encoder.save(place / "ser")


def another_base(place: Path) -> None:
    encoder = load_backbone(str(place / "base"))
    encoder.model.encoder.layers[0].final_layer_norm.bias.data += 1
    encoder.save(place / "base")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda place: prepared(place, tested="01"), "corpus .*prepared was"),
        (lambda place: prepared(place, flipped=True), "corpus .*prepared was"),
        (another_base, r"\(base was"),
        (another_expert, r"\(experts\.ser was"),
    ],
    ids=["test-speakers", "labels", "base", "expert"],
)
def test_a_run_does_not_go_on_with_other_data_or_weights(
    place: Path, change: Callable[[Path], object], named: str
) -> None:
    run = begun(place)
    before = run.training_clips.read_bytes(), run.provenance.read_bytes()
    change(place)
    with pytest.raises(RecipeError, match=f"{named} [0-9a-f]{{12}}, is [0-9a-f]{{12}}.; put back") as fault:
        go_on(place, run)
    assert "\n" not in str(fault.value)
    assert (run.training_clips.read_bytes(), run.provenance.read_bytes()) == before and not run.is_complete


def test_a_run_goes_on_where_nothing_but_the_places_changed(place: Path) -> None:
    run = begun(place)
    began = run.provenance.read_text()
    for name in ("prepared", "base", "ser"):
        (place / name).rename(place / f"moved-{name}")
        recipe = (place / "recipe.yaml").read_text()
        (place / "recipe.yaml").write_text(recipe.replace(str(place / name), str(place / f"moved-{name}")))
    assert go_on(place, run, keyed=True) == 3
    assert json.loads(run.provenance.read_text())["weights"] == json.loads(began)["weights"]


def test_a_moved_corpus_must_be_the_same_one(place: Path) -> None:
    run = begun(place)
    prepared(place, flipped=True).rename(place / "moved")
    recipe = (place / "recipe.yaml").read_text()
    (place / "recipe.yaml").write_text(recipe.replace(str(place / "prepared"), str(place / "moved")))
    with pytest.raises(RecipeError, match=r"corpora were [0-9a-f]{12}, are [0-9a-f]{12}"):
        go_on(place, run, keyed=True)


def test_a_run_of_a_version_that_wrote_no_weights_down_goes_on(place: Path) -> None:
    run = begun(place)
    about = json.loads(run.provenance.read_text())
    del about["weights"], about["data"]
    write_json(run.provenance, about)
    another_expert(place)
    assert go_on(place, run) == 3


def test_where_nothing_was_trained_a_run_starts_with_what_there_is(place: Path) -> None:
    run = begun(place)
    shutil.rmtree(run.checkpoints)
    run.journal.unlink()
    before = json.loads(run.provenance.read_text())["data"]
    prepared(place, flipped=True)
    assert go_on(place, run) == 1
    after = json.loads(run.provenance.read_text())["data"]
    assert after.keys() == before.keys() and after != before


@pytest.mark.parametrize("complete", [True, False])
def test_a_recipe_that_lacks_a_key_of_this_version_is_the_same_one(place: Path, complete: bool) -> None:
    run = begun(place)
    if complete:
        go_on(place, run)
    lines = run.recipe.read_text().splitlines(keepends=True)
    run.recipe.write_text("".join(line for line in lines if not line.startswith("fit_on")))
    assert len(run.recipe.read_text().splitlines()) == len(lines) - 1
    execute(read_recipe(place / "recipe.yaml"), run)
    assert run.is_complete


@pytest.mark.parametrize("content", ["system: [", "system: adaltm\nunheard_of: 1\n"])
def test_a_recipe_that_cannot_be_read_is_another_one(place: Path, content: str) -> None:
    run = RunFolder(place / "run")
    run.path.mkdir()
    run.recipe.write_text(content)
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        execute(read_recipe(place / "recipe.yaml"), run)


def test_what_a_process_that_died_at_the_end_left_is_removed_by_the_next(place: Path) -> None:
    run = begun(place)
    go_on(place, run)
    for folder in (run.checkpoints / "step-000000006", cache_folder(run)):
        folder.mkdir(parents=True)
        (folder / "large").write_bytes(b"x")
    execute(read_recipe(place / "recipe.yaml"), run)
    assert not run.checkpoints.exists() and not cache_folder(run).exists() and run.model.is_dir()


@pytest.mark.slow
def test_two_processes_refuse_in_one_line_and_go_on_where_nothing_changed(place: Path) -> None:
    run = begun(place)
    arguments = [
        two_processes.__file__,
        "command",
        "train",
        str(place / "recipe.yaml"),
        "--out",
        str(run.path),
    ]
    prepared(place, flipped=True)
    _, err = (started := launch(arguments, place)).communicate(timeout=200)
    said = [line for line in err.splitlines() if line.startswith("voxstrata: ")]
    assert started.returncode != 0 and len(said) == 1 and "was begun with other data" in said[0], err
    prepared(place)
    _, err = (started := launch(arguments, place)).communicate(timeout=200)
    assert started.returncode == 0, err
    assert [row["step"] for row in run.journal_rows("step")] == list(range(1, 7)) and run.is_complete
