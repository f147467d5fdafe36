"""What of HarmoniFuse is trained, and at which rates."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.groups import layer_index
from voxstrata.errors import RecipeError
from voxstrata.methods.encoder_models import Backbone
from voxstrata.methods.harmonifuse.lm.language_model import LanguageModel
from voxstrata.methods.harmonifuse.options import HarmoniFuseOptions, HarmoniFuseRates
from voxstrata.system import ParameterGroup


def open_encoder(encoder: Backbone, options: HarmoniFuseOptions) -> tuple[nn.Parameter, ...]:
    """Freezes an encoder but for what the options train, which is returned.

    Raises:
        RecipeError: if the encoder has not that part.
    """
    encoder.requires_grad_(False)
    trained = _trained(encoder, options)
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained


def _trained(encoder: Backbone, options: HarmoniFuseOptions) -> tuple[nn.Parameter, ...]:
    if options.encoder_trained == "none":
        return ()
    if not isinstance(encoder, SpeechEncoder):
        if options.encoder_trained == "top" or not list(encoder.parameters()):
            raise RecipeError(
                f"encoder_trained is {options.encoder_trained!r}, and the encoder is merged with "
                f"{encoder.granularity} coefficients: all of those are trained, or none; static ones never"
            )
        return tuple(encoder.parameters())
    if options.encoder_trained == "all":
        return tuple(encoder.trainable(freeze_front_end=True).values())
    if options.encoder_top > encoder.num_layers:
        raise RecipeError(
            f"encoder_top is {options.encoder_top}; this encoder has {encoder.num_layers} layers"
        )
    lowest = encoder.num_layers - options.encoder_top
    named = encoder.trainable(freeze_front_end=True).items()
    return tuple(parameter for name, parameter in named if layer_index(name) > lowest)


def parameter_groups(
    rates: HarmoniFuseRates,
    *,
    encoder: Backbone,
    encoder_parameters: Iterable[nn.Parameter],
    scalars: Iterable[nn.Parameter],
    lm: LanguageModel,
    others: Iterable[nn.Parameter],
) -> list[ParameterGroup]:
    """Groups by learning rate; those with rate 0 are left out.

    Args:
        rates: peak learning rates.
        encoder: plain or merged.
        encoder_parameters: what of it is trained.
        scalars: of both fusions.
        lm: the language model; what of it requires gradients is trained.
        others: connector, prompts, score network, heads.
    """
    decay = rates.weight_decay
    of_lm = tuple(parameter for parameter in lm.parameters() if parameter.requires_grad)
    new = (*others, *(of_lm if lm.trained else ()))
    encoder_decay = decay if isinstance(encoder, SpeechEncoder) else 0.0
    groups = [
        ParameterGroup("new", new, rates.new, decay),
        ParameterGroup("adapters", () if lm.trained else of_lm, rates.adapters, decay),
        ParameterGroup("fusion", tuple(scalars), rates.fusion),
        ParameterGroup("encoder", tuple(encoder_parameters), rates.encoder, encoder_decay),
    ]
    return [group for group in groups if group.parameters and group.lr > 0]
