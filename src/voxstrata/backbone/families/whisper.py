"""Whisper's encoder (arXiv 2212.04356): a log-mel spectrogram, two convolutions, fixed positions.

OpenAI pads each clip with zeros to 30 seconds. Here the input is as long as the clip, or padded so where the
window says so. Whisper knows no padding mask: in a batch of unequal clips the spectrogram and the output of
the first convolution are zero behind each clip's end, as they would be if it were alone, and no layer looks
there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.families.family import Convolution, Family, FrontEnd, Window
from voxstrata.backbone.layouts import Layout, rules
from voxstrata.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, WhisperConfig

    from voxstrata.backbone.attention import Attention

#: Of the spectrogram, in samples; the same in all releases.
HOP, FFT = 160, 400
#: Length of a padded input, in seconds and samples.
WINDOW_S = 30
WINDOW_SAMPLES = WINDOW_S * SAMPLE_RATE

POSITIONS = "encoder.embed_positions.weight"
_ANCHOR = "encoder.layers.0.self_attn.q_proj.weight"
_CONVOLUTION = "encoder.conv1.weight"
_DECODER = (r"(^|\.)(decoder\.|proj_out\.)", "decoder")
#: OpenAI's own names -> transformers'.
_BLOCK = r"^(encoder|decoder)\.blocks\.(\d+)\."
_OPENAI = rules(
    (r"^(encoder|decoder)\.positional_embedding$", r"\1.embed_positions.weight"),
    (r"^decoder\.token_embedding\.", "decoder.embed_tokens."),
    (r"^encoder\.ln_post\.", "encoder.layer_norm."),
    (r"^decoder\.ln\.", "decoder.layer_norm."),
    (rf"{_BLOCK}attn\.query\.", r"\1.layers.\2.self_attn.q_proj."),
    (rf"{_BLOCK}attn\.key\.", r"\1.layers.\2.self_attn.k_proj."),
    (rf"{_BLOCK}attn\.value\.", r"\1.layers.\2.self_attn.v_proj."),
    (rf"{_BLOCK}attn\.out\.", r"\1.layers.\2.self_attn.out_proj."),
    (rf"{_BLOCK}cross_attn\.query\.", r"\1.layers.\2.encoder_attn.q_proj."),
    (rf"{_BLOCK}cross_attn\.key\.", r"\1.layers.\2.encoder_attn.k_proj."),
    (rf"{_BLOCK}cross_attn\.value\.", r"\1.layers.\2.encoder_attn.v_proj."),
    (rf"{_BLOCK}cross_attn\.out\.", r"\1.layers.\2.encoder_attn.out_proj."),
    (rf"{_BLOCK}attn_ln\.", r"\1.layers.\2.self_attn_layer_norm."),
    (rf"{_BLOCK}cross_attn_ln\.", r"\1.layers.\2.encoder_attn_layer_norm."),
    (rf"{_BLOCK}mlp\.0\.", r"\1.layers.\2.fc1."),
    (rf"{_BLOCK}mlp\.2\.", r"\1.layers.\2.fc2."),
    (rf"{_BLOCK}mlp_ln\.", r"\1.layers.\2.final_layer_norm."),
)
#: An encoder that was saved alone has no part before its names.
_ALONE = rules((r"^(?=(conv1|conv2|embed_positions|layers|layer_norm)\.)", "encoder."))
_LAYOUTS = (
    Layout(
        "vox-profile",
        _ANCHOR,
        beside=_CONVOLUTION,
        prefix=r"backbone_model\.",
        heads=rules(
            _DECODER,
            (r"^embed_positions$", "a copy of its positions"),
            (r"^weights$", "weights of its layer sum"),
            (r"^model_seq\.", "pointwise convolutions of its head"),
            (r"^emotion_layer\.", "emotion head"),
            (r"^detailed_out_layer\.", "head of further emotions"),
            (r"^(arousal|valence|dominance)_layer\.", "head of arousal, valence, dominance"),
            (r"^\w+_layer\.", "head of another task"),
        ),
    ),
    Layout(
        "OpenAI",
        "encoder.blocks.0.attn.query.weight",
        beside=_CONVOLUTION,
        renames=_OPENAI,
        heads=rules(_DECODER),
    ),
    Layout(
        "transformers, encoder alone",
        "layers.0.self_attn.q_proj.weight",
        beside="conv1.weight",
        prefix=r"(base_model\.model\.)?",
        renames=_ALONE,
    ),
    Layout("transformers", _ANCHOR, beside=_CONVOLUTION, heads=rules(_DECODER)),
)


class WhisperFamily(Family):
    """Encoders of Whisper models, of all sizes."""

    title = "whisper"
    layouts = _LAYOUTS
    parts = ("encoder.",)
    decoder_parts = ("decoder.", "proj_out.")
    tied: ClassVar[Mapping[str, str]] = {"proj_out.weight": "decoder.embed_tokens.weight"}
    adapted = (
        r"encoder\.(layers\.\d+\.(self_attn|self_attn_layer_norm|fc1|fc2|final_layer_norm)|conv1|conv2)\."
    )
    front_end_parts = ("encoder.conv1.", "encoder.conv2.")
    optional = (POSITIONS,)
    fixed = (POSITIONS,)
    forced: ClassVar[Mapping[str, Any]] = {"encoder_layerdrop": 0.0, "apply_spec_augment": False}
    windows = ("clip", "30s")

    def accepts(self, config: PretrainedConfig) -> bool:
        return bool(config.model_type == "whisper")

    def build(self, config: PretrainedConfig) -> PreTrainedModel:
        from voxstrata.backbone.families.whisper_encoder import WhisperEncoderModel

        return WhisperEncoderModel(copy.deepcopy(config)).float()

    def told_config(self, settings: Mapping[str, Any]) -> PretrainedConfig | None:
        dims = settings.get("dims")
        return _openai_config(dims) if isinstance(dims, Mapping) else None

    def prepare(self, model: PreTrainedModel, attention: Attention) -> None:
        from voxstrata.backbone.attention import set_attention

        set_attention(model, attention)

    def architecture(self, model: PreTrainedModel) -> str:
        return "WhisperModel"

    def filled(self, name: str, shape: Sequence[int]) -> Tensor:
        """The table of positions, which is a function of its size."""
        from transformers.models.whisper.modeling_whisper import sinusoids

        table: Tensor = sinusoids(*shape)
        return table

    def front_end(self, config: PretrainedConfig) -> FrontEnd:
        convolutions = (Convolution(config.d_model, 3, 1, 1), Convolution(config.d_model, 3, 2, 1))
        longest = 2 * HOP * config.max_source_positions
        # A spectrogram mirrors half a window at either end, so a clip has to be longer than that.
        return FrontEnd(convolutions, HOP, config.num_mel_bins, shortest=FFT // 2 + 1, longest=longest)

    def feed_forward(self, config: PretrainedConfig) -> int:
        return int(config.encoder_ffn_dim)

    def features(
        self,
        model: PreTrainedModel,
        waveforms: Tensor,
        counts: Sequence[int],
        *,
        window: Window = "clip",
        alone: bool = False,
    ) -> Tensor:
        if alone and len(counts) > 1:
            return self._one_by_one(model, waveforms, counts, window)
        encoder = model.encoder
        dtype = encoder.conv1.weight.dtype
        if window == "30s":
            # The room that there are positions for: 30 seconds, in all releases.
            padded = 2 * HOP * model.config.max_source_positions
            waveforms = _silent_behind(waveforms, counts)
            waveforms = F.pad(waveforms, (0, padded - waveforms.shape[1]))
            counts = [padded] * len(waveforms)
        columns = torch.tensor([count // HOP for count in counts], device=waveforms.device)
        mel = log_mel(waveforms, counts, model.config.num_mel_bins).to(dtype)
        inside = None
        if len(set(counts)) > 1:
            inside = torch.arange(mel.shape[-1], device=mel.device) < columns[:, None, None]
            mel = mel.masked_fill(~inside, 0)
        hidden = F.gelu(encoder.conv1(mel))
        if inside is not None:
            hidden = hidden.masked_fill(~inside, 0)
        features: Tensor = F.gelu(encoder.conv2(hidden))
        if alone or inside is None:
            return features
        return features.masked_fill(~inside[..., ::2], 0)

    def _one_by_one(
        self, model: PreTrainedModel, waveforms: Tensor, counts: Sequence[int], window: Window
    ) -> Tensor:
        clips = [
            self.features(model, clip[None, :count], [count], window=window, alone=True)
            for clip, count in zip(waveforms, counts, strict=True)
        ]
        frames = max(clip.shape[-1] for clip in clips)
        return torch.cat([F.pad(clip, (0, frames - clip.shape[-1])) for clip in clips])

    def states(
        self,
        model: PreTrainedModel,
        features: Tensor,
        lengths: Tensor,
        *,
        window: Window = "clip",
        known: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:
        encoder = model.encoder
        layers = list(known)
        if known:
            hidden = known[-1]
        else:
            hidden = features.mT
            positions = encoder.embed_positions.weight[: hidden.shape[1]]
            hidden = F.dropout(hidden + positions, encoder.dropout, encoder.training)
        mask = None
        if window == "clip" and len(set(lengths.tolist())) > 1:
            frames = self.front_end(model.config).frames(lengths)
            inside = torch.arange(hidden.shape[1], device=hidden.device) < frames.unsqueeze(1)
            mask = torch.zeros(inside.shape, dtype=_mask_dtype(hidden), device=hidden.device)
            mask = mask.masked_fill(~inside, torch.finfo(mask.dtype).min)[:, None, None, :]
        for layer in list(encoder.layers)[len(known) :]:
            output = layer(hidden, mask)
            hidden = output[0] if isinstance(output, tuple) else output
            layers.append(hidden)
        return tuple(layers)

    def layer_zero(self, model: PreTrainedModel, features: Tensor) -> Tensor:
        return features.mT

    def final_norm(self, model: PreTrainedModel) -> nn.Module | None:
        norm: nn.Module = model.encoder.layer_norm
        return norm

    def normalizes(self, config: PretrainedConfig) -> bool:
        return False

    def preprocessor(self, config: PretrainedConfig, *, normalize: bool) -> dict[str, Any]:
        return {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": config.num_mel_bins,
            "sampling_rate": SAMPLE_RATE,
            "hop_length": HOP,
            "n_fft": FFT,
            "chunk_length": 2 * HOP * config.max_source_positions // SAMPLE_RATE,
            "padding_value": 0.0,
            "padding_side": "right",
            "do_normalize": normalize,
            "return_attention_mask": False,
        }

    def behind_layers(self, config: PretrainedConfig) -> tuple[str, ...]:
        return ("encoder.layer_norm.",)


@torch.no_grad()
def log_mel(waveforms: Tensor, counts: Sequence[int], bins: int) -> Tensor:
    """Log-mel spectrogram of each clip as if it were alone, as `WhisperFeatureExtractor` computes it.

    Power spectra of 25 ms every 10 ms, mirrored at both ends of the clip; mel bands; logarithm to the base
    10, at most 8 below the clip's largest value; brought to about [-1, 1].

    Args:
        waveforms: [B, N], N the longest clip's samples.
        counts: valid samples of each clip, more than 200.
        bins: M, mel bands.

    Returns:
        float32 [B, M, T], T the columns of the longest clip (its samples // 160). Columns behind a clip's end
        hold arbitrary finite numbers.
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        lengths = torch.tensor(counts, device=waveforms.device)
        columns = max(counts) // HOP
        window, filters = _window(waveforms.device), _filters(bins, waveforms.device)
        mirrored = _mirrored(waveforms.float(), lengths)
        spectra = torch.stft(mirrored, FFT, HOP, window=window, center=False, return_complex=True)
        power = (spectra[..., :columns].abs() ** 2).contiguous()
        levels = (filters.T @ power).clamp(min=1e-10).log10()
        inside = torch.arange(columns, device=levels.device) < (lengths // HOP)[:, None, None]
        largest = levels.masked_fill(~inside, float("-inf")).amax((1, 2), keepdim=True)
        return (torch.maximum(levels, largest - 8.0) + 4.0) / 4.0


def _silent_behind(waveforms: Tensor, counts: Sequence[int]) -> Tensor:
    """Waveforms [B, N] with zeros behind each clip's end, whatever stood there."""
    lengths = torch.tensor(counts, device=waveforms.device)
    samples = torch.arange(waveforms.shape[1], device=waveforms.device)
    return waveforms.masked_fill(samples >= lengths.unsqueeze(1), 0)


def _mirrored(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Half a window of each clip mirrored before its start and behind its end, [B, N + 400]; then zeros."""
    half = FFT // 2
    if int(lengths.min()) == waveforms.shape[1]:
        return F.pad(waveforms.unsqueeze(1), (half, half), mode="reflect").squeeze(1)
    places = torch.arange(-half, waveforms.shape[1] + half, device=waveforms.device).expand(len(lengths), -1)
    last = lengths.unsqueeze(1) - 1
    mirrored = torch.where(places > last, 2 * last - places, places.abs())
    inside = places <= last + half
    return waveforms.gather(1, mirrored.clamp(min=0)) * inside


@lru_cache(maxsize=8)
def _window(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(FFT, device=device)


@lru_cache(maxsize=8)
def _filters(bins: int, device: torch.device) -> Tensor:
    """Mel bands of Slaney's form, [1 + FFT / 2, M]."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        1 + FFT // 2, bins, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    with torch.inference_mode(False):
        return torch.from_numpy(filters).to(device, torch.float32)


def _mask_dtype(hidden: Tensor) -> torch.dtype:
    """Of what the attention adds its mask to: under autocast not that of the states."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _openai_config(dims: Mapping[str, Any]) -> WhisperConfig:
    """The configuration of an OpenAI file's `dims`."""
    from transformers import WhisperConfig

    try:
        size = int(dims["n_audio_state"])
        return WhisperConfig(
            d_model=size,
            encoder_layers=int(dims["n_audio_layer"]),
            encoder_attention_heads=int(dims["n_audio_head"]),
            encoder_ffn_dim=4 * size,
            num_mel_bins=int(dims["n_mels"]),
            max_source_positions=int(dims["n_audio_ctx"]),
            vocab_size=int(dims["n_vocab"]),
            decoder_layers=int(dims["n_text_layer"]),
            decoder_attention_heads=int(dims["n_text_head"]),
            decoder_ffn_dim=4 * size,
            max_target_positions=int(dims["n_text_ctx"]),
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise CheckpointError(
            f"dims does not describe a Whisper as OpenAI's files do ({fault}); name an encoder of the same "
            "architecture"
        ) from None
