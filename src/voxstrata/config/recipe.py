"""What recipes of several systems share: the loop, a head, a base encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from voxstrata.config.data import Data
from voxstrata.config.leaks import checked_leaks
from voxstrata.config.strict import Seed, Strict, Text
from voxstrata.config.training import Training


class Recipe(Strict):
    """Keys of every recipe.

    Args:
        seed: of order, crops, dropout and new weights.
        data: corpora, targets and batches.
        allow_leaks: leaks that are accepted, named STAGE/SPLIT/MATCH such as fine-tuning/test/speaker (see
            `config.leaks`).
    """

    if TYPE_CHECKING:
        system: str

    seed: Seed = 0
    data: Data = Data()
    allow_leaks: Annotated[tuple[str, ...], AfterValidator(checked_leaks)] = ()


class TrainedRecipe(Recipe):
    """Recipes of methods that the training loop trains.

    Args:
        calibrate: divide the logits of emotions by a temperature fitted on the dev clips (Guo et al. 2017,
            arXiv 1706.04599): probabilities get closer to how often the model is right; labels do not change.
    """

    if TYPE_CHECKING:
        training: Training

    calibrate: bool = True


class BaseRecipe(TrainedRecipe):
    """Recipes that start from a pre-trained encoder.

    Args:
        base: the encoder: a packaged name, a transformers folder, a run, a Hub id or a checkpoint of another
            layout. Whisper, WavLM, wav2vec 2.0 or HuBERT.
        architecture: an encoder of the same architecture, for a checkpoint without a transformers
            configuration; for LoRA the encoder that was adapted.
        final_norm: pass the last layer through the encoder's final layer norm, as transformers 4 did; else
            all layers are raw outputs.
        normalize: bring waveforms to zero mean and unit variance; None takes it from the checkpoint.
        window: Whisper's input: as long as the "clip", or padded to "30s" as OpenAI does, at about ten times
            the cost.
    """

    base: Text = "whisper-tiny.en"
    architecture: Text | None = None
    final_norm: bool = False
    normalize: bool | None = None
    window: Literal["clip", "30s"] = "clip"


def require_init(init: object, vectors: Mapping[str, str]) -> None:
    """For a recipe whose `init` may be a coefficient for each vector.

    Raises:
        ValueError: if its names are not those of the vectors.
    """
    if isinstance(init, dict) and init.keys() != vectors.keys():
        raise ValueError(
            f"init names {', '.join(init) or 'nothing'}, and the vectors are {', '.join(vectors) or 'none'}; "
            "give a coefficient for each vector, or one number for all"
        )
