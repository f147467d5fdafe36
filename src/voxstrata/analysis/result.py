"""What a study by probes found: numbers for each target and layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voxstrata.analysis.frame_answers import FRAME_TARGETS
from voxstrata.analysis.probes import ProbeScores
from voxstrata.evaluation.answers import FEW_SPEAKERS


@dataclass(frozen=True)
class TargetScores:
    """What the layers tell of one target.

    Args:
        name: of the target.
        scores: by layer, from layer 0, the front end's projected features.
        examples: part -> clips, or frames, that the probes saw.
        resampled: what was resampled for the intervals: "speakers", or "clips" where a speaker is unknown.
        units: how many of these the test examples have.
        classes: names; empty for numbers.
    """

    name: str
    scores: ProbeScores
    examples: Mapping[str, int]
    resampled: str
    units: int
    classes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "level": "frames" if self.name in FRAME_TARGETS else "clips",
            "measure": self.scores.measure,
            "chance": self.scores.chance,
            "best_layer": self.scores.best,
            "examples": dict(self.examples),
            "resampled": self.resampled,
            "units": self.units,
            "classes": list(self.classes),
            "layers": [
                {
                    "layer": layer,
                    "value": score.value,
                    "interval": None if score.interval is None else list(score.interval),
                    "alpha" if self.scores.measure == "r2" else "C": score.strength,
                    "converged": score.converged,
                }
                for layer, score in enumerate(self.scores.layers)
            ],
        }

    def notes(self) -> list[str]:
        """What a reader should know: how far the intervals hold, probes that did not converge."""
        notes = []
        if self.resampled == "clips":
            notes.append(f"{self.name}: intervals are by clip, for want of known speakers, and too narrow")
        elif self.units < FEW_SPEAKERS:
            notes.append(f"{self.name}: {self.units} test speakers, too few for intervals to mean much")
        if unfinished := [str(i) for i, layer in enumerate(self.scores.layers) if not layer.converged]:
            notes.append(f"{self.name}: the regression of layer {', '.join(unfinished)} did not converge")
        return notes


@dataclass(frozen=True)
class ProbeStudy:
    """All targets of one encoder on one corpus.

    Args:
        targets: what was probed.
        clips: part -> clips that were run.
        notes: what a reader should know: targets left out, few speakers, probes that did not converge.
    """

    targets: tuple[TargetScores, ...]
    clips: Mapping[str, int]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clips": dict(self.clips),
            "targets": {target.name: target.as_dict() for target in self.targets},
            "notes": list(self.notes),
        }
