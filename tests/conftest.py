"""What several test files share: tiny encoders and experts, recordings, a prepared corpus, batches."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings
from safetensors.torch import load_file

from voxstrata.batches.batch import Batch, Reference

# A busy machine is no fault: nothing here is a test of time.
settings.register_profile("voxstrata", deadline=None)
settings.load_profile("voxstrata")

# Ctrl-C is ignored where a shell starts the tests in the background; what is tested is the foreground.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Test processes side by side share the cores: one thread each, in what they start as well.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

SAMPLE_RATE = 16_000
EMOTIONS = ("anger", "neutral", "sadness")


class InMemory:
    """Batches from memory, the same in every epoch; what `fit` asks of a source."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = list(batches)

    def batches_per_epoch(self) -> int:
        return len(self.batches)

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        return iter(self.batches[skip:])


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Content of files is no part of a test's name: packed bytes differ by the time they were made."""
    return argname if isinstance(val, bytes) and len(val) > 8 else None


@pytest.fixture(autouse=True, scope="session")
def plenty_of_disk() -> Iterator[None]:
    """Ten terabytes free: dry runs at the paper's size ask for 75 GB, whatever this machine has."""
    plenty = shutil.disk_usage(Path.cwd())._replace(free=10**13)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: plenty)
        yield


@pytest.fixture
def speech_by_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speech is found by level, also where silero-vad is installed: to it noise and pulses are no speech."""
    monkeypatch.setattr("voxstrata.inference.timeline.is_installed", lambda: False)


@pytest.fixture(scope="session")
def in_memory():
    """The class `InMemory`."""
    return InMemory


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Root of the real corpora; the test is skipped where there are none."""
    folder = os.environ.get("VOXSTRATA_DATA")
    if not folder:
        pytest.skip("VOXSTRATA_DATA is not set: no real recordings here")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_encoder():
    """A function of a seed: a trainable WavLM of two layers of 32, with random weights."""
    from voxstrata.backbone.encoder import build_backbone
    from voxstrata.methods.pretraining.tiny_encoder import start_front_end, tiny_config

    def build(seed: int = 0):
        sizes = {"hidden_size": 32, "layers": 2, "attention_heads": 2, "feed_forward": 64}
        encoder = build_backbone(tiny_config(**sizes, channels=36, position_kernel=8), seed=seed)
        start_front_end(encoder)
        return encoder

    return build


@pytest.fixture(scope="session")
def encoder_folder(tiny_encoder, tmp_path_factory) -> Path:
    """The tiny encoder on disk."""
    folder = tmp_path_factory.mktemp("encoders") / "base"
    tiny_encoder().save(folder)
    return folder


@pytest.fixture
def encoder(encoder_folder):
    """The tiny encoder, as it is read."""
    from voxstrata.backbone.encoder import load_backbone

    return load_backbone(encoder_folder)


@pytest.fixture(scope="session")
def expert_folders(tiny_encoder, tmp_path_factory) -> dict[str, Path]:
    """Two encoders near the tiny one, as if fine-tuned from it: every tensor has moved."""
    folders = {}
    for number, name in enumerate(("asr", "ser")):
        encoder = tiny_encoder()
        generator = torch.Generator().manual_seed(10 + number)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        folders[name] = tmp_path_factory.mktemp("encoders") / name
        encoder.save(folders[name])
    return folders


def voice(seed: int, samples: int) -> np.ndarray:
    """A pulse train of some pitch in a little noise."""
    rng = np.random.default_rng(seed)
    wave = 0.02 * rng.normal(size=samples)
    wave[:: int(rng.integers(60, 160))] += 0.5
    return wave.astype(np.float32)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> list[Path]:
    """Five recordings of unequal length, 0.3 to 0.6 s."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = [folder / f"{i}.wav" for i in range(5)]
    for i, path in enumerate(paths):
        soundfile.write(path, voice(i, 4800 + 1200 * ((3 * i) % 5)), SAMPLE_RATE)
    return paths


@pytest.fixture(scope="session")
def emotion_batch() -> Batch:
    """Six padded clips with emotion targets (one class thrice, one twice, one once) and tokens."""
    lengths = [4000, 5200, 6100, 4700, 5600, 8000]
    waveforms = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        waveforms[row, :length] = torch.from_numpy(voice(row, length))
    return Batch(
        references=tuple(
            Reference(f"clip-{i}", f"{i}.wav", f"speaker-{i % 2}", EMOTIONS[c], "ab")
            for i, c in enumerate([0, 0, 0, 1, 1, 2])
        ),
        waveforms=waveforms,
        lengths=torch.tensor(lengths),
        emotion_targets=torch.eye(3)[[0, 0, 0, 1, 1, 2]],
        tokens=torch.tensor([[1, 2, 0], [2, 1, 1], [1, 0, 0], [2, 2, 0], [1, 2, 1], [2, 0, 0]]),
        token_lengths=torch.tensor([2, 3, 1, 2, 3, 1]),
    )


@pytest.fixture
def clips(emotion_batch: Batch) -> Batch:
    """The same with targets of a further task of two classes."""
    return replace(emotion_batch, class_targets=torch.eye(2)[[0, 1, 0, 1, 0, 1]])


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory) -> Path:
    """A prepared corpus: train 8, dev 4, test 4 clips, three emotions, a transcript each."""
    from voxstrata.corpora.prepare import prepare

    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for i, split in enumerate(["train"] * 8 + ["dev"] * 4 + ["test"] * 4):
        soundfile.write(folder / f"{i:02d}.wav", voice(100 + i, 4800 + 300 * (i % 5)), SAMPLE_RATE)
        rows.append(
            {
                "path": f"{i:02d}.wav",
                "emotion": EMOTIONS[i % 3],
                "text": ("ab ba", "ba", "a b")[i % 3],
                "speaker": f"{split}-{i % 2}",
                "split": split,
            }
        )
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", folder / "table.jsonl", folder / "prepared")
    return folder / "prepared"


@pytest.fixture
def state(encoder_folder) -> dict[str, torch.Tensor]:
    """The tensors of the tiny encoder's folder."""
    return load_file(encoder_folder / "model.safetensors")


@pytest.fixture
def folder(encoder_folder, tmp_path) -> Path:
    """A copy of the tiny encoder's folder."""
    made = tmp_path / "copied"
    made.mkdir()
    for file in encoder_folder.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    return made
