"""A method takes one file: one is written here, and runs, tables, leaks, dry runs and exports know it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.config.head import HeadOptions
from voxstrata.config.recipe import BaseRecipe
from voxstrata.config.training import Training
from voxstrata.errors import RecipeError
from voxstrata.experiments.run import execute
from voxstrata.experiments.tables.pieces import Chosen
from voxstrata.experiments.tables.reproduce import reproduce
from voxstrata.experiments.tables.table import read_table_spec
from voxstrata.inference.recognizer import Recognizer
from voxstrata.methods import registry
from voxstrata.methods.baselines.finetune import METHOD as FINETUNE
from voxstrata.methods.building import clip_model, load_base
from voxstrata.methods.fits import BASE, Fit, emotion_defaults
from voxstrata.methods.frames import hold_against_frames
from voxstrata.methods.frozen_encoder import FrozenEncoderSystem, FrozenLayers, HeadRates
from voxstrata.methods.method import Defaults, Facts, Notify, Parent, TrainedMethod, Work
from voxstrata.methods.model_folder import save_model
from voxstrata.methods.model_kinds import CLIP_KINDS
from voxstrata.methods.sources import Sources, clip_sources
from voxstrata.methods.task_sources import AnySources
from voxstrata.predictions import read_predictions
from voxstrata.recipes.reading import read_recipe
from voxstrata.runs import RunFolder
from voxstrata.system import ParameterGroup, System
from voxstrata.training.progress import Progress


# The method: a head over the last layer alone of a frozen encoder, started from a teacher's layer weights.
class LastLayerRecipe(BaseRecipe):
    """The last layer of `base`; `teacher` is a run that it learned from."""

    system: Literal["last-layer"] = "last-layer"
    teacher: str | None = None
    rates: HeadRates = HeadRates()
    head: HeadOptions = HeadOptions()
    training: Training


class LastLayer(FrozenEncoderSystem):
    """Layer weights stand at the last layer and are not trained."""

    def parameter_groups(self) -> list[ParameterGroup]:
        return [group for group in super().parameter_groups() if group.name == "head"]


class LastLayerMethod(TrainedMethod[LastLayerRecipe]):
    recipe = LastLayerRecipe
    stage = "lambda-fit"
    kinds = CLIP_KINDS

    def facts(self, recipe: LastLayerRecipe) -> Facts:
        teacher = recipe.teacher
        return Facts(
            tasks={},
            learns=frozenset({"emotion"}),
            base=recipe.base,
            parents=(Parent("teacher", teacher, ("teacher",), "checkpoint"),) if teacher else (),
            fitted_on_heldout=False,
            encoders=(recipe.base,),
            new_encoder=None,
            writes_ctc=False,
            resting_steps=0,
            work=Work(still=True, pooled=recipe.head.form == "a"),
        )

    def sources(self, recipe: LastLayerRecipe) -> Sources:
        return clip_sources(recipe, words=False, classes=True)

    def defaults(self, values: Mapping[str, Any]) -> Defaults:
        def fill(fit: Fit) -> dict[str, Any]:
            return {"rates": {"head": fit.frozen_head}} | emotion_defaults(fit, values)

        return Defaults(str(values.get("base", BASE)), fill)

    def build(self, recipe: LastLayerRecipe, sources: AnySources, notify: Notify) -> System:
        assert isinstance(sources, Sources)
        base = load_base(recipe, notify)
        hold_against_frames(sources, [base.model.config], notify, words=False)
        model, weights = clip_model(recipe, recipe.head, base, sources, notify)
        with torch.no_grad():
            model.layer_sum.logits.fill_(-30.0)[-1] = 0.0
        return LastLayer(model, weights, recipe.rates)

    def kept(self, recipe: LastLayerRecipe, system: System) -> FrozenLayers:
        assert isinstance(system, LastLayer)
        return FrozenLayers.of(system.model)

    def save(self, system: System, folder: Path) -> None:
        assert isinstance(system, LastLayer)
        save_model(system.model, folder)


METHOD = LastLayerMethod()


class Killed(Exception):
    """As if the process had died."""


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The method is registered while a test runs."""
    registry.methods()
    monkeypatch.setattr(registry, "_known", dict(registry._known))
    registry.register(METHOD)
    yield


@pytest.fixture
def written(
    encoder_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A recipe file of the method, in the working folder."""
    monkeypatch.chdir(tmp_path)
    recipe = {
        "system": "last-layer",
        "base": str(encoder_folder),
        "data": {"batch_size": 4, "corpora": [{"path": str(corpus_folder)}]},
        "rates": {"head": 1e-2},
        "training": {"epochs": 3},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_it_trains_exports_and_answers(written: Path, recordings: list[Path], tmp_path: Path) -> None:
    done = run("train", written, "--out", "runs/mine")
    assert done.exit_code == 0, done.output
    folder = RunFolder(tmp_path / "runs" / "mine")
    assert folder.is_complete
    assert "lambda-fit (mine)" in json.loads(folder.leaks.read_text())["checked"]
    answers = list(read_predictions(folder.predictions("test")))
    assert run("export", folder.path, "out").exit_code == 0
    again = Recognizer.load(tmp_path / "out")
    assert again(recordings[0]).probabilities == pytest.approx(
        Recognizer.load(folder.path)(recordings[0]).probabilities
    )
    assert len(answers) == 4 and set(answers[0].probabilities or {}) == {"anger", "neutral", "sadness"}


def test_an_interrupted_run_ends_as_an_undisturbed_one(written: Path, tmp_path: Path) -> None:
    def die(now: Progress) -> None:
        if now.step == 3:
            raise Killed

    recipe = read_recipe(written)
    whole = execute(recipe, RunFolder(tmp_path / "whole"))
    with pytest.raises(Killed):
        execute(recipe, RunFolder(tmp_path / "cut"), progress=die)
    resumed = execute(recipe, RunFolder(tmp_path / "cut"))
    for split in ("dev", "test"):
        assert resumed.predictions(split).read_bytes() == whole.predictions(split).read_bytes()
    head = "model/head.safetensors"
    assert (resumed.path / head).read_bytes() == (whole.path / head).read_bytes()


def test_what_its_teacher_trained_on_is_a_leak(written: Path, corpus_folder: Path, tmp_path: Path) -> None:
    assert run("train", written, "--out", "runs/teacher").exit_code == 0
    # The pupil is tested on what the teacher was trained on.
    uses = f"[{{path: {corpus_folder}, splits: [train, dev]}}]"
    swapped = run("train", written, "teacher=runs/teacher", f"data.corpora={uses}", "--out", "runs/pupil")
    assert swapped.exit_code == 0, swapped.output
    told = json.loads((tmp_path / "runs" / "pupil" / "leaks.json").read_text())
    assert {"lambda-fit (teacher)", "lambda-fit (pupil)"} <= set(told["checked"])
    provenance = json.loads((tmp_path / "runs" / "pupil" / "provenance.json").read_text())
    assert provenance["parents"] == {"teacher": "../teacher"}


def test_a_table_finds_its_runs_again_by_what_they_hang_on(
    written: Path, encoder_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    table = {
        "title": "Layers",
        "columns": ["uar"],
        "runs": {
            "teacher": {"recipe": str(written)},
            "pupil": {"recipe": str(written), "set": {"teacher": "$run.teacher", "training": {"epochs": 1}}},
        },
        "rows": [{"run": "teacher", "title": "teacher"}, {"run": "pupil", "title": "pupil"}],
        "contrasts": [{"run": "pupil", "over": "teacher"}],
        "scales": {"small": {"corpora": {}, "axes": {"seed": [0]}}},
    }
    (tmp_path / "layers.yaml").write_text(yaml.safe_dump(table))

    path = str(tmp_path / "layers.yaml")

    def made() -> Path:
        return reproduce(
            Chosen(read_table_spec(path), path, "small"),
            out=tmp_path / "runs",
            data=None,
            notify=lambda line: None,
            tick=lambda now: None,
        )

    rows = json.loads((made() / "table.json").read_text())["rows"]
    assert [row["run"] if "run" in row else row["name"] for row in rows] == ["teacher", "pupil"]
    finished = {path.parent.name: path.read_text() for path in (tmp_path / "runs").glob("*/COMPLETE")}
    made()
    assert finished == {path.parent.name: path.read_text() for path in (tmp_path / "runs").glob("*/COMPLETE")}
    # Another teacher is another pupil.
    table["runs"]["teacher"]["set"] = {"rates": {"head": 1e-3}}
    (tmp_path / "layers.yaml").write_text(yaml.safe_dump(table))
    made()
    later = {path.name for path in (tmp_path / "runs").iterdir()} - {"tables", "corpora"}
    assert len(finished) == 2 and len(later) == 4 and set(finished) < later


def test_a_dry_run_tells_its_costs(written: Path) -> None:
    done = run("train", written, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["runs"]
    assert found["costs"]["steps"] == 6 and found["clips"] == {"train": 8, "dev": 4, "test": 4}


def test_what_a_method_does_not_answer_is_an_error() -> None:
    class Silent(TrainedMethod[LastLayerRecipe]):
        recipe = LastLayerRecipe
        stage = "fine-tuning"

        def facts(self, recipe: LastLayerRecipe) -> Facts:
            return METHOD.facts(recipe)

    with pytest.raises(TypeError, match="abstract"):
        Silent()  # type: ignore[abstract]
    given = {field.name: None for field in fields(Facts)}
    for name in given:
        with pytest.raises(TypeError, match=name):
            Facts(**{other: None for other in given if other != name})  # type: ignore[arg-type]


def test_two_methods_of_one_name_and_an_unknown_one_are_refused() -> None:
    with pytest.raises(RecipeError, match="there is a method 'last-layer' already; give the new one another"):
        registry.register(LastLayerMethod())
    registry.register(FINETUNE)
    stranger = LastLayerRecipe(training=Training(epochs=1)).model_copy(update={"system": "other"})
    with pytest.raises(RecipeError, match="no method 'other' of LastLayerRecipe is registered; known"):
        registry.method_of(stranger)


def test_a_method_that_is_registered_first_hides_none_of_the_package() -> None:
    code = (
        "from test_another_method import METHOD; from voxstrata.methods import registry; "
        "registry.register(METHOD); print(*registry.methods())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert {"adaltm", "harmonifuse", "finetune", "last-layer"} <= set(done.stdout.split())
