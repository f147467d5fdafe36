"""Reading the JSON and YAML files of a run folder; a file that does not fit is named in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from voxstrata.documents import read_json_object, read_yaml_file
from voxstrata.errors import VoxstrataError
from voxstrata.runs import RunFolder


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        VoxstrataError: if the file is not one.
    """
    return read_json_object(path, advice="run the command that wrote it again", nan=True)


def first_fault(fault: ValidationError) -> str:
    """The first of a validation's faults, in one line."""
    error = fault.errors()[0]
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


def read_recipe(run: RunFolder) -> dict[str, Any]:
    """The recipe's values; a recipe of another version is not checked, only shown.

    Raises:
        VoxstrataError: if it is not YAML.
    """
    if not run.recipe.is_file():
        return {}
    try:
        values = read_yaml_file(run.recipe)
    except VoxstrataError as fault:
        raise VoxstrataError(f"{fault}; train the run again") from None
    return values if isinstance(values, dict) else {}
