"""The loop on batches from files: a crash in the middle of an epoch changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording, SupervisionSegment
from torch import Tensor, nn

from voxstrata.batches.batch import Batch
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.config.training import Training
from voxstrata.labels import LabelSet
from voxstrata.predictions import Prediction
from voxstrata.runs import RunFolder
from voxstrata.system import ParameterGroup, System
from voxstrata.training.loop import fit
from voxstrata.training.progress import Progress

LABELS = LabelSet(("high", "low"))


class Pitch(System):
    """Tells high from low tones by a convolution over samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filters = nn.Conv1d(1, 8, 64, stride=16)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 2))

    def loss(self, batch: Batch) -> Tensor:
        assert batch.emotion_targets is not None
        energy = self.filters(batch.waveforms[:, None]).square().mean(-1).log1p()
        return nn.functional.cross_entropy(self.head(energy), batch.emotion_targets)

    def predict(self, batch: Batch) -> list[Prediction]:
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("all", tuple(self.parameters()), lr=0.02)]


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> CutSet:
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    cuts = []
    for i in range(26):
        time_s = np.arange(int(rng.integers(4_000, 8_000))) / 16_000
        pitch_hz = (1_500, 300)[i % 2] * rng.uniform(0.8, 1.2)
        soundfile.write(folder / f"{i}.flac", 0.3 * np.sin(2 * np.pi * pitch_hz * time_s), 16_000)
        cut = Recording.from_file(folder / f"{i}.flac").to_cut()
        known = {"emotion": LABELS.names[i % 2]}
        cut.supervisions = [SupervisionSegment(cut.id, cut.id, 0.0, cut.duration, custom=known)]
        cuts.append(cut)
    return CutSet(cuts)


class Crash(Exception):
    """Not one of ours."""


def test_a_crash_within_an_epoch_changes_nothing(tones: CutSet, tmp_path: Path) -> None:
    options = Training(epochs=8, schedule="linear", accumulate=2, checkpoint_every_steps=1)

    def train(run: RunFolder, crash_at: int | None = None) -> dict[str, Tensor]:
        def crash(progress: Progress) -> None:
            if progress.step == crash_at:
                raise Crash

        batches = BatchOptions(batch_size=4, crop_s=0.3, labels=LABELS, seed=5)
        held_out = BatchOptions(batch_size=8, labels=LABELS, shuffle=False)
        system = Pitch()
        fit(system, BatchSource(tones, batches), BatchSource(tones, held_out), run, options, crash)
        return system.state_dict()

    undisturbed, crashed = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "crashed")
    expected = train(undisturbed)
    for step in (2, 7, 14):
        with pytest.raises(Crash):
            train(crashed, step)
    weights = train(crashed)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    for kind in ("step", "validation"):
        rows = [run.journal_rows(kind) for run in (undisturbed, crashed)]
        assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    losses = [row["loss"] for row in undisturbed.journal_rows("validation")]
    assert len(losses) == 8 and losses[-1] < 0.7 * losses[0]
