"""Batches of several tasks: a pure function of (seed, step), balanced by seconds, whole steps of one task."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy_tasks import two_corpora
from voxstrata.batches.batch import Batch
from voxstrata.batches.processes import Share
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.batches.task_schedule import TaskBatches, TaskSchedule, TasksInTurn
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError, LabelError, RecipeError
from voxstrata.labels import LabelSet
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("anger", "neutral", "sadness"))
GENDERS = LabelSet(("female", "male"))
SHARES = st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 10), min_size=1)


@given(SHARES, st.integers(0, 5), st.integers(0, 3000), st.integers(0, 200))
def test_shares_hold_over_any_run_of_steps(shares, seed, first, steps):
    schedule = TaskSchedule(shares, seed)
    told = Counter(schedule.task(step) for step in range(first, first + steps))
    for task, share in shares.items():
        found = schedule.count(task, first + steps) - schedule.count(task, first)
        assert found == told[task]
        assert abs(found - steps * share / sum(shares.values())) < 5


def test_the_order_hangs_on_the_seed_alone():
    def order(seed: int) -> list[str]:
        schedule = TaskSchedule({"asr": 1, "ser": 1}, seed)
        return [schedule.task(step) for step in (*range(100), 10**12)]

    assert order(0) == order(0) != order(1)


def test_many_steps_are_counted_as_they_come():
    schedule = TaskSchedule({"asr": 2, "ser": 1, "gender": 0.5}, seed=4)
    told = Counter(schedule.task(step) for step in range(70_000))
    assert told == {task: schedule.count(task, 70_000) for task in schedule.shares}


@pytest.mark.parametrize("shares", [{}, {"asr": 0.0}, {"asr": 1.0, "ser": -1.0}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(RecipeError, match="shares"):
        TaskSchedule(shares)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, PreparedCorpus]:
    found = two_corpora(tmp_path_factory.mktemp("tasks"))
    return {name: PreparedCorpus.load(Path(folder)) for name, folder in found.items()}


@pytest.fixture(scope="module")
def sources(corpora) -> dict[str, BatchSource]:
    words = BatchOptions(batch_size=4, vocabulary=Vocabulary.of(["ab "]), task="asr")
    return {
        "asr": BatchSource(corpora["words"].cuts("train"), words),
        "ser": BatchSource(
            corpora["feelings"].cuts("train"), BatchOptions(batch_size=4, labels=LABELS, task="ser")
        ),
        "gender": BatchSource(
            corpora["feelings"].stream("train"),
            BatchOptions(batch_size=4, labels=GENDERS, field="gender", task="gender"),
        ),
    }


def stream(batches: TaskBatches, epochs: int) -> list[Batch]:
    return [batch for epoch in range(epochs) for batch in batches.epoch(epoch)]


def named(batches: list[Batch]) -> list[tuple[str | None, tuple[str, ...]]]:
    return [(batch.task, batch.ids) for batch in batches]


def test_a_batch_brings_what_its_task_needs(sources):
    by_task = {batch.task: batch for batch in stream(TaskBatches(sources), 2)}
    assert by_task["asr"].tokens is not None and by_task["asr"].emotion_targets is None
    assert by_task["ser"].emotion_targets is not None and by_task["ser"].class_targets is None
    gender = by_task["gender"]
    assert gender.tokens is None and gender.emotion_targets is None
    told = [reference.classes["gender"] for reference in gender.references]
    assert torch.equal(gender.class_targets, torch.eye(2)[[GENDERS.index(name) for name in told]])


def test_each_source_goes_through_its_own_epochs(sources):
    seen = stream(TaskBatches(sources, seed=3), 12)
    for task, source in sources.items():
        mine = [batch.ids for batch in seen if batch.task == task]
        whole = len(mine) // source.batches_per_epoch()
        assert whole >= 3
        expected = [tuple(ids) for epoch in range(whole + 1) for ids in source.plan(epoch)]
        assert mine == expected[: len(mine)]


def test_tasks_are_balanced_by_seconds_of_audio(sources):
    shares = {"asr": 2.0, "ser": 1.0}
    chosen = {name: sources[name] for name in shares}
    seconds = Counter()
    for batch in stream(TaskBatches(chosen, shares), 40):
        seconds[batch.task] += int(batch.lengths.sum())
    assert seconds["asr"] / seconds["ser"] == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_all_batches_of_a_step_are_of_one_task(sources, accumulate):
    batches = TaskBatches(sources, accumulate=accumulate)
    assert batches.batches_per_epoch() % accumulate == 0
    tasks = [batch.task for batch in stream(batches, 4)]
    steps = [tasks[first : first + accumulate] for first in range(0, len(tasks), accumulate)]
    assert all(len(set(step)) == 1 for step in steps)
    assert [step[0] for step in steps] == [batches.schedule.task(number) for number in range(len(steps))]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_goes_on_anywhere_as_if_never_stopped(sources, accumulate):
    batches = TaskBatches(sources, seed=1, accumulate=accumulate)
    for epoch in (0, 3):
        whole = named(list(batches.epoch(epoch)))
        for skip in range(len(whole) + 1):
            assert named(list(batches.epoch(epoch, skip=skip))) == whole[skip:]


def test_processes_share_each_batch_and_agree_on_its_task(sources):
    whole = TaskBatches(sources, seed=2)
    shares = [list(islice(whole.shared(Share(index, 5)).epoch(0), 8)) for index in range(5)]
    for batch, *parts in zip(whole.epoch(0), *shares, strict=False):
        assert {part.task for part in parts} == {batch.task}
        assert sorted(name for part in parts for name in part.ids) == sorted(batch.ids)


def test_in_turn_every_clip_of_every_task_comes_once(sources):
    batches = TasksInTurn(sources)
    found = named(list(batches.epoch(0)))
    assert len(found) == batches.batches_per_epoch()
    assert Counter((task, name) for task, ids in found for name in ids) == Counter(
        (task, name) for task, source in sources.items() for ids in source.plan(0) for name in ids
    )
    assert named(list(batches.epoch(0, skip=3))) == found[3:]
    assert batches.clips() == {"asr": 8, "ser": 18, "gender": 18}


def test_a_corpus_without_the_field_of_its_task_is_refused(corpora):
    options = BatchOptions(labels=GENDERS, field="gender")
    with pytest.raises(CorpusError, match="8 with no gender"):
        BatchSource(corpora["words"].stream("train"), options)
    with pytest.raises(LabelError, match="has gender 'male'; the label set has female, other"):
        BatchSource(
            corpora["feelings"].stream("train"),
            BatchOptions(labels=LabelSet(("female", "other")), field="gender"),
        )
