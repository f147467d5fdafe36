"""Whisper's encoder as a module of its own, where a whole model has it."""

from __future__ import annotations

from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperPreTrainedModel


class WhisperEncoderModel(WhisperPreTrainedModel):  # type: ignore[misc]  # transformers has no types
    """The encoder under the name that whole models give it, `encoder`; without a decoder."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.encoder = WhisperEncoder(config)
        self.post_init()
