"""What the HarmoniFuse paper leaves open, as options; every default is ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from voxstrata.errors import RecipeError
from voxstrata.methods.harmonifuse.gated_encoder import EncoderFusionMode
from voxstrata.methods.harmonifuse.lm.decoding import DecodingOptions
from voxstrata.methods.harmonifuse.lm.language_model import LanguageModel, SmallLM, StateNorm, small_lm
from voxstrata.methods.harmonifuse.lm.pretrained import PretrainedLM, load_pretrained
from voxstrata.methods.harmonifuse.lm.tokenizers import CharacterTokenizer, TextTokenizer
from voxstrata.methods.harmonifuse.prompt_adaptive import LayerScores
from voxstrata.vocabulary import Vocabulary

ClassAnswers = Literal["head", "words"]
TrainedEncoder = Literal["none", "top", "all"]


@dataclass(frozen=True)
class EncoderFusionOptions:
    """See `fusion.gated_encoder.GatedEncoderFusion`."""

    mode: EncoderFusionMode = "gated"
    layer: int | None = None
    per_task: bool = True
    normalize: bool = True


@dataclass(frozen=True)
class LayerFusionOptions:
    """See `fusion.prompt_adaptive.PromptAdaptiveFusion`; `norm`: `speech_lm.language_model.LanguageModel`.

    None for `norm` and `last_start` takes what suits the language model: "plain" and 0 (all layers equal)
    from scratch, "model" and 5 for a pretrained one (alpha of the last of 12 layers starts at .93, of 32 at
    .83).
    """

    scores: LayerScores = "both"
    width: int = 256
    norm: StateNorm | None = None
    last_start: float | None = None


@dataclass(frozen=True)
class ConnectorOptions:
    """See `speech_lm.connector.Connector`."""

    stack: int = 5
    width: int = 2048


@dataclass(frozen=True)
class HarmoniFuseRates:
    """Peak learning rates; 0 freezes a part.

    Args:
        new: connector, prompts, score network, heads, and a language model from scratch.
        adapters: of a pretrained language model.
        fusion: the gates of the encoder's layers and the scalars s of the language model's; no weight decay.
        encoder: what of the encoder is trained.
        weight_decay: of all but the fusion scalars and a merged encoder's coefficients.
    """

    new: float = 1e-4
    adapters: float = 2e-4
    fusion: float = 1e-3
    encoder: float = 1e-5
    weight_decay: float = 0.01


@dataclass(frozen=True)
class HarmoniFuseOptions:
    """The model of HarmoniFuse, as far as its paper does not state it.

    Args:
        lm: a language model from scratch, or a pretrained one with adapters.
        encoder_fusion: gated (over all layers), one fixed layer, or the last.
        layer_fusion: scores of the language model's layers.
        connector: from the encoder to the language model.
        prompt_tokens: learned embeddings of a task's prompt.
        label_smoothing: of the token loss.
        class_answers: how classes are told: by a linear head on the fused state of the last prompt position,
            or as "words" through the token head, one of the label names.
        encoder_trained: "none", the "top" layers, or "all" but the front end; of a merged encoder these are
            its coefficients, so "top" does not go.
        encoder_top: number of trained layers, for "top".
        decoding: search for the transcript.
        rates: learning rates.

    Raises:
        RecipeError: if a value is out of range.
    """

    lm: SmallLM | PretrainedLM = field(default_factory=SmallLM)
    encoder_fusion: EncoderFusionOptions = field(default_factory=EncoderFusionOptions)
    layer_fusion: LayerFusionOptions = field(default_factory=LayerFusionOptions)
    connector: ConnectorOptions = field(default_factory=ConnectorOptions)
    prompt_tokens: int = 1
    label_smoothing: float = 0.1
    class_answers: ClassAnswers = "head"
    encoder_trained: TrainedEncoder = "none"
    encoder_top: int = 4
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    rates: HarmoniFuseRates = field(default_factory=HarmoniFuseRates)

    def __post_init__(self) -> None:
        if self.class_answers not in ("head", "words"):
            raise RecipeError(f"class_answers is {self.class_answers!r}; allowed are head, words")
        if self.encoder_trained not in ("none", "top", "all"):
            raise RecipeError(f"encoder_trained is {self.encoder_trained!r}; allowed are none, top, all")
        if not 0 <= self.label_smoothing < 1:
            raise RecipeError(f"label_smoothing is {self.label_smoothing}; at least 0 and below 1 is needed")
        counts = {"prompt_tokens": self.prompt_tokens, "encoder_top": self.encoder_top}
        counts |= {"stack": self.connector.stack, "connector width": self.connector.width}
        for name, count in counts.items():
            if count < 1:
                raise RecipeError(f"{name} is {count}; at least 1 is needed")

    @property
    def state_norm(self) -> StateNorm:
        """The form of the language model's states, where None was resolved."""
        default: StateNorm = "model" if isinstance(self.lm, PretrainedLM) else "plain"
        return self.layer_fusion.norm or default

    @property
    def last_start(self) -> float:
        """The start of the last layer's scalar, where None was resolved."""
        if self.layer_fusion.last_start is not None:
            return self.layer_fusion.last_start
        return 5.0 if isinstance(self.lm, PretrainedLM) else 0.0


def build_lm(
    options: HarmoniFuseOptions, vocabulary: Vocabulary, *, seed: int
) -> tuple[LanguageModel, TextTokenizer]:
    """The language model of the options with its tokenizer.

    Args:
        options: their `lm` and the form of its states.
        vocabulary: characters of a model from scratch; a pretrained one brings its own tokens.
        seed: of all that starts at random.

    Raises:
        CheckpointError: if a pretrained model cannot be used.
    """
    if isinstance(options.lm, PretrainedLM):
        return load_pretrained(options.lm, seed=seed, norm=options.state_norm)
    tokenizer = CharacterTokenizer(vocabulary)
    return small_lm(options.lm, tokenizer.size, seed=seed, norm=options.state_norm), tokenizer
