"""A merge with coefficients for each task in a model folder: base and vectors, merged when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.finite import require_finite
from voxstrata.errors import CheckpointError
from voxstrata.heads.ctc import CTCHead
from voxstrata.methods.adaltm.joint import EMOTIONS, TASKS, WORDS, JointModel
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.model_description import DESCRIPTION, VECTORS, Description, Shapes, file_names
from voxstrata.methods.model_kinds import Load, ModelKind, describe_both_heads


class _PerTask(ModelKind):
    name = "per-task-merge"
    about = (
        "A model that recognises emotions and words: a base encoder, task vectors that are merged into it "
        "anew for each task, and two heads."
    )
    parts = ("labels", "head", "vocabulary")

    def holds(self, model: nn.Module) -> bool:
        return isinstance(model, JointModel) and model.merges_per_task

    def describe(self, model: JointModel) -> dict[str, Any]:
        merges = {task: model.merge_of(task).coefficients_by_layer() for task in TASKS}
        stated = {"vectors": list(model.encoder.vectors), "coefficients": merges}
        return describe_both_heads(model) | stated

    def build(self, folder: Path, stated: Description, shapes: Shapes, load: Load) -> JointModel:
        assert stated.labels is not None and stated.vocabulary is not None
        encoder = load(folder / "encoder")
        head = CTCHead(encoder.hidden_size, stated.vocabulary)
        merges = _merges(folder, stated.about, encoder)
        return JointModel(merges[EMOTIONS], stated.labels, head, stated.head, merges[WORDS])

    def tensors(self, model: JointModel) -> Mapping[str, Tensor]:
        tensors = super().tensors(model)
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("words_encoder.")}

    def save_encoder(self, model: JointModel, folder: Path, dtype: torch.dtype | None) -> None:
        merged = model.encoder
        merged.base.save(folder / "encoder", dtype=dtype)
        base = {name: weight.to(dtype).float() for name, weight in merged.base.weights().items()}
        for name, vector in merged.task_vectors().items():
            stored = replace(vector, base_fingerprint=fingerprint(base))
            stored.save(folder / VECTORS / f"{name}.safetensors", dtype=dtype or torch.float32)


PER_TASK = _PerTask()


def _merges(folder: Path, about: Mapping[str, Any], base: SpeechEncoder) -> dict[str, MergedBackbone]:
    """Task -> the merged encoder that answers it; base and vectors are held once."""
    try:
        names = file_names(about["vectors"])
        coefficients = {task: torch.tensor(about["coefficients"][task]).float() for task in (EMOTIONS, WORDS)}
    except (KeyError, TypeError, ValueError, RuntimeError) as fault:
        raise CheckpointError(
            f"{folder / DESCRIPTION} does not list vectors and coefficients ({fault}); fetch or train it "
            "again"
        ) from None
    require_finite(coefficients.items(), folder / DESCRIPTION)
    vectors = {name: TaskVector.load(folder / VECTORS / f"{name}.safetensors") for name in names}
    first = MergedBackbone(base, vectors, granularity="layer")
    merges = {EMOTIONS: first, WORDS: first.twin()}
    for task, merged in merges.items():
        values = coefficients[task]
        if values.shape != merged.coefficients.shape:
            raise CheckpointError(
                f"{folder / 'model.json'} has coefficients {list(values.shape)} of task {task}; this base "
                f"and its vectors take {list(merged.coefficients.shape)}: fetch or train it again"
            )
        with torch.no_grad():
            merged.coefficients.copy_(values)
    return merges
