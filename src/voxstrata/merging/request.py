"""What a user asks of a merge: on the command line, in a YAML file, or in Python."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from voxstrata.config.problems import problems_in, shown
from voxstrata.config.strict import Name, Seed, Strict
from voxstrata.documents import parse_yaml, read_yaml_file
from voxstrata.errors import RecipeError
from voxstrata.merging.coefficients import Given, parsed
from voxstrata.merging.rules.registry import options_of, rule_named
from voxstrata.merging.rules.rule import Rule
from voxstrata.merging.run_base import chosen_base

DTYPES = ("float32", "float16", "bfloat16")
#: A key of mergekit's files, and none of ours.
MERGEKIT = "merge_method"
#: The base's name among the parents of a merge.
BASE = "base"
_NO_NAME = re.compile(r"[^A-Za-z0-9._+-]+")
_VECTOR = "NAME=PATH:COEFFICIENT, such as asr=runs/asr:0.5"


@dataclass(frozen=True)
class Expert:
    """A checkpoint whose task vector is merged.

    Args:
        path: a folder or file, packaged name, run or hub id.
        coefficients: a number, one per group, or the path of a file with them.
        sha256: of the bytes of its weight files, by name, where they have to be those of an earlier merge.
    """

    path: str
    coefficients: Given
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MergeRequest:
    """A merge of files.

    Args:
        base: what the experts were fine-tuned from: a folder or file, packaged name, run or hub id.
        experts: name of each vector -> its checkpoint.
        method: a rule's name.
        options: of the rule.
        dtype: of the stored weights; None: the widest that the base and the experts have.
        parts: encoder, decoder or all; None: all that the base and every expert hold.
        seed: of rules that draw at random.
        allow_foreign: take experts that do not seem to come from the base, or expect their input in another
            form.
        sha256: of the base, see `Expert`.
        statistics: name of each vector -> file of what was measured of its expert (`merging.statistics`).
    """

    base: str
    experts: Mapping[str, Expert]
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    parts: str | None = None
    seed: int = 0
    allow_foreign: bool = False
    sha256: Mapping[str, str] = field(default_factory=dict)
    statistics: Mapping[str, str] = field(default_factory=dict)

    def rule(self) -> Rule[Any]:
        """The rule that is asked for.

        Raises:
            RecipeError: if there is none of that name, with the nearest one.
        """
        return rule_named(self.method)

    def checked_options(self) -> Strict:
        """The rule's options.

        Raises:
            RecipeError: naming each that there is not, or whose value is not allowed.
        """
        return options_of(self.rule(), self.options)


class _Names(Strict):
    vectors: dict[Name, str]
    seed: Seed


class _Parent(Strict):
    path: str
    sha256: dict[str, str] = Field(default_factory=dict)


class _Vector(_Parent):
    coefficients: float | list[float] | str


class _File(Strict):
    """The keys of our own YAML; `merge.yaml` beside a merge has all of them."""

    base: str | _Parent | None = None
    vectors: dict[Name, _Vector] = Field(min_length=1)
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    dtype: str | None = None
    parts: str | None = None
    seed: Seed = 0
    allow_foreign: bool = False
    statistics: dict[Name, str] = Field(default_factory=dict)


def parsed_vector(text: str) -> tuple[str, Expert]:
    """A vector as it stands on a command line, split at the first "=" and the last ":".

    >>> parsed_vector("asr=C:/models/a:b:0.5")
    ('asr', Expert(path='C:/models/a:b', coefficients=0.5, sha256={}))

    Raises:
        RecipeError: if a part is missing, or the coefficient is none.
    """
    name, equals, rest = text.partition("=")
    path, colon, coefficient = rest.rpartition(":")
    if not equals or not name.strip():
        raise RecipeError(f"--vector {shown(text)} has no name; give {_VECTOR}")
    if not colon or not path or not coefficient.strip():
        raise RecipeError(f"--vector {shown(text)} lacks a path or a coefficient; give {_VECTOR}")
    return name.strip(), Expert(path, parsed(coefficient, f"--vector {name.strip()}"))


def parsed_statistics(text: str) -> tuple[str, str]:
    """A file of statistics as it stands on a command line.

    >>> parsed_statistics("asr=asr.fisher.safetensors")
    ('asr', 'asr.fisher.safetensors')

    Raises:
        RecipeError: if it is no name with a file.
    """
    name, equals, path = text.partition("=")
    if not equals or not name.strip() or not path:
        raise RecipeError(f"--statistics {shown(text)} is no NAME=FILE, such as asr=asr.fisher.safetensors")
    return name.strip(), path


def parsed_option(text: str) -> tuple[str, Any]:
    """An option as it stands on a command line.

    >>> parsed_option("density=0.2"), parsed_option("normalize=true")
    (('density', 0.2), ('normalize', True))

    Raises:
        RecipeError: if it is no name with a value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise RecipeError(f"--set {shown(text)} is no option with a value; give one such as density=0.2")
    return name.strip(), parse_yaml(value, f"--set {name.strip()}", error=RecipeError)


def vector_names(places: Sequence[str]) -> list[str]:
    """A name for each checkpoint: the last part of its place, with a number where two have the same.

    >>> vector_names(["runs/asr", "old/asr", "me/ser model"])
    ['asr', 'asr-2', 'ser-model']
    """
    found: list[str] = []
    for place in places:
        name = first = _NO_NAME.sub("-", Path(place).name).strip("-._+") or "model"
        number = 1
        while name in (BASE, *found):
            number += 1
            name = f"{first}-{number}"
        found.append(name)
    return found


def named_once(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    """Pairs as a mapping.

    Raises:
        RecipeError: if a name stands twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RecipeError(f"{what} {name} is given twice; give each once")
        found[name] = value
    return found


def checked(request: MergeRequest) -> MergeRequest:
    """The same, if its names and values can be used.

    Raises:
        RecipeError: naming the first that cannot.
    """
    if not request.experts:
        raise RecipeError(f"there is no vector to merge; give one or more as {_VECTOR}")
    if foreign := sorted(set(request.statistics) - set(request.experts)):
        raise RecipeError(
            f"statistics name {foreign[0]}, which is no vector; the vectors are {', '.join(request.experts)}"
        )
    if request.dtype is not None and request.dtype not in DTYPES:
        raise RecipeError(f"dtype is {request.dtype!r}; allowed are {', '.join(DTYPES)}")
    if BASE in request.experts:
        raise RecipeError(f"a vector is called {BASE}, which the base itself is called; give it another name")
    try:
        _Names.model_validate(
            {
                "vectors": {name: str(expert.path) for name, expert in request.experts.items()},
                "seed": request.seed,
            }
        )
    except ValidationError as fault:
        raise RecipeError(
            f"the merge cannot be made: {'; '.join(problems_in(fault, _Names.model_json_schema()))}"
        ) from None
    return request


def read_request(path: Path) -> MergeRequest:
    """A merge as a YAML file describes it: ours (such as merge.yaml of an earlier merge), or mergekit's.

    Raises:
        RecipeError: naming what is missing or not known.
    """
    advice = "give the YAML file of a merge, or say it in flags: --base, --vector and --method"
    content = read_yaml_file(path, error=RecipeError, advice=advice)
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds no keys with values; give base, vectors and method")
    if MERGEKIT in content:
        from voxstrata.merging.mergekit import from_mergekit

        return from_mergekit(content, path)
    try:
        read = _File.model_validate(content)
    except ValidationError as fault:
        allowed = ", ".join(_File.model_fields)
        raise RecipeError(
            f"{path}: {'; '.join(problems_in(fault, _File.model_json_schema()))} (keys: {allowed})"
        ) from None
    base = _Parent(path=read.base) if isinstance(read.base, str) else read.base
    return MergeRequest(
        base=chosen_base(base.path if base else None, {name: one.path for name, one in read.vectors.items()}),
        experts={
            name: Expert(one.path, _given(one.coefficients), one.sha256) for name, one in read.vectors.items()
        },
        method=read.method,
        options=read.options,
        dtype=read.dtype,
        parts=read.parts,
        seed=read.seed,
        allow_foreign=read.allow_foreign,
        sha256=base.sha256 if base else {},
        statistics=read.statistics,
    )


def _given(value: float | list[float] | str) -> Given:
    return tuple(value) if isinstance(value, list) else value
