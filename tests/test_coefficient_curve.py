"""A fine-tune's coefficient against emotions and words: its ends, and what the command writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from toy_tasks import EMOTIONS, TEXTS, write_corpus
from voxstrata.analysis.coefficient_curve import Readers, coefficient_curve
from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.cli.main import app
from voxstrata.config.head import HeadOptions
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CheckpointError, RecipeError
from voxstrata.evaluation.score import score
from voxstrata.heads.ctc import CTCHead
from voxstrata.inference.path import predict
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel, TranscriptionModel
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "words": write_corpus(folder, "words", (4, 2, 6), text=TEXTS, duration_s=0.5),
        "feelings": write_corpus(folder, "feelings", (4, 2, 9), emotion=EMOTIONS),
    }


@pytest.fixture(scope="module")
def models(encoder_folder, expert_folders, tmp_path_factory) -> dict[str, Path]:
    """An emotion model over the expert, and a CTC model over the base; heads at random."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(3)
    expert, base = load_backbone(expert_folders["ser"]), load_backbone(encoder_folder)
    options = HeadOptions(form="d", normalize_layers=True)
    save_model(EmotionModel(expert, LabelSet(EMOTIONS), options), folder / "ser" / "model")
    head = CTCHead(base.hidden_size, Vocabulary(("a", "b", " ")))
    save_model(TranscriptionModel(base, head), folder / "ctc" / "model")
    return {"ser": folder / "ser", "ctc": folder / "ctc"}


def batches(corpus: Path) -> BatchSource:
    return BatchSource(
        PreparedCorpus.load(corpus).stream("test", None), BatchOptions(batch_size=2, shuffle=False)
    )


def test_the_ends_of_the_curve_are_the_base_and_the_expert(encoder_folder, expert_folders, models, corpora):
    emotion, words = load_model(models["ser"] / "model"), load_model(models["ctc"] / "model")
    assert isinstance(emotion, EmotionModel) and isinstance(words, TranscriptionModel)
    first, middle, last = coefficient_curve(
        encoder_folder,
        expert_folders["ser"],
        Readers(emotion, words.head),
        [0.0, 0.5, 1.0],
        emotions=lambda: batches(corpora["feelings"]).epoch(0),
        words=lambda: batches(corpora["words"]).epoch(0),
    )
    expected = score(list(predict(emotion, batches(corpora["feelings"]).epoch(0)))).emotion
    assert last.scores["uar"] == expected.metrics["uar"]
    of_base = score(list(predict(words, batches(corpora["words"]).epoch(0)))).transcript
    assert first.scores["wer_ctc"] == of_base.metrics["wer"]
    assert set(middle.scores) == {"uar", "wer_ctc"} and middle.clips == {"uar": 9, "wer_ctc": 6}


def test_another_base_is_refused(encoder_folder, expert_folders, models, corpora, tiny_encoder, tmp_path):
    emotion = load_model(models["ser"] / "model")
    tiny_encoder(seed=9).save(tmp_path / "stranger")
    with pytest.raises(CheckpointError, match="does not come from this base"):
        coefficient_curve(
            tmp_path / "stranger",
            expert_folders["ser"],
            Readers(emotion),
            [0.0],
            emotions=lambda: batches(corpora["feelings"]).epoch(0),
            words=lambda: batches(corpora["words"]).epoch(0),
        )


def test_the_command_writes_numbers_and_a_figure(encoder_folder, models, corpora, tmp_path):
    arguments = [
        *("curve", str(models["ser"]), "--base", str(encoder_folder), "--ctc", str(models["ctc"])),
        *("--emotions", str(corpora["feelings"]), "--words", str(corpora["words"])),
        *("--at", "0,1", "--out", str(tmp_path / "curve")),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "curve" / "curve.json").read_text())
    assert [point["coefficient"] for point in found["points"]] == [0.0, 1.0]
    with (tmp_path / "curve" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["series"] for row in rows] == ["uar", "uar", "wer_ctc", "wer_ctc"]
    for row, point in zip(rows[:2], found["points"], strict=True):
        assert float(row["percent"]) == pytest.approx(100 * point["scores"]["uar"]["value"])
    assert (tmp_path / "curve" / "curve.svg").read_text().startswith("<?xml")
    assert "coefficient" in done.output and "UAR" in done.output


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"--at": "0,x"}, "numbers from -10 to 10 with commas"),
        ({"--ctc": "SER"}, "has no CTC head"),
        ({"--base": None}, "give --base"),
    ],
)
def test_what_does_not_hold_is_one_line(encoder_folder, models, corpora, change, match):
    told = {"--base": str(encoder_folder), "--ctc": None, "--at": "0"} | change
    told = {key: str(models["ser"]) if value == "SER" else value for key, value in told.items()}
    options = [part for key, value in told.items() if value is not None for part in (key, value)]
    corpus = ["--emotions", str(corpora["feelings"]), "--words", str(corpora["words"])]
    done = CliRunner().invoke(app, ["curve", str(models["ser"]), *options, *corpus])
    assert isinstance(done.exception, CheckpointError | RecipeError), done.output
    assert match in str(done.exception)
