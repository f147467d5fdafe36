"""Coefficients for words and emotions: gradients by float64 autograd, what a task moves, whole runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from toy_tasks import two_corpora
from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.batch import Batch
from voxstrata.config.head import HeadOptions
from voxstrata.config.training import Training
from voxstrata.errors import CheckpointError, RecipeError
from voxstrata.experiments.run import execute
from voxstrata.heads.ctc import CTCHead
from voxstrata.labels import LabelSet
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.adaltm.joint import JointAdaLTM, JointModel
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.recipe import AdaLTMRates, AdaLTMRecipe
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.methods.registry import method_of
from voxstrata.predictions import read_predictions
from voxstrata.recipes.reading import validate
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("anger", "neutral", "sadness"))
WEIGHTS = class_balanced_weights(torch.eye(3)[[0, 0, 0, 1, 1, 2]])
RATES = AdaLTMRates(coefficients=1e-2, layer_weights=1e-2, head=1e-2, asr_head=1e-2)


@pytest.fixture
def joint(encoder_folder, expert_folders):
    """A function of the options: a system over the tiny encoder and two vectors."""

    def build(
        per_task: bool = False,
        rates: AdaLTMRates = RATES,
        merge: dict[str, Any] | None = None,
        **options: Any,
    ) -> JointAdaLTM:
        base = load_backbone(encoder_folder)
        vectors = {name: TaskVector.between(base, folder) for name, folder in expert_folders.items()}
        merged = MergedBackbone(base, vectors, **(merge or {}))
        torch.manual_seed(0)
        transcriber = CTCHead(base.hidden_size, Vocabulary(("a", "b")))
        words = merged.twin() if per_task else None
        head = HeadOptions(form="d", normalize_layers=True)
        model = JointModel(merged, LABELS, transcriber, head, words)
        return JointAdaLTM(model, WEIGHTS, rates, **options)

    return build


def of(batch: Batch, task: str | None) -> Batch:
    return replace(batch, task=task)


def reference_loss(system: JointAdaLTM, batch: Batch, task: str, coefficients: torch.Tensor) -> torch.Tensor:
    """The loss in float64 by a plain merge: W + sum c dW tensor by tensor, and torch's own losses."""
    model, merged = system.model, system.model.merge_of(task)
    weights = {}
    for name, weight in merged.base.model.state_dict().items():
        group = int(name.split(".")[2]) + 1 if name.startswith("encoder.layers.") else 0
        total = weight.double() if weight.is_floating_point() else weight
        for k, vector in enumerate(merged.task_vectors().values()):
            if name in vector.deltas:
                total = total + coefficients[group, k] * vector.deltas[name].double()
        weights[f"model.{name}"] = total
    states = functional_call(merged.base, weights, (batch.waveforms.double(), batch.lengths))
    if task == "ser":
        logits = model.head(model.layer_sum(states.layers), states.mask())
        each = -(batch.emotion_targets * logits.float().log_softmax(-1)).sum(-1)
        return (each * (batch.emotion_targets * WEIGHTS.double()).sum(-1)).mean()
    paths = model.transcriber(states.layers[-1]).float().log_softmax(-1).transpose(0, 1)
    each = F.ctc_loss(paths, batch.tokens, states.lengths, batch.token_lengths, reduction="none")
    return (each / batch.token_lengths).mean()


@pytest.mark.parametrize("task", ["ser", "asr"])
@pytest.mark.parametrize("engine", ["lean", "plain"])
def test_gradients_of_coefficients_are_those_of_a_plain_merge_in_float64(joint, emotion_batch, task, engine):
    system = joint(merge={"engine": engine}).double().eval()
    batch = replace(of(emotion_batch, task), emotion_targets=emotion_batch.emotion_targets.double())
    system.loss(batch).backward()
    ours = system.model.encoder.coefficients.grad.clone()
    coefficients = system.model.encoder.coefficients.detach().clone().requires_grad_(True)
    reference = reference_loss(system, batch, task, coefficients)
    (expected,) = torch.autograd.grad(reference, coefficients)
    scale = float(expected.abs().max())
    assert scale > 1e-4
    # The losses themselves are taken in float32, whatever the model is in.
    assert float((ours - expected).abs().max()) < 1e-6 * scale


def test_the_loss_is_weighted_by_task_and_the_validation_loss_counts_tasks_alike(joint, emotion_batch):
    plain, weighted = joint().eval(), joint(weights={"asr": 3.0}).eval()
    for task, factor in (("ser", 1.0), ("asr", 3.0)):
        batch = of(emotion_batch, task)
        ratio = float(weighted.loss(batch).detach() / plain.loss(batch).detach())
        assert ratio == pytest.approx(factor, rel=1e-5)
    balanced = joint(validation_clips={"ser": 6, "asr": 18}).eval()
    with torch.no_grad():
        ser, asr = (balanced.validation_loss(of(emotion_batch, task)) for task in ("ser", "asr"))
        mean = (6 * ser + 18 * asr) / 24
        expected = (plain.loss(of(emotion_batch, "ser")) + plain.loss(of(emotion_batch, "asr"))) / 2
    assert float(mean) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("learn_from", [("ser",), ("asr",), ("ser", "asr")])
@pytest.mark.parametrize("per_task", [False, True])
def test_a_task_moves_coefficients_only_where_they_learn_from_it(joint, emotion_batch, learn_from, per_task):
    system = joint(per_task, learn_from=learn_from).train()
    for task in ("ser", "asr"):
        system.zero_grad(set_to_none=True)
        system.loss(of(emotion_batch, task)).backward()
        own, other = (system.model.merge_of(name) for name in (task, "asr" if task == "ser" else "ser"))
        assert (own.coefficients.grad is not None) == (task in learn_from)
        assert per_task is False or other.coefficients.grad is None
        heads = {"ser": system.model.head, "asr": system.model.transcriber}
        for name, head in heads.items():
            assert all((p.grad is not None) == (name == task) for p in head.parameters()), (task, name)
    groups = {group.name for group in system.parameter_groups()}
    moved = {"coefficients", "coefficients_asr"} & groups
    if not per_task:
        assert moved == {"coefficients"}
    else:
        named = {"ser": "coefficients", "asr": "coefficients_asr"}
        assert moved == {named[task] for task in learn_from}


def test_heads_at_rate_zero_stay_as_they_are_and_coefficients_learn(
    joint, emotion_batch, in_memory, tmp_path
):
    system = joint(rates=RATES.but(head=0.0, asr_head=0.0, layer_weights=0.0))
    before = {name: value.clone() for name, value in system.state_dict().items()}
    source = in_memory([of(emotion_batch, task) for task in ("ser", "asr")])
    fit(system, source, None, RunFolder(tmp_path), Training(steps=6))
    changed = {name for name, value in system.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.encoder.coefficients"}


def test_both_losses_fall(joint, emotion_batch, in_memory, tmp_path):
    system = joint(per_task=True).eval()
    batches = [of(emotion_batch, task) for task in ("ser", "asr")]
    before = [float(system.loss(batch).detach()) for batch in batches]
    fit(system, in_memory(batches), None, RunFolder(tmp_path), Training(steps=60))
    after = [float(system.eval().loss(batch).detach()) for batch in batches]
    assert after[0] < 0.8 * before[0] and after[1] < 0.8 * before[1]
    ser, asr = (system.model.merge_of(task).coefficients.detach() for task in ("ser", "asr"))
    assert not torch.allclose(ser, asr)


def test_twins_hold_base_and_vectors_once_and_move_together(joint):
    model = joint(per_task=True).model
    first, second = model.encoder, model.words_encoder
    assert first.coefficients is not second.coefficients
    for of_first, of_second in zip(first._deltas, second._deltas, strict=True):
        assert all(of_first[name] is of_second[name] for name in of_first)
    model.double()
    assert all(first._weights[name] is second._weights[name] for name in first._weights)
    assert next(iter(first._weights.values())).dtype == torch.float64


def test_a_batch_answers_as_its_clips_alone_and_without_a_task_both_are_answered(joint, emotion_batch):
    system = joint(per_task=True).eval()
    with torch.no_grad():
        together = system.predict(of(emotion_batch, None))
        for row, answer in enumerate(together):
            rows = slice(row, row + 1)
            alone = replace(
                emotion_batch,
                references=emotion_batch.references[rows],
                waveforms=emotion_batch.waveforms[rows, : int(emotion_batch.lengths[row])],
                lengths=emotion_batch.lengths[rows],
            )
            (single,) = system.predict(of(alone, None))
            assert single.transcript == answer.transcript
            for name, p in answer.probabilities.items():
                assert single.probabilities[name] == pytest.approx(p, abs=1e-5)
        (words, *_), (feeling, *_) = (system.predict(of(emotion_batch, task)) for task in ("asr", "ser"))
    assert words.transcript is not None and words.emotion is None
    assert feeling.emotion is not None and feeling.transcript is None


@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_saved_model_answers_as_before(joint, emotion_batch, tmp_path, per_task, dtype):
    system = joint(per_task).eval()
    with torch.no_grad():
        system.model.merge_of("asr").coefficients += 0.3
        expected = system.predict(of(emotion_batch, None))
    save_model(system.model, tmp_path / "model", dtype=dtype)
    loaded = load_model(tmp_path / "model")
    answers = loaded.predict(of(emotion_batch, None))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for ours, theirs in zip(expected, answers, strict=True):
        assert ours.transcript == theirs.transcript or dtype is not None
        for name, p in ours.probabilities.items():
            assert theirs.probabilities[name] == pytest.approx(p, abs=1e-5 if dtype is None else 2e-2)
    if per_task:
        about = json.loads((tmp_path / "model" / "model.json").read_text())
        assert about["coefficients"]["asr"] != about["coefficients"]["ser"]
        about["coefficients"]["asr"] = about["coefficients"]["asr"][1:]
        (tmp_path / "model" / "model.json").write_text(json.dumps(about))
        with pytest.raises(CheckpointError, match="coefficients"):
            load_model(tmp_path / "model")


def recipe(base: Path, corpora: dict[str, str], experts: dict[str, Path], **changes: Any) -> AdaLTMRecipe:
    values = {
        "system": "adaltm",
        "base": str(base),
        "vectors": {name: str(folder) for name, folder in experts.items()},
        "tasks": {
            "ser": {"corpora": [{"path": corpora["feelings"]}]},
            "asr": {"corpora": [{"path": corpora["words"]}]},
        },
        "rates": {"coefficients": 1e-2, "layer_weights": 1e-2, "head": 1e-2, "asr_head": 1e-2},
        "head": {"form": "d", "normalize_layers": True},
        "data": {"batch_size": 4},
        "training": {"epochs": 2},
    }
    found = validate(values | changes, "joint")
    assert isinstance(found, AdaLTMRecipe)
    return found


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    return two_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.mark.parametrize(
    "changes", [{}, {"coefficients": "per_task"}, {"granularity": "static"}, {"learn_from": ["ser"]}]
)
def test_a_run_answers_each_corpus_in_its_task_and_tells_its_coefficients(
    encoder_folder, expert_folders, corpora, tmp_path, changes
):
    run = RunFolder(tmp_path / "run")
    lines: list[str] = []
    execute(recipe(encoder_folder, corpora, expert_folders, **changes), run, notify=lines.append)
    rows = list(read_predictions(run.predictions("test")))
    assert {row.id.split("/")[0] for row in rows if row.transcript is not None} == {"words"}
    assert {row.id.split("/")[0] for row in rows if row.emotion is not None} == {"feelings"}
    metrics = json.loads(run.metrics.read_text())["test"]
    assert "wer" in str(metrics) and "uar" in str(metrics)
    told = json.loads((run.model / "coefficients.json").read_text())
    assert len(told["coefficients"]) == 3 and len(told["coefficients"][0]) == 2
    assert ("coefficients_asr" in told) == (changes.get("coefficients") == "per_task")
    static = changes.get("granularity") == "static"
    assert any("coefficient can move" in line for line in lines) != static
    assert any("states are kept" in line for line in lines) == static
    assert (told["coefficients"][1] == [0.5, 0.5]) == static


def test_heads_start_from_those_of_runs(encoder_folder, expert_folders, corpora, tmp_path):
    first = RunFolder(tmp_path / "first")
    execute(recipe(encoder_folder, corpora, expert_folders), first)
    changes = {"start_heads": {"ser": str(first.path), "asr": str(first.path)}}
    again = recipe(encoder_folder, corpora, expert_folders, **changes)
    system = method_of(again).build(again, method_of(again).sources(again), lambda line: None)
    trained = load_model(first.model)
    assert isinstance(system, JointAdaLTM)
    for part in ("head", "layer_sum", "transcriber"):
        ours, theirs = getattr(system.model, part).state_dict(), getattr(trained, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), part
    other = recipe(encoder_folder, corpora, expert_folders, **changes, head={"form": "a"})
    with pytest.raises(RecipeError, match="another form"):
        method_of(other).build(other, method_of(other).sources(other), lambda line: None)
    with pytest.raises(RecipeError, match="holds no model"):
        wrong = recipe(encoder_folder, corpora, expert_folders, start_heads={"ser": str(encoder_folder)})
        method_of(wrong).build(wrong, method_of(wrong).sources(wrong), lambda line: None)


def test_with_heads_given_and_no_epoch_a_run_answers_as_the_heads_do(
    encoder_folder, expert_folders, corpora, tmp_path
):
    static = {"granularity": "static", "init": {"asr": 0.3, "ser": 0.9}}
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    execute(recipe(encoder_folder, corpora, expert_folders, **static), first)
    heads = {"ser": str(first.path), "asr": str(first.path)}
    lines: list[str] = []
    plan = recipe(
        encoder_folder, corpora, expert_folders, **static, start_heads=heads, training={"epochs": 0}
    )
    execute(plan, second, notify=lines.append)
    assert "nothing is trained" in lines and second.is_complete and not second.journal_rows()
    assert not any("warning" in line or "states are kept" in line for line in lines)
    for split in ("dev", "test"):
        rows = [list(read_predictions(run.predictions(split))) for run in (first, second)]
        assert rows[0] == rows[1]
    assert json.loads((second.model / "coefficients.json").read_text())["coefficients"][0] == pytest.approx(
        [0.3, 0.9]
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"training": {"epochs": 0}}, "give both heads in start_heads"),
        ({"training": {"epochs": 0}, "start_heads": {"ser": "x"}}, "give both heads in start_heads"),
        ({"training": {"epochs": -1}}, "at least 0 is needed"),
        ({"tasks": {"ser": {}}}, "both ser and asr"),
        ({"tasks": {}, "coefficients": "per_task"}, "with tasks only"),
        ({"tasks": {}, "start_heads": {"ser": "x"}}, "with tasks only"),
        ({"coefficients": "per_task", "granularity": "static"}, "learns none"),
        ({"compress": {}}, "rank or energy"),
        ({"compress": {"rank": 2, "energy": 0.5}}, "rank or energy"),
        ({"compress": {"rank": 0}}, "rank"),
        ({"compress": {"energy": 2}}, "energy"),
        ({"compress": {"rank": 2}, "rule": "ties"}, "no low rank"),
        ({"data": {"labels": ["a", "b"]}}, "belong to a task"),
        ({"data": {"crop_s": 2.0}}, "crops cut words off"),
    ],
)
def test_recipes_that_do_not_hold_are_refused(encoder_folder, expert_folders, corpora, changes, match):
    with pytest.raises(RecipeError, match=match):
        recipe(encoder_folder, corpora, expert_folders, **changes)


def test_a_corpus_may_train_on_its_dev_split_and_then_has_none(encoder_folder, expert_folders, corpora):
    plain = recipe(encoder_folder, corpora, expert_folders)
    uses = {name: {"corpora": [{"path": str(use.corpora[0].path), "trained": ["train", "dev"]}]}
            for name, use in plain.tasks.items()}  # fmt: skip
    both = recipe(encoder_folder, corpora, expert_folders, tasks=uses)
    of_plain, of_both = method_of(plain).sources(plain), method_of(both).sources(both)
    assert of_both.dev is None and set(of_both.evaluated) == {"test"}
    counts, more = of_plain.clips(), of_both.clips()
    for task in ("ser", "asr"):
        assert more[task] == {
            "train": counts[task]["train"] + counts[task]["dev"],
            "test": counts[task]["test"],
        }


@pytest.mark.parametrize("compressed", [False, True])
def test_both_tasks_are_answered_from_one_front_and_compressed_ones_in_one_run(
    joint, emotion_batch, monkeypatch, compressed
):
    model = joint(per_task=True).eval().model
    if compressed:
        base = model.encoder.base
        linear = {
            n: d if n.endswith(("proj.weight", "dense.weight")) and "layers.1" in n else torch.zeros_like(d)
            for n, d in model.encoder.task_vectors()["asr"].deltas.items()
        }
        vector = replace(model.encoder.task_vectors()["asr"], deltas=linear)
        model.encoder = MergedBackbone(base, {"asr": vector.compress(rank=1)}).eval()
        model.words_encoder = model.encoder.twin().eval()
    with torch.no_grad():
        model.encoder.coefficients.fill_(0.2)
        model.words_encoder.coefficients.fill_(1.5)
        expected = [
            merge(emotion_batch.waveforms, emotion_batch.lengths)
            for merge in (model.encoder, model.words_encoder)
        ]
        runs = []
        encode = type(model.encoder.base).from_features
        monkeypatch.setattr(
            type(model.encoder.base),
            "from_features",
            lambda *a, **k: runs.append(len(a[2])) or encode(*a, **k),
        )
        found = model._both_states(emotion_batch)
    assert runs.count(2 * len(emotion_batch)) == compressed
    for states, other in zip(found, expected, strict=True):
        for one, two in zip(states.layers, other.layers, strict=True):
            for row, frames in enumerate(states.lengths):
                torch.testing.assert_close(one[row, :frames], two[row, :frames], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0].layers[-1], found[1].layers[-1], atol=1e-3)


@pytest.mark.parametrize("coefficients", ["shared", "per_task"])
def test_a_run_over_compressed_vectors_learns_and_is_read_again(
    encoder_folder, expert_folders, corpora, tmp_path, coefficients
):
    given = recipe(encoder_folder, corpora, expert_folders, compress={"rank": 2}, coefficients=coefficients)
    said = []
    execute(given, RunFolder(tmp_path / "run"), notify=said.append)
    assert any("relative error of layers 0 to" in line for line in said)
    model = load_model(tmp_path / "run" / "model")
    if coefficients == "per_task":
        assert isinstance(model, JointModel) and model.encoder.held.linears
        vector = TaskVector.load(tmp_path / "run" / "model" / "vectors" / "asr.safetensors")
        assert max(factors.rank for factors in vector.factored.factors.values()) == 2
