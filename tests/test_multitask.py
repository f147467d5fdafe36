"""Multi-task learning: its loss by a plain loop, its start, its selection, and what it answers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.batch import Batch
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.config.training import Training
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError, RecipeError
from voxstrata.heads.ctc import CTCHead
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.baselines.finetune import FinetuneRates, SERFinetune
from voxstrata.methods.baselines.multitask import Multitask
from voxstrata.methods.encoder_models import EmotionModel, MultitaskModel
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import validate
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("anger", "neutral", "sadness"))
WEIGHTS = class_balanced_weights(torch.eye(3)[[0, 0, 0, 1, 1, 2]])
RATES = FinetuneRates(encoder=1e-3, head=1e-2, layer_weights=1e-2)


@pytest.fixture
def multitask(encoder_folder):
    """A function of the options: a system over the tiny encoder."""

    def build(asr_weight: float = 0.3, **options) -> Multitask:
        encoder = load_backbone(encoder_folder).requires_grad_(True)
        torch.manual_seed(1)
        transcriber = CTCHead(encoder.hidden_size, Vocabulary(("a", "b")))
        torch.manual_seed(0)
        model = MultitaskModel(encoder, LABELS, transcriber)
        return Multitask(model, WEIGHTS, RATES, asr_weight=asr_weight, **options)

    return build


@torch.no_grad()
def looped(system: Multitask, batch: Batch) -> tuple[float, float]:
    """Both losses, clip by clip; the sums over the clips that have class or words, divided by all."""
    logits = system.model.joint_logits(batch)
    emotion = words = 0.0
    for row in range(len(batch)):
        target = batch.emotion_targets[row]
        if target.any():
            index = int(target.argmax())
            emotion -= float(WEIGHTS[index] * logits.emotion[row].log_softmax(-1)[index])
        length = int(batch.token_lengths[row])
        if length:
            paths = logits.characters[row, : int(logits.frames[row])].log_softmax(-1).unsqueeze(1)
            words += float(F.ctc_loss(paths, batch.tokens[row : row + 1, :length],
                                      (len(paths),), (length,), reduction="sum")) / length  # fmt: skip
    return emotion / len(batch), words / len(batch)


def partly(batch: Batch) -> Batch:
    """The batch with two clips that have words only, and two that have a class only."""
    targets, lengths = batch.emotion_targets.clone(), batch.token_lengths.clone()
    targets[[0, 4]] = 0
    lengths[[1, 5]] = 0
    return replace(batch, emotion_targets=targets, token_lengths=lengths)


def some_clips(batch: Batch, rows: slice) -> Batch:
    width = max(1, int(batch.token_lengths[rows].max()))
    return replace(
        batch,
        references=batch.references[rows],
        waveforms=batch.waveforms[rows, : int(batch.lengths[rows].max())],
        lengths=batch.lengths[rows],
        emotion_targets=batch.emotion_targets[rows],
        tokens=batch.tokens[rows, :width],
        token_lengths=batch.token_lengths[rows],
    )


@pytest.mark.parametrize("clips", [lambda batch: batch, partly], ids=["both", "any"])
def test_the_loss_is_that_of_emotions_and_weighted_that_of_words(clips, multitask, emotion_batch):
    batch = clips(emotion_batch)
    system = multitask().eval()
    emotion, words = looped(system, batch)
    assert float(system.loss(batch).detach()) == pytest.approx(emotion + 0.3 * words, rel=1e-5)


def test_the_loss_does_not_depend_on_how_clips_are_divided_into_batches(multitask, emotion_batch):
    batch, system = partly(emotion_batch), multitask().eval()
    parts = [some_clips(batch, rows) for rows in (slice(0, 1), slice(1, 2), slice(2, 6))]
    together = sum(float(system.loss(part).detach()) * len(part) for part in parts) / len(batch)
    assert float(system.loss(batch).detach()) == pytest.approx(together, rel=1e-4)


def test_a_batch_without_words_teaches_emotions_only(multitask, emotion_batch):
    silent = replace(
        emotion_batch,
        tokens=torch.zeros(6, 0, dtype=torch.long),
        token_lengths=torch.zeros(6, dtype=torch.long),
    )
    system = multitask().train()
    system.loss(silent).backward()
    assert all((p.grad == 0).all() for p in system.model.transcriber.parameters())
    assert all(p.grad.isfinite().all() for p in system.parameters() if p.grad is not None)
    assert any(p.grad.abs().sum() > 0 for p in system.model.head.parameters())


def test_without_weight_it_is_the_emotion_expert_of_the_same_optimiser(
    multitask, encoder_folder, emotion_batch, in_memory, tmp_path
):
    encoder = load_backbone(encoder_folder).requires_grad_(True)
    torch.manual_seed(0)
    expert = EmotionModel(encoder, LABELS)
    systems = {"single": SERFinetune(expert, WEIGHTS, RATES), "joint": multitask(asr_weight=0.0)}
    for name, system in systems.items():
        source = in_memory([emotion_batch])
        fit(system, source, source, RunFolder(tmp_path / name), Training(steps=4, warmup_steps=2))
    joint, single = systems["joint"].model, systems["single"].model
    assert all(torch.equal(p, joint.get_parameter(name)) for name, p in single.named_parameters())
    (row,) = systems["joint"].predict(some_clips(emotion_batch, slice(0, 1)))
    assert row.emotion is not None and row.transcript is None


def test_both_tasks_are_learned(multitask, emotion_batch, in_memory, tmp_path):
    system = multitask(asr_weight=1.0)
    before = looped(system.eval(), emotion_batch)
    fit(system, in_memory([emotion_batch]), None, RunFolder(tmp_path), Training(steps=25))
    after = looped(system.eval(), emotion_batch)
    assert after[0] < 0.7 * before[0] and after[1] < 0.7 * before[1]


@pytest.mark.parametrize("selected_by", ["joint", "emotion"])
def test_the_best_weights_are_chosen_by_either_loss(
    selected_by, multitask, emotion_batch, in_memory, tmp_path
):
    system = multitask(selected_by=selected_by)
    expected = copy.deepcopy(system).eval()
    emotion, words = looped(expected, emotion_batch)
    run = RunFolder(tmp_path)
    source = in_memory([emotion_batch, some_clips(emotion_batch, slice(0, 2))])
    fit(system, in_memory([emotion_batch]), source, run, Training(steps=1))
    told = run.journal_rows("validation")[0]
    # One step of warm-up rate 1e-3 has changed little: what matters is which sum it is.
    joint = told["emotion_loss"] + 0.3 * told["ctc_loss"]
    assert told["loss"] == pytest.approx(
        told["emotion_loss"] if selected_by == "emotion" else joint, rel=1e-5
    )
    assert 0 <= told["blank_share"] <= 1 and told["ctc_loss"] != pytest.approx(told["emotion_loss"])
    assert system.summary() == {}
    with torch.no_grad():
        assert float(expected.validation_loss(emotion_batch)) == pytest.approx(
            emotion if selected_by == "emotion" else emotion + 0.3 * words, rel=1e-5
        )


def test_the_share_of_blanks_counts_valid_frames(multitask, emotion_batch):
    logits = multitask().eval().model.joint_logits(emotion_batch)
    assert len(set(logits.frames.tolist())) > 1
    shares = [
        sum(int(path[frame].argmax()) == 0 for frame in range(count)) / count
        for path, count in zip(logits.characters, logits.frames.tolist(), strict=True)
    ]
    # A mean over clips, so that it does not hang on how they are divided into batches.
    assert float(logits.blank_share()) == pytest.approx(sum(shares) / len(shares))


def test_a_saved_model_tells_class_and_words_again(multitask, emotion_batch, recordings, tmp_path):
    system = multitask(asr_weight=1.0).eval()
    save_model(system.model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, MultitaskModel)
    rows = loaded.predict(emotion_batch)
    assert rows == system.predict(emotion_batch)
    assert all(row.reference_transcript == "ab" and row.reference_emotion for row in rows)
    recognition = Recognizer.load(tmp_path / "model")(recordings[0])
    assert recognition.emotion in LABELS and recognition.transcript is not None


@pytest.fixture
def recipe(encoder_folder, corpus_folder):
    """A function of changes: a validated recipe."""

    def build(**changes):
        values = {
            "system": "multitask",
            "base": str(encoder_folder),
            "data": {"corpora": [{"path": str(corpus_folder)}], "batch_size": 4, **changes.pop("data", {})},
            "training": {"epochs": 1},
            **changes,
        }
        return validate(values, "multitask")

    return build


def built(recipe) -> Multitask:
    system = method_of(recipe).build(recipe, method_of(recipe).sources(recipe), lambda line: None)
    assert isinstance(system, Multitask)
    return system


def test_it_starts_from_the_static_merge(recipe, encoder_folder, expert_folders):
    vectors = {name: str(folder) for name, folder in expert_folders.items()}
    init = {"asr": 0.25, "ser": 0.5}
    found = built(recipe(vectors=vectors, init=init)).model.encoder.weights()
    base = load_backbone(encoder_folder).weights()
    experts = {name: load_backbone(folder).weights() for name, folder in expert_folders.items()}
    for name, weight in base.items():
        merged = weight.double()
        for expert, coefficient in init.items():
            merged = merged + coefficient * (experts[expert][name].double() - weight.double())
        torch.testing.assert_close(found[name].double(), merged, rtol=0, atol=1e-6)
    assert any(not torch.equal(found[name], base[name]) for name in base)


def test_all_of_it_is_trained_unless_the_front_end_is_frozen(recipe):
    def left(**changes) -> set[str]:
        system = built(recipe(**changes))
        trained = {id(p) for group in system.parameter_groups() for p in group.parameters}
        return {name for name, p in system.named_parameters() if id(p) not in trained}

    assert not left()
    frozen = left(freeze_front_end=True)
    assert frozen and all(".feature_extractor." in name for name in frozen)
    assert {g.name for g in built(recipe(asr_weight=0)).parameter_groups()} == {
        "encoder",
        "head",
        "layer_weights",
    }


def test_layers_may_learn_more_slowly_behind_a_warm_head(recipe):
    groups = built(recipe(rates={"layer_decay": 0.5, "warm_head_steps": 7})).parameter_groups()
    rates = {group.name: group.lr for group in groups}
    assert rates["encoder/1"] == 0.5 * rates["encoder/2"]
    assert {g.start_step for g in groups if g.name.startswith("encoder")} == {7}
    assert {g.start_step for g in groups if not g.name.startswith("encoder")} == {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"crop_s": 3}}, "crops cut words off"),
        ({"data": {"targets": "dimensions"}}, "no task of multitask"),
    ],
)
def test_what_does_not_go_with_words_or_classes_is_refused(recipe, changes, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**changes)


def cuts_lacking(corpus_folder: Path, *, classes: set[int], words: set[int]):
    """The training cuts without the classes of some and the words of others."""
    cuts = list(PreparedCorpus.load(corpus_folder).cuts("train"))
    for number, cut in enumerate(cuts):
        if number in classes:
            cut.supervisions[0].custom["emotion"] = None
        if number in words:
            cut.supervisions[0].text = None
    return cuts


def test_clips_with_either_are_kept_where_that_is_asked_for(corpus_folder):
    options = BatchOptions(batch_size=8, labels=LABELS, vocabulary=Vocabulary.of(["ab "]), shuffle=False)
    cuts = cuts_lacking(corpus_folder, classes={0, 1, 2}, words={2, 3})
    strict, both = BatchSource(cuts, options), BatchSource(cuts, replace(options, require="any"))
    assert len(strict) == 4 and strict.left_out == {"no emotion": 3, "no transcript": 1}
    assert len(both) == 7 and both.left_out == {"no emotion and no transcript": 1}
    assert len(strict.emotion_target_matrix()) == 4 and len(both.emotion_target_matrix()) == 5
    (batch,) = both.epoch(0)
    by_id = {name: row for row, name in enumerate(batch.ids)}
    for number, cut in enumerate(cuts):
        if number != 2:
            row = by_id[cut.id]
            assert float(batch.emotion_targets[row].sum()) == (number not in {0, 1})
            assert (int(batch.token_lengths[row]) > 0) == (number != 3)
    asked = BatchSource(cuts, replace(options, require="any", vocabulary=None))
    assert len(asked) == 7
    with pytest.raises(CorpusError, match="2 with no emotion and no transcript"):
        BatchSource(
            cuts_lacking(corpus_folder, classes={0, 1}, words={0, 1})[:2], replace(options, require="any")
        )
