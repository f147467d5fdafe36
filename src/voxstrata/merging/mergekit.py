"""Merges as mergekit's YAML files describe them, where both know the method (arXiv 2403.13257).

What there is no equal of here is refused by its name: nothing of a file is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from voxstrata.config.problems import shown
from voxstrata.errors import RecipeError
from voxstrata.merging.coefficients import Given, Gradient
from voxstrata.merging.request import Expert, MergeRequest, vector_names

_FORMATS = {"float16": "float16", "fp16": "float16", "bfloat16": "bfloat16", "float32": "float32"}
_KEYS = ("merge_method", "models", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source")
#: What changes memory and not the result.
_WITHOUT_EFFECT = ("int8_mask",)


@dataclass(frozen=True)
class _Method:
    """A method of mergekit.

    Args:
        ours: name of the rule here.
        fixed: options that its name stands for.
        renamed: its parameter of the whole merge -> our option.
        defaults: its parameter -> the value that it has if left out, where ours is another.
        per_model: its parameter of each model -> our option.
        weighs: "all" models, the base as well; the "experts"; or none ("").
    """

    ours: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    per_model: Mapping[str, str] = field(default_factory=dict)
    weighs: str = "experts"


_SUM = {"normalize": "normalize", "lambda": "lambda"}
_DROP = {**_SUM, "rescale": "rescale"}
_DENSITY = {"density": "density"}
_GAMMA = {"density": "density", "gamma": "gamma"}
_EPSILON = {"density": "density", "epsilon": "epsilon"}
_ALL = {"density": 1.0}
_PLAIN = {"normalize": False}
_METHODS = {
    "linear": _Method("linear", renamed={"normalize": "normalize"}, weighs="all"),
    "slerp": _Method("slerp", weighs=""),
    "nuslerp": _Method("nuslerp", weighs="experts"),
    "karcher": _Method(
        "karcher",
        renamed={"max_iter": "max_iter", "tol": "tol"},
        defaults={"max_iter": 10, "tol": 1e-5},
        weighs="",
    ),
    "task_arithmetic": _Method("task-arithmetic", renamed=_SUM, defaults=_PLAIN),
    "ties": _Method("ties", renamed=_SUM, per_model=_DENSITY, defaults={**_ALL, "normalize": True}),
    "dare_linear": _Method(
        "dare", {"combine": "linear"}, renamed=_DROP, per_model=_DENSITY, defaults={**_ALL, **_PLAIN}
    ),
    "dare_ties": _Method(
        "dare", {"combine": "ties"}, renamed=_DROP, per_model=_DENSITY, defaults={**_ALL, **_PLAIN}
    ),
    "breadcrumbs": _Method(
        "breadcrumbs", {"combine": "linear"}, renamed=_SUM, per_model=_GAMMA, defaults={**_ALL, **_PLAIN}
    ),
    "breadcrumbs_ties": _Method(
        "breadcrumbs", {"combine": "ties"}, renamed=_SUM, per_model=_GAMMA, defaults={**_ALL, **_PLAIN}
    ),
    "della": _Method(
        "della",
        {"combine": "ties"},
        renamed=_DROP,
        per_model=_EPSILON,
        defaults={**_ALL, "normalize": True, "epsilon": 0.15},
    ),
    "della_linear": _Method(
        "della",
        {"combine": "linear"},
        renamed=_DROP,
        per_model=_EPSILON,
        defaults={**_ALL, **_PLAIN, "epsilon": 0.15},
    ),
    "model_stock": _Method("model-stock", renamed={"filter_wise": "filter_wise"}, weighs=""),
}


def from_mergekit(content: Mapping[str, Any], path: Path) -> MergeRequest:
    """A merge that a file of mergekit describes.

    Args:
        content: of the file.
        path: of it, the begin of the error's line.

    Raises:
        RecipeError: naming what there is no equal of here.
    """
    return _File(content, str(path)).request()


@dataclass(frozen=True)
class _File:
    content: Mapping[str, Any]
    path: str

    def request(self) -> MergeRequest:
        """The merge that is asked for."""
        for key in ("slices", "modules"):
            if key in self.content:
                raise self._refused(f"has {key} (layer_range), which put layers together; list whole models")
        if unknown := [key for key in self.content if key not in _KEYS]:
            raise self._refused(f"has {shown(unknown[0])}, which is not read here; remove it")
        if self.content.get("tokenizer_source") not in (None, "base"):
            raise self._refused(
                "has a tokenizer_source; tokenizers are not merged, the base's is copied: remove it"
            )
        method, models, base = self._method(), self._models(), self.content.get("base_model")
        if base is not None:
            base = self._place(base)
        weighed, base = self._weighed(method, models, base)
        options = {**self._options(method), **self._model_options(method, models, weighed)}
        names = vector_names([place for place, _ in weighed])
        return MergeRequest(
            base=base,
            experts={name: Expert(place, given) for name, (place, given) in zip(names, weighed, strict=True)},
            method=method.ours,
            options=options,
            dtype=self._dtype(),
        )

    def _method(self) -> _Method:
        name = str(self.content["merge_method"])
        if name not in _METHODS:
            close = get_close_matches(name, _METHODS, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise self._refused(
                f"has merge_method {shown(name)}; of mergekit's methods are read {', '.join(_METHODS)}{meant}"
            )
        return _METHODS[name]

    def _models(self) -> dict[str, Mapping[str, Any]]:
        """Place of each model -> its parameters."""
        listed = self.content.get("models")
        if not isinstance(listed, list) or not listed:
            raise self._refused("lists no models; give models with a model and parameters each")
        found: dict[str, Mapping[str, Any]] = {}
        for entry in listed:
            if not isinstance(entry, Mapping) or not {"model"} <= set(entry) <= {"model", "parameters"}:
                raise self._refused(f"has {shown(entry)} among its models; give model and parameters")
            place, parameters = self._place(entry["model"]), entry.get("parameters") or {}
            if place in found:
                raise self._refused(f"lists the model {shown(place)} twice; keep one")
            if not isinstance(parameters, Mapping):
                raise self._refused(f"has parameters of {shown(place)} that are no names with values")
            found[place] = parameters
        return found

    def _place(self, model: Any) -> str:
        if not isinstance(model, str) or not model:
            raise self._refused(f"names a model {shown(model)}; give a path or a hub id")
        if "+" in model and not Path(model).exists():
            raise self._refused(
                f"names {shown(model)}, a model with an adapter; give the adapter's own folder as the model"
            )
        return model

    def _weighed(
        self, method: _Method, models: Mapping[str, Mapping[str, Any]], base: str | None
    ) -> tuple[list[tuple[str, Given]], str]:
        """The models that are merged with their coefficients, and the base."""
        first = next(iter(models))
        if method.ours == "slerp":
            others = [place for place in models if place != base]
            if base is None or len(others) != 1:
                raise self._refused("has merge_method slerp, which takes a base_model and one other model")
            t = self._setting("t", {}, required=True)
            return [(base, _complement(t)), (others[0], t)], base
        if method.ours == "karcher":
            every = [*models, *([] if base is None or base in models else [base])]
            return [(place, 1.0) for place in every], base or first
        if method.weighs == "all" or (method.ours == "nuslerp" and base is None):
            weighed = [(place, self._setting("weight", own, required=True)) for place, own in models.items()]
            if base is not None and base not in models:
                weighed.append((base, self._setting("weight", {}, required=True)))
            return weighed, base or first
        if base is None:
            raise self._refused(f"has no base_model, and {self.content['merge_method']} takes one; give it")
        experts = {place: own for place, own in models.items() if place != base}
        if not method.weighs:
            return [(place, 1.0) for place in experts], base
        return [(place, self._setting("weight", own, required=True)) for place, own in experts.items()], base

    def _options(self, method: _Method) -> dict[str, Any]:
        """What holds for the whole merge."""
        given = self.content.get("parameters") or {}
        if not isinstance(given, Mapping):
            raise self._refused("has parameters that are no names with values")
        options = dict(method.fixed)
        for name, ours in method.renamed.items():
            if name in given or name in method.defaults:
                options[ours] = self._constant(name, given.get(name, method.defaults.get(name)))
        if method.ours == "nuslerp":
            if self._constant("nuslerp_flatten", given.get("nuslerp_flatten", True)) is not True:
                # Of a convolution it takes the last axis alone, where rows here are output channels.
                raise self._refused("has nuslerp_flatten false, which cuts convolutions otherwise; remove it")
            options["of"] = "weights" if self.content.get("base_model") is None else "vectors"
        known = {"weight", "t", "nuslerp_flatten", "nuslerp_row_wise", *_WITHOUT_EFFECT}
        for name in given:
            if name not in known | set(method.renamed) | set(method.per_model):
                raise self._refused(
                    f"has the parameter {shown(name)}, which {method.ours} has not; remove it"
                )
        return options

    def _model_options(
        self,
        method: _Method,
        models: Mapping[str, Mapping[str, Any]],
        weighed: list[tuple[str, Given]],
    ) -> dict[str, Any]:
        """What each model has of its own: one number for all, or a list with one of each."""
        shared = self.content.get("parameters") or {}
        known = {"weight", *method.per_model, *_WITHOUT_EFFECT}
        for place, own in models.items():
            if odd := [name for name in own if name not in known]:
                raise self._refused(f"has the parameter {shown(odd[0])} of {shown(place)}; remove it")
        found = {}
        for name, ours in method.per_model.items():
            default = shared.get(name, method.defaults.get(name))
            values = [self._constant(name, models.get(place, {}).get(name, default)) for place, _ in weighed]
            if all(value is None for value in values):
                continue
            # The width of the range of probabilities here, half of it there.
            scale = 2 if name == "epsilon" else 1
            found[ours] = [scale * value for value in values]
        return found

    def _setting(self, name: str, own: Mapping[str, Any], *, required: bool = False) -> Given:
        """A number, or one that changes from the first layer to the last."""
        shared = self.content.get("parameters") or {}
        value = self._unfiltered(name, own[name] if name in own else shared.get(name))
        if value is None and required:
            raise self._refused(f"has a model without {name}; give it to each, or in parameters for all")
        if isinstance(value, list):
            if not value:
                raise self._refused(f"has an empty list as {name}; give numbers")
            return Gradient(tuple(self._number(name, one) for one in value))
        return self._number(name, value)

    def _constant(self, name: str, value: Any) -> Any:
        value = self._unfiltered(name, value)
        if isinstance(value, list):
            raise self._refused(
                f"has a list as {name}, which changes it from layer to layer; here that is for weight alone: "
                "give one number"
            )
        return value if value is None or isinstance(value, bool) else self._number(name, value)

    def _unfiltered(self, name: str, value: Any) -> Any:
        """A setting's value; filters by a part of a tensor's name are refused, unless all tensors pass."""
        entries = value if isinstance(value, list) else [value]
        if not any(isinstance(entry, Mapping) for entry in entries):
            return value
        first = entries[0]
        if not isinstance(first, Mapping) or "value" not in first or first.get("filter") not in (None, "*"):
            raise self._refused(
                f"has filters of {name}, which choose tensors by a part of their name; here coefficients "
                "belong to layers: give a number, or our own YAML with a list per layer"
            )
        return first["value"]

    def _number(self, name: str, value: Any) -> float:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            raise self._refused(f"has {shown(value)} as {name}; a number is needed") from None
        return int(number) if name == "max_iter" and number.is_integer() else number

    def _dtype(self) -> str | None:
        told = self.content.get("out_dtype") or self.content.get("dtype")
        if told is None:
            return None
        if told not in _FORMATS:
            raise self._refused(f"has dtype {shown(told)}; allowed are {', '.join(_FORMATS)}")
        return _FORMATS[told]

    def _refused(self, what: str) -> RecipeError:
        return RecipeError(f"{self.path} {what}")


def _complement(t: Given) -> Given:
    """1 - t."""
    if isinstance(t, Gradient):
        return Gradient(tuple(1 - value for value in t.values))
    assert isinstance(t, float)
    return 1 - t
