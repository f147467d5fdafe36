"""What was measured of an expert on recordings, for merge rules that need it; a file of safetensors each.

`voxstrata merge-statistics` writes them. The header names the weights that they were measured on, so that a
merge refuses those of another model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from voxstrata.backbone.safetensors_files import SafetensorsFile
from voxstrata.documents import parse_json
from voxstrata.errors import CheckpointError
from voxstrata.runs import written_whole

FORMAT = "voxstrata-merge-statistics-1"
#: What there is -> what it is.
KINDS = {
    "fisher": "mean squared gradients of the loss (diagonal Fisher information)",
    "gram": "sums of x x^T over the inputs x of linear layers (Gram matrices)",
}
_AGAIN = "measure them again with voxstrata merge-statistics"


@dataclass(frozen=True)
class Statistics:
    """A file of statistics whose tensors are listed, not yet read.

    Args:
        file: that holds them, a tensor per name in the backbone.
        kind: of `KINDS`.
        weights: name of each weight file of the expert -> SHA-256.
        clips: how many recordings they were measured on.
    """

    file: SafetensorsFile
    kind: str
    weights: Mapping[str, str]
    clips: int

    @classmethod
    def open(cls, path: str | Path) -> Statistics:
        """Reads the header.

        Raises:
            CheckpointError: if the file is none of statistics.
        """
        try:
            file = SafetensorsFile.open(Path(path))
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(f"cannot read {path} as statistics: {fault}; {_AGAIN}") from None
        about = file.metadata
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{path} holds no statistics of an expert; {_AGAIN}")
        weights = parse_json(
            about.get("weights", ""), f"weights in the header of {path}", error=CheckpointError, advice=_AGAIN
        )
        clips = about.get("clips", "")
        if about.get("kind") not in KINDS or not isinstance(weights, dict) or not clips.isdecimal():
            raise CheckpointError(f"the header of {path} lacks kind, weights and clips; {_AGAIN}")
        return cls(file, about["kind"], weights, int(clips))

    def require_kind(self, kind: str) -> None:
        """Refuses statistics of another kind than a rule needs.

        Raises:
            CheckpointError: if they are.
        """
        if self.kind != kind:
            raise CheckpointError(
                f"{self.file.path} holds {KINDS[self.kind]}, and {KINDS[kind]} are needed; measure them with "
                f"voxstrata merge-statistics --kind {kind}"
            )

    def require_weights(self, weights: Mapping[str, str], expert: str) -> None:
        """Refuses statistics that were measured on another model.

        Args:
            weights: of the expert, as `weights`.
            expert: its name.

        Raises:
            CheckpointError: if they were.
        """
        if sorted(self.weights.values()) != sorted(weights.values()):
            raise CheckpointError(
                f"{self.file.path} was measured on other weights than those of {expert} (another sha256); "
                "give the statistics of that expert"
            )

    def read(self, name: str) -> Tensor | None:
        """The statistic of a tensor; None where there is none."""
        return self.file.read(name) if name in self.file.shapes else None


def write_statistics(
    path: Path, kind: str, tensors: Mapping[str, Tensor], weights: Mapping[str, str], clips: int
) -> None:
    """Writes what `Statistics` reads.

    Args:
        path: new, or an earlier file of statistics.
        kind: of `KINDS`.
        tensors: name in the backbone -> statistic.
        weights: see `Statistics`.
        clips: likewise.

    Raises:
        CheckpointError: if the file is another one, or cannot be written.
    """
    if path.exists():
        try:
            Statistics.open(path)
        except CheckpointError:
            raise CheckpointError(
                f"{path} is there already and holds no statistics; give another file"
            ) from None
    metadata = {"format": FORMAT, "kind": kind, "weights": json.dumps(dict(weights)), "clips": str(clips)}
    with written_whole(path, failures=(SafetensorError,), error=CheckpointError) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=metadata)
