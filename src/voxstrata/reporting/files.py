"""Reading the JSON and YAML files of a run folder; a file that does not fit is named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from voxstrata.errors import VoxstrataError
from voxstrata.runs import RunFolder


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        VoxstrataError: if the file is not one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise VoxstrataError(
            f"{path} cannot be read as JSON ({fault}); run the command that wrote it again"
        ) from None
    if not isinstance(value, dict):
        raise VoxstrataError(f"{path} holds a {type(value).__name__}; an object is needed")
    return value


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
        values = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        raise VoxstrataError(f"{run.recipe} is not YAML; train the run again") from None
    return values if isinstance(values, dict) else {}
