"""Tiny Whisper models, clips of unequal length, and Whisper's encoder written out as a plain loop."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    PreTrainedModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from voxstrata.audio import load_audio
from voxstrata.backbone.encoder import SpeechEncoder, load_backbone

SAMPLE_RATE = 16_000
POSITIONS = "encoder.embed_positions.weight"
#: Samples of clips: two columns make a state, 160 samples a column, and some do not come out even.
LENGTHS = (8000, 5203, 480, 6720)


def whisper_config(**more: object) -> WhisperConfig:
    """Two layers of 32; like a release in all else but the words."""
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 128}
    decoder = {"decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 128, "vocab_size": 40}
    words = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    tokens = {"begin_suppress_tokens": None, "max_target_positions": 20}
    return WhisperConfig(**{**sizes, **decoder, **words, **tokens, **more})


def redrawn(model: nn.Module, seed: int = 0) -> None:
    """Weights as large as trained ones: with those that transformers draws all frames attend alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("embed_positions.weight"):
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            norm = name.endswith("layer_norm.weight")
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter.copy_(1 + 0.1 * noise if norm else noise * fan_in**-0.5)


def whisper(seed: int = 0, **more: object) -> WhisperForConditionalGeneration:
    """A whole model as transformers has it."""
    model = WhisperForConditionalGeneration(whisper_config(**more))
    redrawn(model, seed)
    return model.eval()


def shifted(model: PreTrainedModel, seed: int, only: Sequence[str] = ("",), scale: float = 0.02) -> None:
    """Moves the parameters whose names hold one of these, in place, as fine-tuning would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if not name.endswith("embed_positions.weight") and any(part in name for part in only):
                parameter += scale * noise


def experts(
    folder: Path, changes: Mapping[str, Sequence[str]], *, window: str = "clip", **more: object
) -> SpeechEncoder:
    """A base in `folder/base` and experts beside it, saved by transformers; gives the base.

    Args:
        folder: of them all.
        changes: expert -> parts of the names of what fine-tuning moved.
        window: of the base.
        more: of the configuration.
    """
    whisper(**more).save_pretrained(folder / "base")
    for seed, (name, only) in enumerate(changes.items(), start=1):
        expert = whisper(**more)
        shifted(expert, seed, only)
        expert.save_pretrained(folder / name)
    return load_backbone(folder / "base", window=window)


def clips(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise that swells, each clip a tenth as loud as the one before, [B, N]; and samples of each."""
    waveforms = torch.zeros(len(lengths), max(lengths))
    for row, count in enumerate(lengths):
        noise = torch.randn(count, generator=torch.Generator().manual_seed(seed + row))
        waveforms[row, :count] = 0.3 * 10.0**-row * noise * torch.linspace(0, 1, count)
    return waveforms, torch.tensor(lengths)


def extracted(clip: Tensor, bins: int = 80, padding: str = "do_not_pad", seconds: int = 30) -> Tensor:
    """The spectrogram [1, M, T] of one clip [N] by transformers' own extractor."""
    extractor = WhisperFeatureExtractor(feature_size=bins, chunk_length=seconds)
    found = extractor(clip.numpy(), sampling_rate=SAMPLE_RATE, padding=padding, return_tensors="pt")
    values: Tensor = found.input_features
    return values


def plain_states(encoder: nn.Module, mel: Tensor) -> list[Tensor]:
    """The outputs [1, T, D] of all layers for one spectrogram [1, M, T], module after module.

    Args:
        encoder: of a transformers Whisper.
        mel: of one clip, of any length.
    """
    hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    states = []
    for layer in encoder.layers:
        normed = layer.self_attn_layer_norm(hidden)
        attention, heads = layer.self_attn, layer.self_attn.num_heads
        query, key, value = (
            part(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        hidden = hidden + attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
        hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
        states.append(hidden)
    return states


def recorded(root: Path) -> list[Tensor]:
    """The first recording of each real corpus below a folder."""
    corpora = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    found = [
        next(path for path in sorted(folder.rglob("*")) if path.suffix in (".wav", ".flac", ".sph"))
        for folder in corpora
    ]
    return [torch.from_numpy(load_audio(path)) for path in found]


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def group_of(name: str) -> int:
    """0 for what stands outside the layers."""
    parts = name.split(".")
    return int(parts[2]) + 1 if parts[1:2] == ["layers"] else 0


def merged_by_hand(
    base: SpeechEncoder, deltas: Sequence[Mapping[str, Tensor]], rows: Tensor
) -> PreTrainedModel:
    """A copy of the model in float64 with merged weights, that gradients may be had of.

    Args:
        base: the encoder.
        deltas: K task vectors.
        rows: [1 + L, K] coefficients.
    """
    model = copy.deepcopy(base.model).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for k, vector in enumerate(deltas):
                parameter += rows[group_of(name), k].double() * vector[name].double()
    return model.requires_grad_(True)


def real_model(name: str) -> Path:
    """The folder of a published model; the test is skipped where there is none."""
    folder = os.environ.get("VOXSTRATA_MODELS")
    if not folder:
        pytest.skip("VOXSTRATA_MODELS is not set: no published models here")
    return Path(folder) / name
