"""Encoders with weights in 8 bits on a CPU: dynamic quantisation of their linear layers, by torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.errors import CheckpointError


def encoders_in_int8(models: Iterable[nn.Module]) -> None:
    """Puts the linear layers of each encoder in 8 bits, in place; heads and Whisper's decoder stay.

    Inputs of a layer are rounded to 8 bits by their own range at each call, so that answers depend on all
    clips of a batch: see `alone`.

    Args:
        models: each with its `encoder`; one that serves several is done once.

    Raises:
        CheckpointError: if an encoder is merged anew for each task, or torch has no such layers here.
    """
    done: dict[int, nn.Module] = {}
    for model in models:
        encoder = model.encoder
        assert isinstance(encoder, nn.Module)
        if isinstance(encoder, SpeechEncoder):
            encoder = encoder.model
        elif any(hasattr(part, "coefficients") for part in encoder.modules()):
            raise CheckpointError(
                "int8 takes weights that stay as they are, and this model merges its encoder anew for each "
                "task; leave int8 out"
            )
        done[id(encoder)] = encoder
    for encoder in done.values():
        try:
            with warnings.catch_warnings():
                # torch tells at each call that this will move to another package.
                warnings.simplefilter("ignore")
                torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                    # A range for each row of the weights, which rounds less than one for all of them.
                    encoder,
                    {nn.Linear: per_channel_dynamic_qconfig},
                    inplace=True,
                )
        except RuntimeError as fault:
            raise CheckpointError(
                f"this build of torch has no 8-bit layers ({str(fault).splitlines()[0][:80]}); leave int8 out"
            ) from None


def alone(batch: Batch) -> Iterator[Batch]:
    """Each clip of a batch in a batch of its own, without padding.

    Args:
        batch: of waveforms, as recordings and windows are.
    """
    for place, reference in enumerate(batch.references):
        length = batch.lengths[place : place + 1]
        waveform = batch.waveforms[place : place + 1, : int(length)]
        yield Batch((reference,), waveform, length, task=batch.task)
