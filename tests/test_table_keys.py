"""Tables build on the values that they always had, so that finished runs are found again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from voxstrata.experiments.tables.planned_runs import plan
from voxstrata.experiments.tables.table import Table
from voxstrata.methods.adaltm import recipe
from voxstrata.recipes.reading import merged_values, read_yaml

#: What tables of version 0.1.0 laid their settings over (commit 0508981), but for the base, which they name.
BEFORE = """
finetune-ser:
  {system: finetune, task: ser, rates: {encoder: 1.0e-5, head: 1.0e-4, layer_weights: 1.0e-3},
   data: {batch_size: 32, crop_s: 15}, training: {epochs: 20, schedule: linear, warmup_steps: 200}}
finetune-asr:
  {system: finetune, task: asr, rates: {encoder: 1.0e-4, head: 1.0e-3}, data: {batch_size: 32},
   training: {epochs: 20, schedule: linear, warmup_steps: 500}}
adaltm:
  {system: adaltm, vectors: {}, granularity: layer, init: 0.5,
   rates: {coefficients: 1.0e-4, layer_weights: 1.0e-4, head: 1.0e-4, weight_decay: 0.01},
   data: {batch_size: 32, crop_s: 15}, training: {epochs: 100, clip_norm: 1.0}}
multitask:
  {system: multitask, vectors: {}, init: 0.5, asr_weight: 0.1, selected_by: joint,
   rates: {encoder: 1.0e-5, head: 1.0e-4, layer_weights: 1.0e-4}, data: {batch_size: 32},
   training: {epochs: 100, clip_norm: 1.0}}
late-fusion:
  {system: late-fusion, rates: {layer_weights: 1.0e-4, head: 1.0e-4, weight_decay: 0.01},
   data: {batch_size: 32, crop_s: 15}, training: {epochs: 100, clip_norm: 1.0}}
"""


@pytest.mark.parametrize(("name", "before"), yaml.safe_load(BEFORE).items())
def test_tables_lay_their_settings_over_what_they_did(name: str, before: dict[str, Any]) -> None:
    values = read_yaml(name)
    assert values.pop("base", None) == (None if name == "late-fusion" else "whisper-tiny.en")
    assert values == before


HEAD = {"batch_norm": True, "normalize_layers": True}
SMALL = {"epochs": 12, "precision": "bf16", "betas": [0.9, 0.98], "schedule": "linear", "warmup_steps": 100,
         "keep_best": False}  # fmt: skip
PINNED = {"base": "wavlm-tiny"}
BOTH = {"asr": "$run.asr", "ser": "$run.ser"}
#: Settings of the table `adaltm` of that version, at its scales demo and real.
EARLIER: dict[str, Any] = {
    "title": "two experts",
    "runs": {
        "asr": {"recipe": "finetune-asr"},
        "ser": {"recipe": "finetune-ser"},
        "frozen": {"recipe": "adaltm"},
        "mtl": {"recipe": "multitask"},
        "late-fusion": {"recipe": "late-fusion", "set": {"experts": BOTH}},
        "dual": {"recipe": "adaltm", "set": {"vectors": BOTH}},
    },
    "rows": [{"run": run, "title": run} for run in ("frozen", "ser", "dual", "mtl", "late-fusion", "asr")],
    "scales": {
        "demo": {
            "rows": ["frozen", "ser"],
            "corpora": {"speech": {"synth": {"clips": [480, 120, 300]}}},
            "set": {
                "all": {"data": {"corpora": [{"path": "$corpus.speech"}], "crop_s": 3}},
                "finetune-ser": PINNED | {
                    "rates": {"encoder": 3e-4, "head": 1e-3, "layer_weights": 1e-2},
                    "head": HEAD, "training": {"epochs": 5, "warmup_steps": 20},
                },
                "adaltm": PINNED | {
                    "rates": {"coefficients": 1e-2, "layer_weights": 1e-2, "head": 1e-3},
                    "head": HEAD, "training": {"epochs": 5},
                },
            },
        },
        "real": {
            "corpora": {"speech": {"reader": "ravdess", "folder": "RAVDESS"}},
            "axes": {"fold": [2]},
            "set": {
                "all": {"data": {"corpora": [{"path": "$corpus.speech", "fold": "$fold"}], "batch_size": 16}},
                "finetune-asr": PINNED | {
                    "rates": {"encoder": 5e-4, "head": 3e-3, "warm_head_steps": 60}, "training": SMALL
                },
                "finetune-ser": PINNED | {
                    "data": {"augment": {"tempo": 0.1}}, "rates": {"encoder": 1e-4},
                    "head": HEAD | {"dropout": 0.3}, "training": SMALL | {"epochs": 20},
                },
                "multitask": PINNED | {
                    "rates": {"head": 3e-4, "layer_weights": 1e-2}, "head": HEAD, "training": SMALL
                },
                "adaltm": PINNED | {"rates": {"coefficients": 1e-2}, "head": HEAD, "training": SMALL},
                "late-fusion": {"rates": {"head": 3e-4}, "head": HEAD, "training": SMALL},
            },
        },
    },
}  # fmt: skip
#: Folders that version 0.1.0 gave these runs (commit 0508981), of a corpus whose fingerprint is 64 times f.
FOLDERS = {
    "demo": ["frozen-e776257c9b", "ser-2b261eff74"],
    "real": [
        "frozen-440d859ae4", "ser-0baece653b", "asr-e05c85e4c4", "dual-f109fb4f0b", "mtl-11889f0ab7",
        "late-fusion-6f2a96b6f5",
    ],
}  # fmt: skip


@pytest.mark.parametrize("scale", FOLDERS)
def test_finished_runs_of_tables_are_found_again(scale: str) -> None:
    table = Table.model_validate(EARLIER)
    corpus: Any = SimpleNamespace(folder=Path("corpora/speech"), fingerprint="f" * 64)
    planned = plan(table, table.scale(scale), {"speech": corpus}, Path("runs"))
    assert [run.folder.path.name for run in planned] == FOLDERS[scale]


def test_another_warm_up_in_a_table_is_another_run() -> None:
    changed = merged_values(EARLIER, {"scales": {"demo": {"set": {"adaltm": {"training": {"warmup": 0.1}}}}}})
    table = Table.model_validate(changed)
    corpus: Any = SimpleNamespace(folder=Path("corpora/speech"), fingerprint="f" * 64)
    planned = plan(table, table.scale("demo"), {"speech": corpus}, Path("runs"))
    assert [run.folder.path.name in FOLDERS["demo"] for run in planned] == [False, True]


def test_a_tracker_in_a_table_is_no_other_run() -> None:
    sets = {name: {"training": {"tracker": "wandb"}} for name in ("finetune-asr", "finetune-ser", "adaltm")}
    table = Table.model_validate(merged_values(EARLIER, {"scales": {"real": {"set": sets}}}))
    corpus: Any = SimpleNamespace(folder=Path("corpora/speech"), fingerprint="f" * 64)
    planned = plan(table, table.scale("real"), {"speech": corpus}, Path("runs"))
    assert [run.folder.path.name for run in planned] == FOLDERS["real"]
    recipe: Any = planned[0].recipe
    assert recipe.training.tracker == "wandb"


def test_another_merge_rule_in_a_table_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "vector_rule", lambda name: SimpleNamespace(name=name))
    corpus: Any = SimpleNamespace(folder=Path("corpora/speech"), fingerprint="f" * 64)
    folders = {}
    for rule in ("task-arithmetic", "other"):
        changes = {"scales": {"real": {"set": {"adaltm": {"rule": rule}}}}}
        table = Table.model_validate(merged_values(EARLIER, changes))
        planned = plan(table, table.scale("real"), {"speech": corpus}, Path("runs"))
        folders[rule] = {run.name: run.folder.path.name for run in planned}
    assert list(folders["task-arithmetic"].values()) == FOLDERS["real"]
    ours, theirs = folders.values()
    assert {name for name in ours if ours[name] != theirs[name]} == {"frozen", "dual"}
