"""Prepared corpora that others wrote, or that are broken: one line that names what is wrong."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError

NAN = float("nan")


@pytest.fixture
def corpus(corpus_folder, tmp_path) -> Path:
    return shutil.copytree(corpus_folder, tmp_path / "corpus")


def sealed(folder: Path, packed: bytes) -> None:
    """Other cuts, with the hash that fits them."""
    (folder / "cuts.jsonl.gz").write_bytes(packed)
    about = json.loads((folder / "corpus.json").read_text())
    about["cuts_sha256"] = hashlib.sha256(packed).hexdigest()
    (folder / "corpus.json").write_text(json.dumps(about))


def rows_of(folder: Path) -> list[Any]:
    return [
        json.loads(line) for line in gzip.decompress((folder / "cuts.jsonl.gz").read_bytes()).splitlines()
    ]


def packed(rows: list[Any]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        list(PreparedCorpus.load(folder).stream())
    assert "\n" not in str(caught.value)


def test_what_was_prepared_is_read_and_may_name_a_few_things_more(corpus):
    rows = rows_of(corpus)
    for row in rows:
        row["supervisions"][0]["custom"] |= {"room": "kitchen", "gain": 0.5}
    sealed(corpus, packed(rows))
    assert len(list(PreparedCorpus.load(corpus).stream())) == len(rows)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("labels", value) for value in (None, "anger", [1], ["a", "a"], [["a"]], {"a": 1}, ["a\nb"])),
        *(("summary", value) for value in (None, [], {}, {"splits": {}, "emotions": {}, "speakers": {}})),
        *(("folds", value) for value in (None, 3, ["ab", 3], [[1]])),
        *(("name", value) for value in (None, 3, "", "a\nb")),
        *(("notes", value) for value in ("x", [None], {})),
        *(("options", value) for value in ([], {"a": 1})),
        *(("fingerprint", value) for value in (None, 17)),
    ],
)
def test_a_description_of_another_form_is_refused_by_its_key(corpus, key, value):
    about = json.loads((corpus / "corpus.json").read_text())
    (corpus / "corpus.json").write_text(json.dumps(about | {key: value}))
    refused(corpus, rf"corpus\.json cannot be read: '{key}' must be")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 10**5, b'{"format_version": NaN}'])
def test_a_description_that_is_no_object_is_refused(corpus, content):
    (corpus / "corpus.json").write_bytes(content)
    refused(corpus, r"corpus\.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("recording"),
        lambda row: row.pop("supervisions"),
        lambda row: row.update(supervisions=[]),
        lambda row: row.update(supervisions="x"),
        lambda row: row.update(id=None),
        lambda row: row["recording"]["sources"][0].update(source="a\0.wav"),
        lambda row: row.update(start=NAN),
        lambda row: row.update(start=-1.0),
        lambda row: row.update(duration=0),
        lambda row: row.update(duration=1e9),
        lambda row: row.update(duration="0.3"),
        lambda row: row.update(custom=None),
        lambda row: row["custom"].update(split="tset"),
        lambda row: row["custom"].update(split=["train"]),
        lambda row: row.update(channul=0),
        lambda row: row["recording"].update(duration=1e300),
        lambda row: row["recording"].update(num_samples=0),
        lambda row: row["recording"].update(sampling_rate=True),
        lambda row: row["recording"].update(sources=[]),
        lambda row: row["recording"]["sources"][0].update(source=3),
        lambda row: row["recording"]["sources"][0].update(sauce="x"),
        lambda row: row["supervisions"][0].update(text=["ab"]),
        lambda row: row["supervisions"][0].update(speaker={}),
        lambda row: row["supervisions"][0].update(custom=[]),
        lambda row: row["supervisions"][0]["custom"].update(emotion=3),
        lambda row: row["supervisions"][0]["custom"].update(votes={"anger": -1}),
        lambda row: row["supervisions"][0]["custom"].update(votes=[1]),
        lambda row: row["supervisions"][0]["custom"].update(phonemes=["a"]),
        lambda row: row["supervisions"][0]["custom"].update(arousal=[1.0]),
    ],
)
def test_a_row_that_is_no_clip_is_refused(corpus, change: Callable[[Any], object]):
    rows = rows_of(corpus)
    change(rows[2])
    sealed(corpus, packed(rows))
    refused(corpus, r"cuts\.jsonl\.gz(, line 3( is|:)|: clip ).*voxstrata corpus prepare")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"duration": ', '"duration": 1.0, "duration": ', "the key 'duration' stands twice"),
        ('"split": "', '"split" : "test", "split": "', "the key 'split' stands twice"),
        ('"id": ', '"\\u0069d": "x", "id": ', "the key 'id' stands twice"),
        ('"votes": {', '"votes": {"a": 1, "a": 2', "the key 'a' stands twice"),
        ('"channel": 0', '"channel": ' + "9" * 400, "a number has 400 digits"),
        ('"channel": 0', '"channel": 1e400', "the number 1e400 is too large"),
        ('"channel": 0', '"channel": NaN', "NaN is no JSON value"),
        ('"split": "', '"room": "\\ud800", "split": "', "half a character"),
    ],
)
def test_a_row_that_is_no_plain_json_is_refused(corpus, old, new, said):
    lines = gzip.decompress((corpus / "cuts.jsonl.gz").read_bytes()).decode().splitlines()
    lines[2] = (
        lines[2].replace('"votes": {}', '"votes": {"b": 1}').replace(old, new, 1).replace('2"b"', '2, "b"')
    )
    sealed(corpus, gzip.compress("".join(line + "\n" for line in lines).encode()))
    refused(corpus, rf"cuts\.jsonl\.gz, line 3.*{said}")


def test_colons_in_names_and_more_that_is_told_are_read_all_the_same(corpus):
    rows = rows_of(corpus)
    for row in rows:
        row["supervisions"][0]["custom"]["time"] = '12:30, said "a": 1'
        row["recording"]["sources"][0]["source"] = "C:/calls/1.wav"
    sealed(corpus, packed(rows))
    cuts = list(PreparedCorpus.load(corpus).stream())
    assert len(cuts) == len(rows)
    assert {cut.supervisions[0].custom["time"] for cut in cuts} == {'12:30, said "a": 1'}


@pytest.mark.parametrize("cut", [lambda data: data[:-20], lambda data: data[:60] + b"\xff" * 40 + data[100:]])
def test_cuts_that_cannot_be_unpacked_are_refused(corpus, cut):
    sealed(corpus, cut((corpus / "cuts.jsonl.gz").read_bytes()))
    refused(corpus, r"cuts\.jsonl\.gz")


def test_other_clips_than_are_told_are_refused(corpus):
    sealed(corpus, packed(rows_of(corpus)[:-1]))
    refused(corpus, r"holds train 8, dev 4, test 3, all 15, and .* train 8, dev 4, test 4, all 16")
