"""The server: OpenAI's route, limits, uploads that go, the slider, gradio's endpoints."""

from __future__ import annotations

import io
import json
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("gradio")

from fastapi.testclient import TestClient

from served import COEFFICIENTS, LABELS, joint_model, joint_run, running, spoken
from subtitle_readers import read_srt, read_vtt
from voxstrata.backbone.encoder import load_backbone
from voxstrata.errors import AudioError, VoxstrataError
from voxstrata.inference.recognition import Recognition, Segment
from voxstrata.inference.recognizer import Recognizer
from voxstrata.inference.words import Word
from voxstrata.predictions import Prediction
from voxstrata.serving import uploads
from voxstrata.serving.about import about
from voxstrata.serving.answers import Answer, Answers, Busy, Limits
from voxstrata.serving.clips import MOST, Clips
from voxstrata.serving.picture import answer_html, scaled_html
from voxstrata.serving.scaled import Scaled
from voxstrata.serving.server import application

ROUTE = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def run(encoder_folder, expert_folders, tmp_path_factory) -> Path:
    return joint_run(tmp_path_factory.mktemp("runs") / "joint", encoder_folder, expert_folders)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return spoken(tmp_path_factory.mktemp("clips") / "a clip.wav")


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary files lie, of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def client(run, temporary):
    with TestClient(application(Recognizer.load(run), run, limits=Limits(1.0, 0.2, 4))) as found:
        yield found


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def post(client, content: bytes, name: str = "clip.wav", **fields):
    return client.post(ROUTE, files={"file": (name, content)}, data=fields)


def test_answers_are_those_of_the_recognizer(client, run, clip):
    plain = Recognizer.load(run)(clip)
    found = post(client, clip.read_bytes(), response_format="json", model="whisper-1").json()
    assert found["text"] == plain.transcript and plain.transcript
    assert found["emotion"] == plain.emotion and found["probabilities"] == pytest.approx(plain.probabilities)
    assert post(client, clip.read_bytes(), response_format="text").text == f"{plain.transcript}\n"


def test_verbose_json_has_times_and_emotions(client, run, clip):
    timed = Recognizer.load(run)(clip, timeline=True)
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    found = post(client, clip.read_bytes(), **fields).json()
    assert (found["task"], found["text"]) == ("transcribe", timed.transcript)
    assert found["duration"] == pytest.approx(soundfile.info(clip).duration, abs=1e-3)
    assert len(found["segments"]) == len(timed.segments) > 0
    for number, (segment, one) in enumerate(zip(found["segments"], timed.segments, strict=True)):
        assert (segment["id"], segment["emotion"], segment["text"]) == (number, one.emotion, one.transcript)
        assert segment["probabilities"] == pytest.approx(one.probabilities)
        assert (segment["start"], segment["end"]) == pytest.approx((one.start_s, one.end_s), abs=1e-3)
    assert [word["word"] for word in found["words"]] == timed.transcript.split()
    assert "words" not in post(client, clip.read_bytes(), response_format="verbose_json").json()


def test_subtitles_are_read_by_their_readers(client, run, clip):
    timed = Recognizer.load(run)(clip, timeline=True)
    starts = {round(segment.start_s, 3) for segment in timed.segments}
    for kind, reader in (("srt", read_srt), ("vtt", read_vtt)):
        found = reader(post(client, clip.read_bytes(), response_format=kind).text)
        assert {round(cue[0], 3) for cue in found} >= starts


def keys(value):
    """The names in JSON, at all depths; of lists those of the first entry, of shares of emotions none."""
    if isinstance(value, list):
        return [keys(value[0])] if value else []
    if isinstance(value, dict):
        shares = ("probabilities", "shares")
        return {name: None if name in shares else keys(inner) for name, inner in value.items()}
    return None


def test_the_page_of_the_documentation_shows_these_fields(client, clip):
    page = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
    shown = json.loads(re.search(r"<!-- verbose -->\n```json\n(.*?)\n```", page)[1])
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    assert keys(post(client, clip.read_bytes(), **fields).json()) == keys(shown)
    for option, value in re.findall(r"^\| `--max-(\w+)` \| (\d+)", page, re.M):
        limits = {"mb": Limits().megabytes, "minutes": Limits().minutes, "waiting": Limits().waiting}
        assert limits[option] == float(value)


def tone(seconds: float) -> bytes:
    file = io.BytesIO()
    t = np.arange(int(16_000 * seconds)) / 16_000
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 200 * t) * np.sin(6 * t), 16_000, format="FLAC")
    return file.getvalue()


def silence() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000), 16_000, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"This is a letter, and no recording at all.\n" * 9, 415, "is text, not audio"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 9, 415, "not audio"),
        (bytes((17 * k * k) % 251 for k in range(4000)), 415, "cannot decode my voice.wav"),
        (b"", 400, "is an empty file"),
        (silence(), 400, "silen"),
        (tone(13), 413, "longer than 0.2 minutes"),
        (b"RIFF" + bytes(1_200_000), 413, "more than 1 MB"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_gets_one_sentence(client, temporary, content, status, words):
    before = files_in(temporary)
    found = post(client, content, "my voice.wav")
    error = found.json()["error"]
    assert (found.status_code, error["type"]) == (status, "invalid_request_error")
    assert (
        words in error["message"] and "\n" not in error["message"] and str(temporary) not in error["message"]
    )
    assert files_in(temporary) == before == []


def test_a_body_without_a_length_is_counted_as_it_comes(client, temporary):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    sent = []

    def endless():
        yield head
        for _ in range(100):
            sent.append(1)
            yield bytes(100_000)

    found = client.post(ROUTE, content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert found.status_code == 413 and files_in(temporary) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": "xml"}, "allowed are json, text, srt, vtt, verbose_json"),
        ({"timestamp_granularities[]": "letter"}, "allowed are segment, word"),
        ({"stream": "true"}, "stream is not offered"),
    ],
)
def test_fields_of_other_values_are_refused(client, clip, fields, words):
    found = post(client, clip.read_bytes(), **fields)
    assert found.status_code == 400 and words in found.json()["error"]["message"]


def test_forms_without_a_recording_are_refused(client):
    for sent in ({"data": {"model": "x"}}, {"json": {}}, {"data": {"file": "x"}, "files": {"other": b"1"}}):
        found = client.post(ROUTE, **sent)
        assert found.status_code == 400 and "`file`" in found.json()["error"]["message"]
    broken = client.post(ROUTE, content=b"--y", headers={"content-type": "multipart/form-data"})
    assert broken.status_code == 400


def test_uploads_are_gone_after_the_answer_and_after_a_failure(client, clip, temporary, monkeypatch):
    assert post(client, clip.read_bytes()).status_code == 200
    assert files_in(temporary) == []

    def broken(self, recording, **options):
        assert files_in(temporary)
        raise ValueError("of ours")

    monkeypatch.setattr(Recognizer, "__call__", broken)
    found = post(client, clip.read_bytes())
    assert found.status_code == 500 and found.json()["error"]["type"] == "server_error"
    assert "of ours" in found.json()["error"]["message"]
    assert files_in(temporary) == []


def test_health_and_models(client):
    assert client.get("/health").json() == {"status": "ok", "model": "joint", "waiting": 0}
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["joint"]


def test_a_full_queue_is_refused_and_has_room_again(client, clip):
    answers: Answers = client.app.state.answers
    with answers.place(), answers.place(), answers.place(), answers.place():
        found = post(client, clip.read_bytes())
        assert found.status_code == 503 and found.headers["retry-after"]
        with pytest.raises(Busy, match="4 recordings wait"), answers.place():
            pass
    assert post(client, clip.read_bytes()).status_code == 200 and answers.waiting == 0


@pytest.mark.parametrize("per_task", [False, True])
def test_the_slider_scales_the_coefficients(per_task, encoder_folder, expert_folders, tmp_path, clip):
    folder = joint_run(tmp_path / "run", encoder_folder, expert_folders, per_task=per_task)
    recognizer = Recognizer.load(folder)
    before = recognizer(clip)
    scaled = Scaled.of(recognizer, folder)
    different = set()
    for scale in (0.0, 0.35, 1.0, 1.5):
        # The oracle: the same heads over a merge that is made with scaled coefficients.
        merged = Recognizer([joint_model(encoder_folder, expert_folders, scale)])(clip)
        found = scaled.at(scale)(clip)
        assert found.probabilities == pytest.approx(merged.probabilities, abs=1e-4), scale
        assert found.transcript == merged.transcript
        different.add(round(found.probabilities["anger"], 3))
    assert len(different) > 2 and scaled.words_follow
    assert recognizer(clip).probabilities == before.probabilities
    for wrong in (-0.1, 1.6, float("nan")):
        with pytest.raises(VoxstrataError, match=r"from 0 .* to 1\.5"):
            scaled.at(wrong)


def test_words_of_a_decoder_beside_the_model_do_not_follow(run, encoder_folder, expert_folders):
    from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber

    class Beside(WhisperTranscriber):
        """A decoder over an encoder of its own."""

        def __init__(self, encoder) -> None:
            torch.nn.Module.__init__(self)
            self.encoder = encoder

    (model,) = Recognizer.load(run).models
    for encoder, follow in ((load_backbone(encoder_folder), False), (model.encoder, True)):
        scaled = Scaled(Recognizer([model, Beside(encoder)]), load_backbone(encoder_folder).weights())
        assert scaled.words_follow is follow


def test_a_run_whose_base_is_gone_has_a_page_without_a_slider(
    run, tmp_path, encoder_folder, expert_folders, clip
):
    folder = joint_run(tmp_path / "run", encoder_folder, expert_folders)
    (folder / "provenance.json").write_text('{"base": "nowhere/at-all"}')
    with TestClient(application(Recognizer.load(folder), folder)) as client:
        assert client.app.state.page._scaled is None
        assert client.get("/").status_code == 200
        assert post(client, clip.read_bytes()).status_code == 200


def test_about_has_data_coefficients_and_classes(run):
    found = about(Recognizer.load(run), run)
    assert (found.name, found.corpora, found.classes) == ("joint", ("ravdess", "an4"), tuple(LABELS))
    (table,) = found.tables
    assert table.vectors == ("asr", "ser") and np.allclose(table.rows, COEFFICIENTS)
    assert "ravdess, an4" in found.limits[0]


def test_the_base_alone_is_the_base(encoder_folder, run):
    scaled = Scaled.of(Recognizer.load(run), run).at(0.0).models[0].encoder.weights()
    base = load_backbone(encoder_folder).weights()
    assert all(np.array_equal(weight, base[name]) for name, weight in scaled.items())


def hostile() -> Recognition:
    text = "<script>alert(1)</script> & <b>"
    words = tuple(Word(part, 0.1 * k, 0.1 * k + 0.1) for k, part in enumerate(text.split()))
    segment = Segment(0.0, 1.0, "<i>joy", {"<i>joy": 1.0}, text, words, note="<u>")
    row = Prediction("x", emotion="<i>joy", probabilities={"<i>joy": 1.0}, transcript=text, note="<u>")
    return Recognition((segment, segment), 1.0, (), row)


def test_what_a_model_writes_is_text_on_the_page():
    found = hostile()
    answer = Answer(found, np.ones(400, np.float32), np.zeros(0, np.float32))
    for page in (answer_html(answer), scaled_html(0.5, found, found, words_follow=True)):
        assert "&lt;script&gt;" in page
        for tag in ("<script", "<b>(", "<i>joy", "<u>"):
            assert tag not in page


def test_words_stand_at_their_times():
    words = (Word("one", 1.0, 1.5), Word("two", 3.0, 3.5))
    segment = Segment(1.0, 3.5, "joy", {"joy": 0.9}, "one two", words)
    row = Prediction("x", emotion="joy", probabilities={"joy": 0.9}, transcript="one two")
    page = answer_html(Answer(Recognition((segment,), 4.0, (), row), np.ones(400, np.float32), np.zeros(0)))
    assert 'style="left:25.00%' in page and 'style="left:75.00%' in page


def test_clips_are_few_and_forgotten():
    clips, found = Clips(), Recognition((), 1.0)
    keys = [clips.keep(np.full(10, 0.5, np.float32), found) for _ in range(MOST + 1)]
    with pytest.raises(AudioError, match="is not kept"):
        clips.of(keys[0])
    samples, _ = clips.of(keys[-1])
    assert samples == pytest.approx(np.full(10, 0.5), abs=1e-4)
    clips.forget(time.monotonic() + 1)
    with pytest.raises(AudioError, match="upload it once more"):
        clips.of(keys[-1])
    assert clips.keep(np.zeros(0, np.float32), found) == ""


def test_gradio_clients_call_the_named_endpoints(run, clip, temporary):
    gradio_client = pytest.importorskip("gradio_client")
    recognizer = Recognizer.load(run)
    timed = recognizer(clip, timeline=True)
    with running(application(recognizer, run)) as address:
        client = gradio_client.Client(address, verbose=False, download_files=str(temporary / "client"))
        named = client.view_api(return_format="dict")["named_endpoints"]
        assert named.keys() == {"/recognize", "/scale"}
        row = client.predict(gradio_client.handle_file(str(clip)), api_name="/recognize")
        assert row["probabilities"] == pytest.approx(timed.probabilities, abs=1e-3)
        at_base = client.predict(row["clip"], 0.0, api_name="/scale")
        again = client.predict(row["clip"], 1.0, api_name="/scale")
        assert again["probabilities"] == pytest.approx(timed.probabilities, abs=1e-3)
        assert at_base["probabilities"] != again["probabilities"]
        letter = temporary.parent / "letter.wav"
        letter.write_text("no recording")
        with pytest.raises(Exception, match=r"letter\.wav is text, not audio"):
            client.predict(gradio_client.handle_file(str(letter)), api_name="/recognize")
        elsewhere = {"path": "https://example.org/a.wav", "meta": {"_type": "gradio.FileData"}}
        with pytest.raises(Exception, match="none is fetched from an address"):
            client.predict(elsewhere, api_name="/recognize")
        assert files_in(temporary) == []


def test_uploads_that_nobody_asks_for_go(client, clip, temporary):
    for _ in range(2):
        found = client.post("/gradio_api/upload", files={"files": ("../../a.wav", clip.read_bytes())}).json()
    assert len(files_in(temporary)) == 2 and Path(found[0]).name == "a.wav"
    client.app.state.uploads.sweep(time.time() + 1)
    assert files_in(temporary) == [] and uploads.KEPT_S <= 600


def test_nothing_of_ours_is_deleted(client, tmp_path):
    mine = tmp_path / "mine.wav"
    mine.write_bytes(b"kept")
    with client.app.state.uploads.opened(mine):
        pass
    assert mine.read_bytes() == b"kept"


def test_an_upload_that_is_gone_is_one_sentence(client, tmp_path):
    with (
        pytest.raises(VoxstrataError, match="send it again"),
        client.app.state.uploads.opened(tmp_path / "x.wav"),
    ):
        pass
