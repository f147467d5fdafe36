"""Two predictions files on the same clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

from voxstrata.errors import PredictionsError, counted
from voxstrata.evaluation.answers import first_few
from voxstrata.evaluation.recognition import normalizer_named
from voxstrata.labels import DIMENSIONS
from voxstrata.predictions import Prediction


def aligned(
    a: Sequence[Prediction], b: Sequence[Prediction], normalizer: str
) -> tuple[list[Prediction], list[Prediction]]:
    """Pairs the rows of two systems by id.

    Args:
        a: rows of the first system.
        b: rows of the second, in any order.
        normalizer: of transcripts; references that differ only before it are the same.

    Returns:
        Both in the order of the first, each row completed by what the other knows of the clip's reference
        and speaker.

    Raises:
        PredictionsError: if ids, references or speakers differ; the first few are named.
    """
    of_a, of_b = {p.id: p for p in a}, {p.id: p for p in b}
    only_a, only_b = [i for i in of_a if i not in of_b], [i for i in of_b if i not in of_a]
    if only_a or only_b:
        parts = [("first", only_a), ("second", only_b)]
        said = "; ".join(f"{len(ids)} only in the {name} ({first_few(ids)})" for name, ids in parts if ids)
        raise PredictionsError(f"the files hold different ids: {said}; both must answer the same clips")
    normal = normalizer_named(normalizer)
    views: dict[str, Callable[[Any], Any]] = {
        "reference_emotion": str,
        "reference_transcript": normal,
        "speaker": str,
        **{f"reference_{name}": float for name in DIMENSIONS},
    }
    for field, view in views.items():
        differing = [
            f"{i!r}: {x!r} and {y!r}"
            for i in of_a
            if (x := getattr(of_a[i], field)) is not None
            and (y := getattr(of_b[i], field)) is not None
            and view(x) != view(y)
        ]
        _refuse(field, differing)
    _refuse("reference_classes", [f"{i!r}: {odd}" for i in of_a if (odd := _other_classes(of_a[i], of_b[i]))])
    rows = [(_completed(of_a[i], of_b[i]), _completed(of_b[i], of_a[i])) for i in of_a]
    return [first for first, _ in rows], [second for _, second in rows]


def _refuse(field: str, differing: Sequence[str]) -> None:
    if differing:
        raise PredictionsError(
            f"{field} differs between the files for {counted(len(differing), 'clip')}: "
            f"{'; '.join(differing[:3])}; score both against the same references"
        )


def _other_classes(a: Prediction, b: Prediction) -> str:
    """The first class field that both rows know and tell differently, in words."""
    x, y = a.reference_classes or {}, b.reference_classes or {}
    odd = [name for name in x if name in y and x[name] != y[name]]
    return f"{odd[0]} {x[odd[0]]!r} and {y[odd[0]]!r}" if odd else ""


def _completed(row: Prediction, other: Prediction) -> Prediction:
    names = [field.name for field in fields(row) if field.name == "speaker" or "reference" in field.name]
    known = {name: getattr(other if getattr(row, name) is None else row, name) for name in names}
    if row.reference_classes and other.reference_classes:
        known["reference_classes"] = {**other.reference_classes, **row.reference_classes}
    return replace(row, **known)
