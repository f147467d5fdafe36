"""Any transformers speech encoder as L states: raw waveforms in, the outputs of layers 1..L out."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.attention import Attention
from voxstrata.backbone.families.family import Family, FrontEnd, Window
from voxstrata.backbone.families.registry import family_of
from voxstrata.backbone.folder import write_model_folder
from voxstrata.backbone.origin import find_origin
from voxstrata.errors import AudioError, CheckpointError


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

    def __repr__(self) -> str:
        """One line: how many states of which shape, and how many frames are valid."""
        shape = list(self.layers[0].shape) if self.layers else []
        valid = self.lengths.tolist()
        frames = f"{min(valid)} to {max(valid)}" if valid else "no"
        return f"States({len(self.layers)} layers of {shape}, {frames} valid frames)"


#: Bytes that the attention of one layer may take for one clip: heads times frames squared, in float32.
MOST_ATTENTION_BYTES = 2**31


def longest_clip(config: PretrainedConfig) -> int:
    """Samples at 16 kHz of the longest clip that an encoder of this configuration takes.

    Where it has not only positions for a certain length, its memory sets the limit: that of attention grows
    with the square of the length.
    """
    front_end: FrontEnd = family_of(config).front_end(config)
    if front_end.longest is not None:
        return front_end.longest
    frames = math.isqrt(MOST_ATTENTION_BYTES // (4 * config.num_attention_heads))
    return front_end.samples(frames + 1) - 1


class SpeechEncoder(nn.Module):
    """A speech encoder of transformers: WavLM, wav2vec 2.0, HuBERT, Whisper (see `backbone.families`).

    LayerDrop and SpecAugment are switched off. An encoder without trainable parameters stays in eval mode,
    also inside a model in train mode.

    Args:
        model: the transformers model without a head, as its family builds it.
        normalize: whether waveforms are normalised (on their valid samples) before the model.
        final_norm: whether the last state is passed through the encoder's final layer norm, as
            transformers and SUPERB do.
        attention: "fast", or "reference" for transformers' own: the same to rounding, slower, and with
            more memory on long clips.
        window: "clip" for input as long as the clip, or "30s" for zeros up to 30 seconds as OpenAI's Whisper
            has it; then states hold 1500 frames, of which those of the clip count as valid.

    Raises:
        CheckpointError: if the model is no speech encoder, has no such window, or no final layer norm to
            apply.

    Example:
        ``states = base(waveforms, lengths)``, with samples at 16 kHz [B, N] and valid samples [B]; then
        ``states.layers[-1]`` is [B, T, D] and ``states.lengths`` are the valid frames [B].
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        normalize: bool,
        final_norm: bool = False,
        attention: Attention = "fast",
        window: Window = "clip",
    ) -> None:
        super().__init__()
        self.family: Family = family_of(model.config)
        if final_norm and self.family.final_norm(model) is None:
            raise CheckpointError(
                "final_norm needs an encoder with do_stable_layer_norm; this one normalises inside each "
                "layer, so its last state is already normal: leave final_norm off"
            )
        if window not in self.family.windows:
            raise CheckpointError(
                f"window is {window!r}; an encoder of type {model.config.model_type} has "
                f"{', '.join(self.family.windows)}"
            )
        self._released = {name: getattr(model.config, name, None) for name in self.family.forced}
        for name, value in self.family.forced.items():
            setattr(model.config, name, value)
        self.family.prepare(model, attention)
        self.model = model
        self.normalize = normalize
        self.final_norm = final_norm
        self.window: Window = window
        self.num_layers: int = model.config.num_hidden_layers
        self.hidden_size: int = model.config.hidden_size
        self.front_end: FrontEnd = self.family.front_end(model.config)
        self.longest = longest_clip(model.config)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> States:
        """Hidden states of a batch.

        Args:
            waveforms: [B, N] raw samples at 16 kHz.
            lengths: [B] valid samples.

        Raises:
            AudioError: naming clips that are too short for one frame, longer than the encoder has positions
                for, or longer than the batch.
        """
        return self.from_features(self.features(waveforms, lengths), lengths)

    def features(self, waveforms: Tensor, lengths: Tensor, *, alone: bool = False) -> Tensor:
        """What the convolutional front end gives, [B, C, T]; the same arguments and errors as `forward`.

        Args:
            waveforms: [B, N] raw samples at 16 kHz.
            lengths: [B] valid samples.
            alone: run clip by clip, so that no bit depends on the others; zero behind each clip's end.
        """
        counts = self._sample_counts(waveforms, lengths)
        waveforms = waveforms[:, : max(counts)]
        if self.normalize:
            waveforms = normalize_waveforms(waveforms, lengths)
        return self.family.features(self.model, waveforms, counts, window=self.window, alone=alone)

    def from_features(self, features: Tensor, lengths: Tensor, known: Tensor | None = None) -> States:
        """Hidden states of a batch from where its front end, or lower layers, are done.

        Args:
            features: [B, C, T] of `features`; not looked at where lower layers are known.
            lengths: [B] valid samples.
            known: [B, l, T, D] outputs of layers 1..l; None to run them.
        """
        lower = () if known is None else known.unbind(1)
        layers = self.family.states(self.model, features, lengths, window=self.window, known=lower)
        if len(layers) != self.num_layers:
            raise CheckpointError(
                f"{type(self.model).__name__} gave {len(layers)} states for {self.num_layers} layers; "
                "is LayerDrop on?"
            )
        if self.final_norm:
            norm = self.family.final_norm(self.model)
            assert norm is not None
            layers = (*layers[:-1], norm(layers[-1]))
        return States(layers, self.frame_lengths(lengths))

    def with_layer_zero(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, States]:
        """The front end's output in the width of the layers [B, T, D], and the states of layers 1..L."""
        features = self.features(waveforms, lengths)
        return self.family.layer_zero(self.model, features), self.from_features(features, lengths)

    def __repr__(self) -> str:
        """One line: what it is, how large, whether it is trained, where it lies; its tree is `model`'s."""
        parameters = [*self.model.parameters()]
        count = sum(parameter.numel() for parameter in parameters) / 1e6
        trained = any(parameter.requires_grad for parameter in parameters)
        return (
            f"SpeechEncoder({self.described()}, {count:.3g} million parameters, "
            f"{'trained' if trained else 'frozen'}, {parameters[0].device})"
        )

    def described(self) -> str:
        """Its kind and size, e.g. "wavlm, 24 layers of 1024"."""
        return f"{self.model.config.model_type}, {self.num_layers} layers of {self.hidden_size}"

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Valid frames [B] of clips with these many samples [B]."""
        return self.front_end.frames(lengths).long()

    @property
    def front_channels(self) -> int:
        """C, of what the convolutional front end gives."""
        return self.front_end.convolutions[-1].channels

    def frames_of(self, lengths: Tensor) -> int:
        """T, the frames that states of a batch hold: of its longest clip, or of the whole window."""
        longest = self.front_end.longest if self.window == "30s" else int(lengths.max())
        assert longest is not None
        return self.front_end.frames(longest)

    def trainable(self, *, freeze_front_end: bool) -> dict[str, nn.Parameter]:
        """Parameters by name that training may change; without the front end if that is frozen."""
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if name not in self.family.fixed and not (freeze_front_end and self.family.is_front_end(name))
        }

    def weights(self) -> dict[str, Tensor]:
        """The floating-point tensors in the model's own names, detached, sharing its memory."""
        return {
            name: tensor.detach()
            for name, tensor in self.model.state_dict().items()
            if tensor.is_floating_point()
        }

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None, overwrite: bool = False) -> None:
        """Writes a plain transformers folder, with LayerDrop and SpecAugment as they came.

        Args:
            folder: new or empty, or one that holds an earlier save alone.
            dtype: of the stored tensors; None keeps theirs.
            overwrite: the folder may hold anything; files of other names stay.

        Raises:
            CheckpointError: if the folder holds something else, is a file, or cannot be written.
        """
        self.save_with(folder, self.model.state_dict(), dtype=dtype, overwrite=overwrite)

    def save_with(
        self,
        folder: str | Path,
        tensors: Mapping[str, Tensor],
        *,
        dtype: torch.dtype | None = None,
        extras: Mapping[str, object] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Writes this encoder's folder with other weights, e.g. merged ones.

        Args:
            folder: see `save`.
            tensors: in the model's own names.
            dtype: of the stored tensors; None keeps theirs.
            extras: file name -> JSON content of further files.
            overwrite: see `save`.

        Raises:
            CheckpointError: see `save`.
        """
        config = self.stored_config()
        preprocessor = self.family.preprocessor(config, normalize=self.normalize)
        write_model_folder(
            Path(folder),
            config,
            tensors,
            preprocessor=preprocessor,
            dtype=dtype,
            extras=extras,
            overwrite=overwrite,
        )

    def stored_config(self) -> PretrainedConfig:
        """A copy of the configuration as it is stored: with LayerDrop and SpecAugment as they came."""
        config = copy.deepcopy(self.model.config)
        config.architectures = [self.family.architecture(self.model)]
        for name, value in self._released.items():
            if value is not None:
                setattr(config, name, value)
        return config

    def train(self, mode: bool = True) -> Self:
        """Train mode only if something in the encoder is trained: a frozen one knows no dropout."""
        return super().train(mode and any(p.requires_grad for p in self.parameters()))

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Whether the encoder is trained; tensors that no training changes never are."""
        super().requires_grad_(requires_grad)
        for name, parameter in self.model.named_parameters():
            if name in self.family.fixed:
                parameter.requires_grad_(False)
        return self

    def _sample_counts(self, waveforms: Tensor, lengths: Tensor) -> list[int]:
        counts: list[int] = lengths.tolist()
        shortest, longest = self.front_end.samples(1), self.longest
        if short := [f"clip {i} ({n} samples)" for i, n in enumerate(counts) if n < shortest]:
            raise AudioError(
                f"too short for a frame: {', '.join(short)} of the batch; at least {shortest} samples "
                "at 16 kHz are needed: leave them out or lengthen them"
            )
        if long := [f"clip {i} ({n / SAMPLE_RATE:.1f} s)" for i, n in enumerate(counts) if n > longest]:
            limit = "positions" if self.front_end.longest is not None else "memory"
            raise AudioError(
                f"too long for this encoder: {', '.join(long)} of the batch; it has {limit} for "
                f"{longest / SAMPLE_RATE:.4g} s: cut longer recordings into pieces"
            )
        if waveforms.ndim != 2 or len(counts) != len(waveforms) or max(counts) > waveforms.shape[1]:
            raise AudioError(
                f"waveforms {list(waveforms.shape)} do not hold clips of {counts} samples; "
                "[B, N] and [B] with values up to N are needed"
            )
        return counts


def build_backbone(config: PretrainedConfig, *, seed: int, attention: Attention = "fast") -> SpeechEncoder:
    """A trainable encoder with random weights, the same for the same seed.

    Args:
        config: of a speech encoder; not changed.
        seed: of the weights.
        attention: see `SpeechEncoder`.

    Raises:
        CheckpointError: if the configuration is of no family.
    """
    family = family_of(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.build(config)
    encoder = SpeechEncoder(model, normalize=family.normalizes(config), attention=attention)
    return encoder.requires_grad_(True)


def load_backbone(
    name_or_folder: str | Path,
    *,
    architecture: str | Path | None = None,
    normalize: bool | None = None,
    final_norm: bool = False,
    attention: Attention = "fast",
    window: Window = "clip",
) -> SpeechEncoder:
    """A frozen encoder in eval mode, float32 on the CPU.

    Decoder and task heads of the checkpoint are left out; LayerDrop and SpecAugment are switched off. An
    adapter is merged into the encoder that it was made for.

    Args:
        name_or_folder: a packaged name, a transformers folder, a checkpoint of another layout, or a hub id.
        architecture: an encoder whose configuration the checkpoint has, where it comes without one of
            transformers; for LoRA the encoder that was adapted, if it does not tell itself.
        normalize: whether to normalise waveforms; None takes it from preprocessor_config.json, else from
            the architecture (yes for `feat_extract_norm="layer"`).
        final_norm: see `SpeechEncoder`.
        attention: see `SpeechEncoder`.
        window: see `SpeechEncoder`.

    Returns:
        The encoder; `encoder.requires_grad_(True)` lets it be trained.

    Raises:
        CheckpointError: if there is no such model, or its weights do not fit its configuration.

    Example:
        ``base = vs.load_backbone("wavlm-tiny")``
    """
    origin = find_origin(name_or_folder, architecture)
    family = family_of(origin.config)
    model = origin.loaded()
    if normalize is None:
        stated = origin.normalize
        normalize = family.normalizes(origin.config) if stated is None else stated
    encoder = SpeechEncoder(
        model, normalize=normalize, final_norm=final_norm, attention=attention, window=window
    )
    return encoder.requires_grad_(False).eval()


def normalize_waveforms(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance over each clip's valid samples; zero behind them.

    The same as `Wav2Vec2FeatureExtractor` with an attention mask.

    Args:
        waveforms: [B, N].
        lengths: [B] valid samples.

    Returns:
        [B, N].
    """
    mask = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths.unsqueeze(1)
    count = lengths.unsqueeze(1)
    mean = (waveforms * mask).sum(1, keepdim=True) / count
    centred = (waveforms - mean) * mask
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / torch.sqrt(variance + 1e-7)
