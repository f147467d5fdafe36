"""What lies before the first tensor that a vector changes gives for a clip, kept on disk within a budget."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.lean.front import is_before
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.runs import atomic_write

#: Bytes of a file beside its features: header, metadata and the rest of its last block.
_FILE_BYTES = 4096


class FrontCache:
    """Computes a clip's front once; for batches of whole clips without augmentation.

    A file holds one clip under its id, with the fingerprint of its audio: a clip that comes with other audio
    than before (a crop, noise) is refused, since then nothing would ever be found. Files of other weights lie
    in other folders. Several processes may share a folder; each counts against the budget what lay there when
    it started and what it wrote itself.

    Args:
        merged: whose front.
        folder: made if need be.
        budget_bytes: that the folder may hold.
        layers: lower layers to keep the states of; 0 for the convolutional front end's output.
        lengths: samples of all clips that will come, to refuse at once; None to refuse when it is full.

    Raises:
        CheckpointError: if a vector changes the front, or the clips do not fit the budget.
    """

    def __init__(
        self,
        merged: MergedBackbone,
        folder: Path,
        *,
        budget_bytes: int,
        layers: int = 0,
        lengths: Iterable[int] | None = None,
    ) -> None:
        merged.require_fixed_front(layers)
        self.merged = merged
        self.layers = layers
        self.budget_bytes = budget_bytes
        self.folder = folder / _weights_fingerprint(merged, layers)[:16]
        self.used_bytes = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        if lengths is not None and (needed := front_bytes(merged, lengths, layers)) > budget_bytes:
            raise CheckpointError(
                f"the front of these clips takes {_gigabytes(needed)}, the budget is "
                f"{_gigabytes(budget_bytes)}; give at least that budget, or leave the cache out"
            )

    def features(self, ids: Sequence[str], waveforms: Tensor, lengths: Tensor) -> Tensor:
        """What `merged.front` gives, read where it is known, for `merged(..., front=...)`.

        Args:
            ids: B clips.
            waveforms: [B, N] raw samples at 16 kHz.
            lengths: [B] valid samples.

        Returns:
            [B, C, T], or [B, l, D, T] with l lower layers.

        Raises:
            CheckpointError: if a clip's audio is not what it was, or there is no room for it.
        """
        counts: list[int] = lengths.tolist()
        audio = [_sha256(clip[:n]) for clip, n in zip(waveforms, counts, strict=True)]
        known = [self._read(clip_id, found) for clip_id, found in zip(ids, audio, strict=True)]
        missing = [row for row, features in enumerate(known) if features is None]
        for row in missing:
            # Alone, so that no bit depends on which others are known: a resumed training must not differ.
            clip = waveforms[row : row + 1, : counts[row]]
            (features,) = self.merged.front(clip, lengths[row : row + 1], self.layers)
            known[row] = features
            self._write(ids[row], audio[row], features)
        whole = [features.to(waveforms.device) for features in known if features is not None]
        longest = max(features.shape[-1] for features in whole)
        return torch.stack([F.pad(features, (0, longest - features.shape[-1])) for features in whole])

    def _path(self, clip_id: str) -> Path:
        name = hashlib.sha256(clip_id.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.safetensors"

    def _read(self, clip_id: str, audio: str) -> Tensor | None:
        path = self._path(clip_id)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                kept = (file.metadata() or {}).get("audio")
                features: Tensor = file.get_tensor("features")
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(f"cannot read {path}: {fault}; remove {self.folder}") from None
        if kept != audio:
            raise CheckpointError(
                f"clip {clip_id!r} comes with other audio than when its front end was kept in {self.folder}; "
                "with crops or augmentation leave the cache out; if the recording was replaced, remove that "
                "folder"
            )
        return features

    def _write(self, clip_id: str, audio: str, features: Tensor) -> None:
        metadata = {"id": clip_id, "audio": audio}
        content = save({"features": features.cpu().contiguous()}, metadata=metadata)
        if self.used_bytes + len(content) > self.budget_bytes:
            raise CheckpointError(
                f"no room for clip {clip_id!r} in {self.folder.parent}: {_gigabytes(self.used_bytes)} of "
                f"{_gigabytes(self.budget_bytes)} are used and it takes {_gigabytes(len(content))}; "
                "give a larger budget, or leave the cache out"
            )
        atomic_write(self._path(clip_id), content)
        self.used_bytes += len(content)


def front_bytes(merged: MergedBackbone, lengths: Iterable[int], layers: int = 0) -> int:
    """Estimate, from above, of the disk that the fronts of clips take.

    Args:
        merged: whose front.
        lengths: samples of each clip.
        layers: lower layers whose states are kept; 0 for the convolutional front end's output.
    """
    counts = torch.tensor(list(lengths), dtype=torch.long)
    frames = sum(merged.base.frames_of(counts[row : row + 1]) for row in range(len(counts)))
    size = layers * merged.hidden_size or merged.base.front_channels
    return frames * size * merged.coefficients.element_size() + len(counts) * _FILE_BYTES


def _weights_fingerprint(merged: MergedBackbone, layers: int) -> str:
    weights = {
        name: tensor for name, tensor in merged.base.weights().items() if is_before(merged.base, name, layers)
    }
    told = f"{fingerprint(weights)} {layers} {merged.base.normalize} {merged.coefficients.dtype}"
    told += "" if merged.base.window == "clip" else f" {merged.base.window}"
    return hashlib.sha256(told.encode()).hexdigest()


def _sha256(samples: Tensor) -> str:
    return hashlib.sha256(samples.detach().cpu().float().contiguous().numpy().data).hexdigest()


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
