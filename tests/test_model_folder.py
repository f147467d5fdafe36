"""Trained models on disk: the same answers after loading, and errors that name what is wrong."""

from __future__ import annotations

import json
from typing import get_type_hints

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from voxstrata.backbone.encoder import load_backbone
from voxstrata.config.head import HeadOptions
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.heads.ctc import CTCHead
from voxstrata.labels import LabelSet
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.encoder_models import DimensionModel, EmotionModel, Model, TranscriptionModel
from voxstrata.methods.model_folder import find_model, load_model, save_model
from voxstrata.methods.registry import model_kinds
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("neutral", "anger", "fear"))  # not in alphabetical order


def emotion(encoder, **options) -> EmotionModel:
    torch.manual_seed(0)
    model = EmotionModel(encoder, LABELS, HeadOptions(width=16, **options))
    model.layer_sum.logits.data = torch.tensor([0.3, -0.4])
    return model.requires_grad_(False).eval()


@pytest.fixture(
    params=["plain", "final norm", "batch norm", "form b", "form c", "dimensions", "merged", "transcription"]
)
def model(request, encoder_folder, expert_folders):
    base = load_backbone(encoder_folder, final_norm=request.param == "final norm", normalize=False)
    if request.param == "transcription":
        torch.manual_seed(0)
        return TranscriptionModel(base, CTCHead(base.hidden_size, Vocabulary((" ", "ü", "a")))).eval()
    if request.param == "merged":
        # They take waveforms normalised, and the base here does not.
        vectors = {
            name: TaskVector.between(base, folder, allow_foreign=True)
            for name, folder in expert_folders.items()
        }
        merged = MergedBackbone(base, vectors)
        with torch.no_grad():
            merged.coefficients.copy_(torch.tensor([[0.1, 0.9], [0.4, 0.2], [0.7, -0.3]]))
        return emotion(merged)
    if request.param == "dimensions":
        torch.manual_seed(0)
        scale = {"centre": torch.tensor([4.1, 3.9, 4.5]), "spread": torch.tensor([0.9, 1.1, 0.8])}
        return DimensionModel(base, HeadOptions(form="c", width=16), **scale).eval()
    if request.param.startswith("form"):
        return emotion(base, form=request.param[-1], dropout=0.2)
    made = emotion(base, batch_norm=request.param == "batch norm", normalize_layers=True)
    if request.param == "batch norm":
        made.head.normalizer.running_mean.normal_()
    return made


def test_what_every_kind_loads_has_one_type():
    loaded = {name: get_type_hints(type(kind).build)["return"] for name, kind in model_kinds().items()}
    assert len(loaded) >= 6 and all(issubclass(found, Model) for found in loaded.values())
    assert get_type_hints(load_model)["return"] is Model and Model.__abstractmethods__ == {"predict"}


def answers(model, batch) -> torch.Tensor:
    with torch.no_grad():
        found = model.logits(batch)
    return found if isinstance(found, torch.Tensor) else found[0]


def test_a_saved_model_answers_as_before(model, emotion_batch, tmp_path):
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    expected, found = answers(model, emotion_batch), answers(loaded, emotion_batch)
    if isinstance(model.encoder, MergedBackbone):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(found, expected)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert [row.as_dict().keys() for row in loaded.predict(emotion_batch)] == [
        row.as_dict().keys() for row in model.predict(emotion_batch)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_saved_model_in_bfloat16_is_half_as_large_and_nearly_the_same(model, emotion_batch, tmp_path):
    save_model(model, tmp_path / "full")
    save_model(model, tmp_path / "half", dtype=torch.bfloat16)
    for file in ("encoder/model.safetensors", "head.safetensors"):
        stored = load_file(tmp_path / "half" / file)
        assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.bfloat16}, file
        assert {n for n, t in stored.items() if not t.is_floating_point()} <= {
            "head.normalizer.num_batches_tracked"
        }
    expected = answers(model, emotion_batch)
    difference = (answers(load_model(tmp_path / "half"), emotion_batch) - expected).abs().max()
    assert 0 < float(difference) < 0.1 * float(expected.std()) + 0.02


def test_the_encoder_opens_in_plain_transformers(model, emotion_batch, tmp_path):
    save_model(model, tmp_path / "model")
    plain = AutoModel.from_pretrained(tmp_path / "model" / "encoder").eval()
    n = int(emotion_batch.lengths[0])
    with torch.no_grad():
        states = plain(emotion_batch.waveforms[:1, :n], output_hidden_states=True).hidden_states
        ours = model.encoder(emotion_batch.waveforms[:1, :n], torch.tensor([n])).layers
    torch.testing.assert_close(ours[0], states[1], rtol=1e-4, atol=1e-5)


def test_an_older_model_is_replaced_and_a_failed_save_leaves_it(base_model, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    save_model(base_model, folder)
    (folder / "coefficients.json").write_text("{}")
    save_model(base_model, folder)
    assert not (folder / "coefficients.json").exists()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voxstrata.methods.model_folder.save_file", full)
    with pytest.raises(VoxstrataError, match=r"cannot write .*model: No space left on device; free space"):
        save_model(base_model, folder)
    assert load_model(folder) and [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def base_model(encoder_folder) -> EmotionModel:
    return emotion(load_backbone(encoder_folder))


@pytest.fixture
def saved(base_model, tmp_path):
    save_model(base_model, tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder, **changes) -> None:
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | changes))


def test_a_folder_without_a_model_is_named(tmp_path):
    assert find_model(tmp_path) is None
    with pytest.raises(CheckpointError, match="holds no model"):
        load_model(tmp_path)


def test_a_model_is_found_in_a_run_and_in_itself(saved):
    assert find_model(saved.parent) == find_model(str(saved.parent)) == saved
    assert find_model(saved) == saved


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, this version reads 1; update voxstrata"),
        ({"kind": "translation"}, "kind 'translation'"),
        ({"labels": ["a", "b"]}, "does not fit model.json beside it"),
        ({"head": {"width": 17}}, "does not fit model.json beside it"),
        ({"head": {"width": 16, "form": "b"}}, "does not fit model.json beside it"),
        ({"kind": "dimensions"}, "does not fit model.json beside it"),
        ({"head": {"form": "c", "batch_norm": True}}, "does not describe a model"),
        ({"head": {"size": 17}}, "does not describe a model"),
        ({"labels": None}, "does not describe a model"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(saved)


def test_broken_files_are_refused(saved):
    head = load_file(saved / "head.safetensors")
    save_file(
        {name: tensor for name, tensor in head.items() if "layer_sum" not in name}, saved / "head.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"does not fit model.json"):
        load_model(saved)
    (saved / "head.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"cannot read .*head.safetensors"):
        load_model(saved)
    (saved / "head.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*head.safetensors"):
        load_model(saved)
    (saved / "model.json").write_text('{"format": ')
    with pytest.raises(CheckpointError, match=r"model\.json is not JSON"):
        load_model(saved)
