"""The page about predicting shows what is printed: the same lines but for numbers, words and classes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from long_recordings import RATE, with_bursts
from printed_shapes import LABELS, keys, shape
from subtitle_readers import read_rttm, read_srt
from voxstrata.backbone.encoder import load_backbone
from voxstrata.cli.main import app
from voxstrata.heads.ctc import CTCHead
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import MultitaskModel
from voxstrata.methods.model_folder import save_model
from voxstrata.vocabulary import Vocabulary

DOCS = Path(__file__).parent.parent / "docs"
SHOWN = re.compile(r"^```sh\n([^\n]*)\n```\n\n<!-- output -->\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def place(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a call of two parties and a model of emotions and words."""
    folder = tmp_path_factory.mktemp("page")
    left, right = with_bursts([(1, 4)], 20), with_bursts([(12, 17)], 20, seed=9)
    soundfile.write(folder / "call.wav", np.stack([left, right], axis=1), RATE)
    torch.manual_seed(4)
    encoder = load_backbone(encoder_folder)
    head = CTCHead(encoder.hidden_size, Vocabulary(("a", " ", "c")))
    save_model(MultitaskModel(encoder, LabelSet(LABELS), head), folder / "model")
    return folder


@pytest.mark.usefixtures("speech_by_level")
def test_the_page_shows_what_is_printed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    shown = SHOWN.findall((DOCS / "predict.md").read_text(encoding="utf-8"))
    assert len(shown) == 4
    for line, expected in shown:
        words = shlex.split(line)[1:]
        if "--transcriber" in words:
            at = words.index("--transcriber")
            words[at : at + 2] = []
        done = CliRunner().invoke(app, [*words, "--model", "model"])
        assert done.exit_code == 0, done.output
        if "--json" in words:
            printed, told = json.loads(done.stdout), json.loads(expected)
            assert keys(printed) == keys(told)
        elif "--srt" in words:
            cues, shown_cues = read_srt(done.stdout), read_srt(expected + "\n")
            assert len(shown_cues) == 2 and len(cues) >= 2
            for _, _, text in [*cues, *shown_cues]:
                assert re.match(rf"channel [12]: \(({'|'.join(LABELS)})\)", text)
        elif "--rttm" in words:
            assert [turn[:2] for turn in read_rttm(done.stdout)] == [turn[:2] for turn in read_rttm(expected)]
            assert [turn[4] for turn in read_rttm(done.stdout)] == [turn[4] for turn in read_rttm(expected)]
        else:
            assert [shape(one) for one in done.stdout.splitlines()] == [
                shape(one) for one in expected.splitlines()
            ]


def test_all_notes_of_the_page_are_those_of_the_program() -> None:
    text = (DOCS / "predict.md").read_text(encoding="utf-8")
    names = [
        name
        for row in re.findall(r"^\| (`[a-z -]+`.*?) \|", text, re.MULTILINE)
        for name in re.findall("`([^`]+)`", row)
    ]
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("audio", "inference")
        for path in (DOCS.parent / "src" / "voxstrata" / folder).glob("*.py")
    )
    notes = [name for name in names if not name.startswith("--")]
    assert len(notes) >= 7 and all(f'"{name}' in source or f"{name}" in source for name in notes)
