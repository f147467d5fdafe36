"""Answers for another class prior than the one a model was trained under.

Saerens, Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
Neural Computation 14(1), 2002, equation 2.4. Menon et al., "Long-tail learning via logit adjustment",
ICLR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxstrata.documents import as_number, read_json_object
from voxstrata.errors import PredictionsError
from voxstrata.evaluation.answers import first_few
from voxstrata.predictions import Prediction

Array = NDArray[np.float64]

UNIFORM = "uniform"

#: Class -> share or count; None stands for equal shares.
Prior = Mapping[str, float] | None
GivenPrior = str | Path | Mapping[str, float]

_FORMS = "uniform, name=share,... or a JSON file of shares or counts"


@dataclass(frozen=True)
class Adjustment:
    """Predictions for another prior.

    Args:
        predictions: all rows, in the same order.
        adjusted: rows with probabilities.
        changed: rows that now answer another class.
    """

    predictions: list[Prediction]
    adjusted: int
    changed: int


def adjusted(probabilities: Array, trained: Array, new: Array) -> Array:
    """p'_c = exp(log p_c - log trained_c + log new_c), normalised.

    Args:
        probabilities: `[N, C]`, from 0 on.
        trained: prior under which they were learned `[C]`, all above 0.
        new: prior to answer for `[C]`, from 0 on.

    Returns:
        `[N, C]`; rows sum to 1.

    >>> adjusted(np.array([[0.6, 0.4]]), np.array([0.9, 0.1]), np.array([0.5, 0.5])).round(3)
    array([[0.143, 0.857]])
    """
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) - np.log(trained) + np.log(new)
    # The largest is taken off first, so that no row of small probabilities vanishes.
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def adjust(predictions: Sequence[Prediction], trained: Prior, new: Prior) -> Adjustment:
    """Adjusts the probabilities of every row that has some; its answer becomes the most probable class.

    Rows with an error stay, and so do rows that answer no emotion.

    Args:
        predictions: rows of one label set.
        trained: prior under which the model was trained.
        new: prior to answer for.

    Raises:
        PredictionsError: if no row has probabilities, a row answers an emotion without them, label sets
            differ, a prior names other classes, or nothing of a row is left.
    """
    rows = [p for p in predictions if p.probabilities and p.error is None]
    bare = [p.id for p in predictions if p.error is None and p.emotion is not None and not p.probabilities]
    if bare or not rows:
        what = f"{len(bare)} rows answer without them: {first_few(bare)}" if bare else "no row has them"
        raise PredictionsError(f"a prior needs probabilities; {what}; score without a prior")
    # Of equal shares the first name in the alphabet is the answer, whatever order the file has.
    names = tuple(sorted(rows[0].probabilities or ()))
    for row in rows:
        if set(row.probabilities or ()) != set(names):
            raise PredictionsError(
                f"clip {row.id!r} has probabilities of {', '.join(row.probabilities or ())}, "
                f"clip {rows[0].id!r} of {', '.join(names)}; adjust files of one label set at a time"
            )
    table = np.array([[(row.probabilities or {})[name] for name in names] for row in rows], dtype=np.float64)
    of_training, wanted = shares_over(trained, names, "train_prior"), shares_over(new, names, "prior")
    if empty := [name for name, share in zip(names, of_training, strict=True) if share == 0]:
        raise PredictionsError(
            f"train_prior gives {', '.join(empty)} no share, but the model answers it; give a share above 0"
        )
    _check_rows(rows, table, wanted)
    probabilities = adjusted(table, of_training, wanted)
    answers = dict(zip([row.id for row in rows], probabilities, strict=True))
    out = [_answered(p, names, answers[p.id]) if p.id in answers else p for p in predictions]
    changed = sum(a.emotion != b.emotion for a, b in zip(predictions, out, strict=True))
    return Adjustment(out, adjusted=len(rows), changed=changed)


def adjust_as_given(
    predictions: Sequence[Prediction], prior: GivenPrior | None, train_prior: GivenPrior | None
) -> Adjustment:
    """As `adjust`, with priors as a user gives them.

    Args:
        predictions: rows of one label set.
        prior: to answer for; see `read_prior`.
        train_prior: under which the model was trained.

    Raises:
        PredictionsError: if one of the two is missing; see `adjust` and `read_prior`.
    """
    if prior is None or train_prior is None:
        given, lacking = ("prior", "train_prior") if train_prior is None else ("train_prior", "prior")
        raise PredictionsError(f"{given} needs {lacking} beside it: both enter the adjustment")
    return adjust(predictions, read_prior(train_prior), read_prior(prior))


def read_prior(given: GivenPrior) -> Prior:
    """A prior as a user gives it: "uniform", "name=share,...", a JSON file, or a mapping.

    A JSON file holds an object of shares or counts, or is the `corpus.json` of a prepared corpus: then the
    clips of each class in its split train count.

    >>> read_prior("uniform") is None, read_prior("anger=1,neutral=3")
    (True, {'anger': 1.0, 'neutral': 3.0})

    Raises:
        PredictionsError: if it has another form, or a share is no number from 0 on.
    """
    if isinstance(given, Mapping):
        return _numbers(given, ",".join(f"{name}={share}" for name, share in given.items()))
    text = str(given)
    if text == UNIFORM:
        return None
    if "=" in text and not Path(text).is_file():
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        names = [name.strip() for name, _, _ in pairs]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise PredictionsError(f"the prior {text!r} names {', '.join(repeated)} twice; give {_FORMS}")
        return _numbers({name.strip(): value for name, _, value in pairs}, text)
    if not Path(text).is_file():
        raise PredictionsError(f"no prior {text!r}; give {_FORMS}")
    content = read_json_object(Path(text), error=PredictionsError, advice=f"give {_FORMS}")
    if "cuts_sha256" not in content:
        return _numbers(content, text)
    try:
        emotions = content["summary"]["emotions"]
        shares = {name: emotions.get(name, {}).get("train", 0) for name in content["labels"]}
    except (KeyError, TypeError, AttributeError):
        raise PredictionsError(f"{text} is no corpus.json of a prepared corpus; give {_FORMS}") from None
    return _numbers(shares, text)


def _numbers(values: Mapping[str, Any], text: str) -> dict[str, float]:
    shares = {}
    for name, value in values.items():
        shares[name] = as_number(value)
        if not (math.isfinite(shares[name]) and shares[name] >= 0):
            raise PredictionsError(
                f"the prior {text!r} gives {name!r} the share {value!r}; give numbers from 0 on"
            )
    if not sum(shares.values()):
        raise PredictionsError(f"the prior {text!r} gives no class a share; give {_FORMS}")
    return shares


def shares_over(prior: Prior, names: Sequence[str], option: str) -> Array:
    """Shares of the classes `[C]`, which sum to 1.

    Args:
        prior: as it was given.
        names: C classes.
        option: what messages call it.

    Raises:
        PredictionsError: if it lacks a class, or names others.
    """
    if prior is None:
        return np.full(len(names), 1 / len(names))
    missing, strange = sorted(set(names) - set(prior)), sorted(set(prior) - set(names))
    if missing or strange:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"names {', '.join(strange)}"] if strange else []
        raise PredictionsError(f"{option} {' and '.join(said)}; the classes are {', '.join(names)}")
    shares = np.array([prior[name] for name in names], dtype=np.float64)
    # By the largest first: a sum of large shares may be no number.
    shares /= shares.max()
    return np.asarray(shares / shares.sum())


def _check_rows(rows: Sequence[Prediction], table: Array, new: Array) -> None:
    bad = ~np.isfinite(table).all(axis=1) | (table < 0).any(axis=1)
    if bad.any():
        row = rows[int(bad.argmax())]
        raise PredictionsError(f"clip {row.id!r}: probabilities must be numbers from 0 on")
    gone = ~((table > 0) & (new > 0)).any(axis=1)
    if gone.any():
        row = rows[int(gone.argmax())]
        raise PredictionsError(
            f"clip {row.id!r}: prior gives no class a share whose probability is above 0; give one to others"
        )


def _answered(row: Prediction, names: Sequence[str], probabilities: Array) -> Prediction:
    return replace(
        row,
        emotion=names[int(probabilities.argmax())],
        probabilities=dict(zip(names, map(float, probabilities), strict=True)),
    )
