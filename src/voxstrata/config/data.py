"""Corpora in a recipe, and how they are batched."""

from __future__ import annotations

from os.path import normpath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from voxstrata.config.strict import Fraction, Number, Positive, PositiveNumber, Strict, Text, Whole

Split = Literal["train", "dev", "test"]


class Speakers(Strict):
    """One part of a corpus's training speakers, all but that part, or the next one (see `speaker_parts`).

    Args:
        part: which part, from 1.
        of: number of parts.
        take: "part" takes its speakers, "rest" all others, "next" those of the next part (after the last,
            the first).
        unknown: training clips without a speaker: "refuse" them, or "leave_out".
    """

    part: Positive
    of: Annotated[Whole, Field(ge=2)] = 5
    take: Literal["part", "rest", "next"]
    unknown: Literal["refuse", "leave_out"] = "refuse"

    @model_validator(mode="after")
    def _part_is_there(self) -> Speakers:
        if self.part > self.of:
            raise ValueError(f"part is {self.part} of {self.of}; give a part from 1 to {self.of}")
        return self


class CorpusUse(Strict):
    """A prepared corpus, and which of its clips are used.

    Args:
        path: folder that `corpus prepare` or `corpus synth` wrote.
        fold: cross-validation: fold k tests on the corpus's k-th group of speakers, takes the next group as
            dev and trains on the rest. None: the corpus's own splits.
        without_folds: groups of speakers that are not used at all, so that choices made on the others can be
            tested on them.
        speakers: use only a part of the training speakers, so that experts and merge can learn from
            different ones; None: all. Parts are fixed by the speakers' names and counts, and hold about as
            many clips each.
        splits: splits that are used.
        trained: splits that are trained on, and used for nothing else; with [train, dev] there is no dev
            split.
        limit: most clips per split, chosen by a hash of their ids; None: all. `train --limit` sets it for
            every corpus.
    """

    path: Text
    fold: Positive | None = None
    without_folds: tuple[Positive, ...] = ()
    speakers: Speakers | None = None
    splits: tuple[Split, ...] = ("train", "dev", "test")
    trained: Annotated[tuple[Literal["train", "dev"], ...], Field(min_length=1)] = ("train",)
    limit: Positive | None = None


def different(corpora: tuple[CorpusUse, ...]) -> tuple[CorpusUse, ...]:
    """The same corpora.

    Raises:
        ValueError: if one is named twice in the same way.
    """
    uses = [use.model_copy(update={"path": normpath(use.path)}) for use in corpora]
    if twice := sorted({use.path for use in uses if uses.count(use) > 1}):
        raise ValueError(f"{', '.join(twice)} is named twice; name each corpus once")
    return corpora


class Augmentation(Strict):
    """How training waveforms are changed, anew in each epoch.

    Args:
        tempo: largest relative change of tempo; log-uniform in [1 / (1 + tempo), 1 + tempo].
        pitch: largest shift of the whole spectrum in semitones, either way; the tempo stays.
        noise: share of the clips that get noise.
        noise_db: range of the signal-to-noise ratio in dB.
        reverb: share of the clips that get reverberation.
    """

    tempo: Annotated[Number, Field(ge=0, le=1)] = 0.0
    pitch: Annotated[Number, Field(ge=0, le=12)] = 0.0
    noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    noise_db: tuple[Number, Number] = (5.0, 30.0)
    reverb: Annotated[Number, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _lower_first(self) -> Augmentation:
        if self.noise_db[0] > self.noise_db[1]:
            raise ValueError(
                f"noise_db is [{self.noise_db[0]:g}, {self.noise_db[1]:g}]; give the lower number first"
            )
        return self

    @property
    def is_off(self) -> bool:
        """Whether nothing is ever changed."""
        return not (self.tempo or self.pitch or self.noise or self.reverb)


class Data(Strict):
    """Corpora, targets and batches.

    Args:
        corpora: prepared corpora; their clips are pooled.
        labels: classes in the order of the model's outputs; None: those of the training clips, in
            alphabetical order.
        alphabet: characters that a CTC vocabulary always has, beside those of the training transcripts.
        targets: "consensus": one class per clip; "votes": the shares of the annotators' votes; "dimensions":
            arousal, valence and dominance on the corpus's scale, learned by 1 - CCC (concordance correlation
            coefficient) of the whole batch. Clips without all three ratings are left out.
        smoothing: label smoothing: share of a class target that is spread over the other classes, in
            training and for the validation loss.
        batch_size: most clips per batch.
        crop_s: training uses a random stretch of this many seconds of a longer clip; None: whole clips. Dev
            and test are not cropped (in pre-training dev is, in the middle).
        augment: how training waveforms are changed, anew in each epoch.
    """

    corpora: Annotated[tuple[CorpusUse, ...], AfterValidator(different)] = ()
    labels: tuple[Text, ...] | None = None
    alphabet: str = "abcdefghijklmnopqrstuvwxyz' "
    targets: Literal["consensus", "votes", "dimensions"] = "consensus"
    smoothing: Fraction = 0.0
    batch_size: Positive = 32
    crop_s: PositiveNumber | None = None
    augment: Augmentation = Augmentation()

    @field_validator("labels")
    @classmethod
    def _each_label_once(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if twice := sorted({name for name in labels or () if (labels or ()).count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is named twice; name each label once")
        return labels

    def require_whole_clips(self, of: str) -> None:
        """For a system (or task) that learns words, which a crop would cut off.

        Raises:
            ValueError: if clips are cropped.
        """
        if self.crop_s is not None:
            raise ValueError(
                f"data.crop_s is {self.crop_s:g}, and crops cut words off: give data.crop_s=null for {of}"
            )

    def require_classes(self, of: str) -> None:
        """For a system that knows emotions as classes only.

        Raises:
            ValueError: if ratings are the targets.
        """
        if self.targets == "dimensions":
            raise ValueError(
                f"data.targets is dimensions, which is no task of {of}; give data.targets=consensus or votes"
            )
