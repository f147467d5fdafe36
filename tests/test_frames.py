"""Clips against an encoder's frames: refused, left out or filled up, before training and by a dry run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from voxstrata.backbone.families.family import Convolution, FrontEnd
from voxstrata.batches.augment import augment
from voxstrata.config.data import Augmentation
from voxstrata.config.recipe import Recipe
from voxstrata.config.training import Training
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import AudioError, CorpusError, RecipeError
from voxstrata.experiments.dry_run.run import dry_run
from voxstrata.experiments.run import execute
from voxstrata.losses import ctc_frames, ctc_loss
from voxstrata.methods.frames import ClipNeeds
from voxstrata.methods.registry import method_of
from voxstrata.methods.sources import Sources
from voxstrata.predictions import read_predictions
from voxstrata.recipes.reading import validate
from voxstrata.reporting import page
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit

#: Samples that the tiny encoder needs for a frame: kernels 400 and 3, strides 160 and 2.
LEAST = 720
SPLITS = ["train"] * 8 + ["dev"] * 4 + ["test"] * 4

Corpus = Callable[..., Path]
Written = Callable[..., Recipe]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """A function of what some clips have in the place of half a second and two words."""

    def make(samples: dict[int, int] | None = None, texts: dict[int, str] | None = None) -> Path:
        rng = np.random.default_rng(0)
        with (tmp_path / "table.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "speaker", "split", "emotion", "text"])
            for i, split in enumerate(SPLITS):
                wave = rng.standard_normal((samples or {}).get(i, 8000)) * 0.1
                soundfile.write(tmp_path / f"{i:02d}.wav", wave.astype(np.float32), 16_000)
                text = (texts or {}).get(i, "a b")
                table.writerow([f"{i:02d}.wav", f"{split}{i % 2}", split, ("anger", "neutral")[i % 2], text])
        prepare("table", tmp_path / "table.csv", tmp_path / "prepared")
        return tmp_path / "prepared"

    return make


@pytest.fixture
def recipe(encoder_folder: Path, expert_folders: dict[str, Path]) -> Written:
    """A function of the system, its corpus and what differs: a validated recipe."""

    def write(system: str, folder: Path, data: dict[str, Any] | None = None, **changes: Any) -> Recipe:
        values = {
            "system": system.partition("-")[0] if system.startswith("finetune") else system,
            "data": {"corpora": [{"path": str(folder)}], "batch_size": 4, **(data or {})},
            "training": {"epochs": 1},
        }
        if system.startswith("finetune"):
            values["task"] = system.partition("-")[2]
        if system == "harmonifuse":
            values["tasks"] = {"asr": {}, "ser": {}}
        if system == "late-fusion":
            values["experts"] = {name: str(path) for name, path in expert_folders.items()}
        elif system != "pretraining":
            values["base"] = str(encoder_folder)
        return validate(values | changes, system)

    return write


def built(recipe: Recipe) -> tuple[Sources, list[str]]:
    """The sources of a recipe once its system is built, and what was said."""
    said: list[str] = []
    sources = method_of(recipe).sources(recipe)
    method_of(recipe).build(recipe, sources, said.append)
    return sources, said


def without_steps(now: object) -> None:
    raise AssertionError("training has started")


def test_needs_are_the_fewest_samples_that_give_the_frames(encoder) -> None:
    for frames in (1, 2, 7, 50):
        count = ClipNeeds((encoder.front_end,)).samples(frames)
        assert encoder.frame_lengths(torch.tensor([count - 1, count])).tolist() == [frames - 1, frames]
    assert ClipNeeds((FrontEnd((Convolution(8, 10, 5),)), encoder.front_end)).samples(1) == LEAST


@pytest.mark.parametrize("tokens", [[1], [1, 2], [1, 1], [2, 1, 1, 1, 2, 2]])
def test_ctc_is_finite_with_as_many_frames_as_it_needs_and_infinite_with_one_fewer(tokens: list[int]) -> None:
    frames = ctc_frames(tokens)
    logits = torch.randn(2, frames, 3, generator=torch.Generator().manual_seed(0))
    lengths, counts = torch.tensor([frames, frames - 1]), torch.full((2,), len(tokens))
    if frames == 1:
        logits, lengths, counts = logits[:1], lengths[:1], counts[:1]
    loss = ctc_loss(logits, lengths, torch.tensor([tokens] * len(lengths)), counts)
    assert loss.isfinite().tolist() == [True, False][: len(lengths)]


@pytest.mark.parametrize(("place", "split"), [(2, "train"), (9, "dev"), (14, "test")])
def test_a_clip_without_a_frame_is_refused_before_training(
    corpus: Corpus, recipe: Written, tmp_path: Path, place: int, split: str
) -> None:
    chosen = recipe("finetune-ser", corpus({place: LEAST - 1}))
    message = rf"frame of the encoder: {split}: table/{place:02d} \(719 samples\); at least 720 samples"
    with pytest.raises(AudioError, match=message) as fault:
        execute(chosen, RunFolder(tmp_path / "run"), progress=without_steps)
    assert "\n" not in str(fault.value) and "prepare it again" in str(fault.value)
    (check,) = dry_run({"run": chosen}, tmp_path).runs
    assert check.faults == (str(fault.value),)


@pytest.mark.parametrize("system", ["finetune-asr", "multitask", "late-fusion", "harmonifuse", "pretraining"])
def test_every_system_refuses_it(corpus: Corpus, recipe: Written, system: str) -> None:
    chosen = recipe(system, corpus({0: 500, 1: 501, 2: 502, 3: 503, 9: 504}))
    with pytest.raises(
        AudioError, match=r"train: table/00 \(500 samples\).* and 1 more; .*dev: table/09 \(504 samples\);"
    ):
        built(chosen)


def test_a_clip_of_one_frame_is_trained_and_tested(corpus: Corpus, recipe: Written, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "write_report", lambda run: None)
    chosen = recipe("finetune-ser", corpus({2: LEAST, 9: LEAST, 14: LEAST}))
    run = execute(chosen, RunFolder(tmp_path / "run"))
    assert len(list(read_predictions(run.predictions("test")))) == 4
    (check,) = dry_run({"run": chosen}, tmp_path).runs
    assert not check.faults


def test_a_crop_without_a_frame_is_refused(corpus: Corpus, recipe: Written) -> None:
    with pytest.raises(RecipeError, match=r"crop_s is 0\.03, 480 samples .* takes 720: give at least 0\.045"):
        built(recipe("finetune-ser", corpus(), {"crop_s": 0.03}))
    built(recipe("finetune-ser", corpus(), {"crop_s": 0.045}))


def test_augmentation_leaves_a_clip_its_frame(corpus: Corpus, recipe: Written) -> None:
    sources, _ = built(recipe("finetune-ser", corpus({3: LEAST + 20}), {"augment": {"tempo": 0.15}}))
    lengths = {
        int(length)
        for epoch in range(12)
        for batch in sources.train.epoch(epoch)
        for name, length in zip(batch.ids, batch.lengths, strict=True)
        if name == "table/03"
    }
    assert min(lengths) == LEAST and max(lengths) > LEAST + 20


def test_augmentation_leaves_words_their_frames(corpus: Corpus, recipe: Written, encoder) -> None:
    text = "ab " * 8  # 23 characters in 24 frames of 20 ms
    sources, said = built(recipe("finetune-asr", corpus(texts={3: text}), {"augment": {"tempo": 0.15}}))
    assert not any("left out" in line for line in said)
    counts = [
        int(encoder.frame_lengths(length))
        for epoch in range(12)
        for batch in sources.train.epoch(epoch)
        for name, length in zip(batch.ids, batch.lengths, strict=True)
        if name == "table/03"
    ]
    assert min(counts) == 23 < max(counts)


def test_what_is_filled_up_is_silence_at_the_end_and_times_stay_true() -> None:
    wave = np.random.default_rng(0).standard_normal(740).astype(np.float32)
    options = Augmentation(tempo=0.3)
    seed = next(s for s in range(99) if len(augment(wave, options, np.random.default_rng(s)).samples) < 650)
    plain = augment(wave, options, np.random.default_rng(seed))
    filled = augment(wave, options, np.random.default_rng(seed), at_least=LEAST)
    assert len(filled.samples) == len(filled.clean) == LEAST and filled.tempo == plain.tempo
    np.testing.assert_array_equal(filled.samples[: len(plain.samples)], plain.samples)
    assert not filled.samples[len(plain.samples) :].any()


@pytest.mark.parametrize("system", ["finetune-asr", "multitask"])
def test_clips_with_more_words_than_frames_are_left_out_of_training_and_still_answered(
    corpus: Corpus, recipe: Written, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str
) -> None:
    monkeypatch.setattr(page, "write_report", lambda run: None)
    long = "abcde " * 30
    chosen = recipe(system, corpus(texts={3: long, 9: long, 14: long}), {"alphabet": "cde"})
    said: list[str] = []
    run = execute(chosen, RunFolder(tmp_path / "run"), notify=said.append)
    told = [line for line in said if "left out" in line]
    reason = r"transcript longer than the audio (more characters than the encoder has frames), e.g."
    assert told == [
        f"train: 1 clip left out: {reason} table/03",
        f"dev: 1 clip left out of the validation loss: {reason} table/09",
    ]
    for split, names in {"dev": range(8, 12), "test": range(12, 16)}.items():
        answered = {row.id for row in read_predictions(run.predictions(split))}
        assert answered == {f"table/{i:02d}" for i in names}
    (check,) = dry_run({"run": chosen}, tmp_path).runs
    assert not check.faults and set(told) <= set(check.notes)
    assert check.clips == {"train": 7, "dev": 4, "test": 4}


def test_what_is_left_out_is_in_no_epoch_and_counted(corpus: Corpus, recipe: Written) -> None:
    sources, _ = built(recipe("finetune-asr", corpus(texts={3: "ab " * 50})))
    (reason,) = sources.train.left_out
    assert "longer than the audio" in reason and sources.train.left_out[reason] == 1
    assert len(sources.train) == 7 and sources.train.batches_per_epoch() == 2
    seen = [name for batch in sources.train.epoch(0) for name in batch.ids]
    assert sorted(seen) == [f"table/{i:02d}" for i in range(8) if i != 3]


def test_words_that_are_not_learned_leave_no_clip_out(corpus: Corpus, recipe: Written) -> None:
    folder = corpus(texts={3: "ab " * 50})
    for chosen in (recipe("finetune-ser", folder), recipe("multitask", folder, asr_weight=0)):
        sources, said = built(chosen)
        assert len(sources.train) == 8 and not any("left out" in line for line in said)


def test_a_split_of_nothing_else_is_refused(corpus: Corpus, recipe: Written, tmp_path: Path) -> None:
    chosen = recipe("finetune-asr", corpus(texts=dict.fromkeys(range(8, 12), "ab " * 50)))
    with pytest.raises(
        CorpusError, match=r"dev: every clip has a transcript longer .* e\.g\. table/08; "
    ) as fault:
        built(chosen)
    (check,) = dry_run({"run": chosen}, tmp_path).runs
    assert check.faults == (str(fault.value),)


def test_a_recording_that_is_shorter_than_its_manifest_is_named(
    corpus: Corpus, recipe: Written, in_memory, tmp_path: Path
) -> None:
    chosen = recipe("finetune-ser", corpus())
    sources = method_of(chosen).sources(chosen)
    system = method_of(chosen).build(chosen, sources, lambda line: None)
    batch = next(sources.train.epoch(0))
    batch.lengths[1] = LEAST - 1
    message = rf"clip 1 \(719 samples\) of the batch; .*; this batch has the clips {', '.join(batch.ids)}$"
    with pytest.raises(AudioError, match=message):
        fit(system, in_memory([batch]), None, RunFolder(tmp_path / "run"), Training(steps=1))
