"""`voxstrata export --as`: opened by transformers in another process and compared, or nothing is left."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from typer.testing import CliRunner

import tiny_whisper
from voxstrata.backbone.encoder import load_backbone
from voxstrata.cli.export import FORMS
from voxstrata.cli.main import app
from voxstrata.config.head import HeadOptions
from voxstrata.errors import CheckpointError
from voxstrata.exporting import emotion, plain_model
from voxstrata.exporting.clips import clips_for
from voxstrata.exporting.verification import Verified, verify
from voxstrata.exporting.write import Wanted, export
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.adaltm.merged import Granularity, MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import save_model
from voxstrata.recipes.reading import dump, validate
from voxstrata.runs import RunFolder, atomic_write, write_json
from whisper_by_hand import real_model

LABELS = LabelSet(("neutral", "anger", "fear"))


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)


def run_of(
    folder: Path, model: EmotionModel, parents: Mapping[str, Path] | None = None, **about: Any
) -> Path:
    """A run's folder, as far as an export reads it."""
    run = RunFolder(folder)
    save_model(model, run.model)
    experts = {name: str(place) for name, place in (parents or {}).items()}
    write_json(run.provenance, {"parents": experts, "data": {}, **about})
    return folder


def emotions(encoder: Any, **options: Any) -> EmotionModel:
    torch.manual_seed(0)
    model = EmotionModel(encoder, LABELS, HeadOptions(**({} if options else {"width": 16}), **options))
    torch.nn.init.normal_(model.head.classifier.weight)
    return model.requires_grad_(False).eval()


def lines_of(card: Path, out: Path, recording: Path) -> str:
    """The code of a card, with real places."""
    blocks = re.findall(r"^```python\n(.*?)^```$", card.read_text(), re.DOTALL | re.MULTILINE)
    return "\n".join(blocks).replace("PATH/TO/EXPORT", str(out)).replace("call.wav", str(recording))


def test_an_emotion_run_opens_in_the_pipeline_and_its_card_loads_it(
    encoder_folder: Path, corpus_folder: Path, recordings: list[Path], tmp_path: Path
) -> None:
    run = run_of(tmp_path / "run", emotions(load_backbone(encoder_folder)), base=str(encoder_folder))
    data = {"corpora": [{"path": str(corpus_folder)}]}
    recipe = validate({"system": "adaltm", "data": data, "training": {"epochs": 1}}, "here")
    atomic_write(RunFolder(run).recipe, dump(recipe))
    done = command(run, tmp_path / "out", "--as", "emotion")
    assert done.exit_code == 0 and done.stdout.strip() == str(tmp_path / "out")
    (line,) = (line for line in done.stderr.splitlines() if "relative difference" in line)
    assert "in a process without voxstrata" in line and "4 clips of the run's dev split" in line
    alone, padded = map(float, re.findall(r"([\d.e+-]+) (?:alone|padded)", line))
    assert alone < 1e-5 and padded < 1e-5
    names: dict[str, Any] = {}
    exec(lines_of(tmp_path / "out" / "README.md", tmp_path / "out", recordings[0]), names)
    rows = names["classify"]({"raw": names["samples"], "sampling_rate": 16_000}, top_k=None)
    ours = Recognizer.load(run)(recordings[0]).probabilities
    assert {row["label"]: row["score"] for row in rows} == pytest.approx(ours, abs=1e-6)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


def test_answers_that_differ_are_refused_and_nothing_is_left(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = emotion._head

    def spoiled(model: EmotionModel) -> dict[str, Tensor]:
        found = own(model)
        return {**found, "classifier.bias": found["classifier.bias"] + 0.01}

    monkeypatch.setattr(emotion, "_head", spoiled)
    run = run_of(tmp_path / "run", emotions(load_backbone(encoder_folder)))
    with pytest.raises(CheckpointError, match=r"answers otherwise than the run: .* allowed is 1e-04 in"):
        export(str(run), tmp_path / "out", Wanted("emotion"), notify=print)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_folder_that_transformers_cannot_open_is_refused_with_the_reason(
    encoder_folder: Path, tmp_path: Path
) -> None:
    plain = emotion.emotion_model(emotions(load_backbone(encoder_folder)))
    plain.write(tmp_path / "out", dtype=torch.float32)
    (tmp_path / "out" / "config.json").write_text('{"model_type": "no-such-type"}')
    clips = clips_for(tmp_path, shortest=plain.shortest, longest=plain.longest)
    with pytest.raises(CheckpointError, match=r"transformers cannot open the export \(.+\)"):
        verify(plain, tmp_path / "out", clips, dtype=torch.float32)


@pytest.mark.parametrize("found", [float("nan"), float("inf"), 2e-4])
def test_no_number_and_too_large_a_difference_are_both_refused(found: float) -> None:
    for verified in (
        Verified("", "5", found, 0.0, True, None, None),
        Verified("", "5", 0.0, found, True, None, None),
    ):
        with pytest.raises(CheckpointError, match="answers otherwise"):
            verified.require_close(torch.float32)
    # Where transformers' front end sees padding, a difference there is reported, not refused.
    Verified("", "5", 0.0, found, False, None, None).require_close(torch.float32)


def test_other_words_are_refused_in_float32() -> None:
    words = Verified("4 clips", "5", 0.0, 0.0, True, None, 2)
    with pytest.raises(CheckpointError, match="writes other words than the run for 2 of 4 clips"):
        words.require_close(torch.float32)
    words.require_close(torch.float16)


def test_the_packaged_recogniser_writes_the_same_words_in_the_pipeline(tmp_path: Path) -> None:
    done = command("wavlm-tiny-asr", tmp_path / "out", "--as", "ctc", "--dtype", "float16")
    assert done.exit_code == 0, done.output
    assert "words differ in 0 clips" in done.stderr
    assert "| source | `wavlm-tiny-asr` |" in (tmp_path / "out" / "README.md").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "vocab.json"),
        *("tokenizer_config.json", "training_clips.jsonl.gz"),
    }


def test_a_whole_whisper_has_the_runs_encoder_and_the_bases_decoder(tmp_path: Path) -> None:
    base = tiny_whisper.save_whisper(tmp_path / "base")
    encoder = load_backbone(base)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.05)
    run = run_of(tmp_path / "run", emotions(encoder), base="../base")
    done = command(run, tmp_path / "out", "--as", "whisper")
    assert done.exit_code == 0, done.output
    assert "words differ in 0 clips" in done.stderr and "left out: its head" in done.stderr
    found = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").state_dict()
    plain = tiny_whisper.whole(base).state_dict()
    ours = load_backbone(run).weights()
    for name, tensor in found.items():
        inside = name.removeprefix("model.")
        assert torch.equal(tensor, ours[inside] if inside.startswith("encoder.") else plain[name]), name


def test_the_packaged_encoder_and_the_real_decoder_are_the_real_whisper(tmp_path: Path) -> None:
    real = real_model("whisper-tiny.en")
    done = command("whisper-tiny.en", tmp_path / "out", "--as", "whisper", "--decoder", real)
    assert done.exit_code == 0 and "words differ in 0 clips" in done.stderr, done.output
    found = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").state_dict()
    whole = WhisperForConditionalGeneration.from_pretrained(real, dtype=torch.float32)
    for name, tensor in whole.state_dict().items():
        # The packaged encoder is stored in 16 bits.
        expected = tensor.half().float() if name.startswith("model.encoder.") else tensor
        assert torch.equal(found[name], expected), name


def test_what_makes_no_whole_whisper_is_refused_with_the_reason(encoder_folder: Path, tmp_path: Path) -> None:
    alone = run_of(tmp_path / "alone", emotions(load_backbone("whisper-tiny.en")), base="whisper-tiny.en")
    wavlm = run_of(tmp_path / "wavlm", emotions(load_backbone(encoder_folder)), base=str(encoder_folder))
    other = tiny_whisper.save_whisper(tmp_path / "other")
    for source, decoder, reason in (
        (alone, None, r"the base whisper-tiny\.en holds no whole Whisper.*--decoder"),
        (alone, str(tmp_path / "none"), r"none holds no whole Whisper"),
        (alone, str(other), r"listens to 32 features a frame, the encoder has 384"),
        (wavlm, str(other), r"of type 'wavlm', and only a Whisper's fits"),
    ):
        with pytest.raises(CheckpointError, match=reason) as fault:
            export(str(source), tmp_path / "out", Wanted("whisper", decoder=decoder), notify=print)
        assert "\n" not in str(fault.value) and not (tmp_path / "out").exists()


def test_options_that_do_not_go_together_are_one_line(encoder_folder: Path, tmp_path: Path) -> None:
    from voxstrata.errors import VoxstrataError

    for arguments, reason in (
        (("--as", "words"), "--as is 'words'; allowed are emotion, ctc, whisper, encoder"),
        (("--as", "ctc", "--decoder", "x"), "--decoder is of --as whisper only"),
        (("--as", "emotion"), "is an encoder without a head"),
    ):
        with pytest.raises(VoxstrataError, match=re.escape(reason)):
            command(encoder_folder, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def shrunk(encoder_folder: Path, tmp_path: Path) -> Path:
    """An expert, some of whose weights are far smaller than the base's: their differences lose digits."""
    expert = load_backbone(encoder_folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in expert.parameters():
            small = 1e-4 * torch.randn(parameter.shape, generator=generator)
            chosen = torch.rand(parameter.shape, generator=generator) < 0.2
            parameter.copy_(torch.where(chosen, small, parameter))
    expert.save(tmp_path / "expert")
    return tmp_path / "expert"


@pytest.mark.parametrize("granularity", ["static", "layer"])
@pytest.mark.parametrize(("asr", "ser"), [(0.0, 0.0), (1.0, 0.0)])
def test_coefficient_0_gives_the_base_and_1_the_expert_bit_for_bit(
    encoder_folder: Path,
    expert_folders: dict[str, Path],
    shrunk: Path,
    tmp_path: Path,
    asr: float,
    ser: float,
    granularity: Granularity,
) -> None:
    base, experts = load_backbone(encoder_folder), {"asr": shrunk, "ser": expert_folders["ser"]}
    vectors = {name: TaskVector.between(base, folder) for name, folder in experts.items()}
    merged = MergedBackbone(base, vectors, granularity=granularity, init={"asr": asr, "ser": ser})
    run = run_of(tmp_path / "run", emotions(merged), experts, base=str(encoder_folder))
    rows = merged.coefficients_by_layer()
    about = {"granularity": granularity, "vectors": ["asr", "ser"], "coefficients": rows}
    write_json(RunFolder(run).model / "coefficients.json", about)
    export(str(run), tmp_path / "out", Wanted(), notify=print)
    expected = load_backbone(shrunk if asr else encoder_folder).weights()
    found = load_backbone(tmp_path / "out").weights()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    # The sum of base and difference alone is not the expert.
    summed = merged.merged_state()
    assert all(torch.equal(summed[name], tensor) for name, tensor in expected.items()) is (asr == 0)


def test_a_merge_is_exported_as_a_plain_encoder_in_16_bits(
    encoder_folder: Path, expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = load_backbone(encoder_folder)
    vectors = {name: TaskVector.between(base, folder) for name, folder in expert_folders.items()}
    merged = MergedBackbone(base, vectors, init=0.3)
    run = run_of(tmp_path / "run", emotions(merged, form="d"), expert_folders, base=str(encoder_folder))
    done = command(run, tmp_path / "out", "--as", "encoder", "--dtype", "bfloat16")
    assert done.exit_code == 0, done.output
    (found,) = re.findall(r"difference ([\d.e+-]+) alone", done.stderr)
    assert 1e-4 < float(found) < 0.1
    weights = load_backbone(tmp_path / "out").weights()
    assert all(
        torch.equal(weights[name], tensor.bfloat16().float())
        for name, tensor in merged.merged_state().items()
    )


@pytest.mark.parametrize("options", [("--as", "words"), ("--dtype", "int4"), ("--decoder", "x"), ("--int8",)])
def test_wrong_options_are_refused_before_any_library_is_loaded(options, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from voxstrata.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, "export", "absent", str(tmp_path / "out"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and options[0] in done.stderr
    assert set(FORMS) == set(plain_model.FORMS)
