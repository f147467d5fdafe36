"""Folders that are saved: over nothing that is not ours, with weights that stay theirs, and plain names."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel

from hostile import refused
from tiny_harmonifuse import build
from voxstrata.backbone.encoder import load_backbone
from voxstrata.errors import CheckpointError
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import HeadOptions
from voxstrata.labels import LabelSet
from voxstrata.methods.adaltm.joint import JointModel
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.baselines.multitask import MultitaskModel
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import load_model, save_model, vocabulary_of
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("anger", "neutral", "sadness"))
HEAD = HeadOptions(width=16)
KINDS = ("emotion", "multitask", "per task", "side by side", "harmonifuse")


def model(kind: str, base: Path, experts: dict[str, Path], seed: int = 0):
    """A small model; another seed has other weights of the same shapes."""
    encoder = load_backbone(base)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter *= 1 + seed / 100
    torch.manual_seed(seed)
    words = CTCHead(encoder.hidden_size, Vocabulary(("a", "b")))
    if kind == "emotion":
        return EmotionModel(encoder, LABELS, HEAD)
    if kind == "multitask":
        return MultitaskModel(encoder, LABELS, words, HEAD)
    if kind == "side by side":
        return EmotionModel(ParallelEncoders({"a": encoder, "b": load_backbone(base)}), LABELS, HEAD)
    if kind == "harmonifuse":
        made = build(encoder)
        with torch.no_grad():
            for parameter in made.lm.parameters():
                parameter += seed / 100
        return made
    vectors = {name: TaskVector.between(encoder, folder) for name, folder in experts.items()}
    merged = MergedBackbone(encoder, vectors)
    return JointModel(merged, LABELS, words, HEAD, merged.twin())


def weights(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_model_are_refused_file_by_file(kind, encoder_folder, expert_folders, tmp_path):
    for seed, name in enumerate(("own", "other")):
        save_model(model(kind, encoder_folder, expert_folders, seed), tmp_path / name)
    own, other = tmp_path / "own", tmp_path / "other"
    assert load_model(own) and weights(own) == weights(other)
    told = json.loads((own / "model.json").read_text())["weights"]
    assert told == {name: hashlib.sha256((own / name).read_bytes()).hexdigest() for name in weights(own)}
    swapped = [name for name in weights(own) if (own / name).read_bytes() != (other / name).read_bytes()]
    assert "head.safetensors" in swapped and any(name.startswith("encoder/") for name in swapped)
    for name in swapped:
        kept = (own / name).read_bytes()
        shutil.copy(other / name, own / name)
        with pytest.raises(CheckpointError) as caught:
            load_model(own)
        assert "\n" not in str(caught.value)
        # A vector is held against its base, too.
        assert f"{own / name} is not the file" in str(caught.value) or kind == "per task"
        (own / name).write_bytes(kept)
    assert load_model(own)


def test_a_folder_of_an_older_version_has_no_hashes_and_is_read(encoder_folder, expert_folders, tmp_path):
    save_model(model("emotion", encoder_folder, expert_folders), tmp_path / "m")
    about = json.loads((tmp_path / "m" / "model.json").read_text())
    del about["weights"]
    (tmp_path / "m" / "model.json").write_text(json.dumps(about))
    assert load_model(tmp_path / "m").labels == LABELS


@pytest.mark.parametrize("told", [None, 3, [], {}, "x", {"head.safetensors": 3}, {"../../x": "0" * 64}])
def test_hashes_that_are_none_are_one_line(told, encoder_folder, expert_folders, tmp_path):
    save_model(model("emotion", encoder_folder, expert_folders), tmp_path / "m")
    about = json.loads((tmp_path / "m" / "model.json").read_text()) | {"weights": told}
    (tmp_path / "m" / "model.json").write_text(json.dumps(about))
    refused("hashes of its weights|not the file", load_model, tmp_path / "m")


ODD = ["a\nb", "a\rb", "\x1b[31m", "a\0", "\x85", "\u2028", "\u2029", "\x7f"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "place", [("labels", 0), ("vocabulary", 0), ("head", "form"), ("kind",), ("made_by",), ("head", "\t")]
)
def test_a_text_of_more_than_a_line_is_refused_wherever_it_stands(
    odd, place, encoder_folder, expert_folders, tmp_path
):
    save_model(model("multitask", encoder_folder, expert_folders), tmp_path / "m")
    about = json.loads((tmp_path / "m" / "model.json").read_text())
    holder = about[place[0]] if len(place) > 1 else about
    holder[place[-1]] = odd
    (tmp_path / "m" / "model.json").write_text(json.dumps(about))
    for read in (load_model, vocabulary_of):
        line = refused("control character", read, tmp_path / "m")
        assert line.isprintable()


def test_a_label_of_a_task_is_a_name_as_well(encoder_folder, expert_folders, tmp_path):
    save_model(model("harmonifuse", encoder_folder, expert_folders), tmp_path / "m")
    whole = json.loads((tmp_path / "m" / "model.json").read_text())
    for labels in (["a", "b", "a"], ["a\n", "b", "c"], ["", "b", "c"]):
        whole["tasks"][1]["labels"] = labels
        (tmp_path / "m" / "model.json").write_text(json.dumps(whole))
        refused("twice in labels|control character|for a name in labels", load_model, tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["anger", "neutral", "anger"]}, "'anger' twice in labels"),
        ({"labels": ["anger", "", "sadness"]}, "'' for a name in labels"),
        ({"vocabulary": ["a", "a"]}, "'a' twice in vocabulary"),
        ({"experts": ["a", "a"]}, "'a' twice in experts"),
    ],
)
def test_a_name_that_stands_twice_is_refused(changes, message, encoder_folder, expert_folders, tmp_path):
    save_model(model("multitask", encoder_folder, expert_folders), tmp_path / "m")
    about = json.loads((tmp_path / "m" / "model.json").read_text())
    (tmp_path / "m" / "model.json").write_text(json.dumps(about | changes))
    refused(message, load_model, tmp_path / "m")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def theirs(folder: Path, kind: str, encoder_folder: Path) -> None:
    """A folder that holds what somebody else wrote."""
    if kind == "transformers":
        AutoModel.from_pretrained(encoder_folder).save_pretrained(folder)
        AutoFeatureExtractor.from_pretrained(encoder_folder).save_pretrained(folder)
    elif kind == "ours and a note":
        shutil.copytree(encoder_folder, folder)
        (folder / "notes.txt").write_text("mine")
    else:
        folder.mkdir()
        (folder / "thesis.tex").write_text("mine")


@pytest.mark.parametrize("kind", ["transformers", "ours and a note", "a thesis"])
def test_no_folder_of_somebody_else_is_written_over(kind, encoder, encoder_folder, expert_folders, tmp_path):
    theirs(tmp_path / "x", kind, encoder_folder)
    before = files(tmp_path / "x")
    refused("is there already and holds", encoder.save, tmp_path / "x")
    refused("is there already", save_model, model("emotion", encoder_folder, expert_folders), tmp_path / "x")
    assert files(tmp_path / "x") == before and [path.name for path in tmp_path.iterdir()] == ["x"]
    encoder.save(tmp_path / "x", overwrite=True)
    assert before.keys() <= files(tmp_path / "x").keys()
    assert load_file(tmp_path / "x" / "model.safetensors").keys() == encoder.model.state_dict().keys()


def test_an_earlier_save_is_replaced(tiny_encoder, encoder_folder, expert_folders, tmp_path):
    for seed in (1, 2):
        tiny_encoder(seed=seed).save(tmp_path / "e")
        save_model(model("emotion", encoder_folder, expert_folders, seed), tmp_path / "m")
        if seed == 1:
            (tmp_path / "m" / "coefficients.json").write_text("{}")  # as a run lays it there
    expected = {name: tensor.float() for name, tensor in tiny_encoder(seed=2).model.state_dict().items()}
    torch.testing.assert_close(load_file(tmp_path / "e" / "model.safetensors"), expected, rtol=0, atol=0)
    assert load_model(tmp_path / "m") and not (tmp_path / "m" / "coefficients.json").exists()


def test_a_file_is_no_folder_and_a_vector_no_other_file(encoder, expert_folders, tmp_path):
    (tmp_path / "x").write_text("mine")
    refused("is no folder", encoder.save, tmp_path / "x")
    refused("is no folder", save_model, EmotionModel(encoder, LABELS, HEAD), tmp_path / "x")
    vector = TaskVector.between(encoder, expert_folders["asr"])
    refused("is there already and is no task vector", vector.save, tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"
    for _ in range(2):
        vector.save(tmp_path / "v.safetensors")
    assert TaskVector.load(tmp_path / "v.safetensors").source == vector.source


def test_a_link_and_the_current_folder_are_written_where_they_lead(encoder, tmp_path, monkeypatch):
    for name in ("target", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("target")
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        encoder.save(tmp_path / "link")
        encoder.save(".")
    assert (tmp_path / "link").is_symlink()
    for name in ("target", "here"):
        assert load_backbone(tmp_path / name).num_layers == encoder.num_layers
