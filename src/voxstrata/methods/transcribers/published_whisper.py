"""A whole Whisper in transformers' layout (`WhisperForConditionalGeneration`) as a transcriber.

Of its weights the decoder is read here, strictly; the encoder only where no other one is given.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

from voxstrata.backbone.checkpoints import Checkpoint, open_checkpoint
from voxstrata.backbone.containers import some
from voxstrata.backbone.encoder import load_backbone
from voxstrata.backbone.finite import require_finite
from voxstrata.backbone.folder import read_config
from voxstrata.backbone.locate import here
from voxstrata.backbone.plain_values import check_layers, check_plain
from voxstrata.documents import read_json
from voxstrata.errors import CheckpointError
from voxstrata.methods.encoder_models import Backbone
from voxstrata.methods.transcribers.generation_settings import FILE, check_generation, read_generation
from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber

_DECODER, _OUTPUT, _EMBEDDING = "model.decoder.", "proj_out.weight", "model.decoder.embed_tokens.weight"
#: What a tokenizer is read from: either of these.
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_TOKENIZER_JSON = (
    *("tokenizer.json", "vocab.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "normalizer.json"),
)
_GIVE = (
    "give a folder of WhisperForConditionalGeneration with its tokenizer, or the hub id of one that was "
    "fetched (hf download openai/whisper-tiny.en)"
)


def find_transcriber(source: str | Path) -> Path | None:
    """The folder of a whole Whisper, given as such or as the hub id of one that was downloaded.

    It is known by content: a configuration of Whisper, and a decoder among the weights.

    Raises:
        CheckpointError: if a folder with a configuration has weights that cannot be read.
    """
    try:
        folder = here(source)
    except CheckpointError:
        return None
    if not (folder / "config.json").is_file() or not isinstance(read_config(folder), WhisperConfig):
        return None
    return folder if _stored(open_checkpoint(folder)) else None


def load_transcriber(
    source: str | Path,
    encoder: Backbone | None = None,
    *,
    language: str | None = None,
    num_beams: int | None = None,
) -> WhisperTranscriber:
    """A whole Whisper, or its decoder over another encoder; frozen, in eval mode, float32 on the CPU.

    Args:
        source: a folder of transformers with decoder and tokenizer, or the hub id of one that was downloaded;
            nothing is downloaded here.
        encoder: see `WhisperTranscriber`; None for the folder's own.
        language: see `WhisperTranscriber`.
        num_beams: see `WhisperTranscriber`.

    Raises:
        CheckpointError: if there is no such folder, it has no decoder or no tokenizer, or what it has does
            not fit.
    """
    folder = here(source)
    decoder = load_decoder(folder)
    tokenizer = _load_tokenizer(folder)
    if encoder is None:
        encoder = load_backbone(folder, final_norm=True, window="30s")
    return WhisperTranscriber(
        encoder, decoder, tokenizer, source=source, language=language, num_beams=num_beams
    ).eval()


def load_decoder(folder: Path) -> WhisperForConditionalGeneration:
    """The decoder half of a whole Whisper, with its generation config; there is no encoder in it.

    Raises:
        CheckpointError: if the folder holds no whole Whisper, or tensors are missing, superfluous or
            misshapen.
    """
    config = read_config(folder)
    if not isinstance(config, WhisperConfig):
        raise CheckpointError(f"{folder} holds a model of type {config.model_type!r}, no Whisper; {_GIVE}")
    checkpoint = open_checkpoint(folder)
    stored = _stored(checkpoint)
    if not stored:
        raise CheckpointError(f"{folder} holds the encoder of a Whisper and no decoder; {_GIVE}")
    _require_layers(checkpoint, config.decoder_layers, stored)
    try:
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(config)
    except Exception as fault:  # a stranger's settings fail in as many ways as there are settings
        reason = " ".join(str(fault).split())[:200]
        raise CheckpointError(f"cannot use {folder / 'config.json'}: {reason}; fetch it again") from None
    # Where a whole model has its encoder; `generate` asks for strides alone.
    model.model.encoder = _NoEncoder()
    tied = config.tie_word_embeddings
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not (tied and name == _OUTPUT)
    }
    if tied:
        stored.pop(_OUTPUT, None)
    _check(checkpoint, stored, wanted)
    check_plain(stored.values(), checkpoint.container)
    state = {name: checkpoint.container.read(key).float() for name, key in stored.items()}
    require_finite(state.items(), checkpoint.path)
    if tied:
        state[_OUTPUT] = state[_EMBEDDING]
    model.load_state_dict(state, assign=True)
    if tied:
        model.proj_out.weight = model.model.decoder.embed_tokens.weight
    stated = folder / FILE
    if stated.is_file():
        model.generation_config = read_generation(folder)
    check_generation(
        model.generation_config, config.vocab_size, stated if stated.is_file() else folder / "config.json"
    )
    return model.requires_grad_(False).eval()


class _NoEncoder(nn.Module):
    """Stands in a decoder's model where a whole one has its encoder."""

    conv1 = SimpleNamespace(stride=(1,))
    conv2 = SimpleNamespace(stride=(2,))


def _stored(checkpoint: Checkpoint) -> dict[str, str]:
    """Name in transformers' whole model -> stored name, of the decoder's tensors."""
    found = {}
    for key in checkpoint.left_out:
        name = checkpoint.inner_name(key)
        if name.startswith("decoder."):
            found[f"model.{name}"] = key
        elif key == _OUTPUT or name == _OUTPUT:
            found[_OUTPUT] = key
    return found if any(name.startswith(_DECODER) for name in found) else {}


def _require_layers(checkpoint: Checkpoint, layers: int, stored: Collection[str]) -> None:
    """Refuses a number of layers that the headers rule out, before they are built."""
    check_layers(stored, checkpoint.path)
    held = {match[1] for name in stored if (match := re.match(r"model\.decoder\.layers\.(\d+)\.", name))}
    if len(held) < layers:
        raise CheckpointError(
            f"the decoder in {checkpoint.path} does not fit config.json beside it: it has {len(held)} layers "
            f"where config.json tells of {layers}; fetch both anew"
        )


def _check(checkpoint: Checkpoint, stored: dict[str, str], wanted: dict[str, tuple[int, ...]]) -> None:
    """Refuses a decoder that does not hold exactly a model's tensors."""
    faults = {
        "lacks": [name for name in wanted if name not in stored],
        "has beside its own": [name for name in stored if name not in wanted],
        "has in another shape": [
            f"{name} {shape} for {wanted[name]}"
            for name, key in stored.items()
            if name in wanted and (shape := checkpoint.container.shapes[key]) != wanted[name]
        ],
    }
    stated = "; ".join(f"{fault} {some(names)}" for fault, names in faults.items() if names)
    if stated:
        raise CheckpointError(
            f"the decoder in {checkpoint.path} does not fit config.json beside it: it {stated}; fetch "
            "both anew"
        )


def _load_tokenizer(folder: Path) -> WhisperTokenizer:
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZER_FILES):
        raise CheckpointError(
            f"{folder} has no tokenizer (tokenizer.json, or vocab.json and merges.txt), so that what is said "
            "cannot be written; fetch the tokenizer's files of the same model"
        )
    for path in sorted(folder.glob("*.json")):
        if path.name in _TOKENIZER_JSON:
            read_json(path, error=CheckpointError, advice="fetch it again")
    try:
        tokenizer: WhisperTokenizer = WhisperTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer
    except Exception as fault:  # a stranger's tokens fail in as many ways as there are
        reason = " ".join(str(fault).split())[:200]
        raise CheckpointError(f"cannot read the tokenizer of {folder}: {reason}; fetch it again") from None
