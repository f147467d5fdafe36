"""What can be trained of a model from a few labels: each candidate is a recipe of AdaLTM without a search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.errors import RecipeError
from voxstrata.methods.adaltm.recipe import AdaLTMRecipe
from voxstrata.methods.method import Notify
from voxstrata.recipes.reading import read_recipe, read_run_recipe
from voxstrata.runs import RunFolder

#: Coefficients that are tried for all vectors of a merge.
COEFFICIENTS = (0.25, 0.5, 0.75, 1.0)
#: A head that needs of a clip the means of its layers only, so that states of many clips fit into memory.
HEAD = {"form": "a", "batch_norm": True, "normalize_layers": True}
#: Epochs of the head, and clips a batch.
EPOCHS, BATCH_SIZE = 40, 16


@dataclass(frozen=True)
class Candidate:
    """A way to adapt.

    Args:
        name: for tables.
        recipe: that trains it on all labelled clips.
    """

    name: str
    recipe: AdaLTMRecipe


def candidates(model: str, corpus: Path, *, seed: int, notify: Notify) -> list[Candidate]:
    """The head alone, on the model's encoder; of a merge also its coefficients, with a head for each.

    Args:
        model: run, model folder, or another name that `load_backbone` takes.
        corpus: prepared; what is not test is trained on.
        seed: of the head.
        notify: receives lines for the user.

    Raises:
        CheckpointError: if there is no such model.
    """
    found = [Candidate("head", _recipe(corpus, seed, {"base": model}, notify))]
    merge = _merge_of(model)
    if merge is None:
        return found
    shared = {
        name: getattr(merge, name)
        for name in ("base", "architecture", "normalize", "final_norm", "window", "vectors", "rule")
    }
    for coefficient in COEFFICIENTS:
        values = {**shared, "granularity": "static", "init": coefficient}
        found.append(Candidate(f"merge at {coefficient:g}", _recipe(corpus, seed, values, notify)))
    return found


def _merge_of(model: str) -> AdaLTMRecipe | None:
    """The recipe of a run that merged; None of anything else."""
    try:
        recipe = read_run_recipe(RunFolder(Path(model)))
    except RecipeError:
        return None
    return recipe if isinstance(recipe, AdaLTMRecipe) and recipe.vectors else None


def _recipe(corpus: Path, seed: int, values: dict[str, Any], notify: Notify) -> AdaLTMRecipe:
    content = {
        "system": "adaltm",
        "vectors": {},
        "granularity": "static",
        "head": HEAD,
        "seed": seed,
        "data": {
            "corpora": [{"path": str(corpus), "trained": ["train", "dev"]}],
            "batch_size": BATCH_SIZE,
            "crop_s": None,
        },
        "training": {"epochs": EPOCHS, "schedule": "cosine", "keep_best": False},
        "defaults": "fit",
        **values,
    }
    recipe = read_recipe(content, download=True, notify=notify)
    assert isinstance(recipe, AdaLTMRecipe)
    return recipe
