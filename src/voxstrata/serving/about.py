"""What a model is, for people: its data, its coefficients, its limits in plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.inference.recognizer import Recognizer
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.model_folder import find_model
from voxstrata.reporting.coefficients import read_coefficients
from voxstrata.runs import RunFolder

#: The end that a table gives the folders of its corpora.
_KEY = re.compile(r"-[0-9a-f]{10}$")


@dataclass(frozen=True)
class Table:
    """Coefficients of a merge.

    Args:
        title: what they are for; "" where there is one table.
        vectors: K names.
        rows: [1 + L, K], group 0 being what lies before the layers.
    """

    title: str
    vectors: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class About:
    """A model.

    Args:
        name: short.
        corpora: that it was trained on, as far as that is known.
        classes: it chooses from.
        tables: of coefficients; () where it is no merge.
        layer_weights: of the emotion head, layers 1..L.
        transcribes: whether it gives words.
    """

    name: str
    corpora: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    layer_weights: tuple[float, ...] = ()
    transcribes: bool = True

    @property
    def limits(self) -> tuple[str, ...]:
        """What one should know before one believes an answer."""
        data = f"It was trained on {', '.join(self.corpora)}." if self.corpora else ""
        return (
            data or "What it was trained on is not known here; ask who made it.",
            "Speech that differs from that data is answered less well: other languages, accents, ages, "
            "microphones, telephone lines, noise.",
            *(
                (
                    f"It knows {len(self.classes)} emotions, and always chooses from them: "
                    f"{', '.join(self.classes)}.",
                )
                if self.classes
                else ()
            ),
            "An emotion is what listeners would call it, or what an actor was asked to express. It is not "
            "what a person feels.",
            "A probability is the model's own. It can be wrong with great confidence.",
            "Not for decisions about people: hiring, policing, schooling, credit, health, or the rating of "
            "employees. Emotion recognition at work or in school is prohibited or restricted in some places.",
            "Ask before you record people.",
        )


def about(recognizer: Recognizer, source: str | Path | None) -> About:
    """What is known of a model.

    Args:
        recognizer: that was loaded from there.
        source: a run or model folder, or the name of a published model; None: a transcriber alone.
    """
    found = None if source is None else find_model(source)
    run = None if found is None else RunFolder(found.parent)
    tables: tuple[Table, ...] = _held(recognizer)
    weights: tuple[float, ...] = ()
    if run is not None:
        try:
            stored = read_coefficients(run)
        except VoxstrataError:
            stored = None
        if stored is not None:
            tables = tables or (Table("", stored.vectors, stored.coefficients),)
            weights = stored.layer_weights
    labels = [getattr(model, "labels", None) for model in recognizer.models]
    classes = next((tuple(one) for one in labels if one is not None), ())
    return About(
        name=Path(str(source)).name if source is not None else "transcriber",
        corpora=() if run is None else _corpora(run),
        classes=classes,
        tables=tables if any(table.vectors for table in tables) else (),
        layer_weights=weights,
    )


def _held(recognizer: Recognizer) -> tuple[Table, ...]:
    """Coefficients of merges that are made when the model answers, one for each task."""
    merges = [
        (name, module)
        for model in recognizer.models
        for name, module in model.named_children()
        if isinstance(module, MergedBackbone)
    ]
    return tuple(
        Table(
            "words" if name == "words_encoder" else "emotions",
            module.vectors,
            tuple(map(tuple, module.coefficients_by_layer())),
        )
        for name, module in merges
    )


def _corpora(run: RunFolder) -> tuple[str, ...]:
    """Names of the corpora of a run, as its provenance has them."""
    if not run.provenance.is_file():
        return ()
    try:
        stored: Any = read_json_object(run.provenance, error=CheckpointError, advice="").get("data")
    except CheckpointError:
        return ()
    names = stored if isinstance(stored, dict) else {}
    return tuple(dict.fromkeys(_KEY.sub("", Path(name).name) for name in names))
