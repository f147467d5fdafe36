"""Two processes that share each batch train coefficients over Whisper, or all of it, as one process does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import two_processes
from two_processes import Rated, launch
from voxstrata.backbone.encoder import SpeechEncoder, build_backbone
from voxstrata.backbone.families.family import Window
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.batches.processes import Processes
from voxstrata.config.head import HeadOptions
from voxstrata.config.training import Training
from voxstrata.inference.path import predict_together
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.recipe import AdaLTMRates
from voxstrata.methods.adaltm.system import AdaLTM
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.baselines.finetune import FinetuneRates, SERFinetune
from voxstrata.methods.encoder_models import DimensionModel
from voxstrata.runs import RunFolder
from voxstrata.system import System
from voxstrata.training.loop import fit
from whisper_by_hand import POSITIONS, redrawn, whisper_config

NAMES = ("merged-clip", "merged-30s", "whole")
TRAIN, DEV = Rated([3, 1, 4], 1), Rated([3, 1], 2)
OPTIONS = Training(epochs=2, accumulate=2, keep_best=False)


def tiny(window: Window) -> SpeechEncoder:
    """A Whisper for clips of half a second at the most."""
    encoder = build_backbone(whisper_config(max_source_positions=25), seed=0)
    redrawn(encoder.model)
    return SpeechEncoder(encoder.model, normalize=False, window=window)


def system(name: str) -> System:
    """Coefficients over a frozen base, or the whole encoder; a loss that needs the whole batch.

    In float64: before a batch norm a bias has no gradient but rounding, of which AdamW makes whole steps.
    """
    head = HeadOptions(width=8, batch_norm=True)
    torch.manual_seed(0)
    if name == "whole":
        model = DimensionModel(tiny("clip").requires_grad_(True), head)
        rates = FinetuneRates(encoder=1e-3, head=1e-2, layer_weights=1e-2)
        return SERFinetune(model, None, rates, freeze_front_end=False).double()
    base = tiny("30s" if name.endswith("30s") else "clip").requires_grad_(False).eval()
    vectors = {}
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        deltas = {
            tensor: 0.02 * torch.randn(weight.shape, generator=generator) * float(tensor != POSITIONS)
            for tensor, weight in base.weights().items()
        }
        vectors[f"v{seed}"] = TaskVector(deltas, fingerprint(base.weights()), "drawn")
    model = DimensionModel(MergedBackbone(base, vectors), head)
    return AdaLTM(model, None, AdaLTMRates(coefficients=1e-2, layer_weights=1e-2, head=1e-2)).double()


def train(name: str, out: Path, processes: Processes | None = None) -> System:
    trained = system(name)
    fit(trained, TRAIN, DEV, RunFolder(out / name), OPTIONS, processes=processes)
    if processes is None or processes.leads:
        state = {tensor: value.clone() for tensor, value in trained.state_dict().items()}
        save_file(state, out / f"{name}.safetensors")
    return trained


def work(out: Path) -> None:
    """What each of two processes does."""
    processes = Processes.join()
    assert processes.count == 2
    for name in NAMES:
        rows = predict_together(train(name, out, processes), TRAIN, processes)
        (out / f"{name}-{processes.share.index}.txt").write_text(" ".join(row.id for row in rows))
    (out / f"pid-{processes.share.index}").write_text(str(os.getpid()))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left of all trainings."""
    folder = tmp_path_factory.mktemp("two")
    tests = str(Path(two_processes.__file__).parent)
    started = launch([__file__, str(folder)], folder, PYTHONPATH=tests)
    out, err = started.communicate(timeout=240)
    assert started.returncode == 0, out + err
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_end_with_the_weights_of_one(two: Path, tmp_path: Path, name: str) -> None:
    assert len({(two / f"pid-{index}").read_text() for index in (0, 1)}) == 2
    train(name, tmp_path)
    ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (two, tmp_path))
    assert ours.keys() == theirs.keys()
    before = system(name).state_dict()
    for tensor in ours:
        torch.testing.assert_close(ours[tensor], theirs[tensor], rtol=0, atol=1e-6, msg=tensor)
    moved = {tensor for tensor, value in ours.items() if not torch.equal(value, before[tensor])}
    fixed = {tensor for tensor in ours if tensor.endswith(POSITIONS)}
    assert not moved & fixed and len(fixed) == (name == "whole")
    assert any(tensor.endswith("coefficients" if name != "whole" else "conv1.weight") for tensor in moved)
    steps = [RunFolder(folder / name).journal_rows("step") for folder in (two, tmp_path)]
    assert [row["loss"] for row in steps[0]] == pytest.approx([row["loss"] for row in steps[1]], abs=1e-6)
    assert len(steps[0]) == 4


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_those_of_all_clips_in_their_order(two: Path, name: str) -> None:
    expected = [clip for batch in TRAIN.batches for clip in batch.ids]
    for index in (0, 1):
        assert (two / f"{name}-{index}.txt").read_text().split() == expected


if __name__ == "__main__":
    work(Path(sys.argv[1]))
