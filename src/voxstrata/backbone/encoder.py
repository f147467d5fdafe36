"""Any transformers speech encoder as L states: raw waveforms in, the outputs of layers 1..L out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from voxstrata.backbone.attention import Attention, set_attention
from voxstrata.backbone.clip_by_clip import accept_features, clips_at_a_time, features_in_pieces
from voxstrata.backbone.folder import write_model_folder
from voxstrata.backbone.origin import check_architecture, find_origin
from voxstrata.backbone.precision import keep_positions_exact
from voxstrata.backbone.waveforms import normalize_waveforms, receptive_field
from voxstrata.errors import AudioError, CheckpointError

#: Off at all times: LayerDrop drops states, SpecAugment alters them, and both also in frozen models.
_FORCED = {"layerdrop": 0.0, "apply_spec_augment": False}


@dataclass(frozen=True)
class States:
    """Hidden states of a batch.

    Args:
        layers: L tensors [B, T, D], the raw outputs of layers 1..L. Frames behind a clip's end hold
            arbitrary finite numbers.
        lengths: int64 [B] valid frames.
    """

    layers: tuple[Tensor, ...]
    lengths: Tensor

    def mask(self) -> Tensor:
        """Bool [B, T], true on valid frames."""
        frames = torch.arange(self.layers[0].shape[1], device=self.lengths.device)
        return frames < self.lengths.unsqueeze(1)


class SpeechEncoder(nn.Module):
    """A WavLM, wav2vec 2.0 or HuBERT model of transformers.

    LayerDrop and SpecAugment are switched off. With `feat_extract_norm="group"` padding would enter the
    statistics of the front end, so its convolutions run clip by clip (on the CPU always, where that is
    cheaper); the transformer runs on the whole batch. An encoder without trainable parameters stays in
    eval mode, also inside a model in train mode.

    Args:
        model: the transformers model without a head.
        normalize: whether waveforms are normalised (on their valid samples) before the model.
        final_norm: whether the last state is passed through the encoder's final layer norm, as
            transformers 4 and SUPERB do.
        attention: "fast", or "reference" for transformers' own: the same to rounding, slower, and with
            more memory on long clips.

    Raises:
        CheckpointError: if the model is no speech encoder, or has no final layer norm to apply.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        normalize: bool,
        final_norm: bool = False,
        attention: Attention = "fast",
    ) -> None:
        super().__init__()
        if final_norm and not model.config.do_stable_layer_norm:
            raise CheckpointError(
                "final_norm needs an encoder with do_stable_layer_norm; this one normalises inside each "
                "layer, so its last state is already normal: leave final_norm off"
            )
        self._released = {name: getattr(model.config, name, None) for name in _FORCED}
        for name, value in _FORCED.items():
            setattr(model.config, name, value)
        set_attention(model, attention)
        accept_features(model.feature_extractor)
        keep_positions_exact(model)
        # In train mode transformers would ask for gradients of the waveform, only for gradient checkpointing.
        model.feature_extractor._requires_grad = False
        self.model = model
        self.normalize = normalize
        self.final_norm = final_norm
        self.num_layers: int = model.config.num_hidden_layers
        self.hidden_size: int = model.config.hidden_size
        self._shortest = receptive_field(model.config)
        self._padding_matters = model.config.feat_extract_norm == "group"

    def forward(self, waveforms: Tensor, lengths: Tensor) -> States:
        """Hidden states of a batch.

        Args:
            waveforms: [B, N] raw samples at 16 kHz.
            lengths: [B] valid samples.

        Raises:
            AudioError: naming clips that are too short for one frame, or longer than the batch.
        """
        counts = self._sample_counts(waveforms, lengths)
        waveforms = waveforms[:, : max(counts)]
        if self.normalize:
            waveforms = normalize_waveforms(waveforms, lengths)
        waveforms = waveforms.to(next(self.model.parameters()).dtype)
        mask = None
        if len(set(counts)) > 1:
            samples = torch.arange(waveforms.shape[1], device=waveforms.device)
            mask = (samples < lengths.unsqueeze(1)).long()
        alone = mask is not None and self._padding_matters
        clips = 1 if alone else clips_at_a_time(self.model.config, waveforms)
        if alone or clips < len(counts):
            waveforms = features_in_pieces(self.model.feature_extractor, waveforms, counts, clips)
        return States(self._layers(waveforms, mask), self.frame_lengths(lengths))

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Valid frames [B] of clips with these many samples [B]."""
        options = {"add_adapter": False} if getattr(self.model.config, "add_adapter", False) else {}
        return self.model._get_feat_extract_output_lengths(lengths, **options).long()

    def weights(self) -> dict[str, Tensor]:
        """The floating-point tensors in the model's own names, detached, sharing its memory."""
        return {
            name: tensor.detach()
            for name, tensor in self.model.state_dict().items()
            if tensor.is_floating_point()
        }

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Writes a plain transformers folder, with LayerDrop and SpecAugment as they came.

        Args:
            folder: made if need be.
            dtype: of the stored tensors; None keeps theirs.
        """
        self.save_with(folder, self.model.state_dict(), dtype=dtype)

    def save_with(
        self,
        folder: str | Path,
        tensors: Mapping[str, Tensor],
        *,
        dtype: torch.dtype | None = None,
        extras: Mapping[str, object] | None = None,
    ) -> None:
        """Writes this encoder's folder with other weights, e.g. merged ones.

        Args:
            folder: made if need be.
            tensors: in the model's own names.
            dtype: of the stored tensors; None keeps theirs.
            extras: file name -> JSON content of further files.
        """
        config = copy.deepcopy(self.model.config)
        config.architectures = [type(self.model).__name__]
        for name, value in self._released.items():
            if value is not None:
                setattr(config, name, value)
        write_model_folder(
            Path(folder), config, tensors, normalize=self.normalize, dtype=dtype, extras=extras
        )

    def train(self, mode: bool = True) -> Self:
        """Train mode only if something in the encoder is trained: a frozen one knows no dropout."""
        return super().train(mode and any(p.requires_grad for p in self.parameters()))

    def _sample_counts(self, waveforms: Tensor, lengths: Tensor) -> list[int]:
        counts: list[int] = lengths.tolist()
        short = [f"clip {i} ({n} samples)" for i, n in enumerate(counts) if n < self._shortest]
        if short:
            raise AudioError(
                f"too short for a frame: {', '.join(short)} of the batch; at least {self._shortest} samples "
                "at 16 kHz are needed: leave them out or lengthen them"
            )
        if waveforms.ndim != 2 or len(counts) != len(waveforms) or max(counts) > waveforms.shape[1]:
            raise AudioError(
                f"waveforms {list(waveforms.shape)} do not hold clips of {counts} samples; "
                "[B, N] and [B] with values up to N are needed"
            )
        return counts

    def _layers(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Layer outputs for waveforms [B, N] or features [B, C, T]; mask [B, N] of the valid samples."""
        states = self.model(values, attention_mask=mask, output_hidden_states=True).hidden_states
        layers: tuple[Tensor, ...] = tuple(states[1:])
        if len(layers) != self.num_layers:
            raise CheckpointError(
                f"{type(self.model).__name__} gave {len(layers)} states for {self.num_layers} layers; "
                "is LayerDrop on?"
            )
        if self.final_norm:
            layers = (*layers[:-1], self.model.encoder.layer_norm(layers[-1]))
        return layers


def build_backbone(config: PretrainedConfig, *, seed: int, attention: Attention = "fast") -> SpeechEncoder:
    """A trainable encoder with random weights, the same for the same seed.

    Args:
        config: of a WavLM, wav2vec 2.0 or HuBERT model; not changed.
        seed: of the weights.
        attention: see `SpeechEncoder`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(config)
    return SpeechEncoder(model, normalize=config.feat_extract_norm == "layer", attention=attention)


def load_backbone(
    name_or_folder: str | Path,
    *,
    architecture: str | Path | None = None,
    normalize: bool | None = None,
    final_norm: bool = False,
    attention: Attention = "fast",
) -> SpeechEncoder:
    """A frozen encoder in eval mode, float32 on the CPU.

    Task heads of the checkpoint are left out; its LayerDrop and SpecAugment are switched off. An adapter is
    merged into the encoder that it was made for.

    Args:
        name_or_folder: a packaged name, a transformers folder, a checkpoint of another layout, or a hub id.
        architecture: an encoder whose configuration the checkpoint has, where it comes without one of
            transformers; for LoRA the encoder that was adapted, if it does not tell itself.
        normalize: whether to normalise waveforms; None takes it from preprocessor_config.json, else from
            the architecture (yes for `feat_extract_norm="layer"`).
        final_norm: see `SpeechEncoder`.
        attention: see `SpeechEncoder`.

    Raises:
        CheckpointError: if there is no such model, or its weights do not fit its configuration.
    """
    origin = find_origin(name_or_folder, architecture)
    with torch.device("meta"):
        model = _model(origin.config)
    state = origin.state(model.state_dict())
    model.load_state_dict(state, assign=True)
    if normalize is None:
        told = origin.normalize
        normalize = origin.config.feat_extract_norm == "layer" if told is None else told
    encoder = SpeechEncoder(model, normalize=normalize, final_norm=final_norm, attention=attention)
    return encoder.requires_grad_(False).eval()


def _model(config: PretrainedConfig) -> PreTrainedModel:
    check_architecture(config)
    model = AutoModel.from_config(copy.deepcopy(config), dtype=torch.float32)
    if not hasattr(model.encoder, "layers"):
        raise CheckpointError(
            f"model type {config.model_type!r} has no encoder.layers; use wavlm or its like"
        )
    return model
