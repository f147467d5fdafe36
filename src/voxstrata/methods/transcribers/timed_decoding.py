"""Whisper's own decoder with timestamps: phrases and when they are spoken, within 30 seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessorList
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

from voxstrata.errors import CheckpointError
from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber, quiet
from voxstrata.predictions import NOT_FINITE

#: A step of Whisper's timestamps, in seconds (arXiv 2212.04356, section 2.3).
STEP_S = 0.02
_STAMPS = re.compile(r"<\|\d+\.\d\d\|>")


@dataclass(frozen=True)
class Phrase:
    """Words with the time that Whisper gives them.

    Args:
        text: as Whisper writes it.
        start_s: in seconds from the beginning of the clip; None: not known.
        end_s: likewise.
    """

    text: str
    start_s: float | None
    end_s: float | None


def is_timed(transcriber: WhisperTranscriber) -> bool:
    """Whether the decoder has tokens for times."""
    first = _first_stamp(transcriber)
    if not isinstance(transcriber.decoder.generation_config.eos_token_id, int):
        return False
    return first is not None and first < transcriber.decoder.config.vocab_size


@torch.no_grad()
def phrases(transcriber: WhisperTranscriber, heard: Tensor) -> list[list[Phrase]]:
    """The phrases of each clip, in order.

    Args:
        transcriber: one that `is_timed`; of another one each clip has one phrase without times.
        heard: [B, T, D], see `WhisperTranscriber.heard`.

    Raises:
        CheckpointError: if what it listens to is not finite.
    """
    if not is_timed(transcriber):
        texts = transcriber.texts(transcriber.tokens(heard))
        return [[Phrase(text, None, None)] if text else [] for text in texts]
    if not torch.isfinite(heard).all():
        raise CheckpointError(NOT_FINITE)
    decoder, config = transcriber.decoder, transcriber.decoder.generation_config
    prompt = transcriber.prompt(heard)
    first = _first_stamp(transcriber)
    assert first is not None
    if int(prompt[0, -1]) == first - 1:
        prompt = prompt[:, :-1]
    rules = LogitsProcessorList([WhisperTimeStampLogitsProcessor(config, begin_index=prompt.shape[1])])
    beams = {} if transcriber.num_beams is None else {"num_beams": transcriber.num_beams}
    with quiet():
        # Whisper's own `generate` goes on behind the last timestamp, as if there were more than 30 seconds.
        found = GenerationMixin.generate(
            decoder,
            decoder_input_ids=prompt,
            encoder_outputs=BaseModelOutput(last_hidden_state=heard),
            logits_processor=rules,
            **beams,
        )
    return [_phrases(transcriber, row, first) for row in found[:, prompt.shape[1] :].tolist()]


def _first_stamp(transcriber: WhisperTranscriber) -> int | None:
    """The token of 0 seconds, which stands behind that of no timestamps."""
    untimed = getattr(transcriber.decoder.generation_config, "no_timestamps_token_id", None)
    return None if untimed is None else int(untimed) + 1


def _phrases(transcriber: WhisperTranscriber, tokens: list[int], first: int) -> list[Phrase]:
    """What stands between timestamps; a last phrase may have no end."""
    found: list[Phrase] = []
    words: list[int] = []
    start_s: float | None = None

    def close(end_s: float | None) -> None:
        (text,) = transcriber.texts([words])
        text = " ".join(_STAMPS.sub("", text).split())
        if text:
            found.append(Phrase(text, start_s, end_s))
        words.clear()

    for token in tokens:
        if token < first:
            words.append(token)
            continue
        time_s = (token - first) * STEP_S
        if words:
            close(time_s)
        start_s = time_s
    if words:
        close(None)
    return found
