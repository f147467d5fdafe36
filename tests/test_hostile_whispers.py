"""generation_config.json of a whole Whisper that is nonsense: one line before anything is decoded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from hostile import refused
from tiny_whisper import TRANSCRIBE, WAVES, ours, save_whisper, theirs
from voxstrata.methods.transcribers.published_whisper import load_transcriber

#: In the place of any token.
NO_TOKEN = ("x", "257", 1.5, True, -2, 265, 10**12, [], {}, [[1]])
NAMED = ("<|en|>", "transcribe")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Its vocabulary has 265 tokens, 0 to 264."""
    return save_whisper(tmp_path_factory.mktemp("whisper") / "whole")


def changed(whole: Path, folder: Path, changes: dict[str, object], gone: str = "") -> Path:
    shutil.copytree(whole, folder)
    path = folder / "generation_config.json"
    told = json.loads(path.read_text()) | changes
    told.pop(gone, None)
    path.write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize("odd", NO_TOKEN)
@pytest.mark.parametrize(
    "name",
    [
        *("decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id"),
        *("no_timestamps_token_id", "prev_sot_token_id", "lang_to_id", "task_to_id", "forced_decoder_ids"),
    ],
)
def test_what_is_no_token_of_the_decoder_is_refused(name, odd, whole, tmp_path):
    value = {
        "lang_to_id": {NAMED[0]: odd},
        "task_to_id": {NAMED[1]: odd},
        "forced_decoder_ids": [[1, odd]],
    }.get(name, odd)
    refused(f"{name}|cannot use", load_transcriber, changed(whole, tmp_path / "w", {name: value}))


@pytest.mark.parametrize(
    "changes",
    [
        *({"suppress_tokens": odd} for odd in ("x", 3, ["x"], [None])),
        *({"begin_suppress_tokens": odd} for odd in ("x", 3, ["x"], [None])),
        *({"lang_to_id": odd} for odd in ("x", 3, [3])),
        *({"task_to_id": odd} for odd in ("x", 3, [3])),
        *({"forced_decoder_ids": odd} for odd in ("x", 3, [3])),
        *({"is_multilingual": odd} for odd in ("yes", 3, [])),
        *({"language": odd} for odd in (3, ["en"])),
        *({"task": odd} for odd in (3, ["transcribe"])),
        *({"num_beams": odd} for odd in (0, -1, 10**9, 1.5, "2")),
        *({"max_length": odd} for odd in (0, -1, 10**12, "x")),
        *({"num_return_sequences": odd} for odd in (0, 2, "x")),
    ],
)  # fmt: skip
def test_settings_that_no_decoder_has_are_refused(changes, whole, tmp_path):
    refused(f"{next(iter(changes))}|cannot use", load_transcriber, changed(whole, tmp_path / "w", changes))


@pytest.mark.parametrize("gone", ["decoder_start_token_id", "eos_token_id"])
def test_a_text_has_a_start_and_an_end(gone, whole, tmp_path):
    refused(gone, load_transcriber, changed(whole, tmp_path / "w", {}, gone))


def test_what_is_allowed_is_decoded_as_transformers_does(whole, tmp_path):
    folder = changed(whole, tmp_path / "w", {"suppress_tokens": [], "max_length": 20, "eos_token_id": [256]})
    transcriber = load_transcriber(folder, language="en")
    expected = theirs(folder, WAVES[:2], language="en", **TRANSCRIBE)
    found = ours(transcriber, WAVES[:2])
    assert [row[: len(mine)] for row, mine in zip(map(_said, expected), found, strict=True)] == found
    assert torch.tensor([len(row) for row in found]).sum() > 0


def _said(tokens: list[int]) -> list[int]:
    """Without prompt: start, language, task, no timestamps."""
    return tokens[4:] if tokens[0] == 257 else tokens
