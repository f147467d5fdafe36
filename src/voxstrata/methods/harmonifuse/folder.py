"""HarmoniFuse in a model folder: what describes it beside its encoder, and which tensors it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.config.problems import problems_in
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.heads.task import Task
from voxstrata.labels import LabelSet
from voxstrata.methods.harmonifuse.lm.pretrained import build_lm
from voxstrata.methods.harmonifuse.lm.tokenizers import CharacterTokenizer
from voxstrata.methods.harmonifuse.options import HarmoniFuseOptions
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.methods.model_description import Description, Shapes
from voxstrata.methods.model_kinds import Load, ModelKind
from voxstrata.vocabulary import Vocabulary


class _HarmoniFuse(ModelKind):
    name = "harmonifuse"
    about = "A speech language model that answers each task by its prompt (HarmoniFuse)."
    parts = ()

    def holds(self, model: nn.Module) -> bool:
        return isinstance(model, HarmoniFuse)

    def describe(self, model: HarmoniFuse) -> dict[str, Any]:
        tokenizer = model.tokenizer
        return {
            "tasks": [
                {
                    "name": task.name,
                    "labels": None if task.labels is None else list(task.labels),
                    "field": task.field,
                    "weight": task.weight,
                }
                for task in model.tasks.values()
            ],
            "options": _told(model.options),
            "vocabulary": list(tokenizer.vocabulary.characters)
            if isinstance(tokenizer, CharacterTokenizer)
            else None,
        }

    def build(self, folder: Path, stated: Description, shapes: Shapes, load: Load) -> HarmoniFuse:
        return _described(stated.about, load(folder / "encoder"), shapes)

    def tensors(self, model: HarmoniFuse) -> Mapping[str, Tensor]:
        given = model.options.lm.pretrained is not None
        return {
            name: tensor
            for name, tensor in super().tensors(model).items()
            if not (given and name.startswith("lm.") and "lora_" not in name)
        }


HARMONIFUSE = _HarmoniFuse()


def _described(about: Mapping[str, Any], encoder: SpeechEncoder, shapes: Shapes) -> HarmoniFuse:
    """The model that model.json tells of, its own tensors not loaded yet.

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
        if options.lm.pretrained is None:
            with torch.device("meta"):
                planned = HARMONIFUSE.tensors(_built(encoder, tasks, options, vocabulary))
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
    if isinstance(fault, ValidationError):
        return problems_in(fault, HarmoniFuseOptions.model_json_schema())[0]
    return (str(fault).splitlines() or [type(fault).__name__])[0]


def _told(options: HarmoniFuseOptions) -> dict[str, Any]:
    stated = options.model_dump(include=set(HarmoniFuseOptions.model_fields))
    of_pretrained = ("pretrained", "rank", "scale", "adapter_dropout")
    given = options.lm.pretrained is not None
    stated["lm"] = {key: value for key, value in stated["lm"].items() if (key in of_pretrained) == given}
    return stated


def _options(stated: Mapping[str, Any]) -> HarmoniFuseOptions:
    """Of model.json; that of version 0.1 described a pretrained language model by other keys."""
    lm = dict(stated["lm"])
    if "name" in lm:
        lm = {"pretrained": lm.pop("name"), "adapter_dropout": lm.pop("dropout"), **lm}
    return HarmoniFuseOptions.model_validate({**stated, "lm": lm})
