"""Recordings as vectors: as transformers' own states, whatever the form, the file or the neighbours."""

from __future__ import annotations

import csv
import io
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from transformers import AutoFeatureExtractor, AutoModel
from typer.testing import CliRunner

import voxstrata as vs
from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError
from voxstrata.inference import embedding_files
from voxstrata.inference.embedding import Embeddings
from voxstrata.inference.embedding_files import write_embeddings


def command(*given: object):
    return CliRunner().invoke(app, ["embed", *map(str, given)])


def their_states(folder: Path, path: Path) -> list[np.ndarray]:
    """Means over frames of transformers' states of layers 1 to L, the last one as `last_hidden_state`."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    sound, rate = soundfile.read(path, dtype="float32")
    samples = extractor(sound, sampling_rate=rate, return_tensors="pt").input_values
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(samples, output_hidden_states=True)
    states = [*found.hidden_states[1:-1], found.last_hidden_state]
    return [state[0].double().mean(0).numpy() for state in states]


def test_a_vector_is_the_mean_of_transformers_states(encoder_folder, recordings):
    found = vs.embed(recordings[:2], encoder_folder)
    layers = vs.embed(recordings[:2], encoder_folder, layers=True)
    assert found.vectors.shape == (2, 32) and layers.vectors.shape == (2, 2, 32)
    for row, path in enumerate(recordings[:2]):
        expected = their_states(encoder_folder, path)
        np.testing.assert_allclose(found.vectors[row], expected[-1], atol=1e-5)
        np.testing.assert_allclose(layers.vectors[row], np.stack(expected), atol=1e-5)
    assert found.ids == found.paths == tuple(map(str, recordings[:2]))


def test_the_vector_of_a_real_whisper_is_that_of_transformers(real_data):
    """Of the states over 30 s the first ones, as many as the clip has; the input is padded as theirs is."""
    models = os.environ.get("VOXSTRATA_MODELS")
    if not models:
        pytest.skip("VOXSTRATA_MODELS is not set: no real Whisper here")
    path = min((real_data / "RAVDESS").rglob("*.flac"))
    encoder = vs.load_backbone(Path(models) / "whisper-tiny.en", window="30s", final_norm=True)
    found = vs.embed(path, encoder).vectors[0]
    samples, rate = soundfile.read(path, dtype="float32")
    samples = soxr.resample(samples if samples.ndim == 1 else samples.mean(1), rate, 16_000)
    extractor = AutoFeatureExtractor.from_pretrained(Path(models) / "whisper-tiny.en")
    theirs = AutoModel.from_pretrained(Path(models) / "whisper-tiny.en", dtype=torch.float32).encoder.eval()
    with torch.no_grad():
        states = theirs(extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features)
    valid = int(encoder.frame_lengths(torch.tensor([len(samples)])))
    expected = states.last_hidden_state[0, :valid].double().mean(0).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_together_is_one_by_one_to_the_bit(encoder, recordings):
    together = vs.embed(recordings, encoder)
    single = [vs.embed(path, encoder).vectors[0] for path in recordings]
    assert (together.vectors == np.stack(single)).all()
    back = vs.embed(reversed(recordings), encoder)
    assert (back.vectors[::-1] == together.vectors).all()


def test_every_form_of_a_recording_has_the_vector_of_its_file(encoder, recordings):
    samples, rate = soundfile.read(recordings[0], dtype="float32")
    content = recordings[0].read_bytes()
    forms = [recordings[0], str(recordings[0]), content, io.BytesIO(content), (samples, rate)]
    forms += [(torch.from_numpy(samples), rate), samples]
    found = vs.embed(iter(forms), encoder, sample_rate=rate)
    assert not found.errors
    np.testing.assert_allclose(found.vectors, np.stack([found.vectors[0]] * 7), atol=1e-5)
    assert found.ids[2:4] == ("recording 3", "recording 4") and found.paths[2] is None
    one = vs.embed(samples, encoder, sample_rate=rate)
    assert (one.vectors[0] == found.vectors[6]).all()
    assert len(vs.embed((samples, rate), encoder)) == 1
    assert len(vs.embed((recordings[0], recordings[1]), encoder)) == 2


def test_a_long_recording_is_the_mean_of_its_parts(encoder, tmp_path, monkeypatch):
    """70 s in three equal parts, weighted by their frames."""
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.normal(size=70 * 16_000 + 1)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    found = vs.embed(tmp_path / "long.wav", encoder, layers=True).vectors[0]
    cuts = [round(len(samples) * k / 3) for k in range(4)]
    total, frames = np.zeros(found.shape), 0
    with torch.no_grad():
        for start, end in pairwise(cuts):
            states = encoder(torch.from_numpy(samples[start:end])[None], torch.tensor([end - start]))
            total += np.stack([state[0].double().sum(0).numpy() for state in states.layers])
            frames += int(states.lengths[0])
    np.testing.assert_allclose(found, total / frames, atol=1e-5)


def test_an_encoder_in_training_is_run_without_dropout_and_left_as_it_was(tiny_encoder, recordings):
    encoder = tiny_encoder()
    encoder.train()
    first, again = vs.embed(recordings, encoder), vs.embed(recordings, encoder)
    assert encoder.training and (first.vectors == again.vectors).all()


def test_a_merged_backbone_is_an_encoder_too(encoder, expert_folders, recordings):
    vector = vs.TaskVector.between(encoder, expert_folders["ser"])
    merged = vs.MergedBackbone(encoder, {"ser": vector}, granularity="global", init=1.0)
    theirs = vs.embed(recordings[:2], vs.load_backbone(expert_folders["ser"]))
    np.testing.assert_allclose(vs.embed(recordings[:2], merged).vectors, theirs.vectors, atol=1e-4)


def test_one_recording_that_fails_raises_and_of_many_stands_beside(encoder, recordings, tmp_path):
    (tmp_path / "odd.wav").write_text("no audio")
    with pytest.raises(VoxstrataError, match="is text") as caught:
        vs.embed(tmp_path / "odd.wav", encoder)
    assert "\n" not in str(caught.value)
    found = vs.embed([tmp_path / "odd.wav", recordings[0]], encoder)
    assert found.ids == (str(recordings[0]),) and list(found.errors) == [str(tmp_path / "odd.wav")]
    assert vs.embed([tmp_path / "odd.wav"], encoder, layers=True).vectors.shape == (0, 2, 32)
    assert repr(found) == "Embeddings(1 clip of [32], 1 failed)"
    assert "odd.wav" in found._repr_html_() and str(recordings[0]) in found._repr_html_()


def test_the_command_names_bad_files_and_writes_the_rest(encoder_folder, recordings, tmp_path):
    (tmp_path / "odd.wav").write_text("no audio")
    out = tmp_path / "out" / "v.npz"
    done = command(
        recordings[0], tmp_path / "odd.wav", recordings[1], "--model", encoder_folder, "--out", out
    )
    assert done.exit_code == 3 and "1 of 3 recordings failed" in done.stderr
    assert "odd.wav" in done.stderr and f"{out}: 2 x 32 (clips, features)" in done.stdout
    with np.load(out) as found:
        assert found["ids"].tolist() == found["paths"].tolist() == list(map(str, recordings[:2]))
        expected = vs.embed(recordings[:2], encoder_folder).vectors
        assert found["vectors"].dtype == np.float32 and (found["vectors"] == expected).all()


def test_npy_has_its_ids_in_a_table_beside(encoder_folder, recordings, tmp_path):
    out = tmp_path / "v.npy"
    done = command(recordings[0].parent, "--model", encoder_folder, "--out", out, "--layers", "--limit", 3)
    assert done.exit_code == 0 and "3 x 2 x 32 (clips, layers, features)" in done.stdout
    assert (np.load(out) == vs.embed(recordings[:3], encoder_folder, layers=True).vectors).all()
    with (tmp_path / "v.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"row": str(k), "id": str(p), "path": str(p)} for k, p in enumerate(recordings[:3])]


def test_a_prepared_corpus_has_a_row_for_each_clip(encoder_folder, corpus_folder, tmp_path):
    corpus = vs.PreparedCorpus.load(corpus_folder)
    out = tmp_path / "v.npz"
    done = command(corpus_folder, "--split", "test", "--model", encoder_folder, "--out", out)
    assert done.exit_code == 0, done.output
    with np.load(out) as found:
        assert set(found["ids"].tolist()) == {cut.id for cut in corpus.stream("test")}
        assert (found["vectors"] == vs.embed(corpus, encoder_folder, split="test").vectors).all()
    assert len(vs.embed(corpus, encoder_folder)) == sum(1 for _ in corpus.stream())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--out", "v.txt"], r"ends in none of \.npz, \.npy, \.parquet"),
        (["--out", "v.parquet"], "needs pyarrow: pip install pyarrow"),
        (["--out", "v.npz", "--split", "test"], "are of prepared corpora"),
        (["--out", "v.npz", "--model", "absent/folder/of/none"], "no model folder or file"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_the_work(recordings, options, told, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedding_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VoxstrataError, match=told) as caught:
        CliRunner().invoke(app, ["embed", str(recordings[0]), *options], catch_exceptions=False)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (0, 4)])
def test_parquet_is_read_back(tmp_path, shape):
    parquet = pytest.importorskip("pyarrow.parquet")
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ids = tuple(f"clip {k}" for k in range(shape[0]))
    write_embeddings(Embeddings(ids, (None, *ids[1:]) if ids else (), vectors), tmp_path / "v.parquet")
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["id", "path", "vector"]
    assert table["id"].to_pylist() == list(ids) and table["path"].to_pylist()[:1] == [None][: shape[0]]
    read = np.array(table["vector"].to_pylist(), np.float32).reshape(shape)
    assert (read == vectors).all()
