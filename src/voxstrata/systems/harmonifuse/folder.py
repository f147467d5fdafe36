"""HarmoniFuse in a model folder: what describes it beside its encoder, and which tensors it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.errors import CheckpointError
from voxstrata.heads.tasks import Task
from voxstrata.labels import LabelSet
from voxstrata.speech_lm.decoding import DecodingOptions
from voxstrata.speech_lm.language_model import SmallLM
from voxstrata.speech_lm.pretrained import PretrainedLM
from voxstrata.speech_lm.tokenizers import CharacterTokenizer
from voxstrata.systems.harmonifuse.options import (
    ConnectorOptions,
    EncoderFusionOptions,
    HarmoniFuseOptions,
    HarmoniFuseRates,
    LayerFusionOptions,
    build_lm,
)
from voxstrata.systems.harmonifuse.system import HarmoniFuse
from voxstrata.vocabulary import Vocabulary

KIND = "harmonifuse"
#: Options that are groups of options.
_GROUPS = {
    "encoder_fusion": EncoderFusionOptions,
    "layer_fusion": LayerFusionOptions,
    "connector": ConnectorOptions,
    "decoding": DecodingOptions,
    "rates": HarmoniFuseRates,
}


def describe(model: HarmoniFuse) -> dict[str, Any]:
    """For model.json: tasks, options, the characters of a language model from scratch."""
    tokenizer = model.tokenizer
    return {
        "kind": KIND,
        "tasks": [
            {
                "name": task.name,
                "labels": None if task.labels is None else list(task.labels),
                "field": task.field,
                "weight": task.weight,
            }
            for task in model.tasks.values()
        ],
        "options": asdict(model.options),
        "vocabulary": list(tokenizer.vocabulary.characters)
        if isinstance(tokenizer, CharacterTokenizer)
        else None,
    }


def saved_tensors(model: HarmoniFuse) -> dict[str, Tensor]:
    """All tensors that neither the encoder's folder nor a pretrained language model's name stands for."""
    given = isinstance(model.options.lm, PretrainedLM)
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("encoder.") and not (given and name.startswith("lm.") and "lora_" not in name)
    }


def described(about: Mapping[str, Any], encoder: SpeechEncoder) -> HarmoniFuse:
    """The model that `describe` told of, its own tensors not loaded yet.

    Args:
        about: what stands in model.json.
        encoder: loaded.

    Raises:
        CheckpointError: if a pretrained language model cannot be had, or the description does not hold.
    """
    try:
        options = _options(about["options"])
        tasks = [
            Task(
                row["name"],
                None if row["labels"] is None else LabelSet(tuple(row["labels"])),
                row["field"],
                row["weight"],
            )
            for row in about["tasks"]
        ]
        vocabulary = Vocabulary(tuple(about["vocabulary"] or ()))
    except (KeyError, TypeError) as fault:
        raise CheckpointError(
            f"model.json of a HarmoniFuse model does not hold ({fault}); fetch or train it again"
        ) from None
    lm, tokenizer = build_lm(options, vocabulary, seed=0)
    return HarmoniFuse(encoder, lm, tokenizer, tasks, options)


def _options(told: Mapping[str, Any]) -> HarmoniFuseOptions:
    lm = told["lm"]
    plain = {name: value for name, value in told.items() if name not in (*_GROUPS, "lm")}
    groups: dict[str, Any] = {name: kind(**told[name]) for name, kind in _GROUPS.items()}
    return HarmoniFuseOptions(lm=PretrainedLM(**lm) if "name" in lm else SmallLM(**lm), **groups, **plain)
