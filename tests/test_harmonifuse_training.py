"""HarmoniFuse in the loop: what is trained at which rate, every option, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tiny_harmonifuse import ASR, GENDER, GENDERS, SER, SMALL, build, of
from voxstrata.config.training import Training
from voxstrata.errors import LabelError, RecipeError
from voxstrata.heads.task import Task
from voxstrata.inference.path import predict
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.harmonifuse.options import (
    ConnectorOptions,
    EncoderFusionOptions,
    HarmoniFuseRates,
    LayerFusionOptions,
)
from voxstrata.methods.validation_notes import ValidationNotes
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit


def grouped(system) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    return {group.name: {names[id(p)] for p in group.parameters} for group in system.parameter_groups()}


def test_fusion_scalars_learn_at_their_own_rate_without_decay(encoder):
    system = build(encoder, options=SMALL.but(rates=HarmoniFuseRates()))
    groups = grouped(system)
    assert groups["fusion"] == {
        f"{part}.{task}"
        for part in ("encoder_fusion.logits", "layer_fusion.task_scores")
        for task in ("asr", "ser")
    }
    rates = {group.name: (group.lr, group.weight_decay) for group in system.parameter_groups()}
    assert rates == {"new": (1e-4, 0.01), "fusion": (1e-3, 0.0)}
    everything = {name for name, _ in system.named_parameters() if not name.startswith("encoder.")}
    assert set().union(*groups.values()) == everything


@pytest.mark.parametrize(("trained", "layers"), [("none", set()), ("top", {"1"}), ("all", {"0", "1"})])
def test_the_encoder_is_trained_as_far_as_told(trained, layers, encoder, clips, in_memory, tmp_path):
    options = SMALL.but(encoder_trained=trained, encoder_top=1)
    system = build(encoder, options=options)
    names = grouped(system).get("encoder", set())
    assert {n.split("encoder.layers.")[1][0] for n in names if "encoder.layers." in n} == layers
    assert ("encoder.model.feature_projection.projection.weight" in names) == (trained == "all")
    assert not any("feature_extractor" in name for name in names)
    before = {n: p.detach().clone() for n, p in system.named_parameters()}
    fit(system, in_memory([of(clips, "asr")]), None, RunFolder(tmp_path), Training(steps=2))
    changed = {n for n, p in system.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in changed if n.startswith("encoder.")} <= names
    assert bool(names) == any(n.startswith("encoder.") for n in changed)


def test_it_learns_to_transcribe_and_to_classify(encoder, clips, in_memory, tmp_path):
    system = build(encoder, options=SMALL.but(label_smoothing=0.0))
    batches = in_memory([of(clips, "asr"), of(clips, "ser")])
    fit(system, batches, None, RunFolder(tmp_path), Training(steps=60))
    rows = list(predict(system, [of(clips, None)]))
    letters = " ab"
    truth = [
        "".join(letters[t] for t in row[:n])
        for row, n in zip(clips.tokens.tolist(), clips.token_lengths.tolist(), strict=True)
    ]
    assert [row.transcript for row in rows] == truth
    assert [row.emotion for row in rows] == [row.reference_emotion for row in rows]
    assert min(row.probabilities[row.emotion] for row in rows) > 0.8


def test_a_merged_encoder_has_no_top_layers_to_train(encoder, expert_folders):
    vectors = {name: TaskVector.between(encoder, folder) for name, folder in expert_folders.items()}
    for trained, granularity in (("top", "layer"), ("all", "static")):
        merged = MergedBackbone(encoder, vectors, granularity=granularity)
        with pytest.raises(RecipeError, match=f"{granularity} coefficients"):
            build(merged, options=SMALL.but(encoder_trained=trained))


@pytest.mark.parametrize(
    "options",
    [
        SMALL.but(encoder_fusion=EncoderFusionOptions(per_task=False, normalize=False)),
        SMALL.but(encoder_fusion=EncoderFusionOptions(mode="fixed", layer=1)),
        SMALL.but(encoder_fusion=EncoderFusionOptions(mode="last")),
        SMALL.but(layer_fusion=LayerFusionOptions(scores="last", norm="none")),
        SMALL.but(layer_fusion=LayerFusionOptions(scores="task", norm="model")),
        SMALL.but(layer_fusion=LayerFusionOptions(scores="input", last_start=2.0)),
        SMALL.but(prompt_tokens=3, connector=ConnectorOptions(stack=2, width=8)),
    ],
)
def test_every_option_gives_a_model_that_learns(options, encoder, clips, in_memory, tmp_path):
    system = build(encoder, options=options)
    batches = [of(clips, "asr"), of(clips, "ser")]

    def loss() -> float:
        return sum(system.eval().loss(batch).item() for batch in batches)

    before = loss()
    fit(system, in_memory(batches), None, RunFolder(tmp_path), Training(steps=12))
    assert loss() < 0.9 * before
    assert len(list(predict(system, [of(clips, None)]))) == 6


def test_it_learns_in_bfloat16(encoder, clips, in_memory, tmp_path):
    system = build(encoder)
    batches = [of(clips, "asr"), of(clips, "ser")]
    before = sum(system.eval().loss(batch).item() for batch in batches)
    fit(system, in_memory(batches), None, RunFolder(tmp_path), Training(steps=12, precision="bf16"))
    assert sum(system.eval().loss(batch).item() for batch in batches) < 0.9 * before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"task": None}, "no task; this model has asr, ser"),
        ({"task": "sid"}, "'sid'; this model has asr, ser"),
    ],
)
def test_a_task_that_is_not_the_models_is_refused(change, told, encoder, clips):
    with pytest.raises(RecipeError, match=told):
        build(encoder).loss(replace(clips, **change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tokens": None}, "<asr> has no transcripts"),
        ({"token_lengths": torch.tensor([2, 0, 1, 2, 3, 1])}, "empty transcript .clip-1."),
        ({"tokens": torch.full((6, 3), 3)}, "holds token 3, and the language model has 3"),
        ({"task": "ser", "emotion_targets": None}, "<ser> has no emotion"),
        ({"task": "ser", "emotion_targets": torch.eye(6)}, "6 classes; the task has 3"),
        ({"task": "gender", "class_targets": None}, "<gender> has no gender"),
    ],
)
def test_a_batch_without_what_its_task_needs_is_refused_in_one_line(change, told, encoder, clips):
    with pytest.raises(LabelError, match=told) as error:
        build(encoder, (ASR, SER, GENDER)).loss(replace(of(clips, "asr"), **change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ((), "at least one task"),
        ((ASR, Task("words")), "answer transcript"),
        ((SER, replace(GENDER, field="emotion")), "answer emotion"),
        ((SER, Task("ser", GENDERS, field="gender")), "answer ser"),
    ],
)
def test_tasks_that_do_not_go_together_are_refused(tasks, told, encoder):
    with pytest.raises(RecipeError, match=told):
        build(encoder, tasks)


@pytest.mark.parametrize("name", ["ASR", "keys", "training", "a.b", ""])
def test_names_that_cannot_name_a_task_are_refused(name):
    with pytest.raises(RecipeError, match="cannot be named"):
        Task(name)


def test_labels_that_cannot_be_written_are_refused_as_words(encoder):
    with pytest.raises(LabelError, match="outside the vocabulary"):
        build(encoder, options=SMALL.but(class_answers="words"))


def test_losses_and_alpha_of_two_processes_add_up():
    clips = {"asr": 5, "ser": 3, "gender": 2}
    generator = torch.Generator().manual_seed(0)
    losses = {task: torch.rand(count, generator=generator) for task, count in clips.items()}
    alphas = {task: torch.rand(count, 4, generator=generator).softmax(-1) for task, count in clips.items()}
    # The second process has no clip of the last task.
    parts = [
        {"asr": slice(0, 3), "ser": slice(0, 2), "gender": slice(0, 2)},
        {"asr": slice(3, 5), "ser": slice(2, 3)},
    ]
    mean, told = 0.0, {}
    for part in parts:
        notes = ValidationNotes(clips)
        own = sum(len(losses[task][rows]) for task, rows in part.items())
        for task, rows in part.items():
            size = len(losses[task][rows])
            mean += float(notes.loss(task, losses[task][rows].mean(), size)) * size / 10
            notes.alpha(task, alphas[task][rows])
        for name, value in notes.summary().items():
            told[name] = told.get(name, 0.0) + value * own / 10
    assert mean == pytest.approx(float(sum(values.mean() for values in losses.values())) / 3)
    for task in clips:
        assert told[f"loss/{task}"] == pytest.approx(float(losses[task].mean()))
        found = [told[f"alpha/{task}/{layer}"] for layer in range(1, 5)]
        assert found == pytest.approx(alphas[task].mean(0).tolist())
