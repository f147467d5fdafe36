"""Defaults fit the base that is named, and what is given wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import HubertConfig, PretrainedConfig, Wav2Vec2Config, WavLMConfig, WhisperConfig

from voxstrata.backbone import locate
from voxstrata.backbone.headers import model_shapes
from voxstrata.config.recipe import Recipe
from voxstrata.errors import CheckpointError, RecipeError
from voxstrata.recipes.defaults import SIZES, TABLE, kind_of
from voxstrata.recipes.reading import dump, packaged, read_recipe, read_yaml, validate

FITTED = ("finetune-ser", "finetune-asr", "adaltm", "multitask", "late-fusion")
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def whisper(layers: int, width: int) -> WhisperConfig:
    return WhisperConfig(
        encoder_layers=layers, d_model=width, encoder_ffn_dim=4 * width, encoder_attention_heads=width // 64
    )


#: Published encoders -> how their config.json describes them.
PUBLISHED: dict[str, PretrainedConfig] = {
    "microsoft/wavlm-base-plus": WavLMConfig(),
    "microsoft/wavlm-large": WavLMConfig(**LARGE),
    "facebook/hubert-base-ls960": HubertConfig(),
    "facebook/hubert-xlarge-ll60k": HubertConfig(
        hidden_size=1280, num_hidden_layers=48, num_attention_heads=16, intermediate_size=5120
    ),
    "facebook/wav2vec2-large-xlsr-53": Wav2Vec2Config(**LARGE),
    "facebook/wav2vec2-xls-r-300m": Wav2Vec2Config(**LARGE),
    "openai/whisper-tiny.en": whisper(4, 384),
    "openai/whisper-base": whisper(6, 512),
    "openai/whisper-small.en": whisper(12, 768),
    "openai/whisper-medium": whisper(24, 1024),
    "openai/whisper-large-v3": whisper(32, 1280),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Nothing is in the hub's cache; what is asked of the hub itself is listed."""
    asked: list[str] = []

    def snapshot(name: str, *, local_files_only: bool, **_: Any) -> str:
        if not local_files_only:
            asked.append(name)
        raise OSError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    return asked


def fitted(name: str, *overrides: str) -> Any:
    return read_recipe(name, overrides)


@pytest.mark.parametrize("name", PUBLISHED)
def test_name_and_config_of_a_published_encoder_tell_one_kind(name: str, tmp_path: Path) -> None:
    PUBLISHED[name].save_pretrained(tmp_path / "x")
    by_name, by_config = kind_of(name), kind_of("x")
    assert (by_name.told_by, by_config.told_by) == ("its name", "its config.json")
    assert (by_name.family, by_name.size) == (by_config.family, by_config.size)
    assert by_config.family == ("whisper" if "whisper" in name else "wav2vec2")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_size_is_that_of_the_parameters_in_the_layers(name: str, tmp_path: Path) -> None:
    """Counted over the tensors of transformers' own model."""
    PUBLISHED[name].save_pretrained(tmp_path / "x")
    shapes = model_shapes(PUBLISHED[name])
    counted = sum(t.numel() for tensor, t in shapes.items() if "encoder.layers." in tensor) / 1e6
    size = next((size for size, most in SIZES.items() if counted <= most), "large")
    assert kind_of("x").size == size


def test_packaged_encoders_are_tiny_ones_of_their_families() -> None:
    kinds = {name: kind_of(name) for name in ("whisper-tiny.en", "wavlm-tiny")}
    assert {name: (kind.family, kind.size) for name, kind in kinds.items()} == {
        "whisper-tiny.en": ("whisper", "tiny"),
        "wavlm-tiny": ("wav2vec2", "tiny"),
    }


@pytest.mark.parametrize("name", FITTED)
def test_without_a_base_the_packaged_whisper_is_taken_and_all_values_are_shown(name: str) -> None:
    recipe = fitted(name)
    fit = TABLE["whisper"]["tiny"]
    assert getattr(recipe, "base", "whisper-tiny.en") == "whisper-tiny.en"
    assert (recipe.training.schedule, recipe.training.warmup) == ("linear", fit.warmup)
    assert recipe.training.warmup_steps == 0 and recipe.training.precision == "fp32"
    assert recipe.data.batch_size == fit.batch_size
    words = name == "finetune-asr"
    rates = {
        "finetune-ser": {"encoder": fit.ser_encoder, "head": fit.head, "layer_weights": fit.layer_weights},
        "finetune-asr": {"encoder": fit.asr_encoder, "head": fit.ctc_head},
        "multitask": {
            "encoder": fit.asr_encoder, "head": fit.ctc_head, "layer_weights": fit.layer_weights
        },
        "adaltm": {
            "coefficients": fit.coefficients, "head": fit.frozen_head, "layer_weights": fit.layer_weights
        },
        "late-fusion": {"head": fit.frozen_head, "layer_weights": fit.layer_weights},
    }[name]  # fmt: skip
    shown = yaml.safe_load(dump(recipe))
    assert rates.items() <= shown["rates"].items()
    assert shown["data"]["smoothing"] == (0 if words else fit.smoothing)
    if not words:
        assert dict(fit.head_options).items() <= shown["head"].items()
    assert "defaults" not in shown and "in_tables" not in shown


@pytest.mark.parametrize("name", FITTED)
def test_a_resolved_recipe_reads_back_without_another_look_at_the_base(name: str, tmp_path: Path) -> None:
    recipe = fitted(name, "architecture=microsoft/wavlm-large")
    (tmp_path / "recipe.yaml").write_text(dump(recipe).replace("whisper-tiny.en", "no-such/base"))
    again = read_recipe(tmp_path / "recipe.yaml")
    assert (again.rates, again.data, again.training) == (recipe.rates, recipe.data, recipe.training)


def leaves(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


@pytest.mark.parametrize("name", FITTED)
def test_what_is_given_wins_over_every_default(name: str) -> None:
    """Each value that differs between two bases is given, and comes out as given."""
    small, large = (leaves(yaml.safe_load(dump(fitted(name, *base)))) for base in others(name))
    differing = {key for key, value in small.items() if large[key] != value} - {"base", "experts.x"}
    assert differing, "nothing hangs on the base"
    for key in differing:
        given = leaves(
            yaml.safe_load(dump(fitted(name, *others(name)[1], f"{key}={json.dumps(small[key])}")))
        )
        assert given == large | {key: small[key]}, key


def others(name: str) -> tuple[list[str], list[str]]:
    """Overrides that choose a tiny and a large base."""
    small, large = "wavlm-tiny", "microsoft/wavlm-large"
    if name == "late-fusion":
        return [f"experts={{x: {small}}}", "rates.head=0.5"], [f"experts={{x: {large}}}"]
    # Over frozen encoders all have the same values so far, so that one is made to differ.
    return [f"base={small}", *(["rates.head=0.5"] if name == "adaltm" else [])], [f"base={large}"]


def test_a_warm_up_in_steps_takes_the_place_of_the_share() -> None:
    training = fitted("finetune-ser", "training.warmup_steps=7").training
    assert (training.warmup_steps, training.warmup) == (7, 0)
    assert fitted("finetune-ser", "training.warmup=0.3").training.warmup == 0.3
    with pytest.raises(RecipeError, match=r"warmup is 0\.3 and warmup_steps is 7.*set the other one to 0"):
        fitted("finetune-ser", "training.warmup_steps=7", "training.warmup=0.3")
    for share in ("1", "-0.1"):
        with pytest.raises(RecipeError, match=r"training\.warmup"):
            fitted("finetune-ser", f"training.warmup={share}")


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["head.form=c"], {"form": "c", "dropout": None}),
        (["head.batch_norm=true"], {"form": "a", "batch_norm": True, "dropout": None}),
        (["head.width=64"], {"form": "a", "width": 64, "dropout": None}),
        (["head.form=d"], {"form": "d", "dropout": 0.3}),
        (["head.dropout=0"], {"form": "d", "dropout": 0.0}),
    ],
)
def test_a_head_of_another_form_has_its_own_options(given: list[str], left: dict[str, Any]) -> None:
    head = fitted("finetune-ser", *given).head.model_dump()
    assert left.items() <= head.items() and head["normalize_layers"]


def test_tasks_get_what_they_can_use() -> None:
    assert fitted("finetune-ser").data.crop_s is not None
    assert fitted("finetune-ser", "task=asr").data.crop_s is None
    assert fitted("multitask").data.crop_s is None
    assert fitted("finetune-ser", "data.targets=dimensions").data.smoothing == 0
    joint = fitted("adaltm", "tasks={ser: {}, asr: {}}")
    assert joint.data.crop_s is None and joint.rates.asr_head == TABLE["whisper"]["tiny"].ctc_head
    assert fitted("adaltm").rates.asr_head == 0


def test_a_run_is_told_by_its_encoder_or_by_what_it_will_be_trained_from(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "ser"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("base: runs/first\n")
    (tmp_path / "runs" / "first").mkdir()
    (tmp_path / "runs" / "first" / "recipe.yaml").write_text("base: openai/whisper-small\n")
    assert str(kind_of("runs/ser")) == "whisper, base"
    PUBLISHED["microsoft/wavlm-large"].save_pretrained(run / "model" / "encoder")
    assert str(kind_of("runs/ser")) == "wav2vec2, large"
    (tmp_path / "runs" / "first" / "recipe.yaml").write_text("base: runs/first\n")
    assert kind_of("runs/first").told_by is None, "a run that names itself ends the search"


def test_a_config_that_tells_nothing_is_left_to_whoever_loads_it(tmp_path: Path) -> None:
    folder = tmp_path / "wavlm-base-mine"
    WavLMConfig().save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"hidden_size": None}))
    assert kind_of("wavlm-base-mine").told_by == "its name"
    (folder / "config.json").write_text("{")
    assert kind_of("wavlm-base-mine").told_by == "its name"


def test_an_unknown_base_is_taken_for_a_large_one_and_that_is_said(no_network: list[str]) -> None:
    said: list[str] = []
    recipe: Any = read_recipe("finetune-ser", ["base=someone/speech"], notify=said.append)
    assert recipe.rates.encoder == TABLE["wav2vec2"]["large"].ser_encoder
    assert len(said) == 1 and said[0].startswith("warning: ") and "hf download someone/speech" in said[0]
    read_recipe("finetune-ser", ["base=microsoft/wavlm-large"], download=True, notify=said.append)
    assert "what fits microsoft/wavlm-large (wav2vec2, large, by its name)" in said[1]
    assert not no_network, "nothing was asked of the hub"


def test_training_fetches_a_base_that_nothing_tells_of(
    no_network: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="cannot be had"):
        read_recipe("finetune-ser", ["base=someone/speech"], download=True)
    assert no_network == ["someone/speech"]
    PUBLISHED["openai/whisper-small.en"].save_pretrained(tmp_path / "hub")
    monkeypatch.setattr(locate, "_download", lambda name, local_only: fetched(tmp_path / "hub", local_only))
    recipe: Any = read_recipe("finetune-ser", ["base=someone/speech"], download=True)
    assert recipe.rates.encoder == TABLE["whisper"]["base"].ser_encoder


def fetched(folder: Path, local_only: bool) -> Path:
    if local_only:
        raise CheckpointError("not here")
    return folder


def test_a_file_of_ones_own_asks_for_defaults_by_a_key(tmp_path: Path) -> None:
    values = {"system": "finetune", "task": "ser", "base": "wavlm-tiny", "training": {"epochs": 1}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    plain: Any = read_recipe(path)
    assert (plain.rates.encoder, plain.data.batch_size, plain.training.warmup) == (1e-5, 32, 0)
    path.write_text(yaml.safe_dump(values | {"defaults": "fit"}))
    fit: Any = read_recipe(path)
    assert fit.rates.encoder == TABLE["wav2vec2"]["tiny"].ser_encoder and fit.training.warmup == 0.1
    assert read_recipe(path, ["defaults=null"]) == plain
    with pytest.raises(RecipeError, match="defaults is 'best'; allowed are fit"):
        read_recipe(path, ["defaults=best"])
    with pytest.raises(RecipeError, match="in a table state rates"):
        validate(read_yaml(path), "run ser")
    with pytest.raises(RecipeError, match="leave it out for statistics"):
        read_recipe("statistics", ["defaults=fit"])


def test_recipes_of_the_paper_state_all_that_the_table_would_fill_in() -> None:
    recipes: dict[str, Recipe] = {name: read_recipe(name) for name in packaged() if "/" in name}
    assert len(recipes) > 10
    for name, recipe in recipes.items():
        assert "defaults" not in (Path(packaged()[name])).read_text()
        assert validate(read_yaml(name), name) == recipe


def test_no_weight_is_read_to_tell_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were opened")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr("safetensors.safe_open", refuse)
    monkeypatch.setattr("voxstrata.backbone.checkpoints.open_checkpoint", refuse)
    assert str(kind_of("whisper-tiny.en")) == "whisper, tiny"
