"""What differs between families of speech encoders, behind one small interface.

A family is one file beside this one, named in `families.registry`: how waveforms become features and features
the states of L layers, which tensors are the front end, and how published checkpoints name them.
`SpeechEncoder` and all above it know no family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from voxstrata.backbone.groups import layer_index
from voxstrata.backbone.layouts import Layout

# Imported where a model is built or run: names and shapes of a checkpoint are read without transformers.
if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from voxstrata.backbone.attention import Attention

#: How long an encoder's input is: as long as the clip (or the longest of a batch), or padded to 30 seconds.
Window = Literal["clip", "30s"]
WINDOWS: tuple[Window, ...] = ("clip", "30s")

_Counts = TypeVar("_Counts", int, Tensor)


@dataclass(frozen=True)
class Convolution:
    """One layer of a front end.

    Args:
        channels: of its output.
        kernel: positions that it looks at.
        stride: positions between two outputs.
        padding: zeros on either side.
    """

    channels: int
    kernel: int
    stride: int
    padding: int = 0


@dataclass(frozen=True)
class FrontEnd:
    """How samples at 16 kHz become frames: a spectrogram where there is one, then convolutions.

    Args:
        convolutions: in their order.
        hop: samples between two columns of the spectrogram; 1 without one.
        channels: of the spectrogram; 1 without one.
        shortest: samples below which there is no spectrogram.
        longest: samples above which the encoder has no positions; None: there is no limit.
    """

    convolutions: tuple[Convolution, ...]
    hop: int = 1
    channels: int = 1
    shortest: int = 1
    longest: int | None = None

    def positions(self, samples: _Counts) -> list[_Counts]:
        """Positions after each convolution of a clip; the last are its frames."""
        count = samples // self.hop
        found = []
        for layer in self.convolutions:
            count = (count + 2 * layer.padding - layer.kernel) // layer.stride + 1
            found.append(count)
        return found

    def frames(self, samples: _Counts) -> _Counts:
        """Frames T of a clip of so many samples."""
        return self.positions(samples)[-1]

    def samples(self, frames: int) -> int:
        """Fewest samples that give these many frames, at least 1.

        >>> FrontEnd((Convolution(512, 10, 5), Convolution(512, 3, 2))).samples(2)
        30
        """
        needed = frames
        for layer in reversed(self.convolutions):
            needed = max(1, (needed - 1) * layer.stride + layer.kernel - 2 * layer.padding)
        return max(needed * self.hop, self.shortest)


class Family(ABC):
    """A family of encoders. All methods are functions of their arguments; a family holds no state."""

    #: In words, for messages.
    title: str
    #: How its checkpoints name their tensors; the first that fits is taken.
    layouts: tuple[Layout, ...]
    #: What the names of its tensors start with, in transformers' spelling.
    parts: tuple[str, ...]
    #: What the names of its decoder's tensors start with, where whole models have one; not of the encoder.
    decoder_parts: tuple[str, ...] = ()
    #: Tensor that whole models may store a second time -> the one that it is.
    tied: ClassVar[Mapping[str, str]] = {}
    #: Pattern of how the names start that an adapter may change; tells whose an adapter is.
    adapted: str
    #: What the names of the convolutional front end's tensors start with.
    front_end_parts: tuple[str, ...]
    #: Tensors that a checkpoint may lack, or have where the model does not.
    optional: tuple[str, ...] = ()
    #: Tensors that no training changes.
    fixed: tuple[str, ...] = ()
    #: Switched off at all times: what drops or alters states.
    forced: ClassVar[Mapping[str, Any]]
    #: Lengths of input that there are.
    windows: tuple[Window, ...] = ("clip",)

    @abstractmethod
    def accepts(self, config: PretrainedConfig) -> bool:
        """Whether a configuration is of this family."""

    @abstractmethod
    def build(self, config: PretrainedConfig) -> PreTrainedModel:
        """The encoder with random weights, float32, its layers under `encoder.layers`, without a head."""

    @abstractmethod
    def prepare(self, model: PreTrainedModel, attention: Attention) -> None:
        """Makes an encoder ready to run, in place; its weights stay what they are."""

    @abstractmethod
    def front_end(self, config: PretrainedConfig) -> FrontEnd:
        """How samples become frames."""

    def feed_forward(self, config: PretrainedConfig) -> int:
        """F, the width inside a layer."""
        return int(config.intermediate_size)

    @abstractmethod
    def features(
        self,
        model: PreTrainedModel,
        waveforms: Tensor,
        counts: Sequence[int],
        *,
        window: Window = "clip",
        alone: bool = False,
    ) -> Tensor:
        """What the convolutional front end gives for a batch, [B, C, T]; each clip as if it were alone.

        Args:
            model: made ready by `prepare`.
            waveforms: [B, N] float, normalised if the encoder wants that; N is the longest clip's samples.
            counts: valid samples of each clip.
            window: one of the family's.
            alone: run clip by clip, so that no bit depends on the others; zero behind each clip's end.
        """

    @abstractmethod
    def states(
        self,
        model: PreTrainedModel,
        features: Tensor,
        lengths: Tensor,
        *,
        window: Window = "clip",
        known: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:
        """The raw outputs of layers 1..L, L tensors [B, T, D].

        Args:
            model: made ready by `prepare`.
            features: [B, C, T], see `features`; not looked at where lower layers are known.
            lengths: [B] valid samples.
            window: one of the family's.
            known: the outputs of the lowest layers [B, T, D], where they are known; those are not run.
        """

    @abstractmethod
    def layer_zero(self, model: PreTrainedModel, features: Tensor) -> Tensor:
        """Features [B, C, T] in the width of the layers [B, T, D], before positions are added."""

    @abstractmethod
    def final_norm(self, model: PreTrainedModel) -> nn.Module | None:
        """The norm behind the last layer; None where each layer's output is normal already."""

    @abstractmethod
    def normalizes(self, config: PretrainedConfig) -> bool:
        """Whether waveforms are normalised, where the checkpoint does not tell."""

    @abstractmethod
    def preprocessor(self, config: PretrainedConfig, *, normalize: bool) -> dict[str, Any]:
        """Content of preprocessor_config.json."""

    def told_config(self, settings: Mapping[str, Any]) -> PretrainedConfig | None:
        """The architecture that a torch file tells of beside its tensors; None where it does not."""
        return None

    def architecture(self, model: PreTrainedModel) -> str:
        """The class of transformers that opens a folder of this encoder."""
        return type(model).__name__

    def filled(self, name: str, shape: Sequence[int]) -> Tensor:
        """A tensor that a checkpoint may lack (see `optional`), float32."""
        return torch.zeros(*shape)

    def is_front_end(self, name: str) -> bool:
        """Whether a tensor is of the convolutional front end."""
        return name.startswith(self.front_end_parts)

    def is_before(self, config: PretrainedConfig, name: str, layer: int) -> bool:
        """Whether the output of a layer depends on a tensor.

        Args:
            config: of the encoder.
            name: in the encoder's own names.
            layer: from 1; 0 for the convolutional front end.
        """
        if not layer:
            return self.is_front_end(name)
        group = layer_index(name)
        return group <= layer if group else not name.startswith(self.behind_layers(config))

    @abstractmethod
    def behind_layers(self, config: PretrainedConfig) -> tuple[str, ...]:
        """What the names of tensors of group 0 start with that have no part in a layer's output."""
