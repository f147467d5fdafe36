"""Tiny encoders of every kind, task vectors for them, and the merge written out by hand."""

import copy

import numpy as np
import torch
from transformers import HubertConfig, Wav2Vec2Config, WavLMConfig

from voxstrata.backbone.encoder import build_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.batches.batch import Batch, Reference
from voxstrata.methods.adaltm.task_vector import TaskVector

CONFIGS = {"wavlm": WavLMConfig, "hubert": HubertConfig, "wav2vec2": Wav2Vec2Config}
KINDS = [
    ("wavlm", True, "layer"),
    ("wavlm", False, "group"),
    ("hubert", False, "layer"),
    ("wav2vec2", True, "group"),
]


def tiny(kind="wavlm", stable=True, norm="layer", **more):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    front = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    return CONFIGS[kind](
        **{**sizes, **front, "do_stable_layer_norm": stable, "feat_extract_norm": norm, **more}
    )


def moved(base, seed, scale=0.05, only=""):
    """A task vector as if fine-tuning had moved every tensor whose name starts so."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {
        name: scale * torch.randn(tensor.shape, generator=generator) * float(name.startswith(only))
        for name, tensor in base.weights().items()
    }
    return TaskVector(deltas, fingerprint(base.weights()), f"expert {seed}")


def parts(kind="wavlm", stable=True, norm="layer", **more):
    base = build_backbone(tiny(kind, stable, norm, **more), seed=0).requires_grad_(False).eval()
    return base, {"asr": moved(base, 1), "ser": moved(base, 2)}


def batch(lengths=(3000, 1300, 2200), seed=0):
    waveforms = torch.zeros(len(lengths), max(lengths))
    for row, n in enumerate(lengths):
        waveforms[row, :n] = torch.randn(n, generator=torch.Generator().manual_seed(seed + row))
    return waveforms, torch.tensor(lengths)


def kept_and_read(front, waveforms, lengths):
    """What a front gives for clips, as a batch brings it that was put together from what is kept of each."""
    given = Batch(tuple(Reference(str(row)) for row in range(len(lengths))), waveforms, lengths)
    clips = front.computed(given)
    assert [tuple(clip.shape) for clip in clips] == [(n, *front.row) for n in front.frames(lengths).tolist()]
    return front.added(given, clips).front


def group_of(name):
    return int(name.split(".")[2]) + 1 if name.startswith("encoder.layers.") else 0


def score(layers, lengths):
    """A loss that weighs every layer, frame and feature differently, over valid frames only."""
    total = 0
    for number, layer in enumerate(layers):
        weights = torch.sin(torch.arange(layer[0].numel(), dtype=layer.dtype) + number).view_as(layer[0])
        for row, n in enumerate(lengths.tolist()):
            total = total + (weights[:n] * layer[row, :n].tanh()).sum() * (1 + row)
    return total


def by_hand(base, vectors, coefficients, waveforms, lengths):
    """The merge written out: a copy of the model with merged weights, clip by clip; states and gradients."""
    model = copy.deepcopy(base.model).double()
    rows = coefficients.double().expand(1 + base.num_layers, -1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for k, vector in enumerate(vectors.values()):
                parameter += float(rows[group_of(name), k]) * vector.deltas[name].double()
    model.requires_grad_(True)
    loss, states = 0, []
    for row, n in enumerate(lengths.tolist()):
        clip = waveforms[row : row + 1, :n].double().numpy()
        if base.normalize:
            clip = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
        hidden = model(torch.from_numpy(clip), output_hidden_states=True).hidden_states[1:]
        states.append(hidden)
        frames = torch.tensor([hidden[0].shape[1]])
        loss = loss + (1 + row) * score(hidden, frames)
    loss.backward()
    gradient = torch.zeros(1 + base.num_layers, len(vectors), dtype=torch.float64)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            for k, vector in enumerate(vectors.values()):
                gradient[group_of(name), k] += (parameter.grad * vector.deltas[name].double()).sum()
    return loss.detach(), states, gradient


def assert_merged_as_by_hand(merged, base, vectors):
    """States, loss and gradients of a merge in float64, whose coefficients all differ, against `by_hand`.

    Returns:
        The states of the merge, and the gradient by hand.
    """
    with torch.no_grad():
        values = torch.linspace(-0.4, 1.3, merged.coefficients.numel()).view_as(merged.coefficients)
        merged.coefficients.copy_(values)
    waveforms, lengths = batch()
    states = merged(waveforms.double(), lengths)
    loss = score(states.layers, states.lengths)
    loss.backward()
    expected, hidden, gradient = by_hand(base, vectors, merged.coefficients.detach(), waveforms, lengths)
    if len(merged.coefficients) == 1:
        gradient = gradient.sum(0, keepdim=True)
    for row, alone in enumerate(hidden):
        for together, single in zip(states.layers, alone, strict=True):
            torch.testing.assert_close(together[row, : single.shape[1]], single[0], atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(loss.detach(), expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(merged.coefficients.grad, gradient, atol=1e-8, rtol=1e-7)
    return states, gradient
