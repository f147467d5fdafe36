"""A model with a CTC head as transformers' own `...ForCTC`, with the files of its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CTC_MAPPING, PretrainedConfig, PreTrainedModel

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.errors import CheckpointError
from voxstrata.exporting.added_layer import with_norm_behind
from voxstrata.exporting.plain_model import Answer, PlainModel, encoder_and_state, require_filled
from voxstrata.heads.ctc import CTCHead
from voxstrata.methods.adaltm.joint import JointModel
from voxstrata.methods.encoder_models import MultitaskModel, TranscriptionModel
from voxstrata.vocabulary import Vocabulary

#: The last stands for the space between words; other ones are read by few versions of transformers.
_BLANK, _UNKNOWN, _DELIMITER = "<pad>", "<unk>", "|"


def ctc_model(model: Any) -> PlainModel:
    """A model that transcribes with CTC, in transformers' class for its encoder.

    Args:
        model: as `load_model` gives it.

    Raises:
        CheckpointError: if it has no CTC head, or the class cannot compute the same.
    """
    head = _head_of(model)
    answering = model.words_encoder or model.encoder if isinstance(model, JointModel) else model.encoder
    encoder, state = encoder_and_state(answering)
    config = encoder.stored_config()
    kind = _class_for(encoder, config)
    if encoder.final_norm and isinstance(head.norm, nn.LayerNorm):
        raise CheckpointError(
            "the CTC head normalises a last state that final_norm has normalised before, and transformers' "
            "class has one norm there; train with final_norm=false, or export without --as"
        )
    config, state = with_norm_behind(encoder, state, config, head)
    vocabulary = head.vocabulary
    config.architectures = [kind.__name__]
    config.vocab_size = len(vocabulary)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = vocabulary.blank, None, None
    tensors = {f"{kind.base_model_prefix}.{name}": tensor for name, tensor in state.items()}
    tensors |= {f"lm_head.{name}": tensor for name, tensor in head.lm_head.state_dict().items()}
    require_filled(kind, config, tensors)
    more = config.num_hidden_layers > encoder.num_layers
    return PlainModel(
        form="ctc",
        config=config,
        tensors=tensors,
        preprocessor=encoder.family.preprocessor(config, normalize=encoder.normalize),
        answers=_Answers(answering, head),
        longest=encoder.longest,
        shortest=encoder.front_end.samples(1),
        extras=tokenizer_files(vocabulary),
        left_out=_left_out(model),
        notes=["it has one layer more than the run's encoder: the norm of the CTC head"] if more else [],
        sees_padding=config.feat_extract_norm == "group",
    )


def tokenizer_files(vocabulary: Vocabulary) -> dict[str, Any]:
    """File name -> JSON content of a `Wav2Vec2CTCTokenizer` that writes what the vocabulary does.

    Raises:
        CheckpointError: if the vocabulary has the character that stands for the space there.
    """
    if _DELIMITER in vocabulary.characters:
        raise CheckpointError(
            f"the vocabulary has the character {_DELIMITER!r}, which transformers' tokenizer writes as a "
            "space; train on transcripts without it, or export without --as"
        )
    tokens = [_BLANK, *(_DELIMITER if text == " " else text for text in vocabulary.characters)]
    settings = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "pad_token": _BLANK,
        "unk_token": _UNKNOWN,
        "bos_token": None,
        "eos_token": None,
        "word_delimiter_token": _DELIMITER,
        "replace_word_delimiter_char": " ",
        "do_lower_case": False,
        # It would take the space from before an apostrophe.
        "clean_up_tokenization_spaces": False,
    }
    return {
        "vocab.json": {token: index for index, token in enumerate(tokens)},
        "tokenizer_config.json": settings,
    }


def _head_of(model: Any) -> CTCHead:
    if isinstance(model, TranscriptionModel):
        return model.head
    if isinstance(model, MultitaskModel):
        return model.transcriber
    raise CheckpointError(
        "this model has no CTC head, which --as ctc writes; give the run that learned the words "
        "(finetune-asr, multitask, or adaltm with tasks)"
    )


def _class_for(encoder: SpeechEncoder, config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class of transformers for an encoder's type."""
    kind: type[PreTrainedModel] | None = MODEL_FOR_CTC_MAPPING.get(type(config), None)
    if kind is None:
        advice = "--as whisper writes its words with a decoder, " if "30s" in encoder.family.windows else ""
        raise CheckpointError(
            f"transformers has no CTC class over an encoder of type {config.model_type!r}; {advice}"
            "--as encoder the encoder alone, and without --as voxstrata reads encoder and head"
        )
    return kind


def _left_out(model: Any) -> list[str]:
    if not isinstance(model, MultitaskModel):
        return []
    merge = isinstance(model, JointModel) and model.merges_per_task
    return [
        "the emotion head and its layer weights (--as emotion writes them)",
        *(["the encoder that was merged for emotions"] if merge else []),
    ]


@dataclass(frozen=True)
class _Answers:
    """A CTC head's own logits and greedy transcripts."""

    encoder: Any
    head: CTCHead

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, lengths: Tensor) -> list[Answer]:
        states = self.encoder(waveforms, lengths)
        logits = self.head(states.layers[-1])
        texts = self.head.transcribe(logits, states.lengths)
        counts = states.lengths.tolist()
        rows = zip(logits, counts, texts, strict=True)
        return [Answer({"logits": row[:count]}, text) for row, count, text in rows]
