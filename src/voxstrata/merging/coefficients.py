"""Coefficients of a merge as they are given: a number, a list per layer, or a file with one of each layer."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.config.problems import shown
from voxstrata.documents import read_json_object, text_encoding
from voxstrata.errors import RecipeError, counted
from voxstrata.merging.parts import MergeGroups


@dataclass(frozen=True)
class Gradient:
    """Values that lie at even distances from the first layer to the last, with straight lines between them.

    As in mergekit (arXiv 2403.13257), what lies outside the layers has the first value.

    Args:
        values: one or more.
    """

    values: tuple[float, ...]

    def over(self, layers: int) -> list[float]:
        """A value for group 0 and for each layer.

        >>> Gradient((0.0, 1.0)).over(3)
        [0.0, 0.0, 0.5, 1.0]
        """
        found = [self.values[0]]
        for layer in range(layers):
            place = layer / (layers - 1) if layers > 1 else 1.0
            exact = place * (len(self.values) - 1)
            low = int(exact)
            high = min(low + 1, len(self.values) - 1)
            found.append(self.values[low] + (exact - low) * (self.values[high] - self.values[low]))
        return found


#: As it is given: a number, a list, a change from layer to layer, or the path of a file.
Given = float | tuple[float, ...] | Gradient | str

#: Any more leaves every model behind.
_LARGEST = 1000
#: Bytes of the largest file of coefficients that is read.
_LARGEST_FILE = 1 << 20
_FORMS = "give a number, a list per layer such as 0.1,0.2,0.3, or a .csv or .json file"


def parsed(text: str, where: str) -> Given:
    """Coefficients as they stand on a command line.

    >>> parsed("0.5", "asr"), parsed("[0, .5, 1]", "asr"), parsed("c.csv", "asr")
    (0.5, (0.0, 0.5, 1.0), 'c.csv')

    Args:
        text: a number, numbers with commas between them, or the path of a file.
        where: whose they are, the begin of the error's line.

    Raises:
        RecipeError: if it is none of these.
    """
    text = text.strip()
    listed = text.startswith("[") and text.endswith("]")
    cells = text[1:-1].split(",") if listed else text.split(",")
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        if listed or not (Path(text).suffix.lower() in (".csv", ".json") or Path(text).is_file()):
            raise RecipeError(f"{where}: {shown(text)} is no coefficient; {_FORMS}") from None
        return text
    checked = [_number(value, where) for value in values]
    return tuple(checked) if listed or len(checked) > 1 else checked[0]


def expanded(given: Any, vector: str, groups: MergeGroups) -> tuple[float, ...]:
    """The coefficient of each group.

    Args:
        given: a number for all, a list, or the path of a file.
        vector: whose they are.
        groups: of the merge.

    Raises:
        RecipeError: if a value is no finite number, there are too many or too few, or a file cannot be used.
    """
    if isinstance(given, str):
        given = parsed(given, vector)
    if isinstance(given, str | Path):
        return _from_file(Path(given), vector, groups)
    if isinstance(given, Gradient):
        encoder, decoder = given.over(groups.encoder), given.over(groups.decoder)
        given = encoder * (groups.part != "decoder") + decoder * (groups.part != "encoder")
    if isinstance(given, list | tuple):
        values = tuple(_number(value, vector) for value in given)
        if len(values) != len(groups.labels):
            alone = ", or merge the encoder alone (--parts encoder)" if groups.part == "all" else ""
            raise RecipeError(
                f"{vector}: found {counted(len(values), 'coefficient')}, and this merge has "
                f"{groups.described()}; give one of each, or one number for all{alone}"
            )
        return values
    return (_number(given, vector),) * len(groups.labels)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(f"{where}: {shown(value)} is no coefficient; {_FORMS}")
    if not math.isfinite(value) or abs(value) > _LARGEST:
        raise RecipeError(
            f"{where}: the coefficient is {value:g}; allowed are numbers from -{_LARGEST} to {_LARGEST}"
        )
    return float(value)


def _from_file(path: Path, vector: str, groups: MergeGroups) -> tuple[float, ...]:
    if path.suffix.lower() == ".json":
        values = _from_json(path, vector)
        return expanded(values, f"{vector} ({path})", groups)
    found = _from_csv(path, vector)
    missing = [label for label in groups.labels if label not in found]
    unknown = [label for label in found if label not in groups.labels]
    if missing or unknown:
        odd = [f"lacks layer {', '.join(missing[:4])}"] * bool(missing)
        odd += [f"has a layer {', '.join(map(shown, unknown[:4]))}"] * bool(unknown)
        raise RecipeError(
            f"{vector}: {path} has {counted(len(found), 'coefficient')}, and {' and '.join(odd)}; this merge "
            f"has {groups.described()}: give one of each"
        )
    return tuple(found[label] for label in groups.labels)


def _from_csv(path: Path, vector: str) -> dict[str, float]:
    """Layer -> coefficient, from the column `coefficient` or the one with the vector's name."""
    rows = _rows(path)
    names = [cell.strip() for cell in rows[0]] if rows else []
    lower = [name.lower() for name in names]
    wanted = [column for column in (vector.lower(), "coefficient") if column in lower]
    missing = ["layer"] * ("layer" not in lower) + ["coefficient"] * (not wanted)
    if missing:
        raise RecipeError(
            f"{vector}: {path} has no column {' and none '.join(missing)}; it has "
            f"{', '.join(map(shown, names[:6])) or 'none'}: give the columns layer and coefficient"
        )
    layer, value = lower.index("layer"), lower.index(wanted[0])
    found: dict[str, float] = {}
    for line, row in enumerate(rows[1:], start=2):
        where = f"{vector}: {path}, line {line}"
        if len(row) != len(names):
            raise RecipeError(f"{where} has {counted(len(row), 'value')} for {counted(len(names), 'column')}")
        label = row[layer].strip()
        if label in found:
            raise RecipeError(f"{where} has layer {shown(label)} again; keep one line of each")
        try:
            found[label] = _number(float(row[value]), where)
        except ValueError:
            raise RecipeError(
                f"{where} has the coefficient {shown(row[value])}; a number is needed"
            ) from None
    return found


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        text = content.decode(text_encoding(content))
    except OSError as fault:
        raise RecipeError(f"cannot read {path}: {fault.strerror or fault}; give a CSV file") from None
    except UnicodeError:
        raise RecipeError(f"{path} is not UTF-8 text; save the table as CSV in UTF-8") from None
    if len(content) > _LARGEST_FILE:
        raise RecipeError(f"{path} is larger than any table of coefficients; give another")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        return [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if row]
    except csv.Error as fault:
        raise RecipeError(f"{path} is not CSV: {fault}; save the table again") from None


def _from_json(path: Path, vector: str) -> Sequence[Any]:
    """A vector's column of coefficients.json, as training writes it."""
    content: Mapping[str, Any] = read_json_object(path, error=RecipeError, advice="give another")
    names, rows = content.get("vectors"), content.get("coefficients")
    if not isinstance(names, list) or not isinstance(rows, list) or not names:
        raise RecipeError(
            f"{vector}: {path} has not the vectors and coefficients that training writes; {_FORMS}"
        )
    if vector not in names and len(names) > 1:
        raise RecipeError(
            f"{vector}: {path} has the vectors {', '.join(map(shown, names))}; give this one such a name"
        )
    column = names.index(vector) if vector in names else 0
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        raise RecipeError(
            f"{vector}: {path} has not a coefficient of each vector in each layer; give another"
        )
    return [row[column] for row in rows]
