"""Whether transformers alone gives the same answers: an export is opened in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from voxstrata.documents import parse_json
from voxstrata.errors import CheckpointError
from voxstrata.exporting import with_transformers
from voxstrata.exporting.clips import Clips
from voxstrata.exporting.plain_model import Answer, PlainModel

#: Largest relative difference from our own answers, by the number format of the stored weights: rounding to
#: 11 or 8 bits moves every weight by up to 1/2048 or 1/256 of itself.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
#: Norm below which a difference is held against this in place of the answer's own norm.
_LEAST_NORM = 1e-3


@dataclass(frozen=True)
class Verified:
    """How far an export's answers are from ours.

    Args:
        clips: what was compared, in words.
        transformers: version that opened it.
        alone: largest relative difference of a clip given alone.
        padded: of clips padded in a batch.
        exact_when_padded: whether those have to agree.
        scores: largest difference of the pipeline's probabilities or ratings; None where there are none.
        texts: clips whose words differ; None without words.
    """

    clips: str
    transformers: str
    alone: float
    padded: float
    exact_when_padded: bool
    scores: float | None
    texts: int | None

    def lines(self) -> list[str]:
        """What is reported."""
        padded = f", {self.padded:.1e} padded in a batch" if self.exact_when_padded else ""
        more = "" if self.scores is None else f"; scores of the pipeline differ by at most {self.scores:.1e}"
        more += "" if self.texts is None else f"; words differ in {self.texts} clips"
        found = [
            f"transformers {self.transformers}, in a process without voxstrata, answers as the run does for "
            f"{self.clips}: largest relative difference {self.alone:.1e} alone{padded}{more}"
        ]
        if not self.exact_when_padded:
            found.append(
                "give clips one at a time: the front end of this encoder in transformers sees the padding of "
                f"a batch (group norm), and answers there differ by up to {self.padded:.1e}"
            )
        return found

    def require_close(self, dtype: torch.dtype) -> None:
        """Refuses answers that are not ours.

        Args:
            dtype: of the stored weights.

        Raises:
            CheckpointError: if they differ by more than `TOLERANCES`, or in 32 bits the words are others.
        """
        limit = TOLERANCES[dtype]
        held = [self.alone, *([self.padded] if self.exact_when_padded else [])]
        # Of a difference that is no number neither holds: it is not allowed.
        if not all(difference <= limit for difference in held):
            worst = next(difference for difference in held if not difference <= limit)
            raise CheckpointError(
                f"transformers {self.transformers} answers otherwise than the run: relative difference "
                f"{worst:.1e}, allowed is {limit:.0e} in {str(dtype).removeprefix('torch.')}; nothing was "
                "written: try --dtype float32, or export without --as"
            )
        if self.texts and dtype == torch.float32:
            raise CheckpointError(
                f"transformers {self.transformers} writes other words than the run for {self.texts} of "
                f"{self.clips}; nothing was written: export without --as"
            )


def verify(model: PlainModel, folder: Path, clips: Clips, *, dtype: torch.dtype) -> Verified:
    """Opens an export in another process, and compares its answers with ours.

    Args:
        model: what was written.
        folder: of the export.
        clips: to compare with.
        dtype: of the stored weights.

    Raises:
        CheckpointError: if transformers cannot open it, or its answers differ by more than `TOLERANCES`.
    """
    expected = model.answers(*clips.padded())
    with tempfile.TemporaryDirectory(prefix="voxstrata-") as place:
        given, answers = Path(place) / "clips.safetensors", Path(place) / "answers.safetensors"
        save_file(_inputs(clips, expected), given)
        _run(model, folder, given, answers)
        with safe_open(answers, framework="pt") as file:
            about = file.metadata()
            alone = _largest(file, "alone", expected)
            padded = _largest(file, "padded", expected)
            scores = _largest_score(file, model, expected)
    texts = parse_json(about["texts"], "the words of the export")
    differ = [ours.text != theirs for ours, theirs in zip(expected, texts, strict=True)]
    found = Verified(
        clips=clips.about,
        transformers=about["transformers"],
        alone=alone,
        padded=padded,
        exact_when_padded=not model.sees_padding,
        scores=scores,
        texts=None if expected[0].text is None else sum(differ),
    )
    found.require_close(dtype)
    return found


def _inputs(clips: Clips, expected: Sequence[Answer]) -> dict[str, Tensor]:
    """What the other process is given."""
    inputs = {f"clip.{number}": wave.contiguous() for number, wave in enumerate(clips.waveforms)}
    for number, answer in enumerate(expected):
        inputs |= {f"given.{number}.{name}": tensor.contiguous() for name, tensor in answer.given.items()}
    return inputs


def _run(model: PlainModel, folder: Path, given: Path, answers: Path) -> None:
    """Opens the export in a process that does not know this package."""
    script = with_transformers.__file__
    asked = [f"{name}={value}" for name, value in model.asked.items()]
    command = [sys.executable, "-I", script, model.form, folder.resolve(), given, answers, *asked]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise CheckpointError(
            f"transformers cannot open the export ({last[:200]}); nothing was written: export without --as"
        )


def _largest(file: Any, way: str, expected: Sequence[Answer]) -> float:
    """The largest relative difference over clips and names: |theirs - ours| / |ours|, Euclidean norms."""
    found = []
    for number, answer in enumerate(expected):
        for name, ours in answer.tensors.items():
            # Behind a clip's end there may be frames of a batch, or of 30 seconds.
            theirs = file.get_tensor(f"{way}.{number}.{name}")[: len(ours)].double()
            if theirs.shape != ours.shape:
                return float("inf")
            found.append(float((theirs - ours).norm() / ours.double().norm().clamp_min(_LEAST_NORM)))
    return float(torch.tensor(found).max())


def _largest_score(file: Any, model: PlainModel, expected: Sequence[Answer]) -> float | None:
    """The largest difference of what the pipeline shows, in the order of the labels."""
    if model.form != "emotion":
        return None
    differences = []
    for number, answer in enumerate(expected):
        logits = answer.tensors["logits"]
        classes = model.config.problem_type == "single_label_classification"
        ours = logits.softmax(-1) if classes else logits
        differences.append((file.get_tensor(f"alone.{number}.scores") - ours).abs().max())
    return float(torch.stack(differences).max())
