"""A published recogniser in transformers' layout (`WavLMForCTC` and its like), as a transcription model.

Its head stands directly on the last hidden state, which encoders with `do_stable_layer_norm` have normalised.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from voxstrata.backbone.checkpoints import Checkpoint, open_checkpoint
from voxstrata.backbone.encoder import load_backbone
from voxstrata.backbone.finite import require_finite
from voxstrata.backbone.folder import read_config
from voxstrata.backbone.locate import with_config
from voxstrata.backbone.plain_values import check_plain
from voxstrata.errors import CheckpointError
from voxstrata.heads.ctc import CTCHead
from voxstrata.methods.encoder_models import TranscriptionModel
from voxstrata.methods.transcribers.published_tokens import PublishedTokens, read_tokens

#: Whose heads stand on a state that `SpeechEncoder` gives; relatives with other last states are refused.
MODEL_TYPES = ("wavlm", "wav2vec2", "hubert", "unispeech", "unispeech-sat")

_WEIGHT, _BIAS = "lm_head.weight", "lm_head.bias"


def find_published(source: str | Path) -> Path | None:
    """The folder of a published recogniser, given as such or as the hub id of one that was downloaded.

    It is known by content: a configuration of transformers, and a CTC head among the weights.

    Raises:
        CheckpointError: if a folder with a configuration has weights that cannot be read.
    """
    folder = with_config(source)
    return folder if folder is not None and _WEIGHT in open_checkpoint(folder).left_out else None


def load_published(folder: Path) -> tuple[TranscriptionModel, list[str]]:
    """A published recogniser, frozen and in eval mode, with what is to be said of it.

    Args:
        folder: with config.json, weights, vocab.json, and tokenizer_config.json or special_tokens_map.json.

    Raises:
        CheckpointError: if its architecture is not known, or its vocabulary does not fit its head.
    """
    config = read_config(folder)
    if config.model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder} has a CTC head on a model of type {config.model_type!r}; transcribed is with "
            f"{', '.join(MODEL_TYPES)}"
        )
    if getattr(config, "add_adapter", False):
        raise CheckpointError(
            f"{folder} has an adapter between encoder and CTC head (add_adapter), which is not run here; "
            "give a model without"
        )
    weight, bias = _head_tensors(open_checkpoint(folder), config.hidden_size)
    tokens = read_tokens(folder, outputs=len(weight))
    encoder = load_backbone(folder, final_norm=getattr(config, "do_stable_layer_norm", False))
    head = CTCHead(encoder.hidden_size, tokens.vocabulary, norm=False)
    order = torch.tensor(tokens.order)
    head.lm_head.load_state_dict({"weight": weight[order], "bias": bias[order]})
    model = TranscriptionModel(encoder, head)
    return model.requires_grad_(False).eval(), _notes(folder, config.pad_token_id, tokens)


def _head_tensors(checkpoint: Checkpoint, hidden: int) -> tuple[Tensor, Tensor]:
    """Weight [V, D] and bias [V] of the head, float32."""
    shapes = {name: checkpoint.container.shapes.get(name) for name in (_WEIGHT, _BIAS)}
    weight, bias = shapes[_WEIGHT], shapes[_BIAS]
    if weight is None or len(weight) != 2 or weight[1] != hidden or bias != weight[:1]:
        raise CheckpointError(
            f"{checkpoint.path}: a CTC head is {_WEIGHT} [V, {hidden}] and {_BIAS} [V]; found "
            f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())}; fetch it again"
        )
    check_plain((_WEIGHT, _BIAS), checkpoint.container)
    head = {name: checkpoint.container.read(name).float() for name in (_WEIGHT, _BIAS)}
    require_finite(head.items(), checkpoint.path)
    return head[_WEIGHT], head[_BIAS]


def _notes(folder: Path, configured: int | None, tokens: PublishedTokens) -> list[str]:
    if configured in (None, tokens.blank):
        return []
    return [
        f"{folder}: the tokenizer's pad token {tokens.pad!r} has index {tokens.blank}, config.json says "
        f"pad_token_id {configured}; {tokens.blank} is taken for CTC's blank"
    ]
