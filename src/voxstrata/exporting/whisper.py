"""A whole Whisper: a run's encoder and the decoder of a published one, with its tokenizer."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.locate import here
from voxstrata.errors import CheckpointError
from voxstrata.exporting.plain_model import Answer, PlainModel, batch_of, encoder_and_state, require_filled
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.transcribers.published_whisper import find_transcriber, load_transcriber
from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber

#: Settings of the encoder in the configuration of a whole Whisper.
_OF_ENCODER = (
    *("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins"),
    *("max_source_positions", "activation_function", "encoder_layerdrop", "num_hidden_layers"),
)
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"),
    *("added_tokens.json", "normalizer.json", "generation_config.json"),
)
_OUTPUT = "proj_out.weight"
#: Tokens that are compared behind the prompt.
_COMPARED = 24


def whisper_model(
    encoder: SpeechEncoder | MergedBackbone | ParallelEncoders, source: str | Path
) -> PlainModel:
    """An encoder with the decoder of a whole Whisper.

    Args:
        encoder: of a Whisper, merged or not.
        source: a folder with decoder and tokenizer, or the hub id of one that was downloaded.

    Raises:
        CheckpointError: if the encoder is of no Whisper, there is no such decoder, or it does not fit.
    """
    plain, state = encoder_and_state(encoder)
    config = plain.stored_config()
    if not isinstance(config, WhisperConfig):
        raise CheckpointError(
            f"the encoder is of type {config.model_type!r}, and only a Whisper's fits Whisper's decoder; "
            "export words with --as ctc, or the encoder with --as encoder"
        )
    if find_transcriber(source) is None:
        raise CheckpointError(
            f"{source} holds no whole Whisper with a decoder; name one with --decoder: a folder of "
            "transformers with its tokenizer, or a downloaded hub id"
        )
    merged = _in_30_seconds(plain, state)
    transcriber = load_transcriber(source, merged)
    folder = here(source)
    config, tensors = _whole(config, state, transcriber)
    require_filled(WhisperForConditionalGeneration, config, tensors)
    if config.tie_word_embeddings:
        tensors.pop(_OUTPUT)
    return PlainModel(
        form="whisper",
        config=config,
        tensors=tensors,
        preprocessor=plain.family.preprocessor(config, normalize=plain.normalize),
        answers=_Answers(transcriber),
        longest=plain.longest,
        shortest=plain.front_end.samples(1),
        copied=[folder / name for name in _TOKENIZER if (folder / name).is_file()],
        notes=["the decoder is that of the published Whisper, unchanged; it reads what the encoder gives"],
        asked={"task": "transcribe"} if transcriber.multilingual else {},
    )


def _in_30_seconds(plain: SpeechEncoder, state: dict[str, Tensor]) -> SpeechEncoder:
    """The weights over 30 seconds, as the decoder reads them."""
    model = copy.deepcopy(plain.model)
    model.load_state_dict(state)
    return SpeechEncoder(model, normalize=plain.normalize, final_norm=True, window="30s").eval()


def _whole(
    encoder: WhisperConfig, state: dict[str, Tensor], transcriber: WhisperTranscriber
) -> tuple[WhisperConfig, dict[str, Tensor]]:
    """Configuration and tensors of both halves."""
    config = copy.deepcopy(transcriber.decoder.config)
    for name in _OF_ENCODER:
        setattr(config, name, getattr(encoder, name))
    config.architectures = ["WhisperForConditionalGeneration"]
    tensors = {f"model.{name}": tensor for name, tensor in state.items()}
    return config, tensors | dict(transcriber.decoder.state_dict())


@dataclass(frozen=True)
class _Answers:
    """What the decoder reads of each clip, its scores of the next tokens, and its words."""

    transcriber: WhisperTranscriber

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, lengths: Tensor) -> list[Answer]:
        transcriber = self.transcriber
        states = transcriber.heard(batch_of(waveforms, lengths))
        tokens = transcriber.tokens(states)
        found: list[Answer] = []
        for row, prompt in zip(states, transcriber.prompt(states), strict=True):
            words = torch.tensor(tokens[len(found)][:_COMPARED], dtype=prompt.dtype)
            read = torch.cat([prompt, words])
            logits = transcriber.decoder(
                encoder_outputs=(row.unsqueeze(0),), decoder_input_ids=read.unsqueeze(0), use_cache=False
            ).logits[0]
            (text,) = transcriber.texts([tokens[len(found)]])
            found.append(Answer({"state": row, "logits": logits}, text, {"tokens": read}))
        return found
