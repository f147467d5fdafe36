"""Model folders, runs and answers that are broken or made to harm."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.processes import Processes
from voxstrata.config.head import HeadOptions
from voxstrata.errors import CheckpointError, RecipeError
from voxstrata.experiments.provenance import require_unchanged
from voxstrata.heads.ctc import CTCHead
from voxstrata.inference.models import find_models
from voxstrata.inference.path import answers
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import load_model, model_kind, save_model, vocabulary_of
from voxstrata.predictions import Prediction, finite_or_error
from voxstrata.runs import RunFolder
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("anger", "neutral", "sadness"))


@pytest.fixture
def saved(encoder_folder, tmp_path) -> Path:
    torch.manual_seed(0)
    model = EmotionModel(load_backbone(encoder_folder), LABELS, HeadOptions(width=16))
    save_model(model, tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


def refused(message: str, read, *arguments, error=CheckpointError) -> None:
    with pytest.raises(error, match=message) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_a_head_that_no_training_gives_is_refused(saved, value):
    head = load_file(saved / "head.safetensors")
    name = next(name for name in head if name.endswith("weight"))
    head[name][0, 0] = value
    save_file(head, saved / "head.safetensors")
    refused(f"head.safetensors.*{name}", load_model, saved)


def test_a_head_in_whole_numbers_is_refused_and_in_half_precision_is_not(saved):
    about = json.loads((saved / "model.json").read_text())
    del about["weights"]
    (saved / "model.json").write_text(json.dumps(about))
    head = load_file(saved / "head.safetensors")
    save_file({name: tensor.half() for name, tensor in head.items()}, saved / "head.safetensors")
    assert load_model(saved)
    save_file({name: tensor.to(torch.int8) for name, tensor in head.items()}, saved / "head.safetensors")
    refused("int8", load_model, saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"width": 10**12}}, r"width 1000000000000.*tensors for 32 at most"),
        ({"head": {"width": -5}}, "width -5"),
        ({"head": {"width": "16"}}, "does not describe"),
        ({"head": {"width": 16, "dropout": 7}}, r"head\.dropout: found 7; less than 1"),
        ({"head": {"width": 16, "dropout": "x"}}, "does not describe"),
        ({"head": {"width": 16, "form": "z"}}, r"head\.form: found 'z'; allowed: a, b, c, d"),
        ({"head": {"width": 16, "batch_norm": 1}}, "does not describe"),
        ({"head": None}, "does not describe"),
        ({"head": []}, "does not describe"),
        ({"labels": "anger"}, "does not describe"),
        ({"labels": [1, 2, 3]}, "does not describe"),
        ({"labels": [["a"], ["b"], ["c"]]}, "does not describe"),
        ({"normalize": "yes"}, "does not describe"),
        ({"final_norm": None}, "does not describe"),
        ({"experts": ["../../x"]}, "no name of a file"),
        ({"experts": [".."]}, "no name of a file"),
        ({"experts": ["/etc"]}, "no name of a file"),
        ({"experts": 3}, "does not describe"),
        ({"format": None}, "format None"),
        ({"format": True}, "format True"),
        ({"kind": ["emotion"]}, "of kind"),
        ({"kind": {"a": 1}}, "of kind"),
        ({"window": []}, "window"),
        ({"words": {}}, "words"),
    ],
)
def test_a_description_that_is_nonsense_is_refused_before_it_is_built(saved, changes, message):
    about = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps(about | changes))
    began = time.monotonic()
    refused(message, load_model, saved)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"[" * 10**5, b'{"format": NaN}', b"\xff\xfe", b'{"a": "\\ud800"}']
)
def test_a_description_that_is_no_json_object_is_one_line_everywhere(saved, content):
    (saved / "model.json").write_bytes(content)
    for read in (load_model, model_kind, vocabulary_of):
        refused("model.json", read, saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 10**5, "provenance.json"),
        (b"[]", "provenance.json"),
        (b'{"parents": ["a"]}', "parents"),
        (b'{"parents": {"a": 7}}', "parents"),
    ],
)
def test_a_provenance_that_is_nonsense_is_one_line(saved, content, message):
    run = RunFolder(saved.parent)
    run.provenance.write_bytes(content)
    refused(message, find_models, saved.parent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 10**5, "provenance.json"),
        ('{"data": []}', "has data that are no hashes"),
        ('{"weights": {"base": 3}}', "has weights that are no hashes"),
        ('{"data": {"c": "old"}}', "corpus c was old, is new"),
    ],
)
def test_a_run_does_not_go_on_behind_a_provenance_that_is_nonsense(tmp_path, content, message):
    run = RunFolder(tmp_path)
    require_unchanged(run, {"c": "new"}, {})
    run.provenance.write_text(content)
    refused(message, require_unchanged, run, {"c": "new"}, {}, error=RecipeError)


GOOD = Prediction(
    "a", emotion="anger", probabilities={"anger": 0.75, "sadness": 0.25}, reference_emotion="fear"
)
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    "odd",
    [
        {"probabilities": {"anger": NAN, "sadness": NAN}},
        {"probabilities": {"anger": INFINITE, "sadness": 0.0}},
        {"arousal": NAN},
        {"valence": -INFINITE},
        {"classes": {"gender": {"female": NAN, "male": 0.5}}},
    ],
)
def test_an_answer_that_is_not_finite_is_an_error(odd):
    row = finite_or_error(replace(GOOD, transcript="words", **odd))
    assert row.as_dict().keys() == {"id", "reference_emotion", "error"}
    assert "not finite" in str(row.error)


def test_a_finite_answer_stays_as_it_is():
    for row in (GOOD, replace(GOOD, arousal=0.0), Prediction("b", transcript="")):
        assert finite_or_error(row) is row


def test_a_run_writes_an_error_for_an_answer_that_is_not_finite(emotion_batch, in_memory):
    class Diverged(nn.Module):
        def predict(self, batch):
            return [
                replace(GOOD, id=one.id, probabilities={"anger": NAN if one.id == "clip-2" else 1.0})
                for one in batch.references
            ]

    rows = answers(Diverged(), in_memory([emotion_batch]), Processes.join())
    assert [row.id for row in rows if row.error] == ["clip-2"] and len(rows) == len(emotion_batch)


def test_words_of_numbers_that_are_not_finite_are_refused():
    head = CTCHead(4, Vocabulary(("a", "b")))
    logits = head(torch.zeros(2, 3, 4))
    assert len(head.transcribe(logits, torch.tensor([3, 2]))) == 2
    logits[1, 0, 0] = NAN
    with pytest.raises(CheckpointError, match="not finite"):
        head.transcribe(logits, torch.tensor([3, 2]))
