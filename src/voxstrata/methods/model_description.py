"""What model.json tells of a trained model, held against the headers of its head before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from voxstrata.backbone.families.family import WINDOWS, Window
from voxstrata.backbone.finite import require_finite
from voxstrata.config.head import HeadOptions
from voxstrata.config.problems import problems_in
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError
from voxstrata.labels import LabelSet, is_one_line
from voxstrata.methods.calibration import Calibration
from voxstrata.vocabulary import Vocabulary

DESCRIPTION, HEAD = "model.json", "head.safetensors"
FORMAT = 1
#: Where vectors lie that a model merges anew for each task.
VECTORS = "vectors"
#: What Whisper's decoder listens to beside a model: the base, or the model's own encoder.
WORDS = ("plain", "merged")

Shapes = Mapping[str, tuple[int, ...]]

_ADVICE = "fetch or train it again"
#: Options that tell a width of a tensor, and those that tell how many layers there are.
_WIDTHS = ("width", "size", "feed_forward", "heads", "prompt_tokens", "rank")
_LAYERS = ("layers",)
#: The largest of all other options that are whole numbers.
_LARGEST_OPTION = 10_000
_DEEPEST = 20
#: Lists of names, each of which stands for one thing. Of a vocabulary, "" are tokens that write nothing.
_NAMES = ("labels", "experts", "vectors", "vocabulary")


@dataclass(frozen=True)
class Description:
    """A model's parts, as far as all kinds have them.

    Args:
        kind: of the model, one of those that this version knows.
        normalize: whether waveforms are normalised; None: as the encoder's folder tells.
        final_norm: see `SpeechEncoder`.
        window: see `SpeechEncoder`.
        words: one of `WORDS`.
        experts: names of encoders side by side; None for one encoder.
        labels: of the emotions; None without.
        head: options of a head over clips; None without.
        vocabulary: of a CTC head; None without.
        calibration: of the emotion probabilities.
        about: all that the file tells.
    """

    kind: str
    normalize: bool | None
    final_norm: bool
    window: Window
    words: str
    experts: tuple[str, ...] | None
    labels: LabelSet | None
    head: HeadOptions | None
    vocabulary: Vocabulary | None
    calibration: Calibration
    about: Mapping[str, Any]


def read_about(folder: Path) -> dict[str, Any]:
    """All that model.json tells, as it is.

    Raises:
        CheckpointError: if it is no JSON object, a text in it is more than one line, or a name stands twice
            in a list of names.
    """
    where = folder / DESCRIPTION
    about = read_json_object(where, error=CheckpointError, advice=_ADVICE)
    for name, text in _values(about, where, kind=str):
        if not is_one_line(text):
            raise CheckpointError(
                f"{where} has {_shown(text)} in {name or 'it'}, with an end of line or a control character; "
                f"{_ADVICE}"
            )
    for name, names in _values(about, where, kind=list):
        texts = [text for text in names if isinstance(text, str) and text]
        if name in _NAMES and (len(set(texts)) < len(texts) or (name != "vocabulary" and "" in names)):
            twice = next((text for text in texts if texts.count(text) > 1), "")
            raise CheckpointError(
                f"{where} has {_shown(twice)} {'twice' if twice else 'for a name'} in {name}; {_ADVICE}"
            )
    return about


def checked(
    folder: Path, about: Mapping[str, Any], kinds: Mapping[str, tuple[str, ...]], shapes: Shapes
) -> Description:
    """What model.json tells, where it holds.

    Args:
        folder: of the model.
        about: see `read_about`.
        kinds: the kinds that are known -> which of "labels", "head" and "vocabulary" they have.
        shapes: of the head's tensors.

    Raises:
        CheckpointError: if it does not describe a model of this version, or sizes beyond the head's tensors.
    """
    where = folder / DESCRIPTION
    if about.get("format") != FORMAT or isinstance(about["format"], bool):
        found = about.get("format")
        raise CheckpointError(f"{folder} has format {found}, this version reads {FORMAT}; update voxstrata")
    if (kind := about.get("kind")) not in [*kinds]:
        raise CheckpointError(
            f"{folder} holds a model of kind {kind!r}; this version knows {', '.join(kinds)}"
        )
    for name, known in (("window", WINDOWS), ("words", WORDS)):
        if name in about and about[name] not in [*known]:
            raise CheckpointError(
                f"{where} has {name} {about[name]!r}; this version knows {', '.join(known)}"
            )
    _require_sizes(about, shapes, where)
    parts = kinds[kind]
    try:
        return Description(
            kind=kind,
            normalize=_typed(about["normalize"], bool, type(None)),
            final_norm=_typed(about["final_norm"], bool),
            window=about.get("window", "clip"),
            words=about.get("words", "plain"),
            experts=None if about.get("experts") is None else file_names(about["experts"]),
            labels=LabelSet(_texts(about["labels"])) if "labels" in parts else None,
            head=_head_options(about["head"]) if "head" in parts else None,
            vocabulary=Vocabulary(_texts(about["vocabulary"])) if "vocabulary" in parts else None,
            calibration=Calibration.from_dict(about.get("calibration", {})),
            about=about,
        )
    except (ValueError, KeyError, TypeError) as fault:
        reason = f"{fault} is missing" if isinstance(fault, KeyError) else str(fault)
        raise CheckpointError(f"{where} does not describe a model ({reason}); {_ADVICE}") from None


def head_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the head's tensors, which are not read.

    Raises:
        CheckpointError: if there is no such file, or it cannot be read.
    """
    with _opened(folder) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def load_head(folder: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head's tensors.

    Args:
        folder: of the model.
        expected: the tensors of the model that is to take them.

    Raises:
        CheckpointError: if they are others, or have values that no training gives.
    """
    path = folder / HEAD
    if head_shapes(folder) != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise CheckpointError(f"{path} does not fit {DESCRIPTION} beside it; fetch or train both again")
    with _opened(folder) as file:
        head = {name: file.get_tensor(name) for name in expected}
    odd = [
        f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in head.items()
        if tensor.is_floating_point() != expected[name].is_floating_point()
    ]
    if odd:
        raise CheckpointError(f"{path} holds {odd[0]}, which is of another kind of numbers; {_ADVICE}")
    require_finite(head.items(), path)
    return head


def file_names(names: Any) -> tuple[str, ...]:
    """Names that stand for files of a model's folder.

    Raises:
        TypeError: if they are no list of names, or one leads out of the folder.
    """
    found = _texts(names)
    for name in found:
        if not name or Path(name).name != name or name in (".", "..") or "\0" in name:
            raise TypeError(f"{name[:40]!r} is no name of a file in this folder")
    return found


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    """The file of a head; what cannot be read of it is reported in one line."""
    path = folder / HEAD
    try:
        if not path.is_file():
            raise FileNotFoundError(2, "there is no such file")
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, AttributeError, TypeError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise CheckpointError(f"cannot read {path}: {reason}; {_ADVICE}") from None


def _head_options(stated: Any) -> HeadOptions:
    try:
        return HeadOptions.model_validate(_typed(stated, dict), strict=True)
    except ValidationError as fault:
        raise ValueError(f"head.{problems_in(fault, HeadOptions.model_json_schema())[0]}") from None


def _require_sizes(about: Mapping[str, Any], shapes: Shapes, where: Path) -> None:
    """Refuses options whose tensors the head does not hold: they would be built first, and then not fit."""
    widest = max((max(shape, default=1) for shape in shapes.values()), default=1)
    for name, value in _values(about, where, kind=int):
        most = widest if name in _WIDTHS else len(shapes) if name in _LAYERS else _LARGEST_OPTION
        if not -1 <= value <= most:
            raise CheckpointError(
                f"{where} has {name} {str(value)[:40]}, and {HEAD} beside it has tensors for {most:,} at "
                f"most; {_ADVICE}"
            )


def _values(
    value: Any, where: Path, *, kind: type, name: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """The values of a kind in a document, each with the key that it stands behind; keys are texts as well."""
    if depth > _DEEPEST:
        raise CheckpointError(f"{where} is nested more than {_DEEPEST} levels deep; {_ADVICE}")
    if isinstance(value, kind) and not isinstance(value, bool):
        yield name, value
    if isinstance(value, Mapping):
        for key, inside in value.items():
            yield from _values(key, where, kind=kind, name=name, depth=depth + 1)
            yield from _values(inside, where, kind=kind, name=key, depth=depth + 1)
    elif isinstance(value, list):
        for inside in value:
            yield from _values(inside, where, kind=kind, name=name, depth=depth + 1)


def _shown(text: str) -> str:
    """A text of a file in a line about it."""
    return ascii(text[:40])


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{str(value)[:40]!r} is no list of texts")
    return tuple(value)


def _typed(value: Any, *kinds: type) -> Any:
    """The value, where it is of one of the kinds; true and false are no numbers."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{str(value)[:40]!r} is not of the kind that is needed")
    return value
