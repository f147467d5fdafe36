"""What a model sees: padded tensors, and beside them what is known of each clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """What is known of a clip; carried through to its row of the predictions file.

    `classes`: true classes of further tasks, by the field that holds them, e.g. {"gender": "female"}.
    `ratings`: annotators' mean ratings, e.g. {"arousal": 4.2}.
    """

    id: str
    path: str | None = None
    speaker: str | None = None
    emotion: str | None = None
    transcript: str | None = None
    classes: Mapping[str, str] | None = None
    ratings: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Batch:
    """A padded batch of one task.

    Args:
        references: B entries.
        waveforms: float32 [B, N] raw samples at 16 kHz, zero behind each clip's end; [B, 0] where known
            states stand in their place.
        lengths: int64 [B] samples of each clip.
        emotion_targets: float32 [B, C] soft class targets, rows sum to 1, or are 0 for a clip that has words
            only; None without labels.
        tokens: int64 [B, U] transcript tokens, zero behind the end; None without transcripts.
        token_lengths: int64 [B]; 0 for a clip that has a class only.
        clean: float32 [B, N] the waveforms before noise and reverberation; None where nothing was added.
        phoneme_starts: float32 [B, P] seconds at which each phoneme begins, infinite behind the last one.
        phonemes: int64 [B, P] its class, -100 where not known; None without phoneme targets.
        states: float32 [L, B, T, D] what a frozen encoder gave for these clips, as a layer sum weighs it;
            None: the waveforms are run.
        frames: int64 [B] valid frames of the states.
        front: float32 [B, C, T] or [B, l, D, T] what `MergedBackbone.front` gave for these clips; None: the
            waveforms are run.
        task: of a model with several tasks, the one this batch is for; None: not known.
        ratings: float32 [B, 3] arousal, valence, dominance on the corpus's scale; None without that task.
        class_targets: float32 [B, C] soft targets of a task whose classes are no emotions, rows sum to 1.
    """

    references: tuple[Reference, ...]
    waveforms: Tensor
    lengths: Tensor
    emotion_targets: Tensor | None = None
    tokens: Tensor | None = None
    token_lengths: Tensor | None = None
    clean: Tensor | None = None
    phoneme_starts: Tensor | None = None
    phonemes: Tensor | None = None
    states: Tensor | None = None
    frames: Tensor | None = None
    front: Tensor | None = None
    task: str | None = None
    ratings: Tensor | None = None
    class_targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.references)

    @property
    def ids(self) -> tuple[str, ...]:
        """The clips' ids."""
        return tuple(reference.id for reference in self.references)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            waveforms=self.waveforms.to(device),
            lengths=self.lengths.to(device),
            emotion_targets=move(self.emotion_targets),
            tokens=move(self.tokens),
            token_lengths=move(self.token_lengths),
            clean=move(self.clean),
            phoneme_starts=move(self.phoneme_starts),
            phonemes=move(self.phonemes),
            states=move(self.states),
            frames=move(self.frames),
            front=move(self.front),
            ratings=move(self.ratings),
            class_targets=move(self.class_targets),
        )
