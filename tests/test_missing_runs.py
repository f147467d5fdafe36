"""What is said of a run that is still to be trained, where a recipe or command names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from voxstrata.backbone.locate import is_missing_run, locate
from voxstrata.cli.main import app
from voxstrata.errors import CheckpointError
from voxstrata.experiments.plan_checks import require_run
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import read_recipe

FIRST = (
    "runs/asr-expert is not there yet; train it first: voxstrata train paper/asr-expert --out runs/asr-expert"
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and an empty cache of the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_a_dry_run_names_the_recipe_that_trains_an_expert() -> None:
    done = CliRunner().invoke(app, ["train", "paper/dual", "--dry-run", "--json"])
    faults = json.loads(done.stdout)["faults"]
    assert FIRST in faults and not any("hf download runs/" in fault for fault in faults)


def test_training_names_it_before_a_weight_is_read() -> None:
    recipe = read_recipe("paper/dual", ["base=whisper-tiny.en"])
    with pytest.raises(CheckpointError) as fault:
        for _, source in method_of(recipe).facts(recipe).built_on:
            require_run(source)
    assert str(fault.value) == FIRST


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("runs/finetune-ser", "finetune-ser"),
        ("elsewhere/runs/asr-expert", "paper/asr-expert"),
        ("/nowhere/runs/static", "paper/static"),
        ("here/dual", "paper/dual"),
    ],
)
def test_a_run_with_the_name_of_a_recipe_is_trained_by_it(name: str, recipe: str) -> None:
    Path("here").mkdir()
    with pytest.raises(CheckpointError) as fault:
        require_run(name)
    assert str(fault.value).endswith(f"train it first: voxstrata train {recipe} --out {name}")
    assert recipe in str(fault.value) and read_recipe(recipe)


@pytest.mark.parametrize("name", ["runs/mine", "a/runs/mine", "runs/a/b"])
def test_another_run_is_no_model_of_the_hub(name: str) -> None:
    require_run(name)
    for given in (name, Path(name)):
        with pytest.raises(
            CheckpointError, match=f"^no run or checkpoint at {name}; train it first"
        ) as fault:
            locate(given)
        assert "hf download" not in str(fault.value)


def test_what_lies_beside_is_looked_for_in_the_hub_too(place: Path) -> None:
    Path("some").mkdir()
    with pytest.raises(CheckpointError) as fault:
        locate("some/absent", download=False)
    assert str(fault.value) == (
        "no run or checkpoint at some/absent: it is no folder here and not in the Hugging Face cache; "
        "fetch it: hf download some/absent"
    )


def test_what_is_there_or_of_the_hub_is_no_missing_run() -> None:
    Path("runs/dual").mkdir(parents=True)
    for name in ("runs/dual", "microsoft/wavlm-large", "dual", "runs", "whisper-tiny.en", "a\0b", "x" * 5000):
        assert not is_missing_run(name), name
        require_run(name)
