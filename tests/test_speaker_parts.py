"""Parts of the training speakers: disjoint, complete, balanced, the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.config.data import Data
from voxstrata.corpora.clip import Clip
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.speaker_parts import folds_by_speaker, speaker_parts, told_folds
from voxstrata.errors import CorpusError, RecipeError
from voxstrata.methods.cuts import split_cuts
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import validate


def sources_of(recipe: Any) -> Any:
    return method_of(recipe).sources(recipe)


COUNTS = st.dictionaries(st.text(max_size=4), st.integers(1, 40), min_size=1, max_size=30)


@given(COUNTS, st.integers(1, 6), st.randoms())
def test_every_speaker_is_in_one_part_whatever_the_order(counts, of, random):
    parts = speaker_parts(counts, of)
    assert parts.keys() == counts.keys() and set(parts.values()) <= set(range(1, of + 1))
    names = list(counts)
    random.shuffle(names)
    assert speaker_parts({name: counts[name] for name in names}, of) == parts


@given(COUNTS, st.integers(1, 6))
def test_parts_differ_by_no_more_clips_than_the_largest_speaker_has(counts, of):
    loads = [0] * of
    for name, part in speaker_parts(counts, of).items():
        loads[part - 1] += counts[name]
    assert max(loads) - min(loads) <= max(counts.values())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Eleven training speakers with 1 to 4 clips, and one clip that tells none; dev and test of two."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    said = [(f"train-{n}", "train") for n in range(11) for _ in range(1 + n % 4)]
    said += [(None, "train"), ("dev-0", "dev"), ("test-0", "test")]
    rows = []
    for number, (speaker, split) in enumerate(said):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(1600), 16_000)
        row = {"path": f"{number}.wav", "emotion": ("anger", "neutral")[number % 2], "split": split}
        rows.append(row if speaker is None else row | {"speaker": speaker})
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", folder / "table.jsonl", folder / "prepared")
    return folder / "prepared"


def data(corpus: Path, **speakers) -> Data:
    speakers = {"part": 1, "of": 5, "take": "part", "unknown": "leave_out"} | speakers
    return Data.model_validate({"corpora": [{"path": str(corpus), "speakers": speakers}]})


def speakers_of(corpus: Path, split: str = "train", **speakers) -> list[str]:
    return [cut.supervisions[0].speaker for cut in split_cuts(data(corpus, **speakers), split)]


def test_a_part_and_the_rest_share_no_speaker_and_leave_none_out(corpus):
    everyone = {f"table-train-{n}" for n in range(11)}
    parts = [set(speakers_of(corpus, part=part)) for part in range(1, 6)]
    assert set().union(*parts) == everyone and sum(map(len, parts)) == 11
    for part, own in enumerate(parts, start=1):
        rest = speakers_of(corpus, part=part, take="rest")
        assert own and set(rest) == everyone - own
        assert len(rest) + len(speakers_of(corpus, part=part)) == 26
    assert speakers_of(corpus, part=2) == speakers_of(corpus, part=2)


def test_dev_and_test_are_whole(corpus):
    for take in ("part", "rest"):
        assert speakers_of(corpus, "dev", take=take) == ["table-dev-0"]
        assert speakers_of(corpus, "test", take=take) == ["table-test-0"]


def test_a_recipe_trains_on_its_part_only(corpus):
    recipe = {"system": "statistics", "data": data(corpus, part=3).model_dump()}
    source = sources_of(validate(recipe, "part")).train
    ids = {name for batch in source.plan(0) for name in batch}
    assert ids == {cut.id for cut in split_cuts(data(corpus, part=3), "train")}


def test_what_cannot_be_divided_is_refused(corpus):
    with pytest.raises(CorpusError, match=r"1 training clips of .* have no speaker"):
        speakers_of(corpus, unknown="refuse")
    with pytest.raises(CorpusError, match="has 11 training speakers, too few for 12 parts"):
        speakers_of(corpus, of=12)
    values = data(corpus).model_dump()
    values["corpora"][0]["speakers"]["part"] = 6
    with pytest.raises(RecipeError, match="part is 6 of 5"):
        validate({"system": "statistics", "data": values}, "part")


def clip(name: str, speaker: str | None, fold: str = "") -> Clip:
    return Clip(name, Path(name), speaker, "train", extras={"fold": fold} if fold else {})


@given(
    st.dictionaries(st.text("abcdefg", min_size=1, max_size=3), st.integers(1, 9), min_size=3), st.randoms()
)
def test_folds_by_speaker_are_disjoint_balanced_and_the_same_whatever_the_order(counts, random):
    clips = [clip(f"{name}-{i}", name) for name, count in counts.items() for i in range(count)]
    folds = folds_by_speaker(clips, 3)
    assert sorted(name for fold in folds for name in fold) == sorted(counts) and all(folds)
    # No group exceeds another by more than the clips of one speaker: the greedy rule's own bound.
    sizes = [sum(counts[name] for name in fold) for fold in folds]
    assert max(sizes) - min(sizes) <= max(counts.values())
    random.shuffle(clips)
    assert folds_by_speaker(clips, 3) == folds


@pytest.mark.parametrize(
    ("speakers", "count", "said"),
    [
        (["a", "b", "c"], 4, "3 speakers are too few for 4 folds"),
        (["a", "b", "c"], 2, "give at least 3"),
        (["a", "b", "c"], 0, "give at least 3"),
        (["a", "b", "c", None], 3, "1 of 4 clips have no speaker"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(speakers, count, said):
    with pytest.raises(CorpusError, match=said):
        folds_by_speaker([clip(str(i), speaker) for i, speaker in enumerate(speakers)], count)


def test_a_column_of_folds_is_taken_as_it_is():
    clips = [
        clip("1", "ann", "2"),
        clip("2", "bob", "1"),
        clip("3", "cy", "3.0"),
        clip("4", "ann", "2"),
        clip("5", None),
        clip("6", "dee"),
        clip("7", "abe", "1"),
    ]
    assert told_folds(clips) == (("abe", "bob"), ("ann",), ("cy",))
    assert told_folds([clip("1", "ann"), clip("2", None)]) == ()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "0"), ("b", "1"), ("c", "2")], "clip '0' is in fold '0'; number folds 1, 2"),
        ([("a", "one")], "is in fold 'one'"),
        ([("a", "1.5")], r"is in fold '1\.5'"),
        ([("a", "nan")], "is in fold 'nan'"),
        ([("a", "1e9")], "is in fold '1e9'"),
        ([("a", "1"), ("b", "2"), ("c", "4")], "no clip is in fold 3"),
        ([("a", "1"), ("b", "2"), ("a", "3")], "speaker 'a' is in fold 1 and fold 3"),
        ([("a", "1"), ("b", "2"), ("a", "")], "speaker 'a' is in fold 1 and none"),
        ([("a", "1"), ("b", "2")], "2 folds leave nobody to train on"),
        ([("a", "1"), (None, "2")], "clip '1' is in fold 2 and has no speaker"),
    ],
)
def test_a_column_of_folds_that_divides_no_speakers_is_refused(rows, said):
    with pytest.raises(CorpusError, match=said):
        told_folds([clip(str(i), speaker, fold) for i, (speaker, fold) in enumerate(rows)])


def test_two_folds_do_where_others_are_left_to_train_on():
    assert told_folds([clip("1", "a", "1"), clip("2", "b", "2"), clip("3", "c")]) == (("a",), ("b",))
