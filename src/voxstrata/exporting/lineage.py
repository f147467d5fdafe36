"""What a model is built on: base, experts and decoder, with revisions, hashes, licences and data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxstrata.backbone.fingerprint import file_sha256
from voxstrata.backbone.locate import locate, packaged
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError, CorpusError
from voxstrata.merging.licences import (
    COMMERCIAL,
    CORPUS_LICENCES,
    PACKAGED,
    licence_of,
    read_card,
    restrictions,
)
from voxstrata.runs import RunFolder

#: Packaged models that come from the hub.
_FROM_HUB = {"whisper-tiny.en": "openai/whisper-tiny.en"}
#: The reader of tables of one's own, whose corpora go by the names of their folders.
_OWN_TABLE = "table"
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.ckpt")


@dataclass(frozen=True)
class Ancestor:
    """A model that another is built on.

    Args:
        role: "base", "decoder", or the name of a vector or expert; of a parent's parent both, "asr: base".
        source: where it lies, as it was given.
        hub: its id on the Hugging Face hub; None where it has none.
        revision: commit on the hub; None where it is not known.
        weights: file of weights -> SHA-256; empty where they are not here.
        licence: as its card or the package names it; None where it is not known, or of a run.
        is_run: it was trained here, so that what it was built on decides.
    """

    role: str
    source: str
    hub: str | None = None
    revision: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    licence: str | None = None
    is_run: bool = False

    @property
    def name(self) -> str:
        """As a card names it: of a folder on this machine its own name alone."""
        return self.hub or Path(self.source).name or self.source


@dataclass(frozen=True)
class Lineage:
    """What a model is built on.

    Args:
        ancestors: models, the nearest first.
        corpora: name of each corpus that any of them was trained on -> its licence; None: not known.
        merges: task vectors were added to the base.
    """

    ancestors: tuple[Ancestor, ...] = ()
    corpora: Mapping[str, str | None] = field(default_factory=dict)
    merges: bool = False

    @property
    def hub_ids(self) -> list[str]:
        """Models of the hub among the ancestors."""
        return list(dict.fromkeys(one.hub for one in self.ancestors if one.hub is not None))

    @property
    def licence(self) -> str | None:
        """The licence of all models that it is built on, where it is one and known."""
        found = {one.licence for one in self.ancestors if not one.is_run}
        return found.pop() if len(found) == 1 else None

    def warnings(self) -> list[str]:
        """What stands in the way of free use, one line each."""
        lines = [
            f"{one.role} {one.name} is under {one.licence}: what is built on it is not for "
            "commercial use, whatever the other licences allow"
            for one in self.ancestors
            if one.licence is not None and COMMERCIAL in restrictions(one.licence)
        ]
        limited = {
            name: licence
            for name, licence in self.corpora.items()
            if licence and COMMERCIAL in restrictions(licence)
        }
        if limited:
            named = ", ".join(f"{name} ({licence})" for name, licence in limited.items())
            lines.append(f"trained on data that is not for commercial use: {named}")
        return lines


def lineage_of(source: str, model: Path | None, decoder: str | Path | None = None) -> Lineage:
    """What a model is built on, as far as the files of runs show.

    Args:
        source: what is exported, as it was named.
        model: the model folder of the source; None where it is an encoder alone.
        decoder: a whole Whisper whose decoder is exported with it.

    Raises:
        CheckpointError: if a file of a run is broken.
    """
    corpora: dict[str, str | None] = {}
    run = RunFolder((packaged(source) or Path(source)) if model is None else _run_of(model))
    if run.provenance.is_file():
        found = list(_ancestors(run, "", corpora, set()))
    else:
        found = [_ancestor("source", source, run.path)]
    if decoder is not None and str(decoder) not in {one.source for one in found if one.hub}:
        found.append(_ancestor("decoder", str(decoder), Path(decoder)))
    return Lineage(tuple(found), corpora, bool(read_provenance(run.provenance).get("parents")))


def _run_of(model: Path) -> Path:
    return model.parent if model.name == "model" else model


def _ancestors(
    run: RunFolder, role: str, corpora: dict[str, str | None], seen: set[Path]
) -> Iterator[Ancestor]:
    """The models that a run started from, and theirs; its corpora are added."""
    if run.path.resolve() in seen:
        return
    seen.add(run.path.resolve())
    content = read_provenance(run.provenance)
    corpora.update(_corpora(content))
    parents = content.get("parents")
    sources = {"base": content["base"]} if isinstance(content.get("base"), str) else {}
    sources |= parents if isinstance(parents, dict) else {}
    below = []
    for name, source in sources.items():
        place = run.path / str(source)
        found = _ancestor(f"{role}{name}", str(source), place if place.exists() else Path(str(source)))
        yield found
        if found.is_run:
            below.append((RunFolder(_run_folder(place)), f"{role}{name}: "))
    for parent, its_role in below:
        yield from _ancestors(parent, its_role, corpora, seen)


def _ancestor(role: str, source: str, place: Path) -> Ancestor:
    """What is known of one model."""
    if source in PACKAGED and packaged(source) is not None:
        hub = _FROM_HUB.get(source)
        return Ancestor(role, source, hub, None, _hashes(locate(source)), PACKAGED[source])
    if place.exists():
        is_run = RunFolder(_run_folder(place)).provenance.is_file()
        licence = None if is_run else _licence(place)
        return Ancestor(role, source, None, None, _hashes(_weights_folder(place)), licence, is_run)
    try:
        folder = locate(source, download=False)
    except CheckpointError:
        return Ancestor(role, source, source if _HUB.fullmatch(source) else None)
    revision = folder.name if folder.parent.name == "snapshots" else None
    return Ancestor(role, source, source, revision, _hashes(folder), _licence(folder))


def _run_folder(place: Path) -> Path:
    """The run that a model folder or an encoder's folder lies in."""
    return next((path for path in (place, *place.parents[:2]) if RunFolder(path).provenance.is_file()), place)


def _weights_folder(place: Path) -> Path:
    try:
        return locate(place)
    except CheckpointError:
        return place


def _hashes(place: Path) -> dict[str, str]:
    """Files of weights of a folder, or the file itself -> SHA-256."""
    files = [place] if place.is_file() else sorted(path for kind in _WEIGHTS for path in place.glob(kind))
    return {path.name: file_sha256(path) for path in files}


def _licence(place: Path) -> str | None:
    """The licence that a model's card names."""
    return licence_of(read_card(place if place.is_dir() else place.parent))


def _corpora(content: Mapping[str, Any]) -> dict[str, str | None]:
    """Names of a run's corpora -> their licences."""
    data = content.get("data")
    names = []
    for place in data if isinstance(data, dict) else ():
        try:
            name = PreparedCorpus.load(place).name
        except CorpusError:
            name = _OWN_TABLE
        names.append(Path(place).name if name == _OWN_TABLE else name)
    return {name: CORPUS_LICENCES.get(name) for name in names}


def read_provenance(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run; empty where there is no file.

    Raises:
        CheckpointError: if the file holds something else.
    """
    return read_json_object(path, error=CheckpointError, advice="put it back") if path.is_file() else {}
