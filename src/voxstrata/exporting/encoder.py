"""An encoder alone as plain transformers opens it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.families.family import Window
from voxstrata.exporting.plain_model import Answer, PlainModel, encoder_and_state
from voxstrata.methods.adaltm.joint import JointModel
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders


def encoder_model(encoder: SpeechEncoder | MergedBackbone | ParallelEncoders) -> PlainModel:
    """An encoder, merged or not, as a folder for `AutoModel`.

    Args:
        encoder: of any family.

    Raises:
        CheckpointError: if there are several side by side.
    """
    plain, state = encoder_and_state(encoder)
    config = plain.stored_config()
    notes = []
    if "30s" in plain.family.windows and plain.window == "clip":
        notes.append("transformers pads each clip to 30 seconds; the run read input as long as the clip")
    return PlainModel(
        form="encoder",
        config=config,
        tensors=state,
        preprocessor=plain.family.preprocessor(config, normalize=plain.normalize),
        answers=_Answers(_as_in_transformers(plain), state),
        longest=plain.longest,
        shortest=plain.front_end.samples(1),
        notes=notes,
        sees_padding=getattr(config, "feat_extract_norm", None) == "group",
    )


def encoder_of(model: Any) -> tuple[SpeechEncoder | MergedBackbone, list[str]]:
    """The encoder that a model is exported by, and what of the model is not in it.

    Args:
        model: as `load_model` gives it.
    """
    left_out = ["its head (export without --as to keep it for voxstrata)"]
    if isinstance(model, JointModel) and model.merges_per_task:
        left_out.append("the encoder that was merged for words (--as ctc writes it with its head)")
    return model.encoder, left_out


def _as_in_transformers(plain: SpeechEncoder) -> SpeechEncoder:
    """The same weights as transformers runs them: over 30 seconds, with the final norm where there is one."""
    normed = plain.family.final_norm(plain.model) is not None
    window: Window = "30s" if "30s" in plain.family.windows else "clip"
    if (plain.final_norm, plain.window) == (normed, window):
        return plain
    return SpeechEncoder(plain.model, normalize=plain.normalize, final_norm=normed, window=window).eval()


@dataclass(frozen=True)
class _Answers:
    """The states of all layers."""

    encoder: SpeechEncoder
    state: dict[str, Tensor]

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, lengths: Tensor) -> list[Answer]:
        tensors = {f"model.{name}": tensor for name, tensor in self.state.items()}
        states = functional_call(self.encoder, tensors, (waveforms, lengths))
        counts = states.lengths.tolist()
        return [
            Answer(
                {f"state {number}": layer[row, :count] for number, layer in enumerate(states.layers, start=1)}
            )
            for row, count in enumerate(counts)
        ]
