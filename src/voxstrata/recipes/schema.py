"""What a recipe may say: one schema per system; unknown keys are refused, all faults in one message."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

Rate = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
Split = Literal["train", "dev", "test"]


class Strict(BaseModel):
    """No unknown keys; values are not changed after they were read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusUse(Strict):
    """A prepared corpus, and which of its splits are used.

    Fold k tests on the corpus's k-th group of speakers and takes the next one as dev.
    """

    path: str
    fold: Positive | None = None
    splits: tuple[Split, ...] = ("train", "dev", "test")


class Data(Strict):
    """Corpora and how they are batched.

    Labels: None takes those of the training clips. Alphabet: characters that a CTC vocabulary has in any
    case, beside those of the training texts.
    """

    corpora: tuple[CorpusUse, ...] = ()
    labels: tuple[str, ...] | None = None
    alphabet: str = "abcdefghijklmnopqrstuvwxyz' "
    targets: Literal["consensus", "votes"] = "consensus"
    batch_size: Positive = 32
    crop_s: Annotated[float, Field(gt=0)] | None = None


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
    """Layer sum and head A (see heads/)."""

    width: Positive = 256
    batch_norm: bool = False
    normalize_layers: bool = False


class Recipe(Strict):
    """What all recipes share."""

    seed: int = 0
    data: Data = Data()


class BaseRecipe(Recipe):
    """Recipes that start from a base encoder: a packaged name, a folder or a Hub id."""

    base: str = "wavlm-tiny"
    final_norm: bool = False
    normalize: bool | None = None


class FinetuneRates(Strict):
    """See `systems.finetune.FinetuneRates`."""

    encoder: Rate = 1e-5
    head: Rate = 1e-4
    layer_weights: Rate = 1e-3
    weight_decay: Rate = 0.01


class FinetuneRecipe(BaseRecipe):
    """An expert: `task: ser` with head A, `task: asr` with CTC over characters."""

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
        return self


class AdaLTMRates(Strict):
    """See `systems.adaltm.AdaLTMRates`."""

    coefficients: Rate = 1e-4
    layer_weights: Rate = 1e-4
    head: Rate = 1e-4
    weight_decay: Rate = 0.01


class AdaLTMRecipe(BaseRecipe):
    """Merge task vectors of the experts in `vectors` (name -> run, model folder or checkpoint)."""

    system: Literal["adaltm"] = "adaltm"
    vectors: dict[str, str] = Field(default_factory=dict)
    granularity: Literal["layer", "global", "static"] = "layer"
    init: float | dict[str, float] = 0.5
    rates: AdaLTMRates = AdaLTMRates()
    head: Head = Head()
    training: Training


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
    """Masked prediction of clustered targets, from scratch."""

    system: Literal["pretraining"] = "pretraining"
    encoder: TinyEncoder = TinyEncoder()
    clusters: Clusters = Clusters()
    lr: Rate = 1e-3
    weight_decay: Rate = 0.01
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    visible_weight: Rate = 0.1
    training: Training


AnyRecipe = FinetuneRecipe | AdaLTMRecipe | PretrainRecipe
RECIPE: TypeAdapter[AnyRecipe] = TypeAdapter(Annotated[AnyRecipe, Field(discriminator="system")])
