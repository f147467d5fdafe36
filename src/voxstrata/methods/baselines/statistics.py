"""A baseline without deep learning: acoustic statistics of a clip and a support vector machine.

What an encoder adds has to be seen above this. 71 features a frame (mel bands, MFCCs with slopes,
periodicity, pitch, level, tilt) give 284 statistics a clip; scikit-learn's SVM with an RBF kernel tells the
classes. The level of the recording stays in the features: on acted corpora it tells much, in the wild little.
The field's own statistics, eGeMAPS (88 a clip; Eyben et al. 2016, 10.1109/TAFFC.2015.2457417), are computed
by opensmile where it is installed; its licence allows research use only, so it is an extra, not the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxstrata.audio import SAMPLE_RATE
from voxstrata.batches.batch import Batch, Reference
from voxstrata.config.recipe import Recipe
from voxstrata.config.strict import PositiveNumber
from voxstrata.errors import RecipeError
from voxstrata.labels import LabelSet
from voxstrata.methods.method import Facts, MeasuredMethod, Notify
from voxstrata.methods.pretraining.acoustic_targets import HOP, WINDOW, AcousticTargets
from voxstrata.methods.sources import Sources, clip_sources
from voxstrata.methods.task_sources import AnySources
from voxstrata.predictions import Prediction

Statistics = NDArray[np.float64]
#: Which statistics of a clip.
Features = Literal["own", "egemaps"]

#: Brings speech at common levels (-46 to -20 dB re full scale) to the range that the features are made for.
GAIN = 50.0


class StatisticsRecipe(Recipe):
    """A baseline without deep learning: acoustic statistics per clip and an SVM with balanced classes.

    Mel bands, MFCCs, pitch, periodicity, level and tilt, or eGeMAPS (see `svm_answers`). Predictions and
    scores, no model.

    Args:
        features: "own", 284 statistics of 71 features a frame; "egemaps", the 88 of opensmile's eGeMAPSv02
            (the extra `egemaps`; its licence allows research use only).
        cost: C of the SVM.
        gamma: of its RBF kernel, for features of unit variance.
        speaker_normalized: bring each speaker's clips to zero mean and unit variance first; needs no labels,
            but all clips of a speaker.
    """

    system: Literal["statistics"] = "statistics"
    features: Features = "own"
    cost: PositiveNumber = 10.0
    gamma: PositiveNumber = 5e-4
    speaker_normalized: bool = False


@torch.no_grad()
def clip_statistics(
    batches: Iterable[Batch], features: Features = "own"
) -> tuple[list[Reference], Statistics]:
    """What is known of each clip, and its statistics.

    Args:
        batches: of clips.
        features: see `StatisticsRecipe`.

    Returns:
        N references, and [N, 284]: mean, deviation, 10th and 90th percentile of each feature over the frames;
        or [N, 88] of eGeMAPS.

    Raises:
        RecipeError: if opensmile is asked for and not installed.
    """
    compute = _egemaps() if features == "egemaps" else _own(AcousticTargets())
    references: list[Reference] = []
    rows: list[Statistics] = []
    for batch in batches:
        references.extend(batch.references)
        for wave, length in zip(batch.waveforms, batch.lengths.tolist(), strict=True):
            rows.append(compute(wave[:length]))
    return references, np.stack(rows)


def _own(extractor: AcousticTargets) -> Callable[[Tensor], Statistics]:
    def compute(wave: Tensor) -> Statistics:
        count = max(1, 1 + (len(wave) - WINDOW) // HOP)
        parts = extractor.frame_features(GAIN * wave[None], count, WINDOW // 2)
        frames = torch.cat(parts, dim=-1)[0].double().numpy()
        low, high = np.percentile(frames, (10, 90), axis=0)
        found: Statistics = np.concatenate([frames.mean(0), frames.std(0), low, high])
        return found

    return compute


def _egemaps() -> Callable[[Tensor], Statistics]:
    try:
        from opensmile import FeatureLevel, FeatureSet, Smile
    except ImportError:
        raise RecipeError(
            "features egemaps need opensmile, whose licence allows research use only; install "
            "voxstrata[egemaps], or take features: own"
        ) from None
    smile = Smile(feature_set=FeatureSet.eGeMAPSv02, feature_level=FeatureLevel.Functionals)

    def compute(wave: Tensor) -> Statistics:
        found: Statistics = smile.process_signal(wave.numpy(), SAMPLE_RATE).to_numpy(np.float64)[0]
        # What a clip without voiced frames has no value for.
        return np.nan_to_num(found)

    return compute


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


def support_vector_machine(cost: float = 10.0, gamma: float = 5e-4) -> Any:
    """An SVM over scaled features with balanced classes, as scikit-learn has it; not fitted yet.

    Args:
        cost: C of the SVM.
        gamma: of its RBF kernel, for features of unit variance.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(C=cost, gamma=gamma, class_weight="balanced"))


def svm_answers(
    train: Iterable[Batch],
    evaluated: Mapping[str, Iterable[Batch]],
    labels: LabelSet,
    *,
    cost: float = 10.0,
    gamma: float = 5e-4,
    speaker_normalized: bool = False,
    features: Features = "own",
) -> dict[str, list[Prediction]]:
    """Trains the SVM, with classes balanced, and answers the clips of each split.

    Args:
        train: clips with emotions.
        evaluated: split -> clips.
        labels: the classes.
        cost: C of the SVM.
        gamma: of its kernel, for features of unit variance.
        speaker_normalized: see `per_speaker`.
        features: see `StatisticsRecipe`.
    """

    def read(batches: Iterable[Batch]) -> tuple[list[Reference], Statistics]:
        references, rows = clip_statistics(batches, features)
        return references, per_speaker(references, rows) if speaker_normalized else rows

    references, rows = read(train)
    machine = support_vector_machine(cost, gamma)
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
    kinds = ()

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

    def answers(
        self, recipe: StatisticsRecipe, sources: AnySources, notify: Notify
    ) -> dict[str, list[Prediction]]:
        assert isinstance(sources, Sources) and sources.labels is not None
        return svm_answers(
            sources.train.epoch(0),
            {split: source.epoch(0) for split, source in sources.evaluated.items()},
            sources.labels,
            cost=recipe.cost,
            gamma=recipe.gamma,
            speaker_normalized=recipe.speaker_normalized,
            features=recipe.features,
        )


METHOD = StatisticsMethod()
