"""How the published checkpoints of speech encoders name their tensors, and what else stands in them.

A layout is told by content: by the spelling of the first layer's query projection, and by what stands
before it. All are brought to transformers' own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from voxstrata.backbone.containers import Container, some
from voxstrata.errors import CheckpointError

_TRANSFORMERS_ANCHOR = "encoder.layers.0.attention.q_proj.weight"
_FAIRSEQ_ANCHOR = "encoder.layers.0.self_attn.q_proj.weight"
_BACKBONE_PARTS = ("feature_extractor.", "feature_projection.", "encoder.", "adapter.", "masked_spec_embed")

Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), text) for pattern, text in pairs)


#: Older spelling of weight norm, of torch itself.
_WEIGHT_NORM = _rules(
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)
#: fairseq's names (and unilm's, which follow them) -> transformers'. A front end with group norm has its norm
#: in `conv_layers.0.2`, one with layer norm in `conv_layers.N.2.1`.
_FAIRSEQ = _rules(
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
_FAIRSEQ_HEADS = _rules(
    (r"(^|\.)(proj|lm_head)\.", "CTC head"),
    (
        r"(^|\.)(final_proj|project_q|project_hid|label_embs_concat|quantizer|target_glu)\b",
        "pre-training head",
    ),
)
#: What stands beside an encoder in several layouts.
_ANYWHERE = _rules(
    (r"(^|\.)lm_head\.", "CTC head"),
    (r"(^|\.)layer_weights$", "weights of its layer sum"),
    (r"(^|\.)(projector|classifier)\.", "classification head"),
    (r"(^|\.)(quantizer|project_q|project_hid)\.", "pre-training head"),
    (r"^final_ser\.pt$", "emotion head"),
    (r"^final_pool\.pt$", "attentive pooling"),
    (r"\.original_module\.", "the base's own, which the adapter replaces"),
    (r"(?i)optimi[sz]er|scheduler|scaler", "state of its training"),
    (r"\.(ckpt|pt|bin|safetensors)$", "another file of the folder"),
)


@dataclass(frozen=True)
class Layout:
    """One way to name a speech encoder's tensors.

    Args:
        name: of the toolkit or publication it comes from.
        anchor: how the query projection of the first layer is called.
        prefix: pattern of all that stands before the anchor.
        entry: pattern of the entry of a torch file that holds the tensors.
        renames: applied in this order to a name without its prefix; the first that fits is used.
        heads: pattern of what is left out -> what it is; the first that fits is used.
    """

    name: str
    anchor: str = _TRANSFORMERS_ANCHOR
    prefix: str = ".*"
    entry: str = ".*"
    renames: Rules = ()
    heads: Rules = ()

    def canonical(self, name: str) -> str:
        """Transformers' name of a tensor, given its name without the prefix."""
        for pattern, text in self.renames:
            name, changed = pattern.subn(text, name)
            if changed:
                break
        for pattern, text in _WEIGHT_NORM:
            name = pattern.sub(text, name)
        return name

    def reason(self, key: str) -> str:
        """What a stored tensor outside the backbone is."""
        rules = (*self.heads, *_ANYWHERE)
        return next((text for pattern, text in rules if pattern.search(key)), "outside the encoder")


#: The first that fits is taken.
LAYOUTS = (
    Layout(
        "s3prl",
        _FAIRSEQ_ANCHOR,
        entry="Upstream",
        renames=_FAIRSEQ,
        heads=_rules((r"^Downstream$", "downstream model"), (r"^Featurizer$", "weights of its layer sum")),
    ),
    Layout(
        "s3prl",
        entry="Upstream",
        heads=_rules((r"^Downstream$", "downstream model"), (r"^Featurizer$", "weights of its layer sum")),
    ),
    Layout("SpeechBrain", _FAIRSEQ_ANCHOR, r"model\.", "", renames=_FAIRSEQ, heads=_FAIRSEQ_HEADS),
    Layout("unilm or fairseq", _FAIRSEQ_ANCHOR, renames=_FAIRSEQ, heads=_FAIRSEQ_HEADS),
    Layout(
        "vox-profile",
        prefix=r"backbone_model\.",
        heads=_rules(
            (r"^weights$", "weights of its layer sum"),
            (r"^model_seq\.", "pointwise convolutions of its head"),
            (r"^emotion_layer\.", "emotion head"),
            (r"^detailed_out_layer\.", "head of further emotions"),
            (r"^(arousal|valence|dominance)_layer\.", "head of arousal, valence, dominance"),
        ),
    ),
    Layout("SpeechBrain", prefix=r"model\.(?:(?:wav2vec2|wavlm|hubert)\.)?", entry=""),
    Layout(
        "MSP-Podcast challenge",
        prefix=r"ssl_model\.",
        heads=_rules((r"^ser_model\.", "emotion head"), (r"^pool_model\.", "attentive pooling")),
    ),
    Layout("transformers"),
)
#: Finds an encoder's tensors, or LoRA factors for them, among the entries of a file.
WANTED = re.compile(
    rf"({re.escape(_TRANSFORMERS_ANCHOR)}|{re.escape(_FAIRSEQ_ANCHOR)})$|\.lora_[AB]\b|\.base_layer\.weight$"
)


def recognize(names: Iterable[str], container: Container, *, partial: bool = False) -> tuple[Layout, str]:
    """The layout of a checkpoint, and the prefix of its backbone's names.

    Args:
        names: of its tensors, without what LoRA adds to them.
        container: they come from.
        partial: whether tensors may lack, as in an adapter.

    Raises:
        CheckpointError: if it holds no speech encoder, or several.
    """
    names, file = list(names), container.file
    ends = tuple({layout.anchor for layout in LAYOUTS})
    found = {name for name in names if name.endswith(ends)}
    if not found and partial:
        found = _adapted_anchors(names, file)
    if len(found) > 1:
        prefixes = sorted(name[: -len(end)] for name in found for end in ends if name.endswith(end))
        raise CheckpointError(f"{file} holds {len(found)} encoders, under {prefixes}; keep one of them")
    for name in found:
        for layout in LAYOUTS:
            prefix = name.removesuffix(layout.anchor)
            if (
                prefix != name
                and re.fullmatch(layout.prefix, prefix)
                and re.fullmatch(layout.entry, container.entry)
            ):
                return layout, prefix
    if "Downstream" in (container.entry, *container.beside):
        raise CheckpointError(
            f"{file} holds a downstream model of s3prl and no Upstream: its encoder was not fine-tuned; "
            "take the encoder that it was trained on"
        )
    raise CheckpointError(
        f"{file} holds no speech encoder: none of its {some(names)} ends in {_TRANSFORMERS_ANCHOR}; "
        "give a checkpoint of WavLM, wav2vec 2.0 or HuBERT"
    )


def describe_left_out(left_out: Mapping[str, str]) -> str:
    """Names grouped by what they are.

    >>> describe_left_out({"lm_head.weight": "CTC head", "lm_head.bias": "CTC head"})
    'lm_head.weight, lm_head.bias (CTC head)'
    """
    groups: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        groups.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in groups.items()) or "nothing"


def is_backbone(name: str) -> bool:
    """Whether a tensor's canonical name belongs to a speech encoder."""
    return name.startswith(_BACKBONE_PARTS)


def _adapted_anchors(names: list[str], file: Path) -> set[str]:
    """The anchors as they would stand in the model that an adapter belongs to."""
    place = re.compile(r"^(.*?)(?=encoder\.(?:layers|pos_conv)|feature_(?:projection|extractor)\.)")
    fairseq = any(re.search(r"encoder\.layers\.\d+\.(self_attn|fc[12])\.", name) for name in names)
    anchor = _FAIRSEQ_ANCHOR if fairseq else _TRANSFORMERS_ANCHOR
    return {match[1] + anchor for name in names if (match := place.match(name))}
