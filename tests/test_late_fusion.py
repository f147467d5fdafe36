"""Late fusion: what the head sees, what is trained, what is kept, and the model on disk."""

from __future__ import annotations

import pytest
import torch

from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.config.head import HeadOptions
from voxstrata.config.training import Training
from voxstrata.errors import CheckpointError
from voxstrata.experiments.run import execute
from voxstrata.labels import LabelSet
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.baselines.late_fusion import LateFusion
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.frozen_encoder import HeadRates
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.methods.pretraining.tiny_encoder import tiny_config
from voxstrata.predictions import read_predictions
from voxstrata.recipes.reading import validate
from voxstrata.reporting import page
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit

LABELS = LabelSet(("anger", "neutral", "sadness"))
WEIGHTS = class_balanced_weights(torch.eye(3)[[0, 0, 0, 1, 1, 2]])


@pytest.fixture
def experts(expert_folders) -> ParallelEncoders:
    return ParallelEncoders({name: load_backbone(folder) for name, folder in expert_folders.items()})


def fused(experts: ParallelEncoders, **options: bool) -> EmotionModel:
    torch.manual_seed(0)
    return EmotionModel(experts, LABELS, HeadOptions(**options))


@pytest.mark.parametrize("normalize", [False, True])
def test_the_head_sees_the_layer_sum_of_each_expert_side_by_side(normalize, experts, emotion_batch):
    model = fused(experts, normalize_layers=normalize)
    with torch.no_grad():
        model.layer_sum.logits.copy_(torch.tensor([0.3, -0.2, 1.0, 0.4]))
    sums, mask = [], None
    for encoder, logits in zip(experts.encoders, ([0.3, -0.2], [1.0, 0.4]), strict=True):
        states = encoder(emotion_batch.waveforms, emotion_batch.lengths)
        mask = states.mask()
        layers = torch.stack(states.layers)
        if normalize:
            layers = (layers - layers.mean(-1, keepdim=True)) / (
                layers.var(-1, correction=0, keepdim=True) + 1e-5
            ).sqrt()
        sums.append(torch.einsum("l,lbtd->btd", torch.tensor(logits).softmax(0), layers))
    expected = model.head(torch.cat(sums, -1), mask)
    torch.testing.assert_close(model.logits(emotion_batch), expected, rtol=1e-4, atol=1e-5)


def test_layer_weights_and_head_are_trained_and_the_experts_are_not(
    experts, emotion_batch, in_memory, tmp_path
):
    system = LateFusion(fused(experts), WEIGHTS, HeadRates(layer_weights=1e-2, head=1e-2))
    before = {name: p.detach().clone() for name, p in system.named_parameters()}
    first = float(system.eval().loss(emotion_batch).detach())
    fit(system, in_memory([emotion_batch]), None, RunFolder(tmp_path), Training(steps=25))
    assert float(system.eval().loss(emotion_batch).detach()) < 0.7 * first
    moved = {name for name, p in system.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if not name.startswith("model.encoder.")}
    summary = system.summary()
    for name in ("asr", "ser"):
        assert sum(summary[f"expert_layer_weight/{name}/{layer}"] for layer in (1, 2)) == pytest.approx(1)


def test_a_saved_model_answers_as_before(experts, emotion_batch, tmp_path):
    model = fused(experts).eval()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.predict(emotion_batch) == model.predict(emotion_batch)
    # Each expert alone is a plain encoder.
    found = load_backbone(tmp_path / "model" / "encoder" / "ser").weights()
    assert all(torch.equal(found[name], tensor) for name, tensor in experts.encoders[1].weights().items())


def test_experts_that_do_not_go_side_by_side_are_refused(experts):
    (alone, _) = experts.encoders
    wider = build_backbone(tiny_config(hidden_size=64, layers=1, feed_forward=32, channels=36), seed=0)
    slower = build_backbone(
        tiny_config(hidden_size=32, layers=1, attention_heads=2, feed_forward=32, channels=36), seed=0
    )
    slower.model.config.conv_stride = (160, 4)
    slower.front_end = slower.family.front_end(slower.model.config)
    for encoders in ({}, {"asr": alone}, {"asr": alone, "ser": wider}):
        with pytest.raises(CheckpointError, match="at least two experts"):
            ParallelEncoders(encoders)
    with pytest.raises(CheckpointError, match="one frame rate"):
        ParallelEncoders({"asr": alone, "ser": slower}).frame_lengths(torch.tensor([16_000]))


def test_states_that_are_kept_give_the_same_answers(expert_folders, corpus_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "write_report", lambda run: None)
    said: list[str] = []
    rows = {}
    for cache_gb in (0, 1):
        values = {
            "system": "late-fusion",
            "experts": {name: str(folder) for name, folder in expert_folders.items()},
            "data": {"corpora": [{"path": str(corpus_folder)}], "batch_size": 4},
            "rates": {"head": 1e-2, "layer_weights": 1e-2},
            "training": {"epochs": 3},
            "cache_gb": cache_gb,
        }
        run = execute(validate(values, "fusion"), RunFolder(tmp_path / str(cache_gb)), notify=said.append)
        rows[cache_gb] = read_predictions(run.predictions("test"))
        assert set(run.journal_rows("validation")[-1]) >= {"expert_layer_weight/asr/1", "loss"}
    assert sum("the encoder runs once" in line for line in said) >= 2
    for plain, kept in zip(rows[0], rows[1], strict=True):
        assert plain.id == kept.id
        assert plain.probabilities == pytest.approx(kept.probabilities, abs=1e-4)
