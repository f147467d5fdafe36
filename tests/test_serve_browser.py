"""The page in headless Chromium: upload, read, garbage, the slider; no request leaves the machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
from served import LABELS, joint_run, running, spoken
from voxstrata.inference.recognizer import Recognizer
from voxstrata.serving.server import application

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium"),
]
#: A loaded machine is no fault.
PATIENCE_MS = 240_000


@pytest.fixture(scope="module")
def run(encoder_folder, expert_folders, tmp_path_factory) -> Path:
    return joint_run(tmp_path_factory.mktemp("runs") / "joint", encoder_folder, expert_folders)


@pytest.fixture(scope="module")
def address(run) -> Iterator[str]:
    with running(application(Recognizer.load(run), run)) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        found = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()


def opened(browser: Any, address: str, width: int) -> tuple[Any, list[str]]:
    """The page, and the requests that it makes elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.set_default_timeout(PATIENCE_MS)
    elsewhere: list[str] = []
    own = (address, "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(own) else elsewhere.append(asked.url))
    page.goto(address)
    page.wait_for_selector("#vx-upload input[type=file]", state="attached")
    return page, elsewhere


@pytest.mark.timeout(900)
@pytest.mark.parametrize("width", [1280, 390])
def test_open_upload_read_and_move_the_slider(width, browser, address, run, tmp_path):
    clip = spoken(tmp_path / "my clip.wav")
    timed = Recognizer.load(run)(clip, timeline=True)
    page, elsewhere = opened(browser, address, width)
    page.set_input_files("#vx-upload input[type=file]", str(clip))
    assert page.inner_text("#vx-words") == timed.transcript
    assert page.inner_text("#vx-emotion").split()[0] == timed.emotion
    assert page.locator(".vx-word").all_inner_texts() == timed.transcript.split()
    assert set(page.locator("#vx-answer .vx-bar > span:first-child").all_inner_texts()) == set(LABELS)
    page.locator("#vx-scale input[type=range]").focus()
    page.keyboard.press("Home")
    page.wait_for_selector("#vx-scaled >> text=At 0.00")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#vx-scaled >> text=At 0.05")
    # Nothing is wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert elsewhere == []
    page.close()


@pytest.mark.timeout(900)
def test_garbage_gets_a_sentence_and_an_example_an_answer(browser, address, tmp_path):
    letter = tmp_path / "letter.wav"
    letter.write_text("Dear all, this is no recording.")
    page, _ = opened(browser, address, 1280)
    page.set_input_files("#vx-upload input[type=file]", str(letter))
    page.wait_for_selector("text=letter.wav is text, not audio")
    page.locator("#vx-examples button").first.click()
    assert page.inner_text("#vx-emotion").split()[0] in LABELS
    page.close()
