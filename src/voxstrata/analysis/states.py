"""What an encoder's layers give for clips: means over frames, and a bounded random sample of frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxstrata.analysis.frame_answers import FrameAnswers
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.batches.buckets import derived_seed
from voxstrata.heads.emotion import masked_mean


@torch.no_grad()
def layer_states(encoder: SpeechEncoder, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """The front end's features in the width of the layers, as layer 0, and the raw outputs of layers 1..L.

    Args:
        encoder: frozen, in eval mode.
        batch: on the encoder's device.

    Returns:
        1 + L tensors [B, T, D], and bool [B, T], true on valid frames.
    """
    projected, states = encoder.with_layer_zero(batch.waveforms, batch.lengths)
    return [projected, *states.layers], states.mask()


class FrameSample:
    """A random sample of frames, without repetition, in memory that does not grow with the frames offered.

    Each frame has a random key, and those with the lowest keys are kept: the sample depends on the keys
    alone, not on the order in which clips come.

    Args:
        size: frames that are kept, at most.
        layers: 1 + L.
        width: D.
        targets: names of what is known of frames.
    """

    def __init__(self, size: int, layers: int, width: int, targets: tuple[str, ...]) -> None:
        self.size, self.targets = size, targets
        self.states = np.empty((size, layers, width), np.float32)
        self._answers = np.empty((size, len(targets)), np.float64)
        self._clips = np.empty(size, np.int64)
        self._keys = np.empty(0, np.float64)

    def offer(
        self, clip: int, keys: NDArray[np.float64], states: Tensor, answers: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Keeps those frames of a clip that are of the lowest keys so far.

        Args:
            clip: its number.
            keys: [T] random numbers.
            states: [1 + L, T, D].
            answers: target -> [T], NaN where not known; frames of which nothing is known are passed over.
        """
        stated = np.stack([answers[name] for name in self.targets], axis=1)
        full = len(self._keys) == self.size
        candidate = ~np.isnan(stated).all(axis=1) & (keys < (self._keys.max() if full else np.inf))
        frames = np.flatnonzero(candidate)
        held = len(self._keys)
        every = np.concatenate([self._keys, keys[frames]])
        kept = np.argsort(every, kind="stable")[: self.size]
        new = frames[kept[kept >= held] - held]
        left = np.setdiff1d(np.arange(held), kept)
        slots = np.concatenate([left, np.arange(held, self.size)])[: len(new)]
        self.states[slots] = states[:, torch.from_numpy(new)].transpose(0, 1).float().cpu().numpy()
        self._answers[slots], self._clips[slots] = stated[new], clip
        self._keys = np.concatenate([self._keys, np.empty(max(0, len(kept) - held))])
        self._keys[slots] = keys[new]

    def known(self, target: str) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """The kept frames of which a target is known, in the order of their keys.

        Returns:
            Their rows of `states` [N], answers [N], numbers of their clips [N].
        """
        order = np.argsort(self._keys, kind="stable")
        answers = self._answers[order, self.targets.index(target)]
        order = order[~np.isnan(answers)]
        return order, answers[~np.isnan(answers)], self._clips[order]


@dataclass(frozen=True, eq=False)
class Collected:
    """What was kept of the clips.

    Args:
        ids: of the N clips, in the order in which they came.
        means: float32 [N, 1 + L, D], over each clip's valid frames.
        frames: part -> its sample of frames; empty where no target asks for frames.
    """

    ids: tuple[str, ...]
    means: NDArray[np.float32]
    frames: Mapping[str, FrameSample]


def collect(
    encoder: SpeechEncoder,
    batches: Iterable[Batch],
    parts: Mapping[str, str],
    *,
    clip_means: bool = True,
    frame_answers: FrameAnswers | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Collected:
    """Runs a frozen encoder once over all clips.

    Args:
        encoder: frozen, in eval mode; on the device that it is to run on.
        batches: each clip once.
        parts: clip id -> the part of the corpus that its frames are a sample of.
        clip_means: whether the means are kept.
        frame_answers: what is to be known of frames; None: none are kept.
        sizes: part -> frames that are kept, at most.
        seed: of the sample of frames.
        advance: called with the clips done.
    """
    device = next(encoder.parameters()).device
    layers, width = encoder.num_layers + 1, encoder.hidden_size
    samples = {
        part: FrameSample(size, layers, width, frame_answers.targets)
        for part, size in (sizes or {}).items()
        if frame_answers is not None
    }
    ids: list[str] = []
    means: list[NDArray[np.float32]] = []
    for batch in batches:
        batch = batch.to(device)
        states, mask = layer_states(encoder, batch)
        if clip_means:
            pooled = torch.stack([masked_mean(layer, mask) for layer in states], dim=1)
            means.append(pooled.float().cpu().numpy())
        if frame_answers is not None:
            stated = frame_answers(batch)
            for row, (name, count) in enumerate(zip(batch.ids, mask.sum(1).tolist(), strict=True)):
                keys = np.random.default_rng(derived_seed(seed, name, "frames")).random(count)
                samples[parts[name]].offer(
                    len(ids) + row,
                    keys,
                    torch.stack([layer[row, :count] for layer in states]),
                    {target: values[row, :count] for target, values in stated.items()},
                )
        ids.extend(batch.ids)
        if advance is not None:
            advance(len(ids))
    empty = np.empty((0, layers, width), np.float32)
    return Collected(tuple(ids), np.concatenate(means) if means else empty, samples)
