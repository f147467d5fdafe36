"""A corpus in tars: the same clips, the same batches, also for lhotse, and after a move."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from lhotse import CutSet
from typer.testing import CliRunner

from voxstrata.audio import load_audio
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.cli.main import app
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.corpora.shar import write_shar
from voxstrata.errors import AudioError, CorpusError, VoxstrataError
from voxstrata.labels import LabelSet

LABELS = LabelSet(("anger", "neutral", "sadness"))


@pytest.fixture(scope="module")
def packed(corpus_folder, tmp_path_factory) -> PreparedCorpus:
    """Sixteen clips in tars of five, moved after they were written."""
    folder = tmp_path_factory.mktemp("shar")
    done = CliRunner().invoke(
        app, ["corpus", "shar", str(corpus_folder), str(folder / "first"), "--shard-clips", "5"]
    )
    assert done.exit_code == 0 and done.stdout.strip() == str(folder / "first"), done.output
    shutil.move(folder / "first", folder / "moved")
    return PreparedCorpus.load(folder / "moved")


def test_the_corpus_is_the_same_and_lies_in_few_files(packed, corpus_folder):
    plain = PreparedCorpus.load(corpus_folder)
    assert (packed.fingerprint, packed.splits, packed.labels) == (
        plain.fingerprint,
        plain.splits,
        plain.labels,
    )
    assert len(list((packed.folder / "shar").glob("recording.*.tar"))) == 4
    assert len(set(packed.audio_files())) == 4 and all(file.is_file() for file in packed.audio_files())
    for ours, theirs in zip(packed.cuts("train"), plain.cuts("train"), strict=True):
        assert ours.supervisions == theirs.supervisions and ours.custom == theirs.custom
        assert str(packed.folder) in ours.recording.sources[0].source


def test_batches_are_bit_for_bit_the_same(packed, corpus_folder):
    options = BatchOptions(batch_size=3, labels=LABELS, crop_s=0.2)
    sources = [BatchSource(c.stream("train"), options) for c in (packed, PreparedCorpus.load(corpus_folder))]
    for ours, theirs in zip(*(source.epoch(1) for source in sources), strict=True):
        assert ours.ids == theirs.ids and torch.equal(ours.waveforms, theirs.waveforms)
    assert sources[0].fingerprint()


def test_lhotse_reads_the_tars_as_its_own(packed):
    cuts = CutSet.from_shar(in_dir=packed.folder / "shar")
    for cut, ours in zip(cuts, packed.stream(), strict=True):
        path = packed.folder / ours.recording.sources[0].source
        assert cut.id == ours.id and np.allclose(cut.load_audio()[0], load_audio(path), atol=1 / 32768)
        assert len(load_audio(path)) == cut.num_samples


def test_places_that_are_none_are_refused(packed, tmp_path):
    place = next(packed.stream()).recording.sources[0].source
    with pytest.raises(AudioError, match="no file at"):
        load_audio(tmp_path / "gone.tar#512:100.flac")
    (packed.folder / "cut.tar").write_bytes(b"no audio\0\1\2\xff" * 100)
    with pytest.raises(AudioError, match="cannot decode"):
        load_audio(packed.folder / "cut.tar#0:900.flac")
    assert len(load_audio(type(packed.folder)(place)))


def test_nothing_is_overwritten_and_nothing_half_written(packed, corpus_folder, tmp_path, monkeypatch):
    with pytest.raises(CorpusError, match="not an empty folder"):
        write_shar(packed, packed.folder)

    def fail(path):
        raise AudioError(f"cannot decode {path}")

    monkeypatch.setattr("voxstrata.corpora.shar.load_audio", fail)
    with pytest.raises(VoxstrataError):
        write_shar(PreparedCorpus.load(corpus_folder), tmp_path / "out")
    assert not list(tmp_path.iterdir())
