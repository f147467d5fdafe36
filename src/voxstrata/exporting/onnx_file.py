"""An export as ONNX beside its transformers folder, checked with onnxruntime; with int8 also a smaller one.

The graph takes the samples of one clip at 16 kHz, [1, N], and gives logits; it normalises the waveform itself
where the model wants that.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from voxstrata.backbone.export_folder import ONNX, ONNX_INT8
from voxstrata.errors import CheckpointError
from voxstrata.exporting.clips import Clips
from voxstrata.exporting.plain_model import Answer, PlainModel
from voxstrata.exporting.verification import TOLERANCES

#: Forms that have such a graph.
ONNX_FORMS = ("emotion", "ctc")
_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_INPUT, _OUTPUT = "samples", "logits"


def require_onnx(form: str | None) -> None:
    """Refuses a form without a graph, or an environment without the packages, before any work.

    Raises:
        CheckpointError: naming what is missing.
    """
    if form not in ONNX_FORMS:
        raise CheckpointError(f"--onnx is of --as {' and --as '.join(ONNX_FORMS)}; add one, or leave it out")
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise CheckpointError(
            f"--onnx needs {', '.join(missing)}, not installed here; run: pip install 'voxstrata[onnx]'"
        )


def write_onnx(model: PlainModel, folder: Path, clips: Clips, *, dtype: torch.dtype, int8: bool) -> list[str]:
    """Writes model.onnx into an export, once onnxruntime answers as the run does.

    Args:
        model: of the export.
        folder: of the export, with the weights written.
        clips: to compare with.
        dtype: of the stored weights; the graph is in float32.
        int8: also write model.int8.onnx, with weights in 8 bits (dynamic quantisation).

    Returns:
        What was found, one line a file.

    Raises:
        CheckpointError: if the graph cannot be made, or its answers are not ours.
    """
    expected = model.answers(*clips.padded())
    with _quiet():
        _trace(model, folder, clips)
    found = _answers(folder / ONNX, clips)
    pairs = list(zip(found, expected, strict=True))
    worst = max(_relative(theirs, answer.tensors[_OUTPUT]) for theirs, answer in pairs)
    if not worst <= TOLERANCES[dtype]:
        raise CheckpointError(
            f"onnxruntime answers otherwise than the run: relative difference {worst:.1e}, allowed is "
            f"{TOLERANCES[dtype]:.0e}; nothing was written: leave --onnx out"
        )
    difference = f"largest relative difference {worst:.1e}"
    lines = [f"{ONNX}: onnxruntime answers as the run does for {clips.about}: {difference}"]
    if int8:
        with _quiet():
            _quantise(folder)
        lines.append(_int8_line(model, folder, _answers(folder / ONNX_INT8, clips), expected))
    return lines


class _Graph(nn.Module):
    """Samples [1, N] to logits."""

    def __init__(self, model: nn.Module, *, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.normalize = normalize

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [1, N] -> logits [1, C] or [1, T, V]."""
        if self.normalize:
            centred = samples - samples.mean(dim=1, keepdim=True)
            samples = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()
        logits: Tensor = self.model(samples).logits
        return logits


def _trace(model: PlainModel, folder: Path, clips: Clips) -> None:
    """Writes the graph of the export's class, for clips of any length."""
    (name,) = model.config.architectures
    opened = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    graph = _Graph(opened, normalize=bool(model.preprocessor["do_normalize"]))
    shapes = {_INPUT: {1: torch.export.Dim.DYNAMIC}}
    try:
        program = torch.onnx.export(
            graph,
            (clips.waveforms[0].unsqueeze(0),),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(_about(model))
        program.save(folder / ONNX)
    except Exception as fault:  # tracing fails in as many ways as there are operations
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise CheckpointError(
            f"torch cannot make an ONNX graph of this model ({reason}); leave --onnx out"
        ) from None


def _about(model: PlainModel) -> dict[str, str]:
    """What the file holds of itself: names of the outputs in their order."""
    if model.form == "emotion":
        names = list(model.config.id2label.values())
    else:
        names = sorted(model.extras["vocab.json"], key=model.extras["vocab.json"].get)
    return {"sample_rate": "16000", "outputs": json.dumps(names, ensure_ascii=False)}


def _quantise(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(folder / ONNX), str(folder / ONNX_INT8), weight_type=QuantType.QInt8)


def _answers(path: Path, clips: Clips) -> list[Tensor]:
    """What onnxruntime gives for each clip."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    waves = [wave.unsqueeze(0).numpy() for wave in clips.waveforms]
    return [torch.from_numpy(session.run(None, {_INPUT: wave})[0])[0] for wave in waves]


def _int8_line(model: PlainModel, folder: Path, found: Sequence[Tensor], expected: Sequence[Answer]) -> str:
    """What 8 bits change."""
    ours = [answer.tensors[_OUTPUT] for answer in expected]
    if not all(bool(torch.isfinite(theirs).all()) for theirs in found):
        raise CheckpointError("int8 gives answers that are not finite; nothing was written: leave --int8 out")
    rates = model.config.problem_type == "regression"
    shown = [(a, b) if rates else (a.softmax(-1), b.softmax(-1)) for a, b in zip(found, ours, strict=True)]
    changes = torch.stack([(theirs - own).abs().max() for theirs, own in shown])
    sizes = [(folder / name).stat().st_size / 1e6 for name in (ONNX, ONNX_INT8)]
    line = (
        f"{ONNX_INT8}: {sizes[1]:.3g} MB instead of {sizes[0]:.3g}; a {'rating' if rates else 'probability'} "
        f"changes by at most {changes.max():.2g} (mean over clips {changes.mean():.2g})"
    )
    if rates:
        return line
    others = sum(bool((theirs.argmax(-1) != own.argmax(-1)).any()) for theirs, own in shown)
    what = "class" if model.form == "emotion" else "characters"
    return f"{line}, and the most probable {what} in {others} of {len(found)} clips"


def _relative(theirs: Tensor, ours: Tensor) -> float:
    if theirs.shape != ours.shape:
        return float("inf")
    return float((theirs.double() - ours).norm() / ours.double().norm().clamp_min(1e-3))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what tracing and quantising print of their own steps."""
    loggers: list[Any] = [logging.getLogger(name) for name in (None, "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        disable_progress_bar()
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
