"""Coefficients and layer weights of a run: from its model, or so far from its journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxstrata.errors import VoxstrataError
from voxstrata.reporting.files import Stored, read_json, read_recipe, read_stored
from voxstrata.runs import RunFolder

#: Where AdaLTM's coefficients start (arXiv 2603.25041, section 3.2), unless the recipe says otherwise.
DEFAULT_INIT = 0.5


class Coefficients(Stored):
    """Coefficients lambda [1 + L, K] (or [1, K]), where they started, and layer weights alpha [L]."""

    granularity: str = "layer"
    vectors: tuple[str, ...] = ()
    coefficients: tuple[tuple[float, ...], ...] = ()
    layer_weights: tuple[float, ...] = ()
    init: float | dict[str, float] = DEFAULT_INIT
    step: int | None = None

    @property
    def per_layer(self) -> bool:
        """Whether each layer has coefficients of its own."""
        return self.granularity == "layer" and bool(self.vectors) and len(self.coefficients) > 1

    @property
    def starts(self) -> dict[str, float]:
        """Where each vector's coefficients started."""
        init = self.init if isinstance(self.init, dict) else {}
        default = self.init if isinstance(self.init, float) else DEFAULT_INIT
        return {vector: init.get(vector, default) for vector in self.vectors}

    def column(self, vector: str) -> list[float]:
        """Coefficients of a vector, layers 0..L."""
        index = self.vectors.index(vector)
        return [row[index] for row in self.coefficients]


def read_coefficients(run: RunFolder) -> Coefficients | None:
    """Reads `model/coefficients.json`, and from the recipe where the coefficients started.

    Raises:
        VoxstrataError: if a row does not have one value a vector.
    """
    path = run.model / "coefficients.json"
    if not path.is_file():
        return None
    found: Coefficients = read_stored(
        Coefficients, path, "train the run again", {**_init(run), **read_json(path)}
    )
    if found.vectors and not found.coefficients:
        raise VoxstrataError(f"{path} has no coefficients for its vectors; train the run again")
    for layer, row in enumerate(found.coefficients):
        if len(row) != len(found.vectors):
            raise VoxstrataError(
                f"{path}: layer {layer} has {len(row)} coefficients for {len(found.vectors)} vectors"
            )
    return found


def _init(run: RunFolder) -> dict[str, Any]:
    init = read_recipe(run).get("init")
    return {"init": init} if isinstance(init, int | float | dict) else {}


def coefficients_so_far(run: RunFolder, row: Mapping[str, Any]) -> Coefficients | None:
    """Of a validation's row in the journal, from its `coefficient/VECTOR/LAYER` and `layer_weight/LAYER`."""
    by_vector: dict[str, dict[int, float]] = {}
    weights: dict[int, float] = {}
    for key, value in row.items():
        head, _, rest = key.partition("/")
        vector, _, layer = rest.rpartition("/")
        if head == "coefficient" and vector and layer.isdecimal():
            by_vector.setdefault(vector, {})[int(layer)] = float(value)
        elif head == "layer_weight" and rest.isdecimal():
            weights[int(rest)] = float(value)
    if not by_vector and not weights:
        return None
    vectors = tuple(by_vector)
    layers = sorted(set().union(*by_vector.values())) if by_vector else []
    return Coefficients(
        **_init(run),
        granularity="layer" if len(layers) > 1 else "global",
        vectors=vectors,
        coefficients=tuple(
            tuple(by_vector[vector].get(layer, float("nan")) for vector in vectors) for layer in layers
        ),
        layer_weights=tuple(weights[layer] for layer in sorted(weights)),
        step=row["step"],
    )
