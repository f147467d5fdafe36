"""Reading the JSON and YAML files of a run folder; a file that does not fit is named in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from voxstrata.config.problems import problems_in
from voxstrata.documents import read_json_object, read_yaml_file
from voxstrata.errors import VoxstrataError
from voxstrata.runs import RunFolder


class Stored(BaseModel):
    """Part of a file that a run or a table left: numbers are numbers, and no texts that look like some."""

    model_config = ConfigDict(frozen=True, strict=True)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        VoxstrataError: if the file is not one.
    """
    return read_json_object(path, advice="run the command that wrote it again", nan=True)


def read_stored(kind: Any, path: Path, advice: str, content: Mapping[str, Any] | None = None) -> Any:
    """What a file holds, as an object.

    Args:
        kind: a subclass of `Stored`, or a type of such.
        path: of the file, JSON.
        advice: what to do where it holds something else.
        content: in the place of what the file holds.

    Raises:
        VoxstrataError: if it is not JSON, or holds something else: naming the place, and what is needed.
    """
    adapter = TypeAdapter(kind)
    plain = read_json(path) if content is None else content
    try:
        # As JSON, of which lists are tuples, whatever else is strict.
        return adapter.validate_json(json.dumps(plain))
    except ValidationError as fault:
        first = problems_in(fault, adapter.json_schema())[0]
    raise VoxstrataError(f"{path}: {first}; {advice}")


def read_recipe(run: RunFolder) -> dict[str, Any]:
    """The recipe's values; a recipe of another version is not checked, only shown.

    Raises:
        VoxstrataError: if it is not YAML, or no mapping.
    """
    if not run.recipe.is_file():
        return {}
    try:
        values = read_yaml_file(run.recipe)
    except VoxstrataError as fault:
        raise VoxstrataError(f"{fault}; train the run again") from None
    if not isinstance(values, dict):
        raise VoxstrataError(f"{run.recipe} must hold a mapping of keys to values; train the run again")
    return values
