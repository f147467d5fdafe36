"""`voxstrata export` writes what opens again, in the precision asked for."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import WavLMConfig, WavLMForCTC
from typer.testing import CliRunner

from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.cli.main import app
from voxstrata.errors import CheckpointError
from voxstrata.heads.ctc import CTCHead
from voxstrata.labels import LabelSet
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.encoder_models import EmotionModel, TranscriptionModel
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.methods.pretraining.tiny_encoder import tiny_config
from voxstrata.runs import RunFolder, write_json
from voxstrata.vocabulary import Vocabulary

SMALL = {"hidden_size": 32, "layers": 2, "attention_heads": 2, "feed_forward": 48, "channels": 36}


def export(*arguments: object) -> int:
    return CliRunner().invoke(app, ["export", *map(str, arguments)]).exit_code


@pytest.fixture
def model(tmp_path: Path) -> Path:
    encoder = build_backbone(tiny_config(**SMALL), seed=0)
    save_model(TranscriptionModel(encoder, CTCHead(32, Vocabulary(("a", "b")))), tmp_path / "run" / "model")
    return tmp_path / "run"


def test_a_model_in_half_precision_opens_and_answers_nearly_the_same(model: Path, tmp_path: Path) -> None:
    assert export(model, tmp_path / "out", "--dtype", "float16") == 0
    stored = load_file(tmp_path / "out" / "encoder" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    waveforms, lengths = torch.randn(1, 8000), torch.tensor([8000])
    before, after = (load_model(path).encoder for path in (model / "model", tmp_path / "out"))
    change = after(waveforms, lengths).layers[-1] - before(waveforms, lengths).layers[-1]
    assert 0 < change.norm() < 0.01 * before(waveforms, lengths).layers[-1].norm()


def test_an_encoder_without_head_is_a_plain_folder(tmp_path: Path) -> None:
    encoder = build_backbone(tiny_config(**SMALL), seed=0)
    encoder.save(tmp_path / "run" / "model" / "encoder")
    assert export(tmp_path / "run", tmp_path / "out") == 0
    again = load_backbone(tmp_path / "out").weights()
    assert all(torch.equal(again[name], tensor) for name, tensor in encoder.weights().items())


def test_an_existing_folder_and_an_unknown_precision_are_refused(model: Path, tmp_path: Path) -> None:
    assert export(model, tmp_path) != 0
    assert export(model, tmp_path / "out", "--dtype", "int8") != 0
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_overwritten_only_when_told(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(model, out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert export(model, out, "--dtype", "float16") != 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / "mine.txt").write_text("kept")
    build_backbone(tiny_config(**SMALL), seed=1).save(tmp_path / "other")
    assert export(tmp_path / "other", out, "--overwrite") == 0
    # Nothing of the older export is left to be read for this one's.
    names = {path.name for path in out.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "mine.txt"}
    assert (out / "mine.txt").read_text() == "kept"


def test_what_is_no_export_is_never_removed(model: Path, tmp_path: Path) -> None:
    for name in ("encoder", "vectors"):
        out = tmp_path / name / "out"
        (out / name).mkdir(parents=True)
        (out / name / "mine.txt").write_text("kept")
        (out / "README.md").write_text("mine")
        assert (export(model, out, "--overwrite") == 0) is (name == "vectors")
        assert (out / name / "mine.txt").read_text() == "kept"
    assert "card" in (tmp_path / "vectors" / "out" / "README.md").read_text()
    (tmp_path / "file").write_text("kept")
    assert export(model, tmp_path / "file", "--overwrite") != 0
    assert (tmp_path / "file").read_text() == "kept"


def test_a_run_is_not_written_over_itself(model: Path, tmp_path: Path) -> None:
    for out in (model, model / "model", tmp_path):
        assert export(model / "model", out, "--overwrite") != 0
    assert load_model(model / "model").encoder.num_layers == 2


def test_a_merge_is_exported_over_something_only_when_told(tmp_path: Path) -> None:
    base = build_backbone(tiny_config(**SMALL), seed=0)
    merged = MergedBackbone(base, {})
    (tmp_path / "empty").mkdir()
    merged.export(tmp_path / "empty")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "config.json").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds config\.json; give a new folder.*overwrite=True"):
        merged.export(tmp_path / "held")
    assert (tmp_path / "held" / "config.json").read_text() == "mine"
    merged.export(tmp_path / "held", overwrite=True)
    assert load_backbone(tmp_path / "held").num_layers == 2
    assert {path.name for path in (tmp_path / "held").iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "coefficients.json")
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run for emotions that merged an ASR expert beside it."""
    encoder = build_backbone(tiny_config(**SMALL), seed=0)
    words = TranscriptionModel(encoder, CTCHead(32, Vocabulary(("a", "b"))))
    save_model(words, tmp_path / "runs" / "asr" / "model")
    emotions = EmotionModel(encoder, LabelSet(("anger", "joy")))
    save_model(emotions, tmp_path / "runs" / "dual" / "model")
    folder = RunFolder(tmp_path / "runs" / "dual")
    told = {
        "base": "whisper-tiny.en",
        "parents": {"asr": "../asr"},
        "data": {str(tmp_path / "prepared" / "calls"): "0"},
    }
    write_json(folder.provenance, told)
    rows = [[0.2], [0.4], [0.9]]
    write_json(
        folder.model / "coefficients.json", {"granularity": "layer", "vectors": ["asr"], "coefficients": rows}
    )
    return folder.path


def test_what_is_left_out_is_told_in_one_line_and_in_the_card(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out")])
    lines = done.stderr.splitlines()
    assert [line for line in lines if "left out" in line] == [
        "voxstrata: left out: the ASR expert with its CTC head, which writes the run's words"
    ]
    assert [line for line in lines if "encoder without head" in line and "random head" in line]
    assert done.stdout.strip() == str(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        *("**Left out:** the ASR expert", "| base | `openai/whisper-tiny.en` |", "mit", "| asr | `asr` |"),
        *("anger, joy", "`calls`", "asr 0.500 (0.200 to 0.900)", "an encoder without head", "non-commercial"),
        *("| 2 | 0.9 |", "(coefficients.svg)", "base_model:\n- openai/whisper-tiny.en", "relation: merge"),
    ):
        assert part in card, part
    # A card is passed on: it names no place on this machine.
    assert str(tmp_path) not in card
    assert (tmp_path / "out" / "coefficients.json").is_file()
    assert "<svg" in (tmp_path / "out" / "coefficients.svg").read_text()


def test_the_lines_of_the_card_load_the_export(run: Path, tmp_path: Path, recordings: list[Path]) -> None:
    assert export(run, tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE):
        code = block.replace("PATH/TO/EXPORT", str(tmp_path / "out")).replace("call.wav", str(recordings[0]))
        exec(code, names)
    assert names["encoder"].config.num_hidden_layers == 2
    assert names["recognizer"](recordings[0]).emotion in ("anger", "joy")


def test_heads_of_a_checkpoint_are_told_as_left_out(tmp_path: Path) -> None:
    plain = WavLMForCTC(WavLMConfig(**tiny_config(**SMALL).to_diff_dict() | {"vocab_size": 7}))
    plain.save_pretrained(tmp_path / "ctc")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "ctc"), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "voxstrata: left out: lm_head.bias, lm_head.weight (CTC head)" in done.stderr.replace(
        "lm_head.weight, lm_head.bias", "lm_head.bias, lm_head.weight"
    )
    assert "(CTC head)" in (tmp_path / "out" / "README.md").read_text()


def test_a_broken_neighbour_does_not_keep_a_model_from_being_exported(run: Path, tmp_path: Path) -> None:
    (run.parent / "asr" / "model" / "model.json").write_text("{")
    done = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out")])
    assert done.exit_code == 0 and "left out: what writes the run's words" in done.stderr
    assert load_model(tmp_path / "out").labels.names == ("anger", "joy")
