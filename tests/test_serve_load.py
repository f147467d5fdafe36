"""Two hundred uploads at once: each gets its own answer, memory stays bounded, files go."""

from __future__ import annotations

import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

pytest.importorskip("gradio")

import httpx

from served import joint_run, running, spoken
from voxstrata.inference.recognizer import Recognizer
from voxstrata.serving.server import application

UPLOADS = 200


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_200_uploads_at_once(encoder_folder, expert_folders, tmp_path, monkeypatch):
    run = joint_run(tmp_path / "joint", encoder_folder, expert_folders)
    voices = ("sad-voice", "angry-voice", "happy-voice")
    clips = [spoken(tmp_path / f"{k}.wav", 20 * k, voices[k % 3]) for k in range(20)]
    recognizer = Recognizer.load(run)
    alone = [recognizer(clip).probabilities for clip in clips]
    # Answers that are mixed up would be seen.
    assert len({round(shares["anger"], 6) for shares in alone}) == len(clips)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    process = psutil.Process(os.getpid())
    with running(application(Recognizer.load(run), run)) as address:
        start = threading.Barrier(UPLOADS)
        contents = [clip.read_bytes() for clip in clips]

        def send(number: int) -> dict[str, float]:
            files = {"file": (f"{number}.wav", contents[number % len(clips)])}
            start.wait()
            found = httpx.post(f"{address}/v1/audio/transcriptions", files=files, timeout=800)
            assert found.status_code == 200, found.text
            return found.json()["probabilities"]

        first = {"file": ("a.wav", contents[0])}
        httpx.post(f"{address}/v1/audio/transcriptions", files=first, timeout=800)
        before = process.memory_info().rss
        with ThreadPoolExecutor(UPLOADS) as pool:
            answers = list(pool.map(send, range(UPLOADS)))
        grown = process.memory_info().rss - before
        left = [path for path in Path(temporary).rglob("*") if path.is_file()]
    for number, shares in enumerate(answers):
        assert shares == pytest.approx(alone[number % len(clips)], abs=1e-5), number
    assert left == []
    # Clients and server are one process here: 200 threads of both, and no more.
    assert grown < 300e6
