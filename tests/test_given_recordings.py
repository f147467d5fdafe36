"""A recogniser hears samples, bytes and open files as it hears the file that holds them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from voxstrata.backbone.encoder import load_backbone
from voxstrata.errors import AudioError
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import save_model


@pytest.fixture(scope="module")
def heard(expert_folders, tmp_path_factory) -> Recognizer:
    """Emotions of an expert, far enough apart to be told from each other."""
    torch.manual_seed(0)
    model = EmotionModel(load_backbone(expert_folders["ser"]), LabelSet(("neutral", "anger", "joy")))
    model.head.classifier.weight.data *= 20
    folder: Path = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    return Recognizer.load(folder)


def answers(found) -> dict:
    return dict(found.probabilities)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_answered_as_the_file_that_holds_them(heard, tmp_path, rate, channels):
    rng = np.random.default_rng(rate)
    samples = (0.2 * rng.normal(size=(rate // 2, channels))).clip(-1, 1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    expected = heard(tmp_path / "a.wav")
    plain = samples[:, 0] if channels == 1 else samples.T
    for form in (plain, plain.astype(np.float64), torch.from_numpy(np.ascontiguousarray(plain))):
        found = heard(form, sample_rate=rate)
        assert answers(found) == pytest.approx(answers(expected), abs=1e-6)
        assert (found.segments, found.note) == (expected.segments, expected.note)


@pytest.mark.parametrize(("kind", "subtype"), [("int16", "PCM_16"), ("int32", "PCM_32"), ("uint8", "PCM_U8")])
def test_whole_numbers_have_the_scale_of_their_kind(heard, recordings, tmp_path, kind, subtype):
    samples, rate = soundfile.read(recordings[0], dtype="int16")
    whole = {
        "int16": samples,
        "int32": samples.astype(np.int32) << 16,
        "uint8": ((samples >> 8) + 128).astype(np.uint8),
    }[kind]
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype=subtype)
    found, expected = heard(whole, sample_rate=rate), heard(tmp_path / "a.wav")
    # libsndfile rounds to 8 bits, and >> cuts.
    close = 0.02 if kind == "uint8" else 1e-6
    assert answers(found) == pytest.approx(answers(expected), abs=close)


def test_bytes_and_open_files_are_answered_as_the_file(heard, recordings, tmp_path):
    expected = heard(recordings[0])
    content = recordings[0].read_bytes()
    assert heard(content) == heard(io.BytesIO(content)) == expected
    with recordings[0].open("rb") as file:
        assert heard(file) == expected
    (tmp_path / "odd.wav").write_text("no audio")
    with (tmp_path / "odd.wav").open("rb") as file, pytest.raises(AudioError, match=r"odd\.wav is text"):
        heard(file)
    with (tmp_path / "odd.wav").open() as file, pytest.raises(AudioError, match="open it as bytes"):
        heard(file)
    with pytest.raises(AudioError, match="the bytes is text"):
        heard(b"no audio, but text")


@pytest.mark.parametrize("channels", [1, 2])
def test_an_iterator_of_blocks_is_one_recording(heard, channels):
    rng = np.random.default_rng(channels)
    samples = (0.2 * rng.normal(size=(channels, 50_000))).clip(-1, 1).astype(np.float32)
    plain = samples[0] if channels == 1 else samples
    expected = heard(plain, sample_rate=16_000)

    def blocks():
        return iter(np.array_split(plain, 7, axis=-1))

    for found in (
        heard(blocks(), sample_rate=16_000),
        heard((blocks(), 16_000)),
        next(heard.recognitions([(blocks(), 16_000)])),
        next(heard.recognitions([map(torch.from_numpy, blocks())], sample_rate=16_000)),
    ):
        assert answers(found) == pytest.approx(answers(expected), abs=1e-6)
    parts = list(heard.segments(blocks(), sample_rate=16_000, speech="energy"))
    assert parts == list(heard.segments(plain, sample_rate=16_000, speech="energy")) and parts


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        (["a.wav", "b.wav"], "an iterator gave str; .* many recordings go to Recognizer.predictions"),
        ([], "the iterator gave no samples"),
        ([np.ones(100, np.float32), np.ones((2, 100), np.float32)], "blocks have 1 and 2 channels"),
        ([np.zeros(16_000, np.float32)], "all samples are zero in the blocks"),
    ],
)
def test_blocks_that_are_no_recording_are_refused_in_one_line(heard, blocks, told):
    with pytest.raises(AudioError, match=told) as caught:
        heard(iter(blocks), sample_rate=16_000)
    assert "\n" not in str(caught.value)


TONE = np.sin(np.arange(8000, dtype=np.float32))


@pytest.mark.parametrize(
    ("samples", "rate", "told"),
    [
        (TONE, None, "give sample_rate"),
        (TONE, 0, "2,000 to 384,000"),
        (TONE, 16_000.5, "a whole number"),
        (TONE, float("nan"), "a whole number"),
        (TONE, "fast", "a whole number"),
        (TONE * 0, 16_000, "all samples are zero in the array: silence"),
        (TONE * 0 + 0.5, 16_000, "all samples are 0.5"),
        (TONE[:0], 16_000, "no samples in the array"),
        (np.where(np.arange(8000) == 7, np.nan, TONE), 16_000, "not all finite"),
        (TONE.astype(np.float64) * 1e300, 16_000, "not all finite"),
        (np.stack([TONE, TONE], axis=1), 16_000, r"\[8000, 2\]; .* transpose"),
        (TONE.reshape(2, 2, 2000), 16_000, "one recording at a time"),
        (np.array(0.5, dtype=np.float32), 16_000, "one recording at a time"),
        (TONE.astype(np.int64), 16_000, "samples are int64; allowed are floats"),
        (TONE.astype(complex), 16_000, "samples are complex128"),
        (torch.ones(8000, dtype=torch.bool), 16_000, "samples are bool"),
        (TONE[:100], 16_000, "too short"),
        (list(TONE), 16_000, "of type list; give a path"),
        (list(TONE), None, "of type list; give a path"),
        ("call.wav", 16_000, "a file has its own"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_heard_are_refused_in_one_line(heard, samples, rate, told):
    with pytest.raises(AudioError, match=told) as caught:
        heard(samples, sample_rate=rate)
    assert "\n" not in str(caught.value)


def test_channels_that_cancel_each_other_are_noted_in_arrays_as_in_files(heard, recordings):
    samples, rate = soundfile.read(recordings[0], dtype="float32")
    found = heard(torch.from_numpy(np.stack([samples, -samples])).to(torch.float32), sample_rate=rate)
    assert "channels cancel each other" in found.note
    assert answers(found) == pytest.approx(answers(heard(samples, sample_rate=rate)), abs=1e-6)
