"""Published recognisers in transformers' layout, held against transformers' own classes and tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    HubertConfig,
    HubertForCTC,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMForCTC,
)
from typer.testing import CliRunner

from recorded import batch
from voxstrata.audio import load_audio
from voxstrata.cli.main import app
from voxstrata.errors import CheckpointError
from voxstrata.evaluation.score import score
from voxstrata.inference.path import predict
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import save_model
from voxstrata.methods.transcribers.published_ctc import find_published, load_published
from voxstrata.methods.transcribers.published_tokens import read_tokens
from voxstrata.predictions import Prediction
from voxstrata.runs import RunFolder, write_json

#: As `patrickvonplaten/wavlm-libri-clean-100h-large` has it: `|` first, pad at 28, both ends behind it.
LETTERS = ["|", *"abcdefghijklmnopqrstuvwxyz"]
TOKENS = {token: index for index, token in enumerate([*LETTERS, "<unk>", "<pad>", "<s>", "</s>"])}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}


def published(folder: Path, model: PreTrainedModel, *, normalize: bool = True, safe: bool = True) -> Path:
    """A model as the hub has one, its tokenizer written by hand."""
    folder.mkdir(parents=True)
    model.eval().save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True).save_pretrained(folder)
    change(folder, "vocab.json", **TOKENS)
    change(folder, "special_tokens_map.json", **SPECIAL)
    change(folder, "tokenizer_config.json", tokenizer_class="Wav2Vec2CTCTokenizer", word_delimiter_token="|")
    return folder


def change(folder: Path, name: str, **content: object) -> None:
    """Lays values over a JSON file; None takes a key out."""
    path = folder / name
    known = json.loads(path.read_text()) if path.is_file() else {}
    merged = {key: value for key, value in {**known, **content}.items() if value is not None}
    path.write_text(json.dumps(merged))


def random_model(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    """With a head that answers now this, now that, and often with the blank."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_()
        model.lm_head.bias.zero_()
        heard = model(torch.randn(1, 32_000)).logits[0]
        model.lm_head.weight /= heard.std(0).unsqueeze(1)
        model.lm_head.bias -= heard.mean(0) / heard.std(0)
        model.lm_head.bias[[0, 28, 29]] += 1
    return model


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(
        tmp_path_factory.mktemp("hub") / "wavlm", random_model(WavLMForCTC, WavLMConfig(**SIZES, **LARGE))
    )


@pytest.fixture
def copied(wavlm: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(wavlm, tmp_path / "copied"))


def oracle(folder: Path, kind: type[PreTrainedModel], path: Path) -> tuple[torch.Tensor, str]:
    """Logits [T, V] and words by transformers alone; special tokens are taken out of its text."""
    model = kind.from_pretrained(folder).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == 28
    values = extractor(load_audio(path), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        logits = model(values.input_values).logits[0]
    text = tokenizer.decode(logits.argmax(-1))
    for token in SPECIAL.values():
        text = text.replace(token, "")
    return logits, text.strip()


@pytest.mark.parametrize(
    ("kind", "config", "normalize", "safe"),
    [
        (WavLMForCTC, WavLMConfig(**SIZES, **LARGE), True, True),
        (WavLMForCTC, WavLMConfig(**SIZES, **LARGE), False, False),
        (WavLMForCTC, WavLMConfig(**SIZES), True, True),
        (Wav2Vec2ForCTC, Wav2Vec2Config(**SIZES, **LARGE), True, True),
        (HubertForCTC, HubertConfig(**SIZES), False, True),
    ],
    ids=["wavlm-large", "not-normalised-bin", "wavlm-base", "wav2vec2-large", "hubert-base"],
)
def test_logits_and_words_are_transformers_own(
    kind: type[PreTrainedModel],
    config: Any,
    normalize: bool,
    safe: bool,
    tmp_path: Path,
    recordings: list[Path],
) -> None:
    folder = published(tmp_path / "model", random_model(kind, config), normalize=normalize, safe=safe)
    model, _ = load_published(folder)
    assert read_tokens(folder, outputs=31).order == (28, *range(28), 29, 30)
    written = [row.transcript for row in predict(model, [batch(recordings)])]
    for position, path in enumerate(recordings):
        expected, words = oracle(folder, kind, path)
        logits, lengths = model.logits(batch([path]))
        assert lengths.tolist() == [len(expected)]
        torch.testing.assert_close(logits[0, :, 0], expected[:, 28], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits[0, :, 1:29], expected[:, :28], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits[0, :, 29:], expected[:, 29:], atol=1e-5, rtol=1e-5)
        assert Recognizer.load(folder)(path).transcript == words == written[position]
        assert len(set(words)) > 2


def test_predict_transcribes_and_tells_whose_blank_it_took(wavlm: Path, recordings: list[Path]) -> None:
    done = CliRunner().invoke(app, ["predict", *map(str, recordings), "--model", str(wavlm), "--json"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["transcript"] for row in rows] == [oracle(wavlm, WavLMForCTC, path)[1] for path in recordings]
    assert all(not set("<>|") & set(row["transcript"]) for row in rows)
    assert any(" " in row["transcript"] for row in rows)
    note, speed = done.stderr.splitlines()
    assert "real-time factor" in speed
    assert "'<pad>' has index 28, config.json says pad_token_id 0; 28 is taken for CTC's blank" in note


def test_no_note_where_the_files_agree(copied: Path) -> None:
    change(copied, "config.json", pad_token_id=28)
    assert load_published(copied)[1] == []


def test_a_downloaded_model_is_found_by_its_hub_id(
    wavlm: Path, recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cached = tmp_path / "models--some--asr"
    shutil.copytree(wavlm, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert Recognizer.load("some/asr")(recordings[0]).transcript
    with pytest.raises(CheckpointError, match=r"holds no model.* with a CTC head"):
        Recognizer.load("some/other")


def test_a_merged_run_takes_the_words_of_its_published_expert(
    wavlm: Path, copied: Path, encoder_folder: Path, recordings: list[Path], tmp_path: Path
) -> None:
    from voxstrata.backbone.encoder import load_backbone

    run = RunFolder(tmp_path / "dual")
    save_model(EmotionModel(load_backbone(encoder_folder), LabelSet(("calm", "joy"))), run.path / "model")
    parents = {"ser": str(encoder_folder), "asr": "../copied"}
    write_json(run.provenance, {"parents": parents})
    recognizer = Recognizer.load(run.path)
    heard = recognizer(recordings[0])
    assert heard.emotion is not None and heard.transcript == oracle(wavlm, WavLMForCTC, recordings[0])[1]
    assert [note.split(":")[1].strip()[:32] for note in recognizer.notes] == [
        "the tokenizer's pad token '<pad>"
    ]
    (copied / "vocab.json").unlink()
    recognizer = Recognizer.load(run.path)
    assert recognizer(recordings[0]).transcript is None
    assert any("no transcript from expert asr" in n and "no vocab.json" in n for n in recognizer.notes)


def test_tokens_that_the_tokenizer_was_given_later_are_read(copied: Path) -> None:
    """run_speech_recognition_ctc.py writes letters, [UNK] and [PAD] only; both ends are added tokens."""
    (copied / "vocab.json").write_text(
        json.dumps({**{letter: i for i, letter in enumerate(LETTERS)}, "[UNK]": 27, "[PAD]": 28})
    )
    change(copied, "added_tokens.json", **{"<s>": 29, "</s>": 30})
    change(copied, "special_tokens_map.json", pad_token={"content": "[PAD]"}, unk_token="[UNK]")
    tokens = read_tokens(copied, outputs=31)
    assert (tokens.pad, tokens.blank) == ("[PAD]", 28)
    assert tokens.vocabulary.characters == (" ", *LETTERS[1:], "", "", "")
    (copied / "added_tokens.json").unlink()
    decoder = {"29": {"content": "<s>", "special": True}, "30": {"content": "</s>"}, "31": {"content": "<x>"}}
    told = {"added_tokens_decoder": decoder, "pad_token": "[PAD]", "unk_token": "[UNK]"}
    change(copied, "special_tokens_map.json", pad_token="<s>")
    change(copied, "tokenizer_config.json", **told)
    assert read_tokens(copied, outputs=31) == tokens
    assert Wav2Vec2CTCTokenizer.from_pretrained(copied).pad_token_id == 28


def test_capitals_are_lowered_where_the_tokenizer_does(copied: Path) -> None:
    upper = {token.upper() if len(token) == 1 else token: index for token, index in TOKENS.items()}
    (copied / "vocab.json").write_text(json.dumps(upper))
    assert read_tokens(copied, outputs=31).vocabulary.characters[1:3] == ("A", "B")
    change(copied, "tokenizer_config.json", do_lower_case=True)
    assert read_tokens(copied, outputs=31).vocabulary.characters[1:3] == ("a", "b")
    path = [28, 1, 1, 28, 1, 29, 29, 0, 2, 27]
    ours = read_tokens(copied, outputs=31)
    words = Wav2Vec2CTCTokenizer.from_pretrained(copied).decode(path)
    assert ours.vocabulary.collapse([ours.order.index(token) for token in path]) == "aa b"
    assert words == "aa<s> b<unk>"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", None, "has a CTC head and no vocab.json"),
        ("vocab.json", {"b": 1}, "gives index 1 to 'a' and to 'b'"),
        ("vocab.json", {"a": 31}, "has no token of index 1;"),
        ("vocab.json", {"</s>": None}, "has 30 tokens, the head has 31 outputs"),
        ("vocab.json", {"'": 31}, "has 32 tokens, the head has 31 outputs"),
        ("vocab.json", {"a": "one"}, "'a' has 'one' in the place of an index"),
        ("special_tokens_map.json", {"pad_token": None}, "names a pad_token, which is CTC's blank"),
        ("special_tokens_map.json", {"pad_token": "[PAD]"}, r"'\[PAD\]' of .* is none of the 31 tokens"),
        ("tokenizer_config.json", {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}, "names 'Wav2Vec2Ph"),
        ("config.json", {"add_adapter": True}, "add_adapter"),
        ("config.json", {"model_type": "data2vec-audio"}, "of type 'data2vec-audio'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    copied: Path, name: str, content: dict[str, Any] | None, message: str
) -> None:
    if content is None:
        (copied / name).unlink()
    elif name == "vocab.json":
        known = {token: index for token, index in TOKENS.items() if content.get(token, index) == index}
        (copied / name).write_text(json.dumps(known | {k: v for k, v in content.items() if v is not None}))
    else:
        change(copied, name, **content)
    done = CliRunner().invoke(app, ["predict", "x.wav", "--model", str(copied)])
    assert isinstance(done.exception, CheckpointError) and "\n" not in str(done.exception)
    with pytest.raises(CheckpointError, match=message):
        Recognizer.load(copied)


def test_a_folder_without_a_ctc_head_holds_no_model(encoder_folder: Path) -> None:
    assert find_published(encoder_folder) is None
    with pytest.raises(CheckpointError, match="holds no model"):
        Recognizer.load(encoder_folder)


def test_references_lose_their_apostrophes_with_the_normaliser() -> None:
    rows = [Prediction("x", transcript="its so", reference_transcript="it's so")]
    rates = {}
    for normalizer in ("basic", "no-apostrophe"):
        transcript = score(rows, normalizer=normalizer, resamples=2).transcript
        assert transcript is not None
        rates[normalizer] = transcript.metrics["wer"].value
    assert rates == {"basic": 0.5, "no-apostrophe": 0.0}
