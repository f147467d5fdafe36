"""HarmoniFuse in a model folder: what describes it beside its encoder, and which tensors it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.heads.task import Task
from voxstrata.labels import LabelSet
from voxstrata.methods.harmonifuse.lm.decoding import DecodingOptions
from voxstrata.methods.harmonifuse.lm.language_model import SmallLM
from voxstrata.methods.harmonifuse.lm.pretrained import PretrainedLM
from voxstrata.methods.harmonifuse.lm.tokenizers import CharacterTokenizer
from voxstrata.methods.harmonifuse.options import (
    ConnectorOptions,
    EncoderFusionOptions,
    HarmoniFuseOptions,
    HarmoniFuseRates,
    LayerFusionOptions,
    build_lm,
)
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.methods.model_description import Shapes
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


def described(about: Mapping[str, Any], encoder: SpeechEncoder, shapes: Shapes) -> HarmoniFuse:
    """The model that `describe` told of, its own tensors not loaded yet.

    A language model from scratch is built without memory first: only what fits the stored tensors is built.

    Args:
        about: what stands in model.json.
        encoder: loaded.
        shapes: of the stored tensors.

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
        if isinstance(options.lm, SmallLM):
            with torch.device("meta"):
                planned = saved_tensors(_built(encoder, tasks, options, vocabulary))
            if {name: tuple(tensor.shape) for name, tensor in planned.items()} != dict(shapes):
                raise CheckpointError(
                    "head.safetensors does not fit model.json beside it; fetch or train both again"
                )
        return _built(encoder, tasks, options, vocabulary)
    except VoxstrataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as fault:
        raise CheckpointError(
            f"model.json of a HarmoniFuse model does not hold ({_line(fault)}); fetch or train it again"
        ) from None


def _built(
    encoder: SpeechEncoder, tasks: Sequence[Task], options: HarmoniFuseOptions, vocabulary: Vocabulary
) -> HarmoniFuse:
    lm, tokenizer = build_lm(options, vocabulary, seed=0)
    return HarmoniFuse(encoder, lm, tokenizer, tasks, options)


def _line(fault: Exception) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0]


def _options(told: Mapping[str, Any]) -> HarmoniFuseOptions:
    lm = told["lm"]
    plain = {name: value for name, value in told.items() if name not in (*_GROUPS, "lm")}
    groups: dict[str, Any] = {name: kind(**told[name]) for name, kind in _GROUPS.items()}
    return HarmoniFuseOptions(lm=PretrainedLM(**lm) if "name" in lm else SmallLM(**lm), **groups, **plain)
