"""What a recipe may say: one schema per system; unknown keys are refused, all faults in one message."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, field_validator, model_validator

from voxstrata.recipes.harmonifuse_schema import (
    Bridge,
    Decoding,
    EncoderFusion,
    HarmoniFuseRates,
    LanguageModelUse,
    LayerFusion,
)
from voxstrata.recipes.leaks import checked_leaks
from voxstrata.recipes.strict import Momentum, Positive, PositiveNumber, Rate
from voxstrata.recipes.strict import Strict as Strict

Split = Literal["train", "dev", "test"]


class Speakers(Strict):
    """One part of a corpus's training speakers, or all but that part (see `corpora.speaker_parts`)."""

    part: Positive
    of: Annotated[int, Field(ge=2)] = 5
    take: Literal["part", "rest"]
    unknown: Literal["refuse", "leave_out"] = "refuse"

    @model_validator(mode="after")
    def _part_is_there(self) -> Speakers:
        if self.part > self.of:
            raise ValueError(f"there is no part {self.part} of {self.of}: give 1 to {self.of}")
        return self


class CorpusUse(Strict):
    """A prepared corpus, and which of its splits are used.

    Fold k tests on the corpus's k-th group of speakers and takes the next one as dev. Groups of speakers in
    `without_folds` are used nowhere: what is chosen on the others can be tested on them. `speakers` divides
    the train split only.
    """

    path: str
    fold: Positive | None = None
    without_folds: tuple[Positive, ...] = ()
    speakers: Speakers | None = None
    splits: tuple[Split, ...] = ("train", "dev", "test")


class Augment(Strict):
    """See `batches.augment.Augmentation`; of training clips only."""

    tempo: Rate = 0.0
    pitch: Rate = 0.0
    noise: Rate = 0.0
    noise_db: tuple[float, float] = (5.0, 30.0)
    reverb: Rate = 0.0


class Data(Strict):
    """Corpora and how they are batched.

    Labels: None takes those of the training clips. Alphabet: characters that a CTC vocabulary has in any
    case, beside those of the training texts.
    """

    corpora: tuple[CorpusUse, ...] = ()
    labels: tuple[str, ...] | None = None
    alphabet: str = "abcdefghijklmnopqrstuvwxyz' "
    targets: Literal["consensus", "votes", "dimensions"] = "consensus"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_size: Positive = 32
    crop_s: Annotated[float, Field(gt=0)] | None = None
    augment: Augment = Augment()


class Training(Strict):
    """The loop: exactly one of epochs and steps."""

    epochs: Positive | None = None
    steps: Positive | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: Positive = 1
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    patience: Positive | None = None
    validate_every: Positive | None = None
    checkpoint_every_steps: Positive | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        return self


class Head(Strict):
    """Layer sum and head (see heads/)."""

    form: Literal["a", "b", "c"] = "a"
    width: Positive | None = None
    dropout: Momentum | None = None
    batch_norm: bool = False
    normalize_layers: bool = False

    @model_validator(mode="after")
    def _batch_norm_of_form_a(self) -> Head:
        if self.batch_norm and self.form != "a":
            raise ValueError(f"head.batch_norm is of form a: leave it out for form {self.form}")
        return self


class Recipe(Strict):
    """What all recipes share. Leaks that are allowed are named as in `recipes.leaks`."""

    seed: int = 0
    data: Data = Data()
    allow_leaks: Annotated[tuple[str, ...], AfterValidator(checked_leaks)] = ()


class BaseRecipe(Recipe):
    """Recipes that start from a base encoder: a packaged name, a folder or a Hub id.

    Architecture: an encoder of the same form, for a checkpoint that does not tell its own.
    """

    base: str = "wavlm-tiny"
    architecture: str | None = None
    final_norm: bool = False
    normalize: bool | None = None


class FinetuneRates(Strict):
    """See `systems.finetune.FinetuneRates`."""

    encoder: Rate = 1e-5
    head: Rate = 1e-4
    layer_weights: Rate = 1e-3
    weight_decay: Rate = 0.01
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    warm_head_steps: Annotated[int, Field(ge=0)] = 0


class FinetuneRecipe(BaseRecipe):
    """An expert: `task: ser` with an emotion head, `task: asr` with CTC over characters."""

    system: Literal["finetune"] = "finetune"
    task: Literal["ser", "asr"]
    rates: FinetuneRates = FinetuneRates()
    head: Head = Head()
    freeze_front_end: bool = True
    training: Training

    @model_validator(mode="after")
    def _whole_clips_for_asr(self) -> FinetuneRecipe:
        if self.task == "asr" and self.data.crop_s is not None:
            raise ValueError("data.crop_s cuts words off: leave it out for task asr")
        if self.task == "asr" and self.data.targets == "dimensions":
            raise ValueError("data.targets dimensions is of task ser: leave it out for task asr")
        return self


class AdaLTMRates(Strict):
    """See `systems.adaltm.AdaLTMRates`."""

    coefficients: Rate = 1e-4
    layer_weights: Rate = 1e-4
    head: Rate = 1e-4
    weight_decay: Rate = 0.01


class AdaLTMRecipe(BaseRecipe):
    """Merge task vectors of the experts in `vectors` (name -> run, model folder or checkpoint).

    `cache_gb` is the disk for what is the same in every epoch; 0 computes it anew.
    """

    system: Literal["adaltm"] = "adaltm"
    vectors: dict[str, str] = Field(default_factory=dict)
    granularity: Literal["layer", "global", "static"] = "layer"
    init: float | dict[str, float] = 0.5
    rates: AdaLTMRates = AdaLTMRates()
    head: Head = Head()
    cache_gb: Annotated[float, Field(ge=0)] = 10.0
    training: Training


class MultitaskRecipe(BaseRecipe):
    """Emotions and words learned jointly by one encoder, all of it trained (see `systems.multitask`).

    With `vectors` (name -> run, model folder or checkpoint) the start is the base merged with them, once.
    """

    system: Literal["multitask"] = "multitask"
    vectors: dict[str, str] = Field(default_factory=dict)
    init: float | dict[str, float] = 0.5
    asr_weight: Rate = 0.1
    selected_by: Literal["joint", "emotion"] = "joint"
    clips: Literal["both", "any"] = "both"
    rates: FinetuneRates = FinetuneRates()
    head: Head = Head()
    freeze_front_end: bool = True
    training: Training

    @model_validator(mode="after")
    def _whole_clips_with_classes(self) -> MultitaskRecipe:
        if self.data.crop_s is not None:
            raise ValueError("data.crop_s cuts words off: leave it out for multitask")
        if self.data.targets == "dimensions":
            raise ValueError("data.targets dimensions is no task of multitask: give consensus or votes")
        return self


class LateFusionRates(Strict):
    """See `systems.frozen_encoder.HeadRates`."""

    layer_weights: Rate = 1e-4
    head: Rate = 1e-4
    weight_decay: Rate = 0.01


class LateFusionRecipe(Recipe):
    """One head over the features of several frozen experts (see `systems.late_fusion`).

    `experts`: name -> run, model folder or checkpoint. `cache_gb` is the disk for their states.
    """

    system: Literal["late-fusion"] = "late-fusion"
    experts: dict[str, str] = Field(default_factory=dict)
    architecture: str | None = None
    final_norm: bool = False
    normalize: bool | None = None
    rates: LateFusionRates = LateFusionRates()
    head: Head = Head()
    cache_gb: Annotated[float, Field(ge=0)] = 10.0
    training: Training


class TaskUse(Strict):
    """One task of several, and its corpora; none: those of `data`.

    Field: what of a clip is the answer, "transcript" for its words; None takes that for a task named asr,
    "emotion" for ser, else the task's name. Labels: None takes those of the training clips.
    """

    corpora: tuple[CorpusUse, ...] = ()
    field: str | None = None
    labels: tuple[str, ...] | None = None
    weight: PositiveNumber = 1.0
    share: PositiveNumber = 1.0
    batch_size: Positive | None = None


class HarmoniFuseRecipe(BaseRecipe):
    """One speech language model for several tasks, each from its own corpora (see `systems.harmonifuse`).

    A task that is null is left out.
    """

    system: Literal["harmonifuse"] = "harmonifuse"
    tasks: dict[str, TaskUse] = Field(min_length=1)
    encoder_fusion: EncoderFusion = EncoderFusion()
    layer_fusion: LayerFusion = LayerFusion()
    connector: Bridge = Bridge()
    lm: LanguageModelUse = LanguageModelUse()
    prompt_tokens: Positive = 1
    label_smoothing: Momentum = 0.1
    class_answers: Literal["head", "words"] = "head"
    class_weights: Literal["equal", "balanced"] = "equal"
    encoder_trained: Literal["none", "top", "all"] = "none"
    encoder_top: Positive = 4
    decoding: Decoding = Decoding()
    rates: HarmoniFuseRates = HarmoniFuseRates()
    training: Training

    @field_validator("tasks", mode="before")
    @classmethod
    def _without_absent(cls, tasks: object) -> object:
        return {k: v for k, v in tasks.items() if v is not None} if isinstance(tasks, dict) else tasks

    @model_validator(mode="after")
    def _whole_clips_of_classes(self) -> HarmoniFuseRecipe:
        if self.data.crop_s is not None:
            raise ValueError("data.crop_s cuts words off: leave it out for harmonifuse")
        if self.data.labels is not None:
            raise ValueError("data.labels belong to a task here: give tasks.ser.labels")
        if self.data.targets == "dimensions":
            raise ValueError("data.targets dimensions is no task of harmonifuse: give consensus or votes")
        return self


class TinyEncoder(Strict):
    """A small WavLM with a two-layer front end (400 and 3 samples wide, a frame every 20 ms)."""

    hidden_size: Positive = 128
    layers: Positive = 6
    attention_heads: Positive = 4
    feed_forward: Positive = 512
    channels: Positive = 260
    level_channels: Annotated[int, Field(ge=0)] = 4
    position_kernel: Positive = 32

    @model_validator(mode="after")
    def _shapes_fit(self) -> TinyEncoder:
        if (self.channels - self.level_channels) % 4 or self.channels - self.level_channels < 8:
            raise ValueError(
                "channels - level_channels must be a multiple of 4, at least 8 (4 phases a band)"
            )
        if self.hidden_size % self.attention_heads or self.hidden_size % 16:
            raise ValueError("hidden_size must be a multiple of attention_heads and of 16")
        return self


class Clusters(Strict):
    """Targets of masked prediction."""

    cepstral: Positive = 128
    prosodic: Positive = 64
    fit_batches: Positive = 60


class PretrainRecipe(Recipe):
    """Masked prediction of clustered targets, from scratch; with `phonemes` also of the phonemes spoken."""

    system: Literal["pretraining"] = "pretraining"
    encoder: TinyEncoder = TinyEncoder()
    clusters: Clusters = Clusters()
    phonemes: bool = False
    phoneme_weight: Rate = 1.0
    lr: Rate = 3e-4
    weight_decay: Rate = 0.01
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    visible_weight: Rate = 0.1
    training: Training


class StatisticsRecipe(Recipe):
    """A yardstick: acoustic statistics and an SVM (see `systems.statistics`)."""

    system: Literal["statistics"] = "statistics"
    cost: Annotated[float, Field(gt=0)] = 10.0
    gamma: Annotated[float, Field(gt=0)] = 5e-4
    speaker_normalized: bool = False


class TextRecipe(Recipe):
    """A yardstick: the words alone (see `systems.text`).

    `transcripts` is a run (or a folder of predictions files) whose recognised words are asked about in the
    place of the reference ones; learned is from the reference words in any case.
    """

    system: Literal["text"] = "text"
    transcripts: str | None = None
    cost: Annotated[float, Field(gt=0)] = 10.0
    ngrams: Positive = 2

    @model_validator(mode="after")
    def _classes(self) -> TextRecipe:
        if self.data.targets == "dimensions":
            raise ValueError("data.targets dimensions is no task of text: give consensus or votes")
        return self


TrainedRecipe = (
    FinetuneRecipe | AdaLTMRecipe | MultitaskRecipe | LateFusionRecipe | HarmoniFuseRecipe | PretrainRecipe
)
YardstickRecipe = StatisticsRecipe | TextRecipe
AnyRecipe = TrainedRecipe | YardstickRecipe
RECIPE: TypeAdapter[AnyRecipe] = TypeAdapter(Annotated[AnyRecipe, Field(discriminator="system")])
