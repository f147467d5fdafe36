"""What an export is before it is written: a class of transformers, its tensors, and our own answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.folder import write_model_folder
from voxstrata.batches.batch import Batch, Reference
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders

#: What `--as` takes -> what that writes.
FORMS = {
    "emotion": "an audio classifier of transformers",
    "ctc": "a CTC recogniser of transformers",
    "whisper": "a whole Whisper",
    "encoder": "an encoder of transformers",
}


@dataclass(frozen=True)
class Answer:
    """What a model answers for one clip.

    Args:
        tensors: name -> numbers that the export has to give as well, e.g. "logits".
        text: the transcript; None without words.
        given: name -> what the export is given beside the clip, e.g. the tokens that a decoder reads.
    """

    tensors: Mapping[str, Tensor]
    text: str | None = None
    given: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainModel:
    """A model in a class of transformers.

    Args:
        form: one of `FORMS`.
        config: with `architectures` set.
        tensors: in the names of that class.
        preprocessor: content of preprocessor_config.json.
        answers: our own answers to waveforms [B, N] with valid samples [B], one a clip.
        extras: file name -> JSON content of further files.
        copied: further files, taken as they are.
        left_out: what belongs to the source and is not in the export, in words.
        notes: what one should know who uses it, in words.
        sees_padding: padding changes what the front end gives in transformers: clips must be given alone.
        asked: settings of a decoder, by name.
        longest: samples of the longest clip.
        shortest: samples of the shortest clip.
    """

    form: str
    config: PretrainedConfig
    tensors: Mapping[str, Tensor]
    preprocessor: Mapping[str, Any]
    answers: Callable[[Tensor, Tensor], list[Answer]]
    longest: int
    shortest: int
    extras: Mapping[str, Any] = field(default_factory=dict)
    copied: Sequence[Path] = ()
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()
    sees_padding: bool = False
    asked: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Writes the folder that transformers opens.

        Args:
            folder: new.
            dtype: of the stored tensors.

        Raises:
            CheckpointError: if it cannot be written, or a weight does not fit the dtype.
        """
        write_model_folder(
            folder,
            self.config,
            self.tensors,
            preprocessor=self.preprocessor,
            dtype=dtype,
            extras=self.extras,
        )
        for path in self.copied:
            (folder / path.name).write_bytes(path.read_bytes())


def encoder_and_state(encoder: object) -> tuple[SpeechEncoder, dict[str, Tensor]]:
    """One encoder with its settings, and its tensors in its own names; of a merge the merged ones.

    Raises:
        CheckpointError: if there are several encoders, or it is of another kind.
    """
    if isinstance(encoder, ParallelEncoders):
        raise CheckpointError(
            f"the model has {len(encoder.names)} encoders side by side ({', '.join(encoder.names)}), and a "
            "class of transformers has one: export without --as, or export each expert's own run"
        )
    if isinstance(encoder, MergedBackbone):
        return encoder.base, encoder.merged_state()
    if not isinstance(encoder, SpeechEncoder):
        raise CheckpointError(
            f"the encoder of this model is a {type(encoder).__name__}, for which there is no class of "
            "transformers; export without --as"
        )
    return encoder, dict(encoder.model.state_dict())


def require_filled(
    kind: type[PreTrainedModel], config: PretrainedConfig, tensors: Mapping[str, Tensor]
) -> None:
    """Refuses tensors that are not exactly those of a class of transformers.

    Raises:
        CheckpointError: naming the class and the first tensors that differ.
    """
    try:
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in kind(config).state_dict().items()}
    except (ValueError, TypeError, AttributeError, ImportError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise CheckpointError(
            f"transformers' {kind.__name__} cannot take this encoder ({reason}); export it with --as encoder"
        ) from None
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if odd := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise CheckpointError(
            f"this model does not fill transformers' {kind.__name__}: {', '.join(odd[:3])} differ; export it "
            "with --as encoder"
        )


def batch_of(waveforms: Tensor, lengths: Tensor) -> Batch:
    """A batch of clips of which nothing else is known."""
    return Batch(tuple(Reference(f"clip-{row}") for row in range(len(lengths))), waveforms, lengths)
