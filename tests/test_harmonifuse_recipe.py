"""Every key of a HarmoniFuse recipe reaches the model or its batches; what it leaves out is the default."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from toy_tasks import recipe, two_corpora
from voxstrata.heads.task import Task
from voxstrata.methods.harmonifuse.lm.decoding import DecodingOptions
from voxstrata.methods.harmonifuse.lm.language_model import SmallLM
from voxstrata.methods.harmonifuse.lm.pretrained import PretrainedLM
from voxstrata.methods.harmonifuse.method import harmonifuse_options
from voxstrata.methods.harmonifuse.options import (
    ConnectorOptions,
    EncoderFusionOptions,
    HarmoniFuseOptions,
    HarmoniFuseRates,
    LayerFusionOptions,
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


@pytest.mark.parametrize(
    ("lm", "built", "plain"),
    [
        (
            {"layers": 3, "size": 48, "heads": 3, "feed_forward": 96, "dropout": 0.2},
            SmallLM(layers=3, size=48, heads=3, feed_forward=96, dropout=0.2),
            SmallLM(),
        ),
        (
            {"pretrained": "other", "rank": 7, "scale": 5.0, "adapter_dropout": 0.3},
            PretrainedLM("other", rank=7, scale=5.0, dropout=0.3),
            PretrainedLM("some"),
        ),
    ],
)
def test_every_key_of_a_recipe_reaches_the_model(lm, built, plain):
    parts = {
        "encoder_fusion": {"mode": "fixed", "layer": 2, "per_task": False, "normalize": False},
        "layer_fusion": {"scores": "input", "width": 9, "norm": "none", "last_start": 1.5},
        "connector": {"stack": 3, "width": 11},
        "decoding": {
            "beam": 2,
            "length_exponent": 0.5,
            "tokens_per_s": 12.0,
            "tokens_extra": 3,
            "repeats": 4,
            "longest_pattern": 6,
            "cache": False,
        },
        "rates": {"new": 0.1, "adapters": 0.2, "fusion": 0.3, "encoder": 0.4, "weight_decay": 0.5},
    }
    single = {"prompt_tokens": 2, "label_smoothing": 0.2, "class_answers": "words"}
    single |= {"encoder_trained": "top", "encoder_top": 1}
    given = {"system": "harmonifuse", "tasks": {"asr": {}}, "training": {"steps": 1}, "lm": lm}
    found = harmonifuse_options(read(given | parts | single))
    assert found == HarmoniFuseOptions(
        lm=built,
        encoder_fusion=EncoderFusionOptions("fixed", 2, per_task=False, normalize=False),
        layer_fusion=LayerFusionOptions("input", 9, "none", 1.5),
        connector=ConnectorOptions(3, 11),
        prompt_tokens=2,
        label_smoothing=0.2,
        class_answers="words",
        encoder_trained="top",
        encoder_top=1,
        decoding=DecodingOptions(2, 0.5, 12.0, 3, repeats=4, longest_pattern=6, cache=False),
        rates=HarmoniFuseRates(new=0.1, adapters=0.2, fusion=0.3, encoder=0.4, weight_decay=0.5),
    )
    default = leaves(asdict(HarmoniFuseOptions(lm=plain)))
    same = {key for key, value in leaves(asdict(found)).items() if value == default[key]}
    assert not same, "a key at its default shows nothing: give it another value here"


def test_a_recipe_that_says_nothing_gives_the_models_own_defaults():
    silent = {"system": "harmonifuse", "tasks": {"asr": {}}, "training": {"steps": 1}}
    assert harmonifuse_options(read(silent)) == HarmoniFuseOptions()
    pretrained = read(silent | {"lm": {"pretrained": "some"}})
    assert harmonifuse_options(pretrained) == HarmoniFuseOptions(lm=PretrainedLM("some"))
    assert TaskUse().weight == Task("asr").weight
    told = leaves(read_yaml("harmonifuse"))
    found = leaves(asdict(harmonifuse_options(read(read_yaml("harmonifuse")))))
    for key, default in leaves(asdict(HarmoniFuseOptions())).items():
        assert found[key] == told.get(key, default), key


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
