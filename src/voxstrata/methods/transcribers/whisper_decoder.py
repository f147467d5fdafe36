"""Whisper's own decoder (arXiv 2212.04356) over a speech encoder: its words, or the loss of given ones.

The decoder is frozen and runs by transformers' `generate` on what the encoder gives for 30 seconds. Over
Whisper's own encoder that is Whisper as transformers runs it; over a merged one it tells what merging left of
the words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.errors import CheckpointError, LabelError
from voxstrata.methods.encoder_models import Backbone, Model, TranscriptionModel
from voxstrata.predictions import NOT_FINITE, Prediction


class WhisperTranscriber(Model):
    """An encoder and Whisper's decoder on its last layer, all frozen.

    Decoding follows the decoder's own generation config (greedy in all releases), without timestamps. A
    multilingual decoder transcribes, in the language that it hears in each clip unless one is given.
    Transcripts keep Whisper's capitals, punctuation and digits.

    Args:
        encoder: a Whisper encoder with window "30s", plain or merged. Where it has no `final_norm`, its last
            layer is normalised here.
        decoder: see `published_whisper.load_decoder`.
        tokenizer: of the decoder.
        source: where the decoder comes from, for messages.
        language: of all clips, as a code ("en"), a name ("english") or a token ("<|en|>"); None for the
            generation config's own, or else the one that is heard.
        num_beams: of the search; None for the generation config's own.

    Raises:
        CheckpointError: if encoder and decoder do not fit, or the decoder does not know the language.
    """

    encoder: Backbone

    def __init__(
        self,
        encoder: Backbone,
        decoder: WhisperForConditionalGeneration,
        tokenizer: WhisperTokenizer,
        *,
        source: str | Path,
        language: str | None = None,
        num_beams: int | None = None,
    ) -> None:
        super().__init__()
        self.source = str(source)
        self.encoder = self._fitting(encoder, decoder.config)
        self.decoder = decoder.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.num_beams = num_beams
        self.multilingual = bool(self._told("is_multilingual", self._told("lang_to_id")))
        self.language = self._language(language)

    def predict(self, batch: Batch) -> list[Prediction]:
        """The transcript of each clip, as Whisper writes it.

        Raises:
            AudioError: naming clips over 30 seconds.
        """
        return TranscriptionModel.rows(batch, self.texts(self.tokens(self.heard(batch))))

    def heard(self, batch: Batch) -> Tensor:
        """What the decoder listens to: the encoder's last layer, normalised, [B, T, D]; T frames of 30 s."""
        last: Tensor = self.encoder(batch.waveforms, batch.lengths).layers[-1]
        plain = self.encoder if isinstance(self.encoder, SpeechEncoder) else self.encoder.base
        if plain.final_norm:
            return last
        norm = plain.family.final_norm(plain.model)
        assert norm is not None
        normed: Tensor
        if isinstance(self.encoder, SpeechEncoder):
            normed = norm(last)
            return normed
        (prefix,) = plain.family.behind_layers(plain.model.config)
        weights = self.encoder.weights()
        merged = {name: weights[prefix + name] for name, _ in norm.named_parameters()}
        normed = functional_call(norm, merged, (last,))
        return normed

    @torch.no_grad()
    def tokens(self, heard: Tensor) -> list[list[int]]:
        """What the decoder says for [B, T, D] of `heard`: tokens of each clip, without prompt and end.

        Raises:
            CheckpointError: if what it listens to is not finite.
        """
        if not torch.isfinite(heard).all():
            raise CheckpointError(NOT_FINITE)
        asked: dict[str, Any] = {} if self.num_beams is None else {"num_beams": self.num_beams}
        if self.multilingual:
            asked |= {"task": self._task(), "language": self.language}
        with quiet():
            found = self.decoder.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=heard),
                return_timestamps=False,
                return_dict_in_generate=False,
                **asked,
            )
        ends = {self.decoder.generation_config.pad_token_id, *self._ends()}
        rows: list[list[int]] = found.tolist()
        for row in rows:
            while row and row[-1] in ends:
                row.pop()
        return rows

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Tokens as text, without special tokens and without space at its ends."""
        return [self.tokenizer.decode(list(row), skip_special_tokens=True).strip() for row in tokens]

    @torch.no_grad()
    def prompt(self, heard: Tensor) -> Tensor:
        """What stands before the words: start, language and task where there are several, no timestamps.

        Args:
            heard: [B, T, D] of `heard`; the language of each clip is heard in it where none is given.

        Returns:
            int64 [B, P].
        """
        start = [self.decoder.generation_config.decoder_start_token_id]
        rows = heard.shape[0]
        if not self.multilingual:
            fixed = torch.tensor(start + [token for token in self._forced() if token], device=heard.device)
            prompt = fixed.expand(rows, -1)
        else:
            if self.language is None:
                outputs = BaseModelOutput(last_hidden_state=heard)
                languages = self.decoder.detect_language(encoder_outputs=outputs)
            else:
                languages = torch.full((rows,), self._told("lang_to_id")[self.language], device=heard.device)
            task = torch.full_like(languages, self._told("task_to_id")[self._task()])
            prompt = torch.stack([torch.full_like(languages, start[0]), languages, task], dim=1)
        untimed = self._told("no_timestamps_token_id")
        if untimed is None or int(prompt[0, -1]) == untimed:
            return prompt
        return F.pad(prompt, (0, 1), value=untimed)

    def token_loss(self, heard: Tensor, texts: Sequence[str]) -> Tensor:
        """Cross-entropy of given words, mean over the tokens of each clip and its end; [B].

        Differentiable in `heard`. The decoder reads each token of the text in turn (teacher forcing) behind
        `prompt`. Whisper writes sentences with capitals and punctuation, so texts in another style cost more
        than what was heard wrong.

        Args:
            heard: [B, T, D], the encoder's last layer, normalised.
            texts: B texts, spelled as Whisper would write them.

        Raises:
            LabelError: if a text has more tokens than the decoder has positions for.
        """
        prompt = self.prompt(heard.detach())
        end = int(self._ends()[0])
        # A word begins with its space, also the first one.
        words = [
            self.tokenizer(f" {text.strip()}" if text.strip() else "", add_special_tokens=False).input_ids
            for text in texts
        ]
        room = self.decoder.config.max_target_positions - prompt.shape[1]
        if (most := max(map(len, words))) > room:
            text = texts[[len(row) for row in words].index(most)]
            raise LabelError(
                f"text {text[:40]!r}... has {most} tokens and Whisper's decoder room for {room}; shorten it, "
                "or leave the clip out"
            )
        rows = [torch.tensor([*row, end], device=heard.device) for row in words]
        labels = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        read = torch.cat([prompt, labels[:, :-1].clamp(min=0)], dim=1)
        logits = self.decoder(
            encoder_outputs=BaseModelOutput(last_hidden_state=heard),
            decoder_input_ids=read,
            use_cache=False,
        ).logits[:, prompt.shape[1] - 1 :]
        costs = F.cross_entropy(logits.float().mT, labels, reduction="none", ignore_index=-100)
        return costs.sum(1) / (labels != -100).sum(1)

    def train(self, mode: bool = True) -> Self:
        """The decoder stays in eval mode: it is never trained."""
        super().train(mode)
        self.decoder.eval()
        return self

    def _fitting(self, encoder: Backbone, config: WhisperConfig) -> Backbone:
        """The encoder, if the decoder can listen to it."""
        plain = encoder if isinstance(encoder, SpeechEncoder) else encoder.base
        if plain.window != "30s":
            raise CheckpointError(
                f"Whisper's decoder listens to 30 seconds; the encoder has window {plain.window!r}: give one "
                "of a Whisper with window '30s'"
            )
        if encoder.hidden_size != config.d_model:
            raise CheckpointError(
                f"the decoder of {self.source} listens to {config.d_model} features a frame, the encoder has "
                f"{encoder.hidden_size}; give the decoder of the Whisper that the encoder comes from"
            )
        return encoder

    def _told(self, name: str, default: Any = None) -> Any:
        """What the generation config tells; None or the default where it does not."""
        return getattr(self.decoder.generation_config, name, default)

    def _ends(self) -> list[int]:
        """The tokens that end a text."""
        ends = self.decoder.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]

    def _task(self) -> str:
        """Always named: transformers' prompt has no task where neither it nor a language is."""
        return self._told("task") or "transcribe"

    def _forced(self) -> list[int | None]:
        """The prompt behind the start as older folders name it; None for a language that is heard."""
        stated = self._told("forced_decoder_ids") or getattr(self.decoder.config, "forced_decoder_ids", None)
        return [token for _, token in stated or ()]

    def _language(self, given: str | None) -> str | None:
        """The token of the language that is given, or that the folder names; None to hear it."""
        if not self.multilingual:
            if given is None:
                return None
            raise CheckpointError(
                f"{self.source} knows English only (or no lang_to_id in generation_config.json tells more); "
                "leave the language out"
            )
        known: dict[str, int] = self._told("lang_to_id") or {}
        if not known or not self._told("task_to_id"):
            raise CheckpointError(
                f"generation_config.json of {self.source} has no lang_to_id or no task_to_id, as older ones; "
                "fetch it again from where the model comes from"
            )
        stated = given or self._told("language")
        if stated is None:
            tokens = {index: token for token, index in known.items()}
            return next((tokens[token] for token in self._forced() if token in tokens), None)
        name = stated.lower()
        for token in (name, f"<|{name}|>", f"<|{TO_LANGUAGE_CODE.get(name)}|>"):
            if token in known:
                return token
        codes = sorted(token.strip("<|>") for token in known)
        raise CheckpointError(
            f"{self.source} does not know the language {stated!r}; it knows {len(codes)}, by code or English "
            f"name: {', '.join(codes[:12])}{', ...' if len(codes) > 12 else ''}; "
            "leave the language out to have it recognised"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what transformers warns of: its own call of itself, and a mask that Whisper does not use."""

    def worth_telling(record: logging.LogRecord) -> bool:
        stated = record.getMessage()
        return "generation-related arguments" not in stated and "attention mask is not set" not in stated

    logger = logging.getLogger("transformers.generation.utils")
    logger.addFilter(worth_telling)
    try:
        yield
    finally:
        logger.removeFilter(worth_telling)
