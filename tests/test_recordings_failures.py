"""Every failure of one recording is one row or one fault, and the others go on."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet
from typer.testing import CliRunner

from voxstrata.audio import load_audio
from voxstrata.backbone.encoder import MOST_ATTENTION_BYTES, load_backbone, longest_clip
from voxstrata.cli.main import app
from voxstrata.corpora.clip import Clip, told_faults
from voxstrata.corpora.faults import FaultyCorpusError, clip_faults, inspect_audio
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus, write_prepared
from voxstrata.corpora.shar import member_name, write_shar
from voxstrata.corpora.summary import summarize
from voxstrata.errors import AudioError
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import save_model

RATE = 16_000


def voice(path: Path, seed: int, seconds: float = 0.3) -> Path:
    soundfile.write(path, np.random.default_rng(seed).normal(size=round(seconds * RATE)) * 0.1, RATE)
    return path


@pytest.fixture(scope="module")
def model(encoder_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_model(EmotionModel(load_backbone(encoder_folder), LabelSet(("anger", "joy"))), folder)
    return folder


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, Path]:
    """Recordings that fail, each in a way of its own."""
    folder = tmp_path / "odd"
    folder.mkdir()
    paths = {name: folder / f"{name}.wav" for name in ("claim", "text", "empty", "zeros", "folder", "gone")}
    soundfile.write(paths["claim"], np.random.default_rng(0).normal(size=5000) * 0.1, RATE, format="FLAC")
    content = bytearray(paths["claim"].read_bytes())
    content[21:26] = bytes([content[21] | 1, 0, 0, 0, 0])
    paths["claim"].write_bytes(content)
    paths["text"].write_text("no audio")
    paths["empty"].touch()
    soundfile.write(paths["zeros"], np.zeros(RATE), RATE)
    paths["folder"].mkdir()
    paths["long"] = folder / f"{'n' * 300}.wav"
    paths["device"] = folder / "device.wav"
    paths["device"].symlink_to("/dev/zero")
    # Reading its first byte is an input/output error.
    paths["io"] = folder / "io.wav"
    paths["io"].symlink_to("/proc/self/mem")
    return paths


def test_a_failing_recording_is_one_fault_for_prepare_and_one_row_for_predict(model, odd, tmp_path) -> None:
    good = [voice(tmp_path / f"{k}.wav", k) for k in range(2)]
    paths = [good[0], *odd.values(), good[1]]
    rows = [{"path": str(path), "id": f"c/{k}"} for k, path in enumerate(paths)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare("table", tmp_path / "c.jsonl", tmp_path / "out", skip_bad=True)
    assert [cut.id for cut in prepared.cuts()] == ["c/0", f"c/{len(paths) - 1}"]
    assert len(prepared.left_out) == len(odd) and not any("\n" in line for line in prepared.left_out)
    rows = list(Recognizer.load(model).predictions(paths))
    assert [row.error is None for row in rows] == [True, *[False] * len(odd), True]
    assert not any("\n" in (row.error or "") for row in rows)
    told = dict(zip(odd, [row.error or "" for row in rows[1:-1]], strict=True))
    assert "Input/output error" in told["io"] and "not a file" in told["device"]
    assert "File name too long" in told["long"] and "no file at" in told["gone"]


def test_a_clip_of_a_prepared_corpus_that_is_lost_is_one_row(model, tmp_path) -> None:
    lines = []
    for k in range(20):
        voice(tmp_path / f"{k:02}.wav", k, 0.2 + k / 100)
        lines.append(f"{k:02}.wav,joy,some words,test\n")
    (tmp_path / "t.csv").write_text("path,emotion,text,split\n" + "".join(lines))
    prepare("table", tmp_path / "t.csv", tmp_path / "out")
    run = ["predict", str(tmp_path / "out"), "--model", str(model), "--json"]
    whole = [json.loads(line) for line in CliRunner().invoke(app, run).stdout.splitlines()]
    (tmp_path / "03.wav").unlink()
    (tmp_path / "12.wav").write_bytes((tmp_path / "12.wav").read_bytes()[:2000])
    done = CliRunner().invoke(app, run)
    assert done.exit_code == 3
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in whole] and len(rows) == 20
    for row, before in zip(rows, whole, strict=True):
        if row["id"] in ("t/03", "t/12"):
            assert row["error"] and "emotion" not in row and row["reference_emotion"] == "joy"
            # The model is asked for no words, so no words are missed.
            assert "reference_transcript" not in row
        else:
            assert row["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)


@pytest.mark.parametrize("place", ["encoder", "head"])
def test_an_answer_that_is_no_number_is_an_error_row(model, tmp_path, place: str) -> None:
    heard = Recognizer.load(model)
    parameters = heard.models[0].encoder if place == "encoder" else heard.models[0].head
    with torch.no_grad():
        for parameter in parameters.parameters():
            parameter.fill_(float("nan"))
    (row,) = heard.predictions([voice(tmp_path / "a.wav", 0)])
    assert row.probabilities is None and row.emotion is None and "not finite" in (row.error or "")


BAD_IDS = ["../../../evil", "/etc/passwd", "a/../b", "a\0b", "a\nb", "a//b", "..\\evil", "C:\\evil", "a/.."]


@pytest.mark.parametrize("name", BAD_IDS)
def test_ids_that_are_no_plain_names_are_refused(tmp_path, name: str) -> None:
    voice(tmp_path / "a.wav", 0)
    voice(tmp_path / "b.wav", 1)
    clip = Clip(name, tmp_path / "a.wav", None, "train")
    (fault,) = clip_faults([clip], [inspect_audio(clip.path)])
    assert fault.kind == "unusable id" and "\n" not in str(fault) and "\0" not in str(fault)
    if "\0" in name or "\n" in name:
        return  # a table refuses the whole row
    rows = [{"path": "a.wav", "id": name}, {"path": "b.wav", "id": "good"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(FaultyCorpusError) as told:
        prepare("table", tmp_path / "t.jsonl", tmp_path / "out")
    (fault,) = told.value.faults
    assert fault.kind == "unusable id"
    prepared = prepare("table", tmp_path / "t.jsonl", tmp_path / "out", skip_bad=True)
    assert [cut.id for cut in prepared.cuts()] == ["t/good"]


@pytest.mark.parametrize("name", [*BAD_IDS, "plain/id.with dots", "träge"])
def test_members_of_tars_lie_below_any_folder_and_lhotse_finds_them(tmp_path, name: str) -> None:
    import tarfile

    path = voice(tmp_path / "a.wav", 0)
    clips = [Clip(name, path, None, "train")]
    corpus = write_prepared(
        tmp_path / "corpus", "hand-made", clips, [(4800, "0" * 64)], labels=(), folds=(),
        summary=summarize(clips, [4800], ()),
    )  # fmt: skip
    packed = write_shar(corpus, tmp_path / "shar")
    (cut,) = PreparedCorpus.load(packed.folder).stream()
    assert cut.id == name
    np.testing.assert_array_equal(load_audio(Path(cut.recording.sources[0].source)), load_audio(path))
    (tar,) = (packed.folder / "shar").glob("*.tar")
    with tarfile.open(tar) as members:
        for member in members:
            assert not member.name.startswith("/") and ".." not in Path(member.name).parts
            assert "\\" not in member.name or name in member.name
            members.extract(member, tmp_path / "unpacked", filter="data")
    (theirs,) = CutSet.from_shar(in_dir=packed.folder / "shar")
    np.testing.assert_allclose(theirs.load_audio()[0], load_audio(path), atol=2**-14)
    assert member_name("plain/id.with dots") == "plain/id.with dots"


@pytest.mark.parametrize("rating", ["1e308", "inf", "-1e9", "nan", "high"])
def test_ratings_and_votes_that_no_scale_has_are_faults(rating: str) -> None:
    clip = Clip("a", Path("a.wav"), None, "train", votes={"joy": 1.0}, extras={"arousal": rating})
    assert [kind for kind, _ in told_faults(clip)] == ["unusable rating"]
    clip = Clip("a", Path("a.wav"), None, "train", votes={"joy": 1e308, "anger": 1e308})
    assert [kind for kind, _ in told_faults(clip)] == ["unusable votes"]
    clip = Clip(
        "a", Path("a.wav"), None, "train", votes={"joy": 2.0}, extras={"arousal": "-3.5", "valence": ""}
    )
    assert not list(told_faults(clip))


def test_a_clip_whose_attention_would_not_fit_is_refused_before_it_is_tried(encoder, monkeypatch) -> None:
    heads = encoder.model.config.num_attention_heads
    longest = longest_clip(encoder.model.config)
    frames = encoder.front_end.frames(longest)
    assert 4 * heads * frames**2 <= MOST_ATTENTION_BYTES < 4 * heads * (frames + 1) ** 2
    assert encoder.front_end.frames(longest + 1) == frames + 1
    monkeypatch.setattr(encoder.family, "features", lambda *_, **__: pytest.fail("it was tried"))
    with pytest.raises(AudioError, match=rf"it has memory for {longest / RATE:.4g} s: cut") as told:
        encoder(torch.zeros(1, longest + 1), torch.tensor([longest + 1]))
    assert "\n" not in str(told.value)


def test_a_header_with_a_tag_of_any_size_is_one_row(tmp_path) -> None:
    path = tmp_path / "a.wav"
    for content in (
        b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WAVE" + b"LIST" + struct.pack("<I", 2**32 - 1),
        b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", 28) + b"\xff" * 28,
        b"caff\0\1\0\0desc" + b"\xff" * 40,
        b"riff\x2e\x91\xcf\x11" + b"\xff" * 60,
        b"OggS\0\2" + b"\xff" * 60,
        b"\x1a\x45\xdf\xa3" + b"\xff" * 60,
        b"\0\0\0\1ftyp" + b"\xff" * 60,
        b"ID3\4\0\0\x7f\x7f\x7f\x7f" + b"\xff" * 60,
        b"NIST_1A\n   9999999999999\n" + b"x" * 60,
        b".snd" + b"\xff" * 60,
    ):
        path.write_bytes(content)
        with pytest.raises(AudioError) as told:
            load_audio(path)
        assert "\n" not in str(told.value) and "a.wav" in str(told.value)


@pytest.mark.parametrize("size", [2**62, 0x610000000000002B])
def test_a_place_that_no_file_has_is_one_line_and_nothing_else_is_printed(size, tmp_path, capfd) -> None:
    """PyAV prints the traceback of what a file's own `seek` raises."""
    pytest.importorskip("av")
    form = b"desc" + struct.pack(">qd4sIIIII", 32, 16_000.0, b"lpcm", 0, 2, 1, 1, 16)
    path = tmp_path / "a.caf"
    path.write_bytes(b"caff\0\1\0\0" + form + b"\0dat" + struct.pack(">q", size) + bytes(4000))
    with pytest.raises(AudioError, match=r"cannot decode .*a\.caf") as told:
        load_audio(path)
    assert "\n" not in str(told.value) and capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="names may hold no such letters there")
def test_names_and_links_of_any_letters_are_one_line(tmp_path) -> None:
    (tmp_path / "a\nlink.wav").symlink_to("no\nwhere")
    for path, told in (
        (tmp_path / "a\nlink.wav", r"a\\nlink\.wav: it is a link to no\\nwhere, which is not there"),
        (tmp_path / "a\0b.wav", r"no file can be called .*a\\x00b\.wav"),
    ):
        with pytest.raises(AudioError, match=told) as fault:
            load_audio(path)
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize("content", [b"TAG" + bytes(125), b"ID3\4\0\0\0\0\0\0", b"\xff\xfb" * 64])
def test_an_mp3_without_a_frame_is_one_line(tmp_path, capfd, content: bytes) -> None:
    (tmp_path / "a.mp3").write_bytes(content * 1000)
    with pytest.raises(AudioError, match=r"cannot decode .*a\.mp3: ") as fault:
        load_audio(tmp_path / "a.mp3")
    assert "\n" not in str(fault.value) and "not a regular file" not in str(fault.value)
    assert capfd.readouterr().err == ""
