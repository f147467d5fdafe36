"""The card of an exported model: what it is, where it comes from, how it is loaded, what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from voxstrata.backbone.export_folder import CARD_MARK, COEFFICIENTS
from voxstrata.backbone.locate import packaged
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError
from voxstrata.labels import is_one_line
from voxstrata.methods.model_description import read_about
from voxstrata.methods.registry import model_kinds
from voxstrata.runs import RunFolder

#: What transformers does with an encoder that is asked for a task: said in the card and by the command.
NO_HEAD = (
    "an encoder without head: transformers' AutoModel loads it; pipeline() and AutoModelFor... would set a "
    "random head on it"
)
_LICENCES = {
    "whisper-tiny.en": "MIT, Copyright (c) 2022 OpenAI",
    "wavlm-tiny": "Apache-2.0",
    "wavlm-tiny-asr": "Apache-2.0",
}


def card(source: str, name: str, *, model: Path | None, left_out: Sequence[str] = ()) -> str:
    """The text of an export's README.md.

    Args:
        source: what is exported, as it was named.
        name: of the export.
        model: the model folder of the source; None where it is an encoder alone.
        left_out: what belongs to the source and is not in the export, in words.

    Raises:
        CheckpointError: if a file that tells of its making is broken.
    """
    about = None if model is None else read_about(model)
    place = packaged(source) or Path(source)
    run = RunFolder(model.parent if model is not None and model.name == "model" else place)
    told = _told(run.provenance)
    encoders = _encoders(about)
    places = " and ".join(f"`{inside[1:]}`" for inside in encoders if inside) or "This folder"
    lines = [
        *("---", "library_name: transformers", "tags: [voxstrata, speech]", "---", CARD_MARK, ""),
        *(f"# {_line(name)}", "", f"{_what(about)} Written by `voxstrata export`.", ""),
        *_origin(told, about, source),
        *_merges(model or place),
        *([f"- **Left out:** {_line('; '.join(left_out))}."] if left_out else []),
        *("", "## Loading", "", f"{places} is {NO_HEAD}.", ""),
        *("```python", "from transformers import AutoModel", ""),
        *(f'encoder = AutoModel.from_pretrained("PATH/TO/EXPORT{inside}")' for inside in encoders),
        "```",
        *_own_loading(about),
        *("", "## Licence", "", *_licence(told, source), ""),
    ]
    return "\n".join(lines)


def _told(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    return read_json_object(path, error=CheckpointError, advice="put it back") if path.is_file() else {}


def _encoders(about: Mapping[str, Any] | None) -> list[str]:
    """Where the encoders lie in the export."""
    if about is None:
        return [""]
    experts = about.get("experts")
    return [f"/encoder/{name}" for name in experts] if isinstance(experts, list) else ["/encoder"]


def _what(about: Mapping[str, Any] | None) -> str:
    if about is None:
        return "A speech encoder."
    kind = model_kinds().get(str(about.get("kind")))
    return f"A model of kind {_line(about.get('kind'))}." if kind is None else kind.about


def _origin(told: Mapping[str, Any], about: Mapping[str, Any] | None, source: str) -> list[str]:
    """Base, experts, labels, data."""
    found = [f"- **Exported from:** {_named(source)}."]
    if "base" in told:
        found.append(f"- **Base:** {_named(told['base'])}.")
    parents = told.get("parents")
    if isinstance(parents, dict) and parents:
        experts = ", ".join(f"{_line(name)} ({_named(place)})" for name, place in parents.items())
        found.append(f"- **Built on:** {experts}.")
    if isinstance(labels := (about or {}).get("labels"), list):
        found.append(f"- **Labels:** {', '.join(map(_line, labels))}.")
    data = told.get("data")
    if isinstance(data, dict) and data:
        found.append(f"- **Trained on:** {', '.join(_named(place) for place in data)}.")
    return found


def _merges(folder: Path) -> list[str]:
    """The coefficients of what was merged: mean and range of each vector."""
    place = folder / COEFFICIENTS
    told = _told(place)
    found = []
    for key, task in (("coefficients", ""), ("coefficients_asr", " for words")):
        if key not in told:
            continue
        try:
            columns = [[float(value) for value in column] for column in zip(*told[key], strict=True)]
            shown = [
                f"{_line(name)} {fmean(column):.3f} ({min(column):.3f} to {max(column):.3f})"
                for name, column in zip(told["vectors"], columns, strict=True)
            ]
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(
                f"{place} has no coefficients of its vectors; put the original file back"
            ) from None
        if shown:
            found.append(
                f"- **Merged{task}:** base + sum of coefficient times task vector; mean coefficient over "
                f"layers (least to largest): {', '.join(shown)}. All of them: `{COEFFICIENTS}`."
            )
    return found


def _own_loading(about: Mapping[str, Any] | None) -> list[str]:
    if about is None:
        return ["", 'In voxstrata: `vs.load_backbone("PATH/TO/EXPORT")`.']
    return [
        "",
        "The head lies beside it (`head.safetensors`, described in `model.json`), for voxstrata:",
        *("", "```python", "import voxstrata as vs", ""),
        'recognizer = vs.Recognizer.load("PATH/TO/EXPORT")',
        *('print(recognizer("call.wav"))', "```"),
    ]


def _licence(told: Mapping[str, Any], source: str) -> list[str]:
    base = told.get("base") or source
    known = _LICENCES.get(base) if isinstance(base, str) and packaged(base) else None
    first = (
        f"The base {_named(base)} is under: {known}."
        if known
        else f"The licence of {_named(base)}, which it comes from, is not known here: see its own card."
    )
    return [
        first,
        "Corpora that it was trained on have licences of their own, some of them non-commercial; what that",
        "means for this model is for who trained it to settle, and to write here before passing it on.",
    ]


def _named(place: object) -> str:
    """A model or corpus by name: of a folder on this machine its own name alone."""
    text = str(place)
    hub = text.count("/") == 1 and not text.startswith((".", "/", "~"))
    return f"`{_line(text if hub else Path(text).name or text)}`"


def _line(text: object) -> str:
    shown = str(text)
    return shown if is_one_line(shown) else ascii(shown)[1:-1]
