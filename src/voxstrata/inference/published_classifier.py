"""An audio classifier of transformers (`AutoModelForAudioClassification`) as an emotion model.

It runs as in transformers: by its own feature extractor, each clip alone, and with no code of the folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.folder import PREPROCESSOR, read_config
from voxstrata.backbone.locate import with_config
from voxstrata.batches.batch import Batch
from voxstrata.documents import read_json_object
from voxstrata.errors import AudioError, CheckpointError
from voxstrata.labels import EMOTIONS, as_ours, is_one_line
from voxstrata.predictions import Prediction

#: How a classifier's architecture ends in config.json.
_ENDS = ("ForSequenceClassification", "ForAudioClassification")
_UNNAMED = re.compile(r"LABEL_\d+")
#: Weights that a classifier may lack or have beside its own, of training alone.
_OF_TRAINING = re.compile(r"masked_spec_embed|num_batches_tracked|position_ids")


class PublishedClassifier(nn.Module):
    """A classifier of whole clips.

    Args:
        model: of transformers.
        extractor: its feature extractor.
        labels: of its outputs, in order; those of one name are added.
    """

    def __init__(self, model: nn.Module, extractor: Any, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder = model
        self.extractor = extractor
        self.labels = labels

    def predict(self, batch: Batch) -> list[Prediction]:
        """The most probable class of each clip, and the probabilities of all.

        Raises:
            AudioError: naming a clip that the model cannot take, such as one that is too short.
        """
        return [self._row(batch, place) for place in range(len(batch))]

    def _row(self, batch: Batch, place: int) -> Prediction:
        samples = batch.waveforms[place, : int(batch.lengths[place])].float().cpu().numpy()
        about = batch.references[place]
        try:
            inputs = self.extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            logits = self.encoder(**inputs.to(batch.waveforms.device)).logits[0].float()
        except (RuntimeError, ValueError) as fault:
            if "memory" in str(fault):
                raise
            raise AudioError(
                f"the classifier does not take a clip of {len(samples) / SAMPLE_RATE:.2f} s "
                f"({str(fault).splitlines()[0][:80]}); leave it out, or take another model"
            ) from None
        probabilities: dict[str, float] = {}
        for label, share in zip(self.labels, logits.softmax(-1).tolist(), strict=True):
            probabilities[label] = probabilities.get(label, 0.0) + share
        return Prediction(
            id=about.id,
            path=about.path,
            speaker=about.speaker,
            emotion=max(probabilities, key=probabilities.__getitem__),
            probabilities=probabilities,
            reference_emotion=about.emotion,
        )


def find_classifier(source: str | Path) -> Path | None:
    """The folder of an audio classifier, given as such or as the hub id of one that was downloaded.

    It is told by config.json, whose architecture is one of transformers' audio classifiers.

    Raises:
        CheckpointError: if config.json cannot be read.
    """
    folder = with_config(source)
    if folder is None:
        return None
    path = folder / "config.json"
    names = read_json_object(path, error=CheckpointError, advice="fetch it again").get("architectures")
    if not isinstance(names, list) or not any(isinstance(n, str) and n.endswith(_ENDS) for n in names):
        return None
    return folder if type(read_config(folder)) in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING else None


def load_classifier(folder: Path) -> tuple[PublishedClassifier, list[str]]:
    """A classifier, frozen and in eval mode, float32 on the CPU, with what is to be said of its labels.

    Args:
        folder: with config.json, weights, and preprocessor_config.json.

    Raises:
        CheckpointError: if files are missing or broken, weights do not fit, or it is no classifier of one
            label a clip.
    """
    config = read_config(folder)
    labels = _labels(folder, config)
    if not (folder / PREPROCESSOR).is_file():
        raise CheckpointError(
            f"{folder} has no {PREPROCESSOR}, so that its input is not known; fetch that file too"
        )
    read_json_object(folder / PREPROCESSOR, error=CheckpointError, advice="fetch it again")
    try:
        extractor = AutoFeatureExtractor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model, about = AutoModelForAudioClassification.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as fault:  # a stranger's folder fails in as many ways as there are
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise CheckpointError(f"cannot use the classifier in {folder}: {reason}; fetch it again") from None
    rate = getattr(extractor, "sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise CheckpointError(
            f"{folder / PREPROCESSOR} is for sound at {rate} Hz; give a model for {SAMPLE_RATE} Hz"
        )
    missing = sorted(name for name in about["missing_keys"] if not _OF_TRAINING.search(name))
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise CheckpointError(
            f"{folder} lacks {len(missing)} weights of the classifier ({', '.join(missing[:3])}{more}); "
            "fetch it again"
        )
    return PublishedClassifier(model, extractor, labels).requires_grad_(False).eval(), _notes(folder, labels)


def _labels(folder: Path, config: Any) -> tuple[str, ...]:
    """The name of each output, ours where it is another spelling of one."""
    named = config.id2label
    if config.problem_type not in (None, "single_label_classification"):
        raise CheckpointError(
            f"{folder} is for {config.problem_type!r}; give a classifier of one label a clip"
        )
    names = [named.get(index) for index in range(len(named))]
    if len(names) < 2 or not all(
        isinstance(name, str) and name.strip() and is_one_line(name) for name in names
    ):
        raise CheckpointError(
            f"{folder / 'config.json'} does not name two classes or more (id2label: {str(named)[:60]}); name "
            "them there"
        )
    return tuple(as_ours(name) for name in names)


def _notes(folder: Path, labels: tuple[str, ...]) -> list[str]:
    if all(map(_UNNAMED.fullmatch, labels)):
        return [f"{folder} does not name its classes; name them in id2label of its config.json"]
    others = sorted(set(labels) - set(EMOTIONS))
    if not others:
        return []
    shown = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
    return [f"{folder} has classes of its own: {shown}; they are answered as they are named there"]
