"""Every key of a HarmoniFuse recipe reaches the model or its batches; what it leaves out is the default."""

from __future__ import annotations

from typing import Any

import pytest

from toy_tasks import recipe, two_corpora
from voxstrata.heads.task import Task
from voxstrata.methods.harmonifuse.options import (
    ConnectorOptions,
    HarmoniFuseOptions,
)
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe, TaskUse
from voxstrata.methods.registry import method_of
from voxstrata.methods.task_sources import TaskSources
from voxstrata.recipes.reading import read_yaml, validate


def sources_of(recipe: Any) -> Any:
    return method_of(recipe).sources(recipe)


def leaves(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Each value by its dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def read(values: dict[str, Any]) -> HarmoniFuseRecipe:
    found = validate(values, "toy")
    assert isinstance(found, HarmoniFuseRecipe)
    return found


def test_a_recipe_is_the_options_of_its_model(encoder_folder, tmp_path):
    chosen = recipe(encoder_folder, two_corpora(tmp_path), connector={"stack": 3, "width": 11})
    system = method_of(chosen).build(chosen, sources_of(chosen), lambda line: None)
    assert system.options is chosen and chosen.connector == ConnectorOptions(stack=3, width=11)


def test_the_packaged_recipe_states_the_models_own_defaults():
    told = leaves(read_yaml("harmonifuse"))
    found = leaves(read(read_yaml("harmonifuse")).model_dump())
    for key, default in leaves(HarmoniFuseOptions().model_dump()).items():
        assert found[key] == told.get(key, default), key
    assert TaskUse().weight == Task("asr").weight


def test_weight_share_and_batch_size_of_a_task_reach_its_batches(encoder_folder, tmp_path):
    use = {"weight": 2, "share": 3, "batch_size": 2}
    sources = sources_of(recipe(encoder_folder, two_corpora(tmp_path), tasks={"ser": use}))
    assert isinstance(sources, TaskSources)
    assert {task.name: task.weight for task in sources.tasks} == {"asr": 1, "ser": 2}
    asr_s, ser_s = (sources.train.sources[task].mean_batch_s() for task in ("asr", "ser"))
    share = (3 / ser_s) / (3 / ser_s + 1 / asr_s)
    assert sources.train.schedule.share("ser") == pytest.approx(share) and share > 0.8
    assert {len(batch) for batch in sources.train.sources["ser"].epoch(0)} == {2}
    assert {len(batch) for batch in sources.train.sources["asr"].epoch(0)} == {4}
    for batches in (sources.dev, sources.evaluated["dev"], sources.evaluated["test"]):
        assert {len(batch) for batch in batches.sources["ser"].epoch(0)} == {2}
