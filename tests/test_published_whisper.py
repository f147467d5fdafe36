"""A whole Whisper is read strictly, in the forms it is published in; all else is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperModel

from tiny_whisper import TRANSCRIBE, WAVES, ours, save_whisper, theirs, whole
from voxstrata.backbone.encoder import load_backbone
from voxstrata.errors import CheckpointError
from voxstrata.methods.transcribers.published_whisper import find_transcriber, load_decoder, load_transcriber


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A multilingual Whisper and an English one."""
    root = tmp_path_factory.mktemp("whisper")
    return {name: save_whisper(root / name, multilingual=name == "many") for name in ("many", "english")}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """The multilingual one, to be changed."""
    shutil.copytree(folders["many"], tmp_path / "copied")
    return tmp_path / "copied"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_computed_in_full(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = save_whisper(tmp_path / "half", dtype=dtype)
    transcriber = load_transcriber(folder)
    assert {parameter.dtype for parameter in transcriber.parameters()} == {torch.float32}
    assert ours(transcriber, WAVES[:2]) == theirs(folder, WAVES[:2], **TRANSCRIBE)


def test_an_output_map_of_its_own_is_read(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "untied", tie_word_embeddings=False)
    decoder = load_decoder(folder)
    assert not torch.equal(decoder.proj_out.weight, decoder.model.decoder.embed_tokens.weight)
    assert ours(load_transcriber(folder), WAVES) == theirs(folder, WAVES, **TRANSCRIBE)


def test_weights_saved_without_the_output_map_or_in_shards_are_read(
    folders: dict[str, Path], copied: Path, tmp_path: Path
) -> None:
    expected = ours(load_transcriber(folders["many"]), WAVES[:2])
    whole(copied).save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(copied / name, tmp_path / "shards")
    assert ours(load_transcriber(tmp_path / "shards"), WAVES[:2]) == expected
    WhisperModel.from_pretrained(copied, dtype=torch.float32).save_pretrained(copied)
    assert "decoder.layer_norm.bias" in load_file(copied / "model.safetensors")
    assert ours(load_transcriber(copied), WAVES[:2]) == expected


def test_without_a_generation_config_that_of_the_model_holds(copied: Path) -> None:
    (copied / "generation_config.json").unlink()
    assert ours(load_transcriber(copied), WAVES[:2]) == theirs(copied, WAVES[:2])


def test_of_the_folders_encoder_nothing_is_kept_where_another_is_given(folders: dict[str, Path]) -> None:
    decoder = load_decoder(folders["many"])
    assert not [name for name in decoder.state_dict() if "encoder." in name and "decoder." not in name]
    wanted = {name for name in whole(folders["many"]).state_dict() if not name.startswith("model.encoder.")}
    assert set(decoder.state_dict()) == wanted


def rewritten(folder: Path, name: str, tensor: Tensor | None) -> None:
    """The folder with one tensor changed, added or taken out."""
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name, None)
    save_file(
        tensors | ({} if tensor is None else {name: tensor}),
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.decoder.layers.1.fc1.bias", None, r"lacks 1 tensor \(model.decoder.layers.1.fc1.bias\)"),
        ("model.decoder.layers.2.fc1.bias", torch.ones(64), r"has beside its own 1 tensor \(model.decoder.l"),
        (
            "model.decoder.layer_norm.bias",
            torch.ones(31),
            r"another shape .*layer_norm.bias \(31,\) for \(32,\)",
        ),
    ],
)
def test_a_decoder_is_read_strictly(copied: Path, name: str, tensor: Tensor | None, message: str) -> None:
    rewritten(copied, name, tensor)
    with pytest.raises(CheckpointError, match=message) as refused:
        load_transcriber(copied)
    assert "\n" not in str(refused.value)


def test_what_is_no_whole_whisper_is_refused_in_one_line(
    folders: dict[str, Path], copied: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    load_backbone(folders["many"]).save(tmp_path / "encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(copied / name, tmp_path / "encoder")
    shutil.copytree(encoder_folder, tmp_path / "wavlm")
    shutil.copy(copied / "tokenizer.json", tmp_path / "wavlm")
    save_whisper(tmp_path / "wider", d_model=48)
    thirty, clip = (load_backbone(folders["many"], window=window) for window in ("30s", "clip"))
    (copied / "tokenizer.json").unlink()
    for source, encoder, message in [
        (tmp_path / "encoder", None, "holds the encoder of a Whisper and no decoder; give a folder of Whisp"),
        ("whisper-tiny.en", None, "holds the encoder of a Whisper and no decoder"),
        (tmp_path / "wavlm", None, "a model of type 'wavlm', no Whisper; give a folder"),
        (copied, None, r"copied has no tokenizer \(tokenizer.json, or vocab.json and merges.txt\)"),
        (tmp_path / "absent", None, "no model folder or file at .*absent"),
        ("some/absent", None, "is no folder here and not in the Hugging Face cache; fetch it: hf download"),
        (tmp_path / "wider", thirty, "listens to 48 features a frame, the encoder has 32; give the decoder"),
        (folders["many"], clip, "listens to 30 seconds; the encoder has window 'clip'"),
        (folders["many"], load_backbone(encoder_folder), "the encoder has window 'clip'"),
    ]:
        with pytest.raises(CheckpointError, match=message) as refused:
            load_transcriber(source, encoder)
        assert "\n" not in str(refused.value)
    found = [find_transcriber(place) for place in (folders["many"], tmp_path / "encoder", tmp_path / "wavlm")]
    assert found == [folders["many"], None, None]
    assert [find_transcriber(name) for name in ("whisper-tiny.en", "some/absent")] == [None, None]


@pytest.mark.parametrize(
    ("name", "language", "message"),
    [
        ("english", "en", "knows English only.*leave the language out"),
        ("many", "klingon", "language 'klingon'; it knows 4, by code or English name: cy, de, en, fr; leave"),
        ("many", "it", "does not know the language 'it'"),
    ],
)
def test_a_language_that_it_does_not_know_is_refused(
    folders: dict[str, Path], name: str, language: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as refused:
        load_transcriber(folders[name], language=language)
    assert "\n" not in str(refused.value)


def test_a_multilingual_folder_without_its_languages_is_refused(copied: Path) -> None:
    told = json.loads((copied / "generation_config.json").read_text())
    told.pop("lang_to_id")
    (copied / "generation_config.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"has no lang_to_id or no task_to_id.*fetch it again"):
        load_transcriber(copied)
    (copied / "generation_config.json").write_text("no JSON")
    with pytest.raises(CheckpointError, match=r"cannot use .*generation_config.json"):
        load_transcriber(copied)
