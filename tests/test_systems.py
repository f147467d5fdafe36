"""What each system trains and what it leaves alone, by real optimizer steps through the loop."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from voxstrata.backbone.encoder import load_backbone
from voxstrata.config.training import Training
from voxstrata.heads.ctc import CTCHead
from voxstrata.labels import LabelSet
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.recipe import AdaLTMRates
from voxstrata.methods.adaltm.system import AdaLTM, coefficient_reach
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.baselines.finetune import ASRFinetune, FinetuneRates, SERFinetune
from voxstrata.methods.encoder_models import EmotionModel, TranscriptionModel
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import validate
from voxstrata.runs import RunFolder
from voxstrata.training.learning import lr_factor
from voxstrata.training.loop import fit
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("anger", "neutral", "sadness"))
WEIGHTS = class_balanced_weights(torch.eye(3)[[0, 0, 0, 1, 1, 2]])
FAST = FinetuneRates(encoder=1e-3, head=1e-2, layer_weights=1e-2)


@pytest.fixture
def base(encoder_folder):
    return load_backbone(encoder_folder)


@pytest.fixture
def adaltm(base, expert_folders):
    """A function of the granularity: an AdaLTM of two experts, and their vectors."""

    def build(granularity: str = "layer"):
        vectors = {name: TaskVector.between(base, folder) for name, folder in expert_folders.items()}
        merged = MergedBackbone(base, vectors, granularity=granularity)
        torch.manual_seed(0)
        rates = AdaLTMRates(coefficients=1e-2, layer_weights=1e-2, head=1e-2)
        return AdaLTM(EmotionModel(merged, LABELS), WEIGHTS, rates), vectors

    return build


def ser(encoder, **options) -> SERFinetune:
    torch.manual_seed(0)
    model = EmotionModel(encoder.requires_grad_(True), LABELS)
    return SERFinetune(model, WEIGHTS, **{"rates": FAST, **options})


def asr(encoder, **options) -> ASRFinetune:
    torch.manual_seed(0)
    head = CTCHead(encoder.hidden_size, Vocabulary(("a", "b")))
    model = TranscriptionModel(encoder.requires_grad_(True), head)
    return ASRFinetune(model, **{"rates": FAST, **options})


def grouped(system) -> dict[str, set[str]]:
    """Names of the parameters in each group."""
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    return {group.name: {names[id(p)] for p in group.parameters} for group in system.parameter_groups()}


def copied(tensors) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in dict(tensors).items()}


def moved(before, after) -> set[str]:
    after = dict(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


def train(system, batch, in_memory, path: Path, steps: int) -> tuple[float, float]:
    """The loss on the batch in eval mode, before and after."""
    before = system.eval().loss(batch).item()
    fit(system, in_memory([batch]), None, RunFolder(path), Training(steps=steps))
    return before, system.eval().loss(batch).item()


@pytest.mark.parametrize("make", [ser, asr])
@pytest.mark.parametrize("frozen_front", [True, False])
def test_finetuning_trains_everything_but_a_frozen_front_end(make, frozen_front, base):
    system = make(base, freeze_front_end=frozen_front)
    groups = grouped(system)
    everything = {name for name, _ in system.named_parameters()}
    front = {name for name in everything if ".feature_extractor." in name}
    assert front
    assert set().union(*groups.values()) == everything - (front if frozen_front else set())
    assert sum(map(len, groups.values())) == len(set().union(*groups.values()))
    assert groups["encoder"] == {n for n in everything if ".encoder.model." in n} - (
        front if frozen_front else set()
    )
    expected = {"encoder", "head"} | ({"layer_weights"} if make is ser else set())
    assert groups.keys() == expected


@pytest.mark.parametrize("make", [ser, asr])
def test_finetuning_overfits_a_batch_and_leaves_the_front_end(make, base, emotion_batch, in_memory, tmp_path):
    system = make(base)
    before = copied(system.named_parameters())
    first, last = train(system, emotion_batch, in_memory, tmp_path, steps=25)
    assert last < 0.6 * first
    changed = moved(before, system.named_parameters())
    assert not any(".feature_extractor." in name for name in changed)
    for part in ("encoder.layers.0.", "encoder.layers.1.", "feature_projection.", ".head."):
        assert any(part in name for name in changed), part


@pytest.mark.parametrize("make", [ser, asr])
def test_a_frozen_front_end_is_not_gone_through_backwards(make, base, emotion_batch, in_memory, tmp_path):
    system = make(base)
    seen = []
    front = system.model.encoder.model.feature_extractor
    front.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    fit(system, in_memory([emotion_batch]), None, RunFolder(tmp_path), Training(steps=1))
    assert seen == [False]


def test_a_rate_of_zero_freezes_its_part(base, emotion_batch, in_memory, tmp_path):
    system = ser(base, rates=FinetuneRates(encoder=0.0, head=1e-2, layer_weights=0.0))
    before = copied(system.named_parameters())
    train(system, emotion_batch, in_memory, tmp_path, steps=2)
    assert moved(before, system.named_parameters()) == {
        name for name in before if name.startswith("model.head.")
    }


@pytest.mark.parametrize("granularity", ["layer", "global"])
def test_adaltm_trains_coefficients_layer_weights_and_head_and_nothing_else(
    granularity, adaltm, emotion_batch, in_memory, tmp_path
):
    system, vectors = adaltm(granularity)
    base = copied(system.merged.base.weights())
    deltas = {name: copied(vector.deltas) for name, vector in vectors.items()}
    before = copied(system.named_parameters())
    first, last = train(system, emotion_batch, in_memory, tmp_path, steps=30)
    assert last < 0.7 * first
    assert moved(before, system.named_parameters()) == set(before)
    assert set().union(*grouped(system).values()) == set(before)
    assert grouped(system)["coefficients"] == {"model.encoder.coefficients"}
    assert grouped(system)["layer_weights"] == {"model.layer_sum.logits"}
    assert not moved(base, system.merged.base.weights())
    assert not any(moved(deltas[name], vector.deltas) for name, vector in vectors.items())


def test_static_merging_trains_no_coefficient(adaltm, emotion_batch, in_memory, tmp_path):
    system, _ = adaltm("static")
    assert grouped(system).keys() == {"head", "layer_weights"}
    train(system, emotion_batch, in_memory, tmp_path, steps=3)
    assert (system.merged.coefficients == 0.5).all()


def test_the_frozen_baseline_has_the_states_of_its_base(base, emotion_batch):
    system = AdaLTM(EmotionModel(MergedBackbone(base, {}), LABELS), WEIGHTS, AdaLTMRates())
    assert grouped(system).keys() == {"head", "layer_weights"}
    states = base(emotion_batch.waveforms, emotion_batch.lengths)
    expected = system.model.head(system.model.layer_sum(states.layers), states.mask())
    assert torch.equal(system.model.logits(emotion_batch), expected)


def test_the_gradient_reaches_every_coefficient(adaltm, emotion_batch):
    system, _ = adaltm("layer")
    system.train().loss(emotion_batch).backward()
    gradient = system.merged.coefficients.grad
    assert gradient.shape == (3, 2) and (gradient.abs() > 1e-7).all()


def test_the_loss_is_the_class_balanced_one(adaltm, emotion_batch):
    system, _ = adaltm("static")
    log_p = system.model.logits(emotion_batch).log_softmax(-1)
    classes = emotion_batch.emotion_targets.argmax(-1)
    rows = [-WEIGHTS[c] * log_p[row, c] for row, c in enumerate(classes.tolist())]
    torch.testing.assert_close(system.loss(emotion_batch), torch.stack(rows).mean())


def test_adaltm_needs_a_merged_backbone(base):
    with pytest.raises(TypeError, match="MergedBackbone"):
        AdaLTM(EmotionModel(base, LABELS), WEIGHTS, AdaLTMRates())


def test_the_summary_names_every_coefficient_and_layer_weight(adaltm):
    system, _ = adaltm("layer")
    with torch.no_grad():
        system.merged.coefficients.copy_(torch.arange(6.0).reshape(3, 2))
    summary = system.summary()
    assert {name: value for name, value in summary.items() if name.startswith("coefficient/")} == {
        f"coefficient/{name}/{layer}": float(2 * layer + k)
        for layer in range(3)
        for k, name in enumerate(("asr", "ser"))
    }
    assert [summary["layer_weight/1"], summary["layer_weight/2"]] == [0.5, 0.5] and len(summary) == 8


def test_the_trained_share_counts_what_is_trained_and_the_base_once(adaltm):
    system, _ = adaltm("layer")
    trained, total = system.trainable_share()
    head = 32 * 256 + 256 + 256 * 3 + 3
    assert trained == head + 2 + 6
    assert total == trained + sum(p.numel() for p in system.merged.base.parameters())


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_reach_is_how_far_adamw_goes_under_a_constant_gradient(schedule):
    steps, coefficient = 200, torch.nn.Parameter(torch.tensor(0.5))
    optimizer = torch.optim.AdamW([coefficient], lr=1.0, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * lr_factor(step, total=steps, warmup=0, schedule=schedule)
        coefficient.grad = torch.tensor(0.7)
        optimizer.step()
    moved = 0.5 - float(coefficient.detach())
    assert moved == pytest.approx(coefficient_reach(1e-3, steps, schedule), rel=0.01)


def test_all_rows_of_a_seed_start_with_the_same_head(encoder_folder, expert_folders, corpus_folder):
    shared = {
        "base": str(encoder_folder),
        "data": {"corpora": [{"path": str(corpus_folder)}], "batch_size": 4},
        "training": {"epochs": 1},
    }
    vectors = {name: str(folder) for name, folder in expert_folders.items()}
    rows = {
        "frozen": {"system": "adaltm"},
        "static": {"system": "adaltm", "vectors": vectors, "granularity": "static"},
        "dual": {"system": "adaltm", "vectors": vectors},
        "ser": {"system": "finetune", "task": "ser"},
        "ser head": {"system": "adaltm", "base": vectors["ser"]},
        "multitask": {"system": "multitask", "vectors": vectors},
        "other seed": {"system": "adaltm", "vectors": vectors, "seed": 1},
    }
    heads = {}
    for name, row in rows.items():
        recipe = validate(shared | row, name)
        torch.rand(len(heads))  # the global generator stands elsewhere each time
        system = method_of(recipe).build(recipe, method_of(recipe).sources(recipe), lambda line: None)
        heads[name] = copied(system.model.head.named_parameters())
        assert (system.model.layer_sum.logits == 0).all()
    for name in ("static", "dual", "ser", "ser head", "multitask"):
        assert not moved(heads["frozen"], heads[name]), name
    assert moved(heads["frozen"], heads["other seed"])


@pytest.mark.parametrize("make", [ser, asr])
def test_layers_further_down_learn_more_slowly(make, base):
    rates = FinetuneRates(encoder=1e-3, head=1e-2, layer_decay=0.5)
    plain = {g.name: g for g in make(base, rates=rates.but(layer_decay=1.0)).parameter_groups()}
    decayed = {g.name: g for g in make(base, rates=rates).parameter_groups()}
    assert {name: decayed[name].lr for name in decayed if name.startswith("encoder")} == {
        "encoder/0": 0.25e-3,
        "encoder/1": 0.5e-3,
        "encoder/2": 1e-3,
    }
    inside = [p for name, group in decayed.items() if name.startswith("encoder") for p in group.parameters]
    assert {id(p) for p in inside} == {id(p) for p in plain["encoder"].parameters}
    assert decayed["head"].lr == plain["head"].lr


def test_a_warm_head_learns_before_the_encoder(base, emotion_batch, in_memory, tmp_path):
    for steps, expected in ((3, False), (4, True)):
        system = ser(copy.deepcopy(base), rates=FAST.but(warm_head_steps=3))
        before = copied(system.named_parameters())
        train(system, emotion_batch, in_memory, tmp_path / str(steps), steps=steps)
        changed = moved(before, system.named_parameters())
        assert any(".encoder.model." in name for name in changed) is expected
        assert any(name.startswith("model.head.") for name in changed)
