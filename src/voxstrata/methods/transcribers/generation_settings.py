"""generation_config.json of a whole Whisper, held against its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError

FILE = "generation_config.json"
#: Ends the name of a setting that is a token, or where several end a text, a list of them.
_TOKEN = "_token_id"
#: Lists of tokens that are not said; what the vocabulary has not is not said anyway.
_TOKENS = ("suppress_tokens", "begin_suppress_tokens")
_LARGEST_TOKEN = 10_000_000
_TABLES = ("lang_to_id", "task_to_id")
_TEXTS = ("language", "task")
#: Whole numbers: name -> the largest. Of a clip one text is wanted.
_COUNTS = {"num_beams": 100, "num_return_sequences": 1, "max_length": 10_000, "max_new_tokens": 10_000}


def read_generation(folder: Path) -> GenerationConfig:
    """How a folder's model is decoded.

    Raises:
        CheckpointError: if the file cannot be used.
    """
    path = folder / FILE
    try:
        read_json_object(path)
        config: GenerationConfig = GenerationConfig.from_pretrained(folder, local_files_only=True)
        return config
    except Exception as fault:  # a stranger's settings fail in as many ways as there are settings
        reason = " ".join(str(fault).split())[:200]
        raise CheckpointError(f"cannot use {path}: {reason}; fetch it again") from None


def check_generation(config: GenerationConfig, tokens: int, where: object) -> None:
    """Refuses settings that no decoder of this vocabulary has.

    Args:
        config: read from a file, or as the model's configuration tells it.
        tokens: V, those that the decoder knows.
        where: it was read, the begin of the error's line.

    Raises:
        CheckpointError: naming the setting, what it is and what is allowed.
    """
    stated = {"decoder_start_token_id": None, "eos_token_id": None, **vars(config)}
    for name, value in stated.items():
        if allowed := _refused(name, value, tokens):
            shown = ascii(value)[:60]
            raise CheckpointError(f"{where} has {name} {shown}; allowed is {allowed}: fetch it again")


def _refused(name: str, value: Any, tokens: int) -> str:
    """What is allowed in the place of a value; "" where it is."""
    one = f"a token of 0 to {tokens - 1}"
    if name == "decoder_start_token_id":
        return "" if _whole(value, 0, tokens - 1) else one
    if name == "eos_token_id":
        many = isinstance(value, list) and len(value) > 0 and all(_whole(end, 0, tokens - 1) for end in value)
        return "" if many or _whole(value, 0, tokens - 1) else f"{one}, or a list of such"
    if value is None:
        return ""
    if name.endswith(_TOKEN):
        return "" if _whole(value, 0, tokens - 1) else one
    if name in _TOKENS:
        good = isinstance(value, list) and all(_whole(token, -1, _LARGEST_TOKEN) for token in value)
        return "" if good else "a list of tokens"
    if name in _TABLES:
        good = isinstance(value, Mapping) and all(_whole(token, 0, tokens - 1) for token in value.values())
        return "" if good else f"names, each with {one}"
    if name in _TEXTS:
        return "" if isinstance(value, str) else "a text"
    if name == "is_multilingual":
        return "" if isinstance(value, bool) else "true or false"
    if name == "forced_decoder_ids":
        return "" if _forced(value, tokens) else f"pairs of a place and {one}"
    if name in _COUNTS:
        return "" if _whole(value, 1, _COUNTS[name]) else f"1 to {_COUNTS[name]:,}"
    return ""


def _forced(value: Any, tokens: int) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and _whole(pair[0], 0, tokens)
        and (pair[1] is None or _whole(pair[1], 0, tokens - 1))
        for pair in value
    )


def _whole(value: Any, lowest: int, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= largest
