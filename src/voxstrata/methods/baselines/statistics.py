"""A yardstick without deep learning: acoustic statistics of a clip and a support vector machine.

What an encoder adds has to be seen above this. 71 features a frame (mel bands, MFCCs with slopes,
periodicity, pitch, level, tilt) give 284 statistics a clip; scikit-learn's SVM with an RBF kernel tells the
classes. The level of the recording stays in the features: on acted corpora it tells much, in the wild little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from voxstrata.batches.batch import Batch, Reference
from voxstrata.config.recipe import Recipe
from voxstrata.config.strict import PositiveNumber
from voxstrata.labels import LabelSet
from voxstrata.methods.method import Facts, MeasuredMethod, Say
from voxstrata.methods.pretraining.acoustic_targets import HOP, WINDOW, AcousticTargets
from voxstrata.methods.sources import Sources, clip_sources
from voxstrata.methods.task_sources import AnySources
from voxstrata.predictions import Prediction

Statistics = NDArray[np.float64]

#: Brings speech at common levels (-46 to -20 dB re full scale) to the range that the features are made for.
GAIN = 50.0


class StatisticsRecipe(Recipe):
    """A baseline without deep learning: 284 acoustic statistics per clip and an SVM with balanced classes.

    Mel bands, MFCCs, pitch, periodicity, level and tilt (see `svm_answers`). Predictions and scores, no
    model.

    Args:
        cost: C of the SVM.
        gamma: of its RBF kernel, for features of unit variance.
        speaker_normalized: bring each speaker's clips to zero mean and unit variance first; needs no labels,
            but all clips of a speaker.
    """

    system: Literal["statistics"] = "statistics"
    cost: PositiveNumber = 10.0
    gamma: PositiveNumber = 5e-4
    speaker_normalized: bool = False


@torch.no_grad()
def clip_statistics(batches: Iterable[Batch]) -> tuple[list[Reference], Statistics]:
    """What is known of each clip, and its statistics.

    Returns:
        N references, and [N, 284]: mean, deviation, 10th and 90th percentile of each feature over the frames.
    """
    extractor = AcousticTargets()
    references: list[Reference] = []
    rows: list[Statistics] = []
    for batch in batches:
        references.extend(batch.references)
        for wave, length in zip(batch.waveforms, batch.lengths.tolist(), strict=True):
            count = max(1, 1 + (length - WINDOW) // HOP)
            heard = extractor.frame_features(GAIN * wave[None, :length], count, WINDOW // 2)
            frames = torch.cat(heard, dim=-1)[0].double().numpy()
            low, high = np.percentile(frames, (10, 90), axis=0)
            rows.append(np.concatenate([frames.mean(0), frames.std(0), low, high]))
    return references, np.stack(rows)


def per_speaker(references: Sequence[Reference], rows: Statistics) -> Statistics:
    """Each speaker's rows [N, F] at zero mean and unit deviation; it takes no labels, but all their clips.

    Clips without a speaker count as one speaker.
    """
    speakers = np.array([reference.speaker or "" for reference in references])
    normalised = np.empty_like(rows)
    for speaker in np.unique(speakers):
        own = rows[speakers == speaker]
        normalised[speakers == speaker] = (own - own.mean(0)) / (own.std(0) + 1e-6)
    return normalised


def svm_answers(
    train: Iterable[Batch],
    evaluated: Mapping[str, Iterable[Batch]],
    labels: LabelSet,
    *,
    cost: float = 10.0,
    gamma: float = 5e-4,
    speaker_normalized: bool = False,
) -> dict[str, list[Prediction]]:
    """Trains the SVM, with classes balanced, and answers the clips of each split.

    Args:
        train: clips with emotions.
        evaluated: split -> clips.
        labels: the classes.
        cost: C of the SVM.
        gamma: of its kernel, for features of unit variance.
        speaker_normalized: see `per_speaker`.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    def read(batches: Iterable[Batch]) -> tuple[list[Reference], Statistics]:
        references, rows = clip_statistics(batches)
        return references, per_speaker(references, rows) if speaker_normalized else rows

    references, rows = read(train)
    machine = make_pipeline(StandardScaler(), SVC(C=cost, gamma=gamma, class_weight="balanced"))
    machine.fit(rows, [labels.index(str(reference.emotion)) for reference in references])
    answers = {}
    for split, batches in evaluated.items():
        asked, rows = read(batches)
        answers[split] = [
            Prediction(
                id=reference.id,
                path=reference.path,
                speaker=reference.speaker,
                emotion=labels.names[index],
                reference_emotion=reference.emotion,
            )
            for reference, index in zip(asked, machine.predict(rows).tolist(), strict=True)
        ]
    return answers


class StatisticsMethod(MeasuredMethod[StatisticsRecipe]):
    """See `methods.method`."""

    recipe = StatisticsRecipe
    stage = "fine-tuning"

    def facts(self, recipe: StatisticsRecipe) -> Facts:
        return Facts(
            tasks={},
            learns=frozenset({"emotion"}),
            base=None,
            parents=(),
            fitted_on_heldout=False,
            encoders=(),
            new_encoder=None,
            writes_ctc=False,
            resting_steps=0,
            work=None,
        )

    def defaults(self, values: Mapping[str, Any]) -> None:
        return None

    def sources(self, recipe: StatisticsRecipe) -> Sources:
        return clip_sources(recipe, words=False, classes=recipe.data.targets != "dimensions")

    def answers(self, recipe: StatisticsRecipe, sources: AnySources, say: Say) -> dict[str, list[Prediction]]:
        assert isinstance(sources, Sources) and sources.labels is not None
        return svm_answers(
            sources.train.epoch(0),
            {split: source.epoch(0) for split, source in sources.evaluated.items()},
            sources.labels,
            cost=recipe.cost,
            gamma=recipe.gamma,
            speaker_normalized=recipe.speaker_normalized,
        )


METHOD = StatisticsMethod()
