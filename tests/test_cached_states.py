"""States of a frozen encoder that are computed once: the same batches, weights and predictions as without."""

from __future__ import annotations

import os
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from voxstrata.audio import load_audio
from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches import cached as module
from voxstrata.batches.cached import CachedStates, NoRoom, cached_states
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.config.head import HeadOptions
from voxstrata.config.training import Training
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import AudioError, CheckpointError
from voxstrata.inference.path import predict
from voxstrata.labels import LabelSet
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.adaltm.lean.front import Front
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.recipe import AdaLTMRates
from voxstrata.methods.adaltm.system import AdaLTM
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.frozen_encoder import FrozenLayers
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit

LABELS = LabelSet(("anger", "neutral", "sadness"))
ROOMY = 10**9


@pytest.fixture
def source(corpus_folder):
    """A function of a split: its batches, clips of unequal length."""

    def build(split: str, **options) -> BatchSource:
        chosen = {"batch_size": 3, "labels": LABELS, "shuffle": split == "train", "seed": 2} | options
        return BatchSource(PreparedCorpus.load(corpus_folder).cuts(split), BatchOptions(**chosen))

    return build


@pytest.fixture
def static(encoder_folder, expert_folders):
    """A function of the head's options: a static merge of two experts."""

    def build(**options) -> AdaLTM:
        base = load_backbone(encoder_folder)
        vectors = {name: TaskVector.between(base, folder) for name, folder in expert_folders.items()}
        torch.manual_seed(0)
        merged = MergedBackbone(base, vectors, granularity="static")
        model = EmotionModel(merged, LABELS, HeadOptions(width=16, **options))
        weights = class_balanced_weights(torch.eye(3)[[0, 0, 1, 1, 2]])
        return AdaLTM(model, weights, AdaLTMRates(layer_weights=1e-2, head=1e-2))

    return build


def in_float64(model: EmotionModel, path: str) -> tuple[Tensor, int]:
    """Layers' means over a clip alone, [L, D], by a plain loop; and its frames."""
    samples = torch.from_numpy(load_audio(Path(path)))
    layers = model.encoder(samples[None], torch.tensor([len(samples)])).layers
    rows = []
    for layer in layers:
        frames = layer[0].double()
        if model.layer_sum.normalize:
            frames = (frames - frames.mean(-1, keepdim=True)) / (
                frames.var(-1, keepdim=True, correction=0) + 1e-5
            ).sqrt()
        rows.append(frames.mean(0))
    return torch.stack(rows).float(), layers[0].shape[1]


@pytest.mark.parametrize("normalize", [False, True])
def test_batches_are_those_of_the_source_with_pooled_layers(source, static, tmp_path, normalize):
    model, train = static(normalize_layers=normalize).model, source("train")
    cached = cached_states(FrozenLayers.of(model), train, tmp_path, budget_bytes=ROOMY)
    assert cached.batches_per_epoch() == train.batches_per_epoch() == 3
    for epoch, skip in ((0, 0), (1, 0), (7, 0), (1, 2)):
        ours, theirs = list(cached.epoch(epoch, skip=skip)), list(train.epoch(epoch, skip=skip))
        assert [batch.references for batch in ours] == [batch.references for batch in theirs]
        for batch, plain in zip(ours, theirs, strict=True):
            assert torch.equal(batch.emotion_targets, plain.emotion_targets)
            assert torch.equal(batch.lengths, plain.lengths)
            assert batch.waveforms.shape == (len(batch), 0)
            assert batch.states.shape == (2, len(batch), 1, 32) and batch.frames.tolist() == [1] * len(batch)
            for row, reference in enumerate(batch.references):
                expected, _ = in_float64(model, reference.path)
                torch.testing.assert_close(batch.states[:, row, 0], expected, atol=1e-5, rtol=1e-5)


def test_another_head_gets_all_frames(source, static, tmp_path):
    model, train = static(form="c").model, source("train")
    (first, *_) = cached_states(FrozenLayers.of(model), train, tmp_path, budget_bytes=ROOMY).epoch(3)
    (plain, *_) = train.epoch(3)
    states = model.encoder(plain.waveforms, plain.lengths)
    assert torch.equal(first.frames, states.lengths) and len(set(first.frames.tolist())) > 1
    for row, count in enumerate(first.frames.tolist()):
        assert count == in_float64(model, first.references[row].path)[1]
        for ours, theirs in zip(first.states, states.layers, strict=True):
            torch.testing.assert_close(ours[row, :count], theirs[row, :count], atol=1e-5, rtol=1e-5)
        assert not first.states[:, row, count:].any()


@pytest.mark.parametrize("normalize_layers", [False, True])
@pytest.mark.parametrize(("form", "batch_norm"), [("a", False), ("a", True), ("b", False), ("c", False)])
def test_training_ends_with_the_same_weights_and_predictions(
    source, static, tmp_path, form, batch_norm, normalize_layers
):
    ended = []
    for name in ("plain", "cached"):
        system = static(form=form, normalize_layers=normalize_layers, batch_norm=batch_norm)
        train, dev, test = (source(split) for split in ("train", "dev", "test"))
        if name == "cached":
            train, dev, test = (
                cached_states(FrozenLayers.of(system.model), s, tmp_path / "cache", budget_bytes=ROOMY)
                for s in (train, dev, test)
            )
        result = fit(system, train, dev, RunFolder(tmp_path / name), Training(epochs=5))
        rows = {row.id: [*row.probabilities.values()] for row in predict(system, test.epoch(0))}
        ended.append((result.best_step, result.best_loss, rows, system.state_dict()))
    (step, loss, rows, weights), (cached_step, cached_loss, cached_rows, cached_weights) = ended
    assert step == cached_step and loss == pytest.approx(cached_loss, rel=1e-4)
    assert rows.keys() == cached_rows.keys() and len(rows) == 4
    for name in rows:
        assert rows[name] == pytest.approx(cached_rows[name], abs=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(cached_weights[name], tensor, atol=1e-4, rtol=1e-4, msg=name)


def test_in_bf16_states_are_those_of_autocast(source, static, tmp_path):
    system, train = static(), source("train")
    known = {
        bf16: cached_states(FrozenLayers.of(system.model), train, tmp_path, budget_bytes=ROOMY, bf16=bf16)
        for bf16 in (False, True)
    }
    assert known[False].path != known[True].path
    (exact, *_), (half, *_), (plain, *_) = (s.epoch(0) for s in (known[False], known[True], train))
    assert half.states.dtype == torch.float32
    assert 1e-4 < (half.states - exact.states).abs().max() < 0.1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses = [system.loss(batch).item() for batch in (half, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def on_disk(states: CachedStates) -> int:
    return sum(path.stat().st_size for path in states.path.rglob("*") if path.is_file())


@pytest.fixture
def kept(static, encoder_folder):
    """A function of a name: states that are kept, of a static merge or before a learned one."""

    def build(name: str) -> FrozenLayers | Front:
        if name != "front":
            return FrozenLayers.of(static(form=name).model)
        return Front(MergedBackbone(load_backbone(encoder_folder, normalize=True), {}))

    return build


KEPT = ["a", "b", "front"]


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("file_bytes", [1, 10**9])
def test_the_size_is_known_before_and_refused(source, kept, tmp_path, monkeypatch, name, file_bytes):
    monkeypatch.setattr(module, "_FILE_BYTES", file_bytes)
    train, what = source("train"), kept(name)
    states = cached_states(what, train, tmp_path / "roomy", budget_bytes=ROOMY)
    needed = states.size
    assert on_disk(states) == needed
    assert cached_states(what, train, tmp_path / "exact", budget_bytes=needed).size == needed
    monkeypatch.setattr(type(what), "computed", None)
    gigabytes = f"{needed / 1e9:.3g} GB"
    with pytest.raises(NoRoom, match=f"8 clips takes {gigabytes}; .* are allowed.*cache_gb") as told:
        cached_states(what, train, tmp_path / "small", budget_bytes=needed - 1)
    assert "\n" not in str(told.value)
    usage = namedtuple("usage", "total used free")(0, 0, needed - 1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(NoRoom, match=f"takes {gigabytes}.* are free in"):
        cached_states(what, train, tmp_path / "small", budget_bytes=ROOMY)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("name", KEPT)
def test_known_states_are_not_computed_again_and_need_no_room(source, kept, tmp_path, monkeypatch, name):
    said: list[str] = []
    first = cached_states(kept(name), source("train"), tmp_path, budget_bytes=ROOMY, announce=said.append)
    assert len(said) == 1 and "8 clips" in said[0] and "states are kept" in said[0]
    what = kept(name)
    if isinstance(what, FrozenLayers):
        with torch.no_grad():
            what.layer_sum.logits.add_(torch.tensor([1.0, 2.0]))  # what is trained has no part in the states
    monkeypatch.setattr(type(what), "computed", None)
    again = cached_states(what, source("train"), tmp_path, budget_bytes=0, announce=said.append)
    assert again.path == first.path and len(said) == 1
    for ours, theirs in zip(first.epoch(2), again.epoch(2), strict=True):
        field = "front" if name == "front" else "states"
        assert torch.equal(getattr(ours, field), getattr(theirs, field))


def test_a_front_is_that_of_each_clip_alone_bit_for_bit(source, kept, tmp_path):
    front, train = kept("front"), source("train")
    states = cached_states(front, train, tmp_path, budget_bytes=ROOMY)
    clips = 0
    for epoch in (0, 3):
        for ours, plain in zip(states.epoch(epoch), train.epoch(epoch), strict=True):
            assert ours.ids == plain.ids and torch.equal(ours.lengths, plain.lengths)
            assert ours.waveforms.shape == (len(ours), 0)
            for row, n in enumerate(plain.lengths.tolist()):
                clip, length = plain.waveforms[row : row + 1, :n], plain.lengths[row : row + 1]
                expected = front.merged.front(clip, length)
                count = expected.shape[-1]
                assert torch.equal(ours.front[row, :, :count], expected[0])
                assert not ours.front[row, :, count:].any()
                clips += 1
    assert clips == 16


def test_whatever_states_depend_on_makes_another_file(source, static, tmp_path):
    def path(model: EmotionModel, clips: BatchSource, **options) -> Path:
        return cached_states(FrozenLayers.of(model), clips, tmp_path, budget_bytes=ROOMY, **options).path

    model = static().model
    paths = [
        path(model, source("train")),
        path(model, source("dev")),
        path(model, source("train"), bf16=True),
    ]
    paths += [path(static(normalize_layers=True).model, source("train"))]
    paths += [path(static(form="c").model, source("train"))]
    paths += [path(model, source("train", crop_s=0.2, shuffle=False))]
    paths += [path(model, source("train", seed=3))]  # other places in the file
    model.encoder.coefficients += 0.01
    paths += [path(model, source("train"))]
    model.encoder.coefficients -= 0.01
    model.encoder.base.normalize = not model.encoder.base.normalize
    paths += [path(model, source("train"))]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("name", KEPT)
def test_a_recording_that_has_changed_is_refused(source, kept, tmp_path, name):
    cached_states(kept(name), source("train"), tmp_path, budget_bytes=ROOMY)
    clip, about = next(iter(source("train")._clips.items()))
    stamp = about.path.stat().st_mtime_ns
    os.utime(about.path, ns=(stamp, stamp + 10**9))
    try:
        with pytest.raises(CheckpointError, match=f"recording of clip {clip!r} has changed") as told:
            cached_states(kept(name), source("train"), tmp_path, budget_bytes=ROOMY)
        assert "\n" not in str(told.value) and "remove that folder" in str(told.value)
        assert not isinstance(told.value, NoRoom)
    finally:
        os.utime(about.path, ns=(stamp, stamp))
    cached_states(kept(name), source("train"), tmp_path, budget_bytes=0)


class Crash(Exception):
    """Not one of ours."""


@pytest.mark.parametrize("name", KEPT)
def test_what_was_interrupted_goes_on_with_the_file_that_was_being_written(
    source, kept, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(module, "_FILE_BYTES", 1)
    what, train = kept(name), source("train")
    whole = cached_states(what, train, tmp_path / "whole", budget_bytes=ROOMY).path
    computed, batches = type(what).computed, []

    def breaks(one, batch):
        batches.append(batch.ids)
        if len(batches) == 2:
            raise Crash
        return computed(one, batch)

    monkeypatch.setattr(type(what), "computed", breaks)
    with pytest.raises(Crash):
        cached_states(what, train, tmp_path / "broken", budget_bytes=ROOMY)
    (first,) = (tmp_path / "broken" / whole.name).iterdir()
    # As a process that was killed leaves it.
    first.with_name(".000001-000002.f32.2147483646.tmp").write_bytes(b"half")
    cached_states(what, train, tmp_path / "broken", budget_bytes=ROOMY)
    assert batches == [tuple(ids) for number in (0, 1, 1, 2) for ids in [train.plan(0)[number]]]
    files = sorted(whole.iterdir())
    assert len(files) == 3
    assert [path.name for path in files] == sorted(path.name for path in first.parent.iterdir())
    assert all(path.read_bytes() == (first.parent / path.name).read_bytes() for path in files)


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("left", [0, 10, -100, -8])
def test_a_file_that_is_not_what_was_written_is_named(source, kept, tmp_path, name, left):
    states = cached_states(kept(name), source("train"), tmp_path, budget_bytes=ROOMY)
    (path,) = states.path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:left])
    with pytest.raises(CheckpointError, match="does not hold the states of these 8 clips; remove it"):
        cached_states(kept(name), source("train"), tmp_path, budget_bytes=ROOMY)
    path.write_bytes(content[:-200])  # more than the numbers at the end
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        [*states.epoch(0)]


def test_what_changes_over_epochs_is_not_kept(source, static, tmp_path, encoder_folder):
    system = static()
    with pytest.raises(CheckpointError, match=r"random crops of 0.25 s"):
        cached_states(
            FrozenLayers.of(system.model), source("train", crop_s=0.25), tmp_path, budget_bytes=ROOMY
        )
    assert source("train", crop_s=0.25, shuffle=False).variation is None
    longest = max(source("train").sample_counts(list(source("train")._clips))) / 16_000
    assert source("train", crop_s=longest).variation is None
    assert source("train", crop_s=longest - 1 / 16_000).variation is not None
    trained = EmotionModel(load_backbone(encoder_folder).requires_grad_(True), LABELS)
    with pytest.raises(CheckpointError, match="encoder is trained"):
        cached_states(FrozenLayers.of(trained), source("train"), tmp_path, budget_bytes=ROOMY)
    assert not [*tmp_path.iterdir()]


def test_a_frozen_encoder_without_a_merge_is_kept_too(source, tmp_path, encoder_folder):
    model = EmotionModel(load_backbone(encoder_folder), LABELS).eval()
    dev = source("dev")
    cached = cached_states(FrozenLayers.of(model), dev, tmp_path, budget_bytes=ROOMY)
    ours, theirs = ([*predict(model, s.epoch(0))] for s in (cached, dev))
    assert [row.id for row in ours] == [row.id for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        assert row.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_decoded_audio_is_not_held_beside_states(source, static, tmp_path):
    train = source("train")
    cached_states(FrozenLayers.of(static().model), train, tmp_path, budget_bytes=ROOMY)
    assert train._cache.held_bytes == 0


def test_a_missing_recording_is_named(source):
    train = source("train")
    name, clip = next(iter(train._clips.items()))
    train._clips[name] = replace(clip, path=Path("gone.wav"))
    with pytest.raises(AudioError, match=r"gone\.wav"):
        train.recordings([name])
