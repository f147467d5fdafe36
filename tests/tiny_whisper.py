"""A whole tiny Whisper of two seconds, with random weights, a tokenizer of bytes and what is asked of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from voxstrata.batches.batch import Batch, Reference
from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber

BYTES = sorted(ByteLevel.alphabet())
LANGUAGES = ("en", "de", "fr", "cy")
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|notimestamps|>",
)
TOKENS = {token: index for index, token in enumerate((*BYTES, *SPECIAL))}
END, START = TOKENS["<|endoftext|>"], TOKENS["<|startoftranscript|>"]
#: Longest clip, in samples.
LONGEST = 32_000
#: What a multilingual one is asked for: where no language is named, transformers names no task by itself.
TRANSCRIBE = {"task": "transcribe"}


def config(**changes: Any) -> WhisperConfig:
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": len(TOKENS)}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    room = {"max_source_positions": 100, "max_target_positions": 40}
    ids = {"pad_token_id": END, "bos_token_id": END, "eos_token_id": END, "decoder_start_token_id": START}
    spread = {"init_std": 0.5, "dropout": 0.3, "encoder_layerdrop": 0.0}
    return WhisperConfig(**{**sizes, **heads, **widths, **room, **ids, **spread, **changes})


def generation(multilingual: bool) -> dict[str, Any]:
    """What generation_config.json says in the releases."""
    told: dict[str, Any] = {
        "begin_suppress_tokens": [TOKENS["Ġ"], END],
        "bos_token_id": END,
        "decoder_start_token_id": START,
        "eos_token_id": END,
        "is_multilingual": multilingual,
        "max_length": 40,
        "no_timestamps_token_id": TOKENS["<|notimestamps|>"],
        "pad_token_id": END,
        "suppress_tokens": [TOKENS[name] for name in SPECIAL[1:]],
    }
    if multilingual:
        told["lang_to_id"] = {f"<|{code}|>": TOKENS[f"<|{code}|>"] for code in LANGUAGES}
        told["task_to_id"] = {name: TOKENS[f"<|{name}|>"] for name in ("transcribe", "translate")}
    return told


def save_whisper(
    folder: Path,
    *,
    multilingual: bool = True,
    seed: int = 10,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Path:
    """Writes a whole Whisper as transformers does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config(**changes))
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                # Of released models they are anything but 1 and 0.
                torch.nn.init.normal_(module.weight, 1, 0.3)
                torch.nn.init.normal_(module.bias, 0, 0.3)
        # transformers starts the row of the padding at zero, and so would the end never be said.
        torch.nn.init.normal_(model.model.decoder.embed_tokens.weight.data[END], 0, 1.2)
    model.to(dtype).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(generation(multilingual)))
    WhisperFeatureExtractor(chunk_length=2).save_pretrained(folder)
    tokenizer = WhisperTokenizer(vocab={token: TOKENS[token] for token in (*BYTES, SPECIAL[0])}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.save_pretrained(folder)
    return folder


def whole(folder: Path) -> WhisperForConditionalGeneration:
    """The oracle: transformers' own."""
    return WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def features(folder: Path, wave: torch.Tensor) -> torch.Tensor:
    extract = WhisperFeatureExtractor.from_pretrained(folder)
    return extract(wave.numpy(), sampling_rate=16_000, return_tensors="pt").input_features


def theirs(folder: Path, waves: Sequence[torch.Tensor], **asked: Any) -> list[list[int]]:
    """What transformers says for each clip alone."""
    model = whole(folder)
    return [model.generate(features(folder, wave), **asked)[0].tolist() for wave in waves]


def ours(transcriber: WhisperTranscriber, waves: Sequence[torch.Tensor]) -> list[list[int]]:
    """What the decoder says for a batch of clips."""
    with torch.no_grad():
        return transcriber.tokens(transcriber.heard(batch_of(waves)))


def tone(seed: int, samples: int) -> torch.Tensor:
    """A few harmonics of a moving pitch in noise."""
    rng = np.random.default_rng(seed)
    pitch = rng.uniform(80, 400) * np.exp(rng.uniform(-1, 1) * np.linspace(0, 1, samples))
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    wave = sum(rng.uniform(0, 1) * np.sin(k * phase) for k in range(1, 12))
    wave = wave + rng.uniform(0.01, 1) * rng.normal(size=samples)
    return torch.from_numpy((0.1 * wave).astype(np.float32))


#: Clips of several lengths, the longest and a short one among them.
WAVES = [tone(seed, samples) for seed, samples in enumerate((LONGEST, 8000, 21_000, 16_000, 5000, 30_000))]


def batch_of(waves: Sequence[torch.Tensor], words: str | None = None) -> Batch:
    return Batch(
        tuple(Reference(f"clip-{i}", transcript=words) for i in range(len(waves))),
        torch.nn.utils.rnn.pad_sequence(list(waves), batch_first=True),
        torch.tensor([len(wave) for wave in waves]),
    )
