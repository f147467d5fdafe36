"""Several processes that share each batch do what one does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import two_processes
from two_processes import CASES, STOPPED, Heads, batch, launch, train
from voxstrata.batches.batch import Batch
from voxstrata.batches.processes import Processes, Share, interleaved
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.config.data import Augmentation
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import TrainingError
from voxstrata.heads.whole_batch import WholeBatchNorm
from voxstrata.inference.path import predict_together
from voxstrata.labels import LabelSet
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit
from voxstrata.training.shares import selected


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left of all cases."""
    folder = tmp_path_factory.mktemp("two")
    out, err = (started := launch([two_processes.__file__, str(folder)], folder)).communicate(timeout=240)
    assert started.returncode == 0, out + err
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_with_the_weights_of_one(two: Path, tmp_path: Path, name: str) -> None:
    train(name, tmp_path)
    ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (two, tmp_path))
    assert ours.keys() == theirs.keys()
    for tensor in ours:
        torch.testing.assert_close(ours[tensor], theirs[tensor], rtol=0, atol=1e-6, msg=tensor)
    for kind in ("step", "validation"):
        rows = [RunFolder(folder / name).journal_rows(kind) for folder in (two, tmp_path)]
        assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], abs=1e-6)
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] != []


def test_two_processes_really_ran_and_divided_every_batch(two: Path) -> None:
    for name, (_, batches, _, options) in CASES.items():
        told = [json.loads((two / f"{name}-{index}.json").read_text()) for index in (0, 1)]
        assert told[0]["pid"] != told[1]["pid"]
        whole = [
            [sum(pair) for pair in zip(*step, strict=True)]
            for step in zip(*(t["seen"] for t in told), strict=True)
        ]
        sizes = [len(one) for one in batches.batches]
        grouped = [sizes[i : i + options.accumulate] for i in range(0, len(sizes), options.accumulate)]
        assert whole == (grouped * 99)[: len(whole)] and len(whole) > 3
        assert all(a - b in (0, 1) for first, second in zip(*(t["seen"] for t in told), strict=True)
                   for a, b in zip(first, second, strict=True))  # fmt: skip
    assert any(0 in step for step in json.loads((two / "heads-1.json").read_text())["seen"])


def test_predictions_are_those_of_one_process_in_its_order(two: Path) -> None:
    for name in CASES:
        expected = [clip for one in CASES[name][1].batches for clip in one.ids]
        for index in (0, 1):
            assert json.loads((two / f"{name}-{index}.json").read_text())["ids"] == expected


def test_a_head_without_a_batch_is_left_as_it_is(two: Path) -> None:
    trained = load_file(two / "heads.safetensors")
    for name, weight in Heads().state_dict().items():
        assert torch.equal(trained[name], weight) == name.startswith(
            ("heads.never", "pool.projector.bias")
        ), name


def test_a_signal_to_one_process_stops_all_and_they_go_on_bit_for_bit_with_dropout(two: Path) -> None:
    ends = [json.loads((two / f"end-{index}.json").read_text()) for index in (0, 1)]
    assert [end["same"] for end in ends] == [True, True]
    steps = [row["step"] for row in RunFolder(two / "resumed").journal_rows("step")]
    assert steps == list(range(1, 13))
    assert [path.name for path in (two / "stopped" / "checkpoints").iterdir()] == ["step-000000005"]


def test_a_signal_to_one_process_ends_a_validation_of_all_and_they_do_it_again(two: Path) -> None:
    ends = [json.loads((two / f"end-{index}.json").read_text()) for index in (0, 1)]
    assert [end["same_validated"] for end in ends] == [True, True]
    assert [end["left"] for end in ends] == [["step-000000006-unvalidated"]] * 2
    rows = [RunFolder(two / name).journal_rows("validation") for name in ("unvalidated", "undisturbed")]
    assert rows[0] == rows[1] != []


def test_what_two_processes_began_one_ends(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "stopped", tmp_path / "stopped")
    ends = []
    for name in ("stopped", "undisturbed"):
        system = Heads()
        fit(system, CASES["heads"][1], CASES["heads"][2], RunFolder(tmp_path / name), STOPPED)
        ends.append(system.state_dict())
    for tensor in ends[0]:
        torch.testing.assert_close(ends[0][tensor], ends[1][tensor], rtol=0, atol=1e-6, msg=tensor)


def test_a_batch_norm_of_one_process_is_refused(two: Path) -> None:
    for index in (0, 1):
        refused = json.loads((two / f"end-{index}.json").read_text())["refused"]
        assert refused.startswith("pool.normalizer is a batch norm of torch")


def test_shares_of_a_source_are_its_batches_divided(corpus_folder: Path) -> None:
    cuts = PreparedCorpus.load(corpus_folder).cuts("train")
    how = BatchOptions(
        batch_size=3,
        crop_s=0.25,
        labels=LabelSet(("anger", "neutral", "sadness")),
        augment=Augmentation(noise=0.8),
    )
    source = BatchSource(cuts, how)
    parts = [list(source.shared(Share(index, 4)).epoch(2)) for index in range(4)]
    for whole, *shares in zip(source.epoch(2), *parts, strict=True):
        assert list(whole.ids) == interleaved([one.ids for one in shares])
        rows = interleaved([list(zip(one.waveforms, one.lengths, strict=True)) for one in shares])
        for (ours, length), theirs in zip(rows, whole.waveforms, strict=True):
            assert torch.equal(ours[:length], theirs[:length])
    assert [len(one) for one in parts[3]] == [0] * source.batches_per_epoch()


def test_selected_clips_keep_what_belongs_to_them(emotion_batch: Batch) -> None:
    states = torch.arange(2 * 6 * 3 * 1.0).reshape(2, 6, 3, 1)
    whole = Batch(**{**emotion_batch.__dict__, "states": states, "frames": torch.arange(6), "task": "loud"})
    part = selected(whole, [1, 4])
    assert part.ids == ("clip-1", "clip-4") and part.task == "loud"
    assert torch.equal(part.states[:, 1], states[:, 4]) and part.frames.tolist() == [1, 4]
    assert torch.equal(part.tokens, emotion_batch.tokens[[1, 4]])
    assert len(selected(whole, [])) == 0


def test_a_batch_norm_alone_is_that_of_torch() -> None:
    torch.manual_seed(0)
    clips = torch.randn(5, 3)
    ours, theirs = WholeBatchNorm(3), nn.BatchNorm1d(3)
    assert torch.equal(ours(clips), theirs(clips))
    assert torch.equal(ours.running_var, theirs.running_var)
    assert torch.equal(ours(clips[:1]), theirs.eval()(clips[:1]))


def test_a_clip_that_two_processes_answer_for_is_refused() -> None:
    twice = SimpleNamespace(batches_per_epoch=lambda: 2, epoch=lambda index, skip=0: iter([batch(2, 1)] * 2))
    with pytest.raises(TrainingError, match="answered for by two"):
        predict_together(Heads(), twice, Processes.join())
