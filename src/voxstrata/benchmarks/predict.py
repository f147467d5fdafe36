"""Throughput of `predict` on recordings of mixed lengths, beside transformers' pipelines; and of its 8 bits.

The same weights, greedy CTC in both, the same WAV files of 1 to 30 s, read within the time that is taken.
The pipelines run exports of the models in float32, at the fastest of several batch sizes; where emotions and
words are asked for, one pipeline runs after the other, and `predict` runs its encoder once.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch.ao.nn.quantized.dynamic import Linear as QuantizedLinear

from voxstrata.audio import SAMPLE_RATE, load_audio
from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.benchmarks.measure import Progress, Step, interleaved, machine
from voxstrata.benchmarks.result import BenchmarkResult, Row
from voxstrata.errors import AudioError, CheckpointError, VoxstrataError
from voxstrata.exporting.ctc import ctc_model
from voxstrata.exporting.emotion import emotion_model
from voxstrata.heads.ctc import CTCHead
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import (
    EmotionModel,
    Model,
    MultitaskModel,
    TranscriptionModel,
)
from voxstrata.methods.model_folder import find_model, load_model, save_model
from voxstrata.predictions import Prediction
from voxstrata.vocabulary import Vocabulary

COMPARES = {
    "voxstrata": "what `voxstrata predict` does: no padding, one run of the encoder for both answers",
    "int8": "the same with --int8",
    "pipeline": "transformers' pipeline() on exports of the model, at its fastest batch size",
}
#: Case -> what is exported for the pipelines, and their task.
PIPELINES = {"emotion": "audio-classification", "words": "automatic-speech-recognition"}
SHORTEST_S, LONGEST_S = 1.0, 30.0
_LABELS = LabelSet(("anger", "joy", "neutral", "sadness"))
_ALPHABET = "abcdefghijklmnopqrstuvwxyz' "


@dataclass(frozen=True)
class PredictOptions:
    """What is measured.

    Args:
        model: a run or model folder with emotions, words or both; None: `encoder` with new heads, for each
            of the three.
        encoder: of such models.
        audio: a folder of recordings that the files are cut from; None: `VOXSTRATA_DATA`, or noise.
        files: how many there are; lengths are spread evenly on a logarithmic scale.
        compared: recordings of the folder, as they are, whose answers with and without 8 bits are compared.
        batch_sizes: of the pipelines, of which the fastest is taken.
        repeats: timed runs of each way.
        threads: of torch; None leaves its choice.
    """

    model: str | None = None
    encoder: str = "wavlm-tiny"
    audio: str | None = None
    files: int = 24
    compared: int = 100
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    repeats: int = 3
    threads: int | None = None

    def quick(self) -> PredictOptions:
        """The same, small enough for a test: its figures say nothing."""
        return replace(self, files=3, compared=3, batch_sizes=(1, 2), repeats=1)


def run(options: PredictOptions, progress: Progress | None = None) -> BenchmarkResult:
    """Measures answers to a folder of recordings, turn by turn.

    Args:
        options: what is measured.
        progress: called before each run.

    Raises:
        VoxstrataError: if there is no such model, or there are no recordings.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        cases, refused = _write_models(options, folder)
        source = options.audio or os.environ.get("VOXSTRATA_DATA")
        seconds = write_recordings(folder / "audio", options.files, source)
        ways: Mapping[str, Callable[[], Step]] = {
            "voxstrata": partial(_ours, str(folder), False),
            "int8": partial(_ours, str(folder), True),
            "pipeline": partial(_pipelines, str(folder), options.batch_sizes),
        }
        if refused:
            ways = {way: step for way, step in ways.items() if way != "pipeline"}
        found = interleaved(ways, cases, repeats=options.repeats, threads=options.threads, progress=progress)
        compared = sorted((folder / "audio").iterdir())
        if source is not None:
            compared = _recordings(Path(source))[: options.compared]
        figures = int8_changes(folder / f"voxstrata-{cases[0]}", compared)
    for case in cases:
        took = {way: found[case][way].median_s for way in ways if not found[case][way].fault}
        figures |= {f"real-time factor of {way} for {case}": s / seconds for way, s in took.items()}
    return BenchmarkResult(
        name="predict",
        compares={way: COMPARES[way] for way in ways},
        reference="voxstrata" if refused else "pipeline",
        settings={
            **asdict(options),
            "audio": source or "noise",
            "seconds of audio": round(seconds, 1),
            **({"no pipeline": refused} if refused else {}),
        },
        machine=machine(),
        rows=tuple(Row({"answers": case}, found[case]) for case in cases),
        figures=figures,
    )


def int8_changes(model: Path, recordings: Sequence[Path]) -> dict[str, float]:
    """What 8 bits change: sizes of the models, answers that differ, the largest change of a probability.

    Args:
        model: its folder.
        recordings: that both answer; those that cannot be read are left out.
    """
    plain, small = Recognizer.load(model), Recognizer.load(model, int8=True)
    pairs = [
        (a, b)
        for a, b in zip(plain.predictions(recordings), small.predictions(recordings), strict=True)
        if a.error is None and b.error is None
    ]
    shares = [(a.probabilities or {}, b.probabilities or {}) for a, b in pairs]
    changes = [abs(share - those[name]) for these, those in shares for name, share in these.items()]
    return {
        "MB of the model": _bytes(plain) / 1e6,
        "MB with int8": _bytes(small) / 1e6,
        "recordings compared": len(pairs),
        "labels changed by int8": sum(a.emotion != b.emotion for a, b in pairs),
        "transcripts changed by int8": sum(a.transcript != b.transcript for a, b in pairs),
        **({"largest change of a probability by int8": max(changes)} if changes else {}),
    }


def _bytes(recognizer: Recognizer) -> int:
    """What the weights of a recogniser take."""
    packed: list[torch.Tensor] = []
    plain: list[torch.Tensor] = []
    for model in recognizer.models:
        plain += [*model.parameters(), *model.buffers()]
        small = (part for part in model.modules() if isinstance(part, QuantizedLinear))
        packed += [part.weight() for part in small]  # type: ignore[no-untyped-call]
    return sum(tensor.numel() * tensor.element_size() for tensor in (*plain, *packed))


def write_recordings(folder: Path, count: int, source: str | None) -> float:
    """Writes WAV files of 1 to 30 s, cut from recordings laid one behind the other.

    Args:
        folder: new.
        count: of the files.
        source: a folder of recordings; None: noise whose level goes up and down.

    Returns:
        Seconds of all files.

    Raises:
        VoxstrataError: if the folder holds no recording.
    """
    folder.mkdir()
    sound = _noise() if source is None else _recorded(Path(source))
    lengths: list[float] = np.geomspace(SHORTEST_S, LONGEST_S, count).tolist()
    random.Random(0).shuffle(lengths)
    left = np.zeros(0, np.float32)
    for k, length_s in enumerate(lengths):
        samples = round(length_s * SAMPLE_RATE)
        while len(left) < samples:
            left = np.concatenate([left, next(sound)])
        soundfile.write(folder / f"{k:03d}.wav", left[:samples], SAMPLE_RATE, subtype="PCM_16")
        left = left[samples:]
    return sum(lengths)


def _noise() -> Iterator[NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    while True:
        level = np.repeat(draw.uniform(0.001, 0.2, 40), SAMPLE_RATE // 4)
        yield (level * draw.standard_normal(len(level))).clip(-1, 1).astype(np.float32)


def _recordings(folder: Path) -> list[Path]:
    """The recordings of a folder, in an order of their own."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac"))
    if not paths:
        raise VoxstrataError(f"{folder} holds no recording (.wav, .flac); give another folder with --audio")
    random.Random(0).shuffle(paths)
    return paths


def _recorded(folder: Path) -> Iterator[NDArray[np.float32]]:
    paths = _recordings(folder)
    there = False
    while True:
        for path in paths:
            try:
                yield load_audio(path)
                there = True
            except AudioError:
                continue
        if not there:
            raise VoxstrataError(f"no recording of {folder} can be read; give another folder with --audio")


def _write_models(options: PredictOptions, folder: Path) -> tuple[tuple[str, ...], str]:
    """Writes each case's model as voxstrata reads it, and its exports; the cases, and why there are none."""
    models = _new_models(options.encoder) if options.model is None else _own(options.model)
    refused = ""
    for case, model in models.items():
        save_model(model, folder / f"voxstrata-{case}")
        try:
            if case != "words":
                emotion_model(model).write(_export(folder, "emotion"), dtype=torch.float32)
            if case != "emotion":
                ctc_model(model).write(_export(folder, "words"), dtype=torch.float32)
        except CheckpointError as fault:
            refused = str(fault)
    return tuple(models), refused


def _export(folder: Path, task: str) -> Path:
    # The third case has the same exports as the first two.
    place = folder / f"transformers-{task}"
    place.mkdir(exist_ok=True)
    return place


def _own(name: str) -> dict[str, Model]:
    folder = find_model(name)
    if folder is None:
        raise VoxstrataError(f"{name} holds no model; give a run or a model folder")
    model = load_model(folder)
    case = "both" if isinstance(model, MultitaskModel) else "words"
    if isinstance(model, EmotionModel) and not isinstance(model, MultitaskModel):
        case = "emotion"
    return {case: model}


def _new_models(name: str) -> dict[str, Model]:
    encoder = load_backbone(name)
    assert isinstance(encoder, SpeechEncoder)
    torch.manual_seed(0)
    letters = CTCHead(encoder.hidden_size, Vocabulary.of([_ALPHABET]))
    felt = EmotionModel(encoder, _LABELS)
    both = MultitaskModel(encoder, _LABELS, letters)
    both.head, both.layer_sum = felt.head, felt.layer_sum
    models = {"emotion": felt, "words": TranscriptionModel(encoder, letters), "both": both}
    return {case: model.eval() for case, model in models.items()}


def _ours(folder: str, int8: bool) -> Step:
    """Answers by the recogniser that `voxstrata predict` uses."""
    known: dict[str, Recognizer] = {}
    paths = sorted((Path(folder) / "audio").iterdir())

    def step(case: str) -> list[Prediction]:
        if case not in known:
            known[case] = Recognizer.load(Path(folder) / f"voxstrata-{case}", int8=int8)
        return [found.row for found in known[case].recognitions(paths)]

    return step


def _pipelines(folder: str, batch_sizes: Sequence[int]) -> Step:
    """Answers by transformers; the first call of a case finds its fastest batch size."""
    from transformers import pipeline

    paths = sorted((Path(folder) / "audio").iterdir())
    known: dict[str, Any] = {}
    fastest: dict[str, int] = {}

    def answered(task: str, size: int) -> list[Any]:
        sounds = ({"raw": soundfile.read(p, dtype="float32")[0], "sampling_rate": SAMPLE_RATE} for p in paths)
        return list(known[task](sounds, batch_size=size))

    def step(case: str) -> list[list[Any]]:
        tasks = [task for task in PIPELINES if case in (task, "both")]
        for task in tasks:
            if task not in known:
                known[task] = pipeline(PIPELINES[task], model=f"{folder}/transformers-{task}", device="cpu")
            if task not in fastest:
                times = {}
                for size in batch_sizes:
                    began = perf_counter()
                    answered(task, size)
                    times[size] = perf_counter() - began
                fastest[task] = min(times, key=times.__getitem__)
        return [answered(task, fastest[task]) for task in tasks]

    return step
