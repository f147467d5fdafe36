"""What an encoder computes and holds, counted from its sizes. Estimates: nothing here is measured.

Sources. Multiplications and additions of a transformer, and a backward that costs two forwards: Kaplan et
al., "Scaling laws for neural language models" (arXiv 2001.08361), section 2.1. Bytes that a layer keeps for
its backward, s b h (34 + 5 a s / h) in half precision: Korthikanti et al., "Reducing activation recomputation
in large transformer models" (arXiv 2205.05198), equation 2. What the merge keeps: see
`methods.adaltm.lean.engine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from voxstrata.backbone.families.family import FrontEnd
from voxstrata.backbone.families.registry import family_of

# Not torch's FlopCounterMode, which a test compares with: it runs a forward for every length of clip.
#: AdamW in float32: weight, gradient and two moments.
TRAINED_BYTES = 16
FP32_BYTES = 4
#: Bytes that the merge keeps of a token (frame) in a layer for its backward, per D and per F: the inputs of
#: both norms, query, key, value and attended (6 D), and one of the feed-forward (F). Outputs of norms and
#: activations are computed again.
MERGE_KEEPS = {"fp32": (24, 4), "bf16": (16, 2)}
#: The same of a plain fine-tuning per D, with F = 4 D. Korthikanti et al. count 34 in half precision; WavLM's
#: gate, copies of query, key and value, and autocast's float32 come on top (counted in a step's tensors).
TUNING_KEEPS = {"fp32": 110, "bf16": 74}
VALUE_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of an encoder.

    Args:
        front_end: its spectrogram and convolutions.
        hidden: D.
        layers: L.
        heads: of the attention.
        feed_forward: F.
        position_kernel: frames of the convolutional position embedding behind a projection; 0 without both.
        position_groups: of its channels.
        parameters: of all.
    """

    front_end: FrontEnd
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    position_kernel: int
    position_groups: int
    parameters: int

    @classmethod
    def of(cls, config: Any, parameters: int) -> EncoderSizes:
        """The sizes in a configuration of transformers."""
        return cls(
            family_of(config).front_end(config),
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            family_of(config).feed_forward(config),
            getattr(config, "num_conv_pos_embeddings", 0),
            getattr(config, "num_conv_pos_embedding_groups", 1),
            parameters,
        )

    def lengths(self, samples: int) -> list[int]:
        """Positions after each convolution of a clip; the last are its frames."""
        return [max(0, count) for count in self.front_end.positions(samples)]

    def frames(self, samples: int) -> int:
        """Frames T of a clip."""
        return self.lengths(samples)[-1]


@dataclass(frozen=True)
class Flops:
    """Multiplications and additions of a forward.

    Args:
        front: of the convolutional front end.
        rest: of projection, position embedding and transformer.
    """

    front: float = 0.0
    rest: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.front + other.front, self.rest + other.rest)

    def times(self, front: float, rest: float | None = None) -> float:
        """All together, each part so many times."""
        return self.front * front + self.rest * (front if rest is None else rest)


def forward_flops(sizes: EncoderSizes, samples: int) -> Flops:
    """A forward over one clip, as a matrix product [n, k] x [k, m] counts 2 n k m.

    Front end: sum of 2 T_i C_(i-1) C_i K_i. Rest: T (2 C D) for the projection, T (2 D^2 K / G) for the
    position embedding, and in each layer T (8 D^2 + 4 D F) for its matrices and 4 T^2 D for scores and
    weighted sums.
    """
    lengths = sizes.lengths(samples)
    convolutions = sizes.front_end.convolutions
    inputs = [sizes.front_end.channels, *(layer.channels for layer in convolutions)]
    front = sum(
        2.0 * length * before * layer.channels * layer.kernel
        for length, before, layer in zip(lengths, inputs, convolutions, strict=False)
    )
    frames, size = lengths[-1], sizes.hidden
    positions = 2.0 * size * size * sizes.position_kernel / sizes.position_groups
    layer = frames * (8.0 * size**2 + 4.0 * size * sizes.feed_forward) + 4.0 * frames**2 * size
    projection = 2.0 * inputs[-1] * size if sizes.position_kernel else 0.0
    return Flops(front, frames * (projection + positions) + sizes.layers * layer)


@dataclass(frozen=True)
class Load:
    """Batches of an epoch.

    Args:
        clips: how many.
        flops: a forward over all of them, as padded.
        largest: (clips, samples) of the batch with most samples, padding included.
        samples: of all clips together, without padding.
        batches: how many.
    """

    clips: int
    flops: Flops
    largest: tuple[int, int]
    samples: int
    batches: int

    @classmethod
    def of(cls, sizes: EncoderSizes, batches: Iterable[list[int]]) -> Load:
        """Of batches, each the samples of its clips."""
        clips = samples = number = 0
        front = rest = 0.0
        largest = (0, 0)
        for batch in batches:
            number += 1
            count, longest = len(batch), max(batch)
            each = forward_flops(sizes, longest)
            front, rest = front + count * each.front, rest + count * each.rest
            clips, samples = clips + count, samples + sum(batch)
            largest = max(largest, (count, longest), key=lambda shape: shape[0] * shape[1])
        return cls(clips, Flops(front, rest), largest, samples, number)

    @classmethod
    def together(cls, loads: Mapping[str, Load], batches: Mapping[str, float] | None = None) -> Load:
        """Several sources read in turn.

        Args:
            loads: name -> all batches of a source.
            batches: name -> how many of its batches are read; None: all, once.
        """
        share = {
            name: 1.0 if batches is None else batches[name] / load.batches for name, load in loads.items()
        }
        return cls(
            round(sum(share[name] * load.clips for name, load in loads.items())),
            Flops(
                sum(share[name] * load.flops.front for name, load in loads.items()),
                sum(share[name] * load.flops.rest for name, load in loads.items()),
            ),
            max((load.largest for load in loads.values()), key=lambda shape: shape[0] * shape[1]),
            round(sum(share[name] * load.samples for name, load in loads.items())),
            round(sum(share[name] * load.batches for name, load in loads.items())),
        )


def front_outputs(sizes: EncoderSizes, batch: tuple[int, int]) -> list[float]:
    """Bytes of the output of each convolution, in float32."""
    clips, samples = batch
    return [
        float(clips) * length * layer.channels * FP32_BYTES
        for length, layer in zip(sizes.lengths(samples), sizes.front_end.convolutions, strict=True)
    ]


def mask_bytes(sizes: EncoderSizes, batch: tuple[int, int], precision: str) -> float:
    """One layer's gated position bias [B, H, T, T], as a fused kernel keeps it; only WavLM has one."""
    clips, samples = batch
    return float(clips) * sizes.heads * sizes.frames(samples) ** 2 * VALUE_BYTES[precision]


def merge_step_bytes(sizes: EncoderSizes, batch: tuple[int, int], precision: str) -> float:
    """What one step of learning coefficients holds beside base and vectors.

    Kept activations of all layers, and of the front end two outputs a convolution; a merged layer and its
    gradient; a mask while it is made; under autocast all weights in half precision. Or the front end's
    backward, after the layers' are done.
    """
    per_hidden, per_width = MERGE_KEEPS[precision]
    tokens = float(batch[0]) * sizes.frames(batch[1])
    token = per_hidden * sizes.hidden + per_width * sizes.feed_forward
    kept = sizes.layers * (tokens * token + mask_bytes(sizes, batch, precision))
    front = front_outputs(sizes, batch)
    layer = 2 * FP32_BYTES * sizes.parameters / max(1, sizes.layers)
    copies = 2.0 * sizes.parameters if precision == "bf16" else 0.0
    rest = kept + layer + 3 * mask_bytes(sizes, batch, "fp32")
    return 2 * sum(front) + copies + max(rest, 3 * max(front))


def tuning_step_bytes(sizes: EncoderSizes, batch: tuple[int, int], precision: str, *, front: bool) -> float:
    """What one step of fine-tuning holds beside weights and optimiser; `front`: the front end learns too."""
    tokens = float(batch[0]) * sizes.frames(batch[1])
    kept = tokens * TUNING_KEEPS[precision] * sizes.hidden + mask_bytes(sizes, batch, precision)
    outputs = front_outputs(sizes, batch)
    rest = sizes.layers * kept + 3 * mask_bytes(sizes, batch, "fp32")
    return (3 * sum(outputs) if front else 0.0) + max(rest, 3 * max(outputs))


def forward_bytes(sizes: EncoderSizes, batch: tuple[int, int]) -> float:
    """What a forward without gradients holds: three outputs of the largest convolution, or all states.

    With the states come one layer's values and its mask.
    """
    tokens = float(batch[0]) * sizes.frames(batch[1])
    states = sizes.layers * tokens * sizes.hidden * FP32_BYTES
    layer = tokens * (6 * sizes.hidden + 2 * sizes.feed_forward) * FP32_BYTES
    return max(3 * max(front_outputs(sizes, batch)), states + layer + 3 * mask_bytes(sizes, batch, "fp32"))
