"""What lies before the first tensor that a vector changes: its output is the same under all coefficients.

That is the convolutional front end, since fine-tuning mostly leaves it frozen, or with it the lower layers.
Its output is called the *front* of a clip: features [B, C, T], or the lower layers' states [B, l, D, T].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from voxstrata.backbone.attention import FastWavLMAttention
from voxstrata.backbone.clip_by_clip import features_in_pieces
from voxstrata.backbone.encoder import SpeechEncoder, States
from voxstrata.backbone.groups import layer_index
from voxstrata.backbone.waveforms import normalize_waveforms
from voxstrata.errors import CheckpointError
from voxstrata.merging.engine import forward_replaced

#: How the names of the front end's tensors start, and of what lies between it and layer 1.
FRONT_END = "feature_extractor."
_BEFORE_LAYERS = (FRONT_END, "feature_projection.", "encoder.pos_conv_embed.")


def is_before(encoder: SpeechEncoder, name: str, layers: int) -> bool:
    """Whether the output of a layer depends on a tensor.

    Args:
        encoder: whose tensor.
        name: in the model's own names.
        layers: the layer, from 1; 0 for the convolutional front end.
    """
    if not layers:
        return name.startswith(FRONT_END)
    if group := layer_index(name):
        return group <= layers
    # With pre-norm layers the encoder's own norm comes after the last of them.
    first_norm = () if encoder.model.config.do_stable_layer_norm else ("encoder.layer_norm.",)
    return name.startswith((*_BEFORE_LAYERS, *first_norm))


def fixed_layers(encoder: SpeechEncoder, changed: Collection[str]) -> int | None:
    """Lower layers whose outputs stay the same when tensors change; None where the front end's does not.

    Args:
        encoder: whose layers.
        changed: names of the tensors.
    """
    fixed = None
    for layers in range(encoder.num_layers):
        if any(is_before(encoder, name, layers) for name in changed):
            break
        fixed = layers
    return fixed


def front_features(encoder: SpeechEncoder, waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Output of the convolutions for each clip as if it were alone.

    Args:
        encoder: whose front end.
        waveforms: [B, N] raw samples at 16 kHz.
        lengths: [B] valid samples.

    Returns:
        [B, C, T], zero behind each clip's end.
    """
    counts = encoder._sample_counts(waveforms, lengths)
    waveforms = waveforms[:, : max(counts)]
    if encoder.normalize:
        waveforms = normalize_waveforms(waveforms, lengths)
    waveforms = waveforms.to(next(encoder.model.parameters()).dtype)
    return features_in_pieces(encoder.model.feature_extractor, waveforms, counts, clips=1)


def front_states(encoder: SpeechEncoder, waveforms: Tensor, lengths: Tensor, layers: int) -> Tensor:
    """States of the lower layers for each clip as if it were alone.

    Args:
        encoder: whose layers.
        waveforms: [B, N] raw samples at 16 kHz.
        lengths: [B] valid samples.
        layers: l, how many.

    Returns:
        [B, l, D, T], zero behind each clip's end.
    """
    counts: list[int] = lengths.tolist()
    clips = [
        torch.stack(encoder(clip[None, :count], lengths[row : row + 1]).layers[:layers], dim=1)[0].mT
        for row, (clip, count) in enumerate(zip(waveforms, counts, strict=True))
    ]
    frames = max(clip.shape[-1] for clip in clips)
    return torch.stack([F.pad(clip, (0, frames - clip.shape[-1])) for clip in clips])


@contextmanager
def from_front(encoder: SpeechEncoder, front: Tensor, lengths: Tensor) -> Iterator[None]:
    """Inside, an encoder goes on from a front instead of its waveforms.

    Args:
        encoder: called inside.
        front: [B, C, T] of `front_features`, or [B, l, D, T] of `front_states`.
        lengths: [B] valid samples.

    Raises:
        CheckpointError: if the front is not that of clips of these lengths.
    """
    config, frames = encoder.model.config, int(encoder.frame_lengths(lengths).max())
    expected: tuple[int, ...] = (len(lengths), config.conv_dim[-1], frames)
    if front.ndim == 4:
        expected = (len(lengths), front.shape[1], encoder.hidden_size, frames)
    if front.shape != expected:
        raise CheckpointError(
            f"features {list(front.shape)} are not those of these clips, which have {list(expected)}; "
            "take them from `front` with the same lengths"
        )
    with forward_replaced(encoder, partial(_run_from, encoder, front)):
        yield


def _run_from(encoder: SpeechEncoder, front: Tensor, waveforms: Tensor, lengths: Tensor) -> States:
    samples = torch.arange(waveforms.shape[1], device=waveforms.device)
    same = len(set(lengths.tolist())) == 1
    mask = None if same else (samples < lengths.unsqueeze(1)).long()
    front = front.to(waveforms.device, next(encoder.model.parameters()).dtype)
    with ExitStack() as stack:
        if front.ndim == 4:
            layers = encoder.model.encoder.layers
            stack.enter_context(forward_replaced(encoder.model.encoder.pos_conv_embed, torch.zeros_like))
            for layer, states in zip(layers, front.mT.unbind(1), strict=False):
                stack.enter_context(forward_replaced(layer, _known(layer, states)))
            # Nothing looks at them: the first layer that is run takes the known states below it.
            front = front.new_zeros(len(front), encoder.model.config.conv_dim[-1], front.shape[-1])
        return States(encoder._layers(front, mask), encoder.frame_lengths(lengths))


def _known(layer: nn.Module, states: Tensor) -> Callable[..., Any]:
    """A layer's forward that gives known states [B, T, D]; WavLM's also hand on the position bias."""

    def forward(_: Tensor, position_bias: Tensor | None = None, **__: Any) -> Any:
        attention = layer.attention
        if not isinstance(attention, WavLMAttention):
            return states
        if position_bias is None:
            position_bias = _position_bias(attention, *states.shape[:2])
        return states, position_bias

    return forward


def _position_bias(attention: WavLMAttention, clips: int, frames: int) -> Tensor:
    if isinstance(attention, FastWavLMAttention):
        return attention.compute_bias_by_distance(frames)
    bias: Tensor = attention.compute_bias(frames, frames)
    return bias.repeat(clips, 1, 1)
