"""A table of two rows, and one with a grid, as YAML would tell them."""

import copy
from typing import Any

from voxstrata.config.recipe import Recipe
from voxstrata.experiments.tables.planned_runs import PlannedRun
from voxstrata.experiments.tables.table import Table
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import merged_values
from voxstrata.runs import RunFolder

BASIC = {
    "title": "Test",
    "runs": {
        "dual": {"recipe": "adaltm", "set": {"vectors": {"asr": "$run.asr", "ser": "$run.ser"}}},
        "single": {"recipe": "adaltm", "set": {"vectors": {"ser": "$run.ser"}}},
        "unused": {"recipe": "adaltm", "set": {"vectors": {"x": "$run.asr"}}},
        "asr": {"recipe": "finetune-asr"},
        "ser": {"recipe": "finetune-ser"},
    },
    "rows": [{"run": "dual", "title": "Dual"}, {"run": "single", "title": "Single"}],
    "scales": {
        "small": {
            "corpora": {"speech": {"reader": "table", "folder": "speech"}},
            "set": {"all": {"data": {"corpora": [{"path": "$corpus.speech"}]}}},
        }
    },
}


def table(changes: dict | None = None) -> Table:
    return Table.model_validate(merged_values(copy.deepcopy(BASIC), changes or {}))


def planned_run(
    name: str, recipe: Recipe, folder: RunFolder, point: tuple[tuple[str, Any], ...]
) -> PlannedRun:
    return PlannedRun(name, recipe, method_of(recipe).facts(recipe), folder, point)


SWEEP = {
    "runs": {
        "joint": {"recipe": "multitask", "grid": {"asr_weight": [0.1, 1.0], "rates.encoder": [1e-4, 1e-3]}}
    },
    "rows": [{"run": "single", "title": "Single"}, {"run": "joint", "title": "Joint", "choose": "wer"}],
}
