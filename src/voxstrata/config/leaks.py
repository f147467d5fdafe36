"""Names of leaks: what must not meet a run's dev and test clips, unless its recipe allows it by name.

A name is STAGE/SPLIT/MATCH, such as "fine-tuning/test/speaker": a speaker of the split test was heard when an
expert was fine-tuned.
"""

from __future__ import annotations

from itertools import product

#: What a clip can have been used for, on the way to a run.
STAGES = {
    "pretraining": "an encoder was pre-trained on it",
    "fine-tuning": "an expert, a multi-task model or a baseline was trained on it",
    "lambda-fit": "coefficients, layer weights and head over frozen experts were trained on it",
    "calibration": "probabilities were calibrated on it (by other tools; nothing here does so)",
    "pseudo-labels": "a model's prediction was its label in training",
}
#: Beside the stages: the loss on a clip chose the weights, which is no training.
SELECTION = "selection"
SPLITS = ("dev", "test")
#: In the place of a split: the clips that coefficients and head are fitted on, where `fit_on` is heldout.
FIT = "fit"
#: How a clip of a split is found again.
MATCHES = {
    "speaker": "another clip of the same speaker",
    "clip": "a clip of the same id",
    "audio": "a clip with the same samples, whatever its name",
}
LEAKS = frozenset("/".join(parts) for parts in product(STAGES, (*SPLITS, FIT), MATCHES))


def checked_leaks(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names, if all are leaks.

    Raises:
        ValueError: naming those that are none.
    """
    if unknown := [name for name in names if name not in LEAKS]:
        raise ValueError(
            f"{', '.join(unknown)}: a leak is named STAGE/SPLIT/MATCH with {', '.join(STAGES)}; "
            f"{', '.join((*SPLITS, FIT))}; {', '.join(MATCHES)}"
        )
    return names
