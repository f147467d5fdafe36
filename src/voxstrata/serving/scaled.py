"""A model at other scales of what was added to its base: W_base + a (W_model - W_base).

Of a merge, W_model - W_base is the sum of coefficients times task vectors (AdaLTM, arXiv 2603.25041, equation
4), so a scales all coefficients at once. Of a fine-tuned model it is the task vector itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.backbone.locate import locate
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.inference.models import base_of_run
from voxstrata.inference.recognizer import Recognizer
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.encoder_models import MultitaskModel, TranscriptionModel
from voxstrata.methods.model_folder import find_model
from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber
from voxstrata.runs import RunFolder

#: The base alone, and one and a half times what was added.
LOWEST, HIGHEST = 0.0, 1.5


@dataclass(frozen=True)
class _Weights:
    """Tensors that follow the scale: those in use, the base's and the model's."""

    used: dict[str, Tensor]
    base: dict[str, Tensor]
    model: dict[str, Tensor]

    @torch.no_grad()
    def set(self, scale: float) -> None:
        for name, weight in self.used.items():
            # Exact at 0 and at 1.
            weight.copy_(torch.lerp(self.base[name], self.model[name], scale))


class Scaled:
    """A recognizer whose encoder can be set between its base and beyond the model.

    The recognizer that is given stays as it is. For one thread at a time.

    Args:
        recognizer: of the model.
        base: weights of the base by name; None: of a model that holds base and vectors itself.

    Raises:
        CheckpointError: if the base does not fit, or the model has no encoder of that kind.
    """

    def __init__(self, recognizer: Recognizer, base: dict[str, Tensor] | None) -> None:
        first = recognizer.models[0].encoder
        self._weights: list[_Weights] = []
        if isinstance(first, SpeechEncoder):
            encoders = self._of_weights(first, base, recognizer)
        elif isinstance(first, MergedBackbone):
            encoders = self._of_coefficients(recognizer)
        else:
            raise CheckpointError("the slider needs a model with one encoder, and this one has another form")
        models = [_with(model, encoders) for model in recognizer.models]
        self.recognizer = Recognizer(models, recognizer.notes)
        whisper: list[Any] = [model for model in models if isinstance(model, WhisperTranscriber)]
        listeners = whisper or [m for m in models if isinstance(m, MultitaskModel | TranscriptionModel)]
        #: Whether the words come from the encoder that is scaled; a decoder beside a model has its own.
        self.words_follow = any(all(model is not old for old in recognizer.models) for model in listeners)

    @classmethod
    def of(cls, recognizer: Recognizer, source: str | Path) -> Scaled:
        """The slider of a run or model folder.

        Args:
            recognizer: that was loaded from there.
            source: the folder.

        Raises:
            CheckpointError: if its base is not known, or not on this machine.
        """
        if not recognizer.models or not isinstance(recognizer.models[0].encoder, SpeechEncoder):
            return cls(recognizer, None)
        found = find_model(source)
        base = None if found is None else base_of_run(RunFolder(found.parent))
        if found is None or base is None:
            raise CheckpointError("the base of this model is not known, so there is no slider; serve a run")
        beside = found.parent / base
        encoder = load_backbone(locate(str(beside) if beside.exists() else base, download=False))
        return cls(recognizer, encoder.weights())

    def at(self, scale: float) -> Recognizer:
        """The recognizer at a scale.

        Args:
            scale: a, from 0 (the base) over 1 (the model) to 1.5.

        Raises:
            VoxstrataError: if it is another number.
        """
        if not LOWEST <= scale <= HIGHEST:
            raise VoxstrataError(f"the scale is {scale}; it goes from {LOWEST:g} (base) to {HIGHEST:g}")
        for weights in self._weights:
            weights.set(scale)
        return self.recognizer

    def _of_weights(
        self, first: SpeechEncoder, base: dict[str, Tensor] | None, recognizer: Recognizer
    ) -> dict[int, nn.Module]:
        """Copies of the encoders that hold the first one's modules, by the originals' ids."""
        model = first.weights()
        shapes = {name: tuple(weight.shape) for name, weight in model.items()}
        if base is None or {name: tuple(weight.shape) for name, weight in base.items()} != shapes:
            raise CheckpointError("the base of this model does not fit it, so there is no slider")
        inner = copy.deepcopy(first.model)
        copies: dict[int, nn.Module] = {}
        for one in recognizer.models:
            encoder = one.encoder
            if isinstance(encoder, SpeechEncoder) and encoder.model is first.model:
                copies[id(encoder)] = copy.deepcopy(encoder, {id(first.model): inner})
        scaled = copies[id(first)]
        assert isinstance(scaled, SpeechEncoder)
        device = next(iter(model.values())).device
        kept = {name: weight.to(device) for name, weight in base.items()}
        self._weights.append(_Weights(scaled.weights(), kept, model))
        return copies

    def _of_coefficients(self, recognizer: Recognizer) -> dict[int, nn.Module]:
        """Twins of the merges, by the originals' ids."""
        twins: dict[int, nn.Module] = {}
        for module in _merges(recognizer):
            twin = module.twin()
            model = module.coefficients.detach().clone()
            used = {"coefficients": twin.coefficients}
            self._weights.append(
                _Weights(used, {"coefficients": torch.zeros_like(model)}, {"coefficients": model})
            )
            twins[id(module)] = twin
        return twins


def _merges(recognizer: Recognizer) -> Iterator[MergedBackbone]:
    """The merged encoders of all models, each once."""
    seen: set[int] = set()
    for model in recognizer.models:
        for module in model.children():
            if isinstance(module, MergedBackbone) and id(module) not in seen:
                seen.add(id(module))
                yield module


def _with(model: Any, encoders: dict[int, nn.Module]) -> Any:
    """The model with other encoders, which are found by the ids of its own; the rest is shared."""
    replaced = {
        name: encoders[id(module)] for name, module in model.named_children() if id(module) in encoders
    }
    if not replaced:
        return model
    other = copy.copy(model)
    other._modules = {**model._modules, **replaced}
    return other
