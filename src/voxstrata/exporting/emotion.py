"""An emotion model as transformers' own `...ForSequenceClassification`, where the two are the same function.

That class sums the states of layers 0..L by softmax weights, maps each frame by `projector`, takes the mean
over the frames, and maps it by `classifier`. Head A is that form: layer 0 gets the weight zero, and batch
normalisation, which in use is a fixed linear map, goes into `classifier`. So do the scale of ratings and
the temperature of emotions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, PretrainedConfig, PreTrainedModel

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.errors import CheckpointError
from voxstrata.exporting.added_layer import with_added_layer
from voxstrata.exporting.plain_model import Answer, PlainModel, batch_of, encoder_and_state, require_filled
from voxstrata.heads.emotion import PooledLinearHead
from voxstrata.labels import DIMENSIONS
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.encoder_models import ClipModel, DimensionModel, EmotionModel, MultitaskModel

#: Logit of a layer without a part in the sum: its softmax weight is zero, also in 16 bits.
_NO_WEIGHT = -1e4
_INSTEAD = "export without --as, which keeps encoder and head for voxstrata"
#: Of each form of head: what transformers' class has no place for.
_FORMS = {
    "b": "has ReLU between its maps before the mean over frames",
    "c": "weighs frames by attention",
    "d": "takes the standard deviation over frames beside the mean",
}


def emotion_model(model: Any) -> PlainModel:
    """An emotion model, or one of ratings, in transformers' class for its encoder.

    Args:
        model: as `load_model` gives it.

    Raises:
        CheckpointError: if the class cannot compute the same, with the reason and what to do instead.
    """
    _require_same_function(model)
    encoder, state = encoder_and_state(model.encoder)
    config = encoder.stored_config()
    kind = _class_for(config)
    notes = []
    if config.do_stable_layer_norm and not encoder.final_norm:
        config, state = with_added_layer(encoder, state, config)
        notes.append(
            "it has one layer more than the run's encoder, which passes its input on: versions of "
            "transformers differ in whether the last state is normalised, and so it plays no part"
        )
    if model.calibration.temperature != 1:
        notes.append(f"its logits are divided by the run's temperature, {model.calibration.temperature:.3f}")
    config.tie_last_hidden_states = encoder.final_norm
    _describe(config, model, kind)
    weights = torch.full((config.num_hidden_layers + 1,), _NO_WEIGHT)
    weights[1 : encoder.num_layers + 1] = model.layer_sum.logits
    tensors = {
        **{f"{kind.base_model_prefix}.{name}": tensor for name, tensor in state.items()},
        "layer_weights": weights,
        **_head(model),
    }
    require_filled(kind, config, tensors)
    return PlainModel(
        form="emotion",
        config=config,
        tensors=tensors,
        preprocessor=encoder.family.preprocessor(config, normalize=encoder.normalize),
        answers=_Answers(model),
        longest=encoder.longest,
        shortest=encoder.front_end.samples(1),
        left_out=["the CTC head (--as ctc writes it)"] if isinstance(model, MultitaskModel) else [],
        notes=notes,
        sees_padding=config.feat_extract_norm == "group",
    )


def _require_same_function(model: Any) -> None:
    """Refuses a model that transformers' class cannot compute."""
    if not isinstance(model, EmotionModel | DimensionModel):
        raise CheckpointError(
            "this model has no emotion head over one encoder, which --as emotion writes; give a run of "
            "finetune-ser, adaltm or multitask, or export without --as"
        )
    if isinstance(model.encoder, ParallelEncoders):
        encoder_and_state(model.encoder)
    options = model.options
    if "30s" in _plain(model).family.windows:
        raise CheckpointError(
            "transformers' Whisper class takes the mean over all frames of 30 padded seconds, the run's head "
            f"over the clip's own: they agree for no shorter clip; {_INSTEAD}, or train over a WavLM, "
            "wav2vec 2.0 or HuBERT"
        )
    if options.form in _FORMS:
        raise CheckpointError(
            f"head form {options.form} {_FORMS[options.form]}, and transformers' class cannot; {_INSTEAD}, "
            "or train with head.form=a"
        )
    if options.normalize_layers:
        raise CheckpointError(
            "the head normalises each layer's state before their sum (head.normalize_layers), and "
            f"transformers' class cannot; {_INSTEAD}, or train with head.normalize_layers=false"
        )


def _plain(model: ClipModel) -> SpeechEncoder:
    encoder = model.encoder
    assert not isinstance(encoder, ParallelEncoders)
    return encoder if isinstance(encoder, SpeechEncoder) else encoder.base


def _class_for(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class of transformers for an encoder's type."""
    kind: type[PreTrainedModel] | None = MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None:
        raise CheckpointError(
            f"transformers has no audio classifier over an encoder of type {config.model_type!r}; {_INSTEAD}"
        )
    return kind


def _describe(config: PretrainedConfig, model: EmotionModel | DimensionModel, kind: type[Any]) -> None:
    """What config.json holds of a head."""
    rates = isinstance(model, DimensionModel)
    names = DIMENSIONS if isinstance(model, DimensionModel) else tuple(model.labels)
    config.architectures = [kind.__name__]
    config.use_weighted_layer_sum = True
    config.classifier_proj_size = model.head.classifier.in_features
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "regression" if rates else "single_label_classification"


def _head(model: ClipModel) -> dict[str, Tensor]:
    """Head A as two linear maps; what is linear behind the mean is multiplied into the second, in float64."""
    head = model.head
    assert isinstance(head, PooledLinearHead)
    weight, bias = head.classifier.weight.double(), head.classifier.bias.double()
    first = head.projector.bias
    norm = head.normalizer
    if isinstance(norm, nn.BatchNorm1d):
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias = bias + weight @ (norm.bias.double() - scale * norm.running_mean.double())
        weight = weight * scale
    if isinstance(model, DimensionModel):
        spread = model.spread.double()
        weight, bias = spread.unsqueeze(1) * weight, model.centre.double() + spread * bias
    else:
        weight, bias = weight / model.calibration.temperature, bias / model.calibration.temperature
    return {
        "projector.weight": head.projector.weight.detach(),
        "projector.bias": torch.zeros(len(head.projector.weight)) if first is None else first.detach(),
        "classifier.weight": weight.float().detach(),
        "classifier.bias": bias.float().detach(),
    }


@dataclass(frozen=True)
class _Answers:
    """A model's own logits, or ratings."""

    model: EmotionModel | DimensionModel

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, lengths: Tensor) -> list[Answer]:
        batch = batch_of(waveforms, lengths)
        model = self.model
        if isinstance(model, DimensionModel):
            logits = model.ratings(batch)
        else:
            logits = model.logits(batch) / model.calibration.temperature
        return [Answer({"logits": row}) for row in logits]
