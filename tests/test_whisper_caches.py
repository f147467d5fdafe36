"""States of a frozen Whisper that are computed once: those of its clips alone, in both windows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from voxstrata.audio import load_audio
from voxstrata.backbone.encoder import load_backbone
from voxstrata.backbone.families.family import WINDOWS, Window
from voxstrata.batches.cached import CachedStates, cached_states
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.config.head import HeadOptions
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.inference.path import predict
from voxstrata.labels import LabelSet
from voxstrata.methods.adaltm.lean.front import Front
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.frozen_encoder import FrozenLayers
from whisper_by_hand import distance, experts, extracted, merged_by_hand, plain_states

LABELS = LabelSet(("anger", "neutral", "sadness"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experts")
    experts(path, {"asr": ("encoder.",), "ser": ("encoder.layers.",)}, max_source_positions=100)
    return path


def static(folder: Path, window: Window, form: str) -> EmotionModel:
    """A static merge of two experts under an untrained head."""
    base = load_backbone(folder / "base", window=window)
    vectors = {name: TaskVector.between(base, folder / name) for name in ("asr", "ser")}
    merged = MergedBackbone(base, vectors, granularity="static", init={"asr": 0.3, "ser": 0.8})
    torch.manual_seed(0)
    return EmotionModel(merged, LABELS, HeadOptions(width=16, form=form)).eval()


def source(corpus: Path) -> BatchSource:
    options = BatchOptions(batch_size=3, labels=LABELS, shuffle=True, seed=2)
    return BatchSource(PreparedCorpus.load(corpus).cuts("train"), options)


def kept(model: EmotionModel, corpus: Path, folder: Path) -> CachedStates:
    return cached_states(FrozenLayers.of(model), source(corpus), folder, budget_bytes=10**8)


def by_hand(model: EmotionModel, path: str) -> list[Tensor]:
    """The valid states of a clip alone, L tensors [T, D], in float64 by transformers' own modules."""
    merged = model.encoder
    assert isinstance(merged, MergedBackbone)
    rows = merged.coefficients.expand(1 + merged.num_layers, -1)
    deltas = [
        {name: vector.get(name, torch.zeros(())) for name in merged.base.weights()}
        for vector in merged._deltas
    ]
    plain = merged_by_hand(merged.base, deltas, rows)
    clip = torch.from_numpy(load_audio(Path(path)))
    padding = "do_not_pad" if merged.base.window == "clip" else "max_length"
    states = plain_states(plain.encoder, extracted(clip, padding=padding, seconds=2).double())
    return [layer[0, : (len(clip) // 160 + 1) // 2].float() for layer in states]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("form", ["a", "c"])
def test_kept_states_are_those_of_each_clip_alone(
    corpus_folder: Path, folder: Path, tmp_path: Path, window: Window, form: str
) -> None:
    model = static(folder, window, form)
    cached = kept(model, corpus_folder, tmp_path)
    assert sum(path.stat().st_size for path in cached.path.iterdir()) == cached.size
    clips = 0
    for batch in cached.epoch(1):
        assert batch.states is not None and batch.frames is not None
        for row, reference in enumerate(batch.references):
            expected = by_hand(model, str(reference.path))
            if form == "a":
                expected = [layer.mean(0, keepdim=True) for layer in expected]
            assert int(batch.frames[row]) == len(expected[0])
            for ours, theirs in zip(batch.states[:, row], expected, strict=True):
                assert distance(ours[: len(theirs)], theirs) < 1e-5
            clips += 1
    assert clips == 8
    plain = [*predict(model, source(corpus_folder).epoch(0))]
    for ours, theirs in zip(predict(model, cached.epoch(0)), plain, strict=True):
        assert ours.id == theirs.id
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)


def test_each_window_has_a_file_of_its_own(corpus_folder: Path, folder: Path, tmp_path: Path) -> None:
    files = {kept(static(folder, window, "a"), corpus_folder, tmp_path).path for window in WINDOWS}
    assert len(files) == 2


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("layers", [0, 1])
def test_kept_fronts_are_those_of_each_clip_alone(
    corpus_folder: Path, folder: Path, tmp_path: Path, window: Window, layers: int
) -> None:
    merged = MergedBackbone(load_backbone(folder / "base", window=window), {})
    clips = source(corpus_folder)
    cached = cached_states(Front(merged, layers), clips, tmp_path, budget_bytes=10**8)
    assert sum(path.stat().st_size for path in cached.path.iterdir()) == cached.size
    for ours, plain in zip(cached.epoch(2), clips.epoch(2), strict=True):
        assert ours.front is not None and ours.ids == plain.ids
        assert torch.equal(ours.front, merged.front(plain.waveforms, plain.lengths, layers))
        states = merged(ours.waveforms, ours.lengths, ours.front)
        expected = merged(plain.waveforms, plain.lengths)
        mask = expected.mask()
        for layer, other in zip(states.layers, expected.layers, strict=True):
            assert distance(layer[mask], other[mask]) < 1e-5
