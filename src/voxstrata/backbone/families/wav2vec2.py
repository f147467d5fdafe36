"""WavLM, wav2vec 2.0, HuBERT and their like: convolutions over the waveform, positions by a convolution.

With `feat_extract_norm="group"` padding would enter the statistics of the front end, so its convolutions run
clip by clip (on the CPU always, where that is cheaper); the transformer runs on the whole batch.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from voxstrata.backbone.clip_by_clip import accept_features, clips_at_a_time, features_in_pieces
from voxstrata.backbone.families.family import Convolution, Family, FrontEnd, Window
from voxstrata.backbone.layouts import Layout, rules
from voxstrata.backbone.replaced import forward_replaced
from voxstrata.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    from voxstrata.backbone.attention import Attention

_ANCHOR = "encoder.layers.0.attention.q_proj.weight"
_FAIRSEQ_ANCHOR = "encoder.layers.0.self_attn.q_proj.weight"
#: fairseq's names (and unilm's, which follow them) -> transformers'. A front end with group norm has its norm
#: in `conv_layers.0.2`, one with layer norm in `conv_layers.N.2.1`.
_FAIRSEQ = rules(
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"^(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"^(encoder\.layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"^(encoder\.layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.relative_attention_bias\.", r"\1.attention.rel_attn_embed."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.grep_a$", r"\1.attention.gru_rel_pos_const"),
    (r"^(encoder\.layers\.\d+)\.self_attn\.grep_linear\.", r"\1.attention.gru_rel_pos_linear."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
)
_FAIRSEQ_HEADS = rules(
    (r"(^|\.)(proj|lm_head)\.", "CTC head"),
    (
        r"(^|\.)(final_proj|project_q|project_hid|label_embs_concat|quantizer|target_glu)\b",
        "pre-training head",
    ),
)
#: The first that fits is taken.
_LAYOUTS = (
    Layout(
        "s3prl",
        _FAIRSEQ_ANCHOR,
        entry="Upstream",
        renames=_FAIRSEQ,
        heads=rules((r"^Downstream$", "downstream model"), (r"^Featurizer$", "weights of its layer sum")),
    ),
    Layout(
        "s3prl",
        _ANCHOR,
        entry="Upstream",
        heads=rules((r"^Downstream$", "downstream model"), (r"^Featurizer$", "weights of its layer sum")),
    ),
    Layout(
        "SpeechBrain", _FAIRSEQ_ANCHOR, prefix=r"model\.", entry="", renames=_FAIRSEQ, heads=_FAIRSEQ_HEADS
    ),
    Layout("unilm or fairseq", _FAIRSEQ_ANCHOR, renames=_FAIRSEQ, heads=_FAIRSEQ_HEADS),
    Layout(
        "vox-profile",
        _ANCHOR,
        prefix=r"backbone_model\.",
        heads=rules(
            (r"^weights$", "weights of its layer sum"),
            (r"^model_seq\.", "pointwise convolutions of its head"),
            (r"^emotion_layer\.", "emotion head"),
            (r"^detailed_out_layer\.", "head of further emotions"),
            (r"^(arousal|valence|dominance)_layer\.", "head of arousal, valence, dominance"),
        ),
    ),
    Layout("SpeechBrain", _ANCHOR, prefix=r"model\.(?:(?:wav2vec2|wavlm|hubert)\.)?", entry=""),
    Layout(
        "MSP-Podcast challenge",
        _ANCHOR,
        prefix=r"ssl_model\.",
        heads=rules((r"^ser_model\.", "emotion head"), (r"^pool_model\.", "attentive pooling")),
    ),
    Layout("transformers", _ANCHOR),
)


class Wav2Vec2Family(Family):
    """WavLM, wav2vec 2.0 and HuBERT."""

    title = "wavlm, wav2vec2, hubert and their like"
    layouts = _LAYOUTS
    parts = ("feature_extractor.", "feature_projection.", "encoder.", "adapter.", "masked_spec_embed")
    adapted = (
        r"encoder\.(layers\.\d+\.(attention|layer_norm|feed_forward|final_layer_norm)|pos_conv_embed)\."
        r"|feature_(extractor|projection)\."
    )
    front_end_parts = ("feature_extractor.",)
    #: Used in pre-training only.
    optional = ("masked_spec_embed",)
    forced: ClassVar[Mapping[str, Any]] = {"layerdrop": 0.0, "apply_spec_augment": False}

    def accepts(self, config: PretrainedConfig) -> bool:
        return hasattr(config, "conv_kernel") and hasattr(config, "feat_extract_norm")

    def build(self, config: PretrainedConfig) -> PreTrainedModel:
        from transformers import AutoModel

        model = AutoModel.from_config(copy.deepcopy(config), dtype=torch.float32)
        if not hasattr(model.encoder, "layers"):
            raise CheckpointError(
                f"model type {config.model_type!r} has no encoder.layers; use wavlm or its like"
            )
        return model

    def told_config(self, settings: Mapping[str, Any]) -> PretrainedConfig | None:
        from voxstrata.backbone.unilm import wavlm_config

        cfg = settings.get("cfg")
        return wavlm_config(cfg) if isinstance(cfg, Mapping) else None

    def prepare(self, model: PreTrainedModel, attention: Attention) -> None:
        from voxstrata.backbone.attention import set_attention

        set_attention(model, attention)
        accept_features(model.feature_extractor)
        keep_positions_exact(model)
        # In train mode transformers would ask for gradients of the waveform, only for gradient checkpointing.
        model.feature_extractor._requires_grad = False

    def front_end(self, config: PretrainedConfig) -> FrontEnd:
        sizes = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
        return FrontEnd(tuple(Convolution(*size) for size in sizes))

    def features(
        self,
        model: PreTrainedModel,
        waveforms: Tensor,
        counts: Sequence[int],
        *,
        window: Window = "clip",
        alone: bool = False,
    ) -> Tensor:
        config = model.config
        waveforms = waveforms.to(next(model.parameters()).dtype)
        by_clip = alone or (config.feat_extract_norm == "group" and len(set(counts)) > 1)
        clips = 1 if by_clip else clips_at_a_time(config, waveforms)
        if by_clip or clips < len(counts):
            return features_in_pieces(model.feature_extractor, waveforms, counts, clips)
        # Not by calling the module: its hooks see the features when they pass through it, in `states`.
        features: Tensor = model.feature_extractor.forward(waveforms)
        return features

    def states(
        self,
        model: PreTrainedModel,
        features: Tensor,
        lengths: Tensor,
        *,
        window: Window = "clip",
        known: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:
        mask = None
        if len(counts := set(lengths.tolist())) > 1:
            samples = torch.arange(max(counts), device=lengths.device)
            mask = (samples < lengths.unsqueeze(1)).long()
        with ExitStack() as stack:
            if known:
                stack.enter_context(forward_replaced(model.encoder.pos_conv_embed, torch.zeros_like))
                for layer, given in zip(model.encoder.layers, known, strict=False):
                    stack.enter_context(forward_replaced(layer, _known(layer, given)))
                # Nothing looks at them: the first layer that is run takes the known states below it.
                clips, frames, _ = known[0].shape
                features = known[0].new_zeros(clips, model.config.conv_dim[-1], frames)
            states = stack.enter_context(layer_outputs(model.encoder.layers))
            model(features, attention_mask=mask)
        return tuple(states)

    def layer_zero(self, model: PreTrainedModel, features: Tensor) -> Tensor:
        projected = model.feature_projection(features.mT)
        values: Tensor = projected[0] if isinstance(projected, tuple) else projected
        return values

    def final_norm(self, model: PreTrainedModel) -> nn.Module | None:
        return model.encoder.layer_norm if model.config.do_stable_layer_norm else None

    def normalizes(self, config: PretrainedConfig) -> bool:
        return bool(config.feat_extract_norm == "layer")

    def preprocessor(self, config: PretrainedConfig, *, normalize: bool) -> dict[str, Any]:
        """The mask is asked for where padding would change the answer."""
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": 16_000,
            "padding_value": 0.0,
            "padding_side": "right",
            "do_normalize": normalize,
            "return_attention_mask": config.feat_extract_norm == "layer",
        }

    def behind_layers(self, config: PretrainedConfig) -> tuple[str, ...]:
        # With pre-norm layers the encoder's own norm comes after the last of them.
        norm = ("encoder.layer_norm.",) if config.do_stable_layer_norm else ()
        return ("masked_spec_embed", "adapter.", *norm)


@contextmanager
def layer_outputs(layers: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Inside, the list receives what each layer gives in this thread, [B, T, D], before any norm behind it.

    The model's own `hidden_states` may hold the last one after the encoder's final norm: in transformers
    before 5.16, and where a config.json sets `tie_last_hidden_states`.
    """
    found: list[Tensor] = []
    thread = get_ident()

    def record(_: nn.Module, __: Any, output: Any) -> None:
        if get_ident() == thread:
            found.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(record))
        yield found


def _known(layer: nn.Module, states: Tensor) -> Callable[..., Any]:
    """A layer's forward that gives known states [B, T, D]; WavLM's also hand on the position bias."""

    def forward(_: Tensor, position_bias: Tensor | None = None, **__: Any) -> Any:
        from transformers.models.wavlm.modeling_wavlm import WavLMAttention

        attention = layer.attention
        if not isinstance(attention, WavLMAttention):
            return states
        if position_bias is None:
            position_bias = _position_bias(attention, *states.shape[:2])
        return states, position_bias

    return forward


def _position_bias(attention: WavLMAttention, clips: int, frames: int) -> Tensor:
    from voxstrata.backbone.attention import FastWavLMAttention

    if isinstance(attention, FastWavLMAttention):
        return attention.compute_bias_by_distance(frames)
    bias: Tensor = attention.compute_bias(frames, frames)
    return bias.repeat(clips, 1, 1)


def _outside_autocast(self: nn.Module, hidden: Tensor) -> Tensor:
    own_forward: Callable[[nn.Module, Tensor], Tensor] = type(self).forward
    if hidden.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return own_forward(self, hidden)
    with torch.autocast("cpu", enabled=False):
        return own_forward(self, hidden.float())


def keep_positions_exact(model: PreTrainedModel) -> None:
    """Lets the model's convolutional position embedding leave autocast on the CPU (it stays in fp32).

    oneDNN's bf16 convolutions on processors with AVX-512 BF16 or AMX are wrong for some grouped shapes (an
    error as large as the result, seen with torch 2.13 for even kernels and up to 12 channels a group, and of
    the kind of pytorch issue 163347). That is the shape of a small encoder's position embedding.
    """
    module = model.encoder.pos_conv_embed
    module.forward = types.MethodType(_outside_autocast, module)
