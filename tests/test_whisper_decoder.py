"""Whisper's decoder says what transformers' own Whisper says, token for token, and its loss is theirs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_whisper import (
    END,
    LONGEST,
    START,
    TOKENS,
    TRANSCRIBE,
    WAVES,
    batch_of,
    features,
    ours,
    save_whisper,
    theirs,
    tone,
    whole,
)
from voxstrata.audio import load_audio
from voxstrata.backbone.encoder import load_backbone
from voxstrata.backbone.families.whisper import POSITIONS
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.errors import AudioError, LabelError
from voxstrata.evaluation.recognition import NORMALIZERS
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.transcribers.published_whisper import load_transcriber

TEXTS = ["ab", "", "Nö, no. ", "a c", "x" * 20, "end"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A multilingual Whisper and an English one."""
    root = tmp_path_factory.mktemp("whisper")
    return {name: save_whisper(root / name, multilingual=name == "many") for name in ("many", "english")}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """The multilingual one, to be changed."""
    shutil.copytree(folders["many"], tmp_path / "copied")
    return tmp_path / "copied"


def change(file: Path, **values: Any) -> None:
    """Other values in a JSON file; None takes one out."""
    content = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("name", "options", "asked"),
    [
        ("many", {}, TRANSCRIBE),
        ("many", {"language": "de"}, {"language": "de"}),
        ("many", {"language": "French"}, {"language": "french"}),
        ("many", {"num_beams": 3}, {**TRANSCRIBE, "num_beams": 3}),
        ("english", {}, {}),
        ("english", {"num_beams": 2}, {"num_beams": 2}),
    ],
)
def test_every_token_is_that_of_transformers_alone_and_in_a_batch(
    folders: dict[str, Path], name: str, options: dict[str, Any], asked: dict[str, Any]
) -> None:
    expected = theirs(folders[name], WAVES, **asked)
    assert len({len(row) for row in expected}) > 3 and len(set(map(tuple, expected))) == len(WAVES)
    transcriber = load_transcriber(folders[name], **options)
    assert ours(transcriber, WAVES) == expected
    assert [ours(transcriber, [wave])[0] for wave in WAVES] == expected
    assert ours(transcriber, WAVES[::-1]) == expected[::-1]


@pytest.mark.parametrize("name", ["many", "english"])
def test_words_are_written_as_the_tokenizer_of_transformers_does(folders: dict[str, Path], name: str) -> None:
    transcriber = load_transcriber(folders[name])
    rows = [*ours(transcriber, WAVES), [START, *transcriber.tokenizer(" Né.").input_ids, END]]
    expected = transcriber.tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert transcriber.texts(rows) == [text.strip() for text in expected]
    assert transcriber.texts(rows)[-1] == "Né."
    answers = transcriber.predict(batch_of(WAVES, "so it was"))
    assert [row.transcript for row in answers] == transcriber.texts(rows)[:-1]
    assert {row.reference_transcript for row in answers} == {"so it was"}
    assert [row.id for row in answers] == [f"clip-{i}" for i in range(len(WAVES))]


@pytest.mark.parametrize(
    ("name", "language", "asked"),
    [("many", None, TRANSCRIBE), ("many", "en", {"language": "en"}), ("english", None, {})],
)
def test_the_prompt_of_the_loss_is_the_one_that_decoding_begins_with(
    folders: dict[str, Path], name: str, language: str | None, asked: dict[str, Any]
) -> None:
    transcriber, model = load_transcriber(folders[name], language=language), whole(folders[name])
    prompts = transcriber.prompt(transcriber.heard(batch_of(WAVES)))
    for wave, prompt in zip(WAVES, prompts, strict=True):
        said = model.generate(
            features(folders[name], wave),
            return_dict_in_generate=True,
            force_unique_generate_call=True,
            **asked,
        )
        assert said.sequences[0, : len(prompt)].tolist() == prompt.tolist()
    languages = set(prompts[:, 1].tolist())
    assert len(languages) == (2 if (name, language) == ("many", None) else 1)


@pytest.mark.parametrize(
    ("told", "forced"),
    [
        ({"forced_decoder_ids": [[1, None], [2, TOKENS["<|transcribe|>"]]]}, None),
        ({"forced_decoder_ids": [[1, TOKENS["<|fr|>"]], [2, TOKENS["<|transcribe|>"]]]}, TOKENS["<|fr|>"]),
        ({"language": "german", "task": "translate"}, TOKENS["<|de|>"]),
    ],
)
def test_what_the_folder_says_of_language_and_task_holds(
    copied: Path, told: dict[str, Any], forced: int | None
) -> None:
    change(copied / "generation_config.json", **told)
    transcriber = load_transcriber(copied)
    assert ours(transcriber, WAVES[:3]) == theirs(copied, WAVES[:3])
    prompts = transcriber.prompt(transcriber.heard(batch_of(WAVES[:3])))
    assert forced is None or set(prompts[:, 1].tolist()) == {forced}
    assert set(prompts[:, 2].tolist()) == {TOKENS[f"<|{told.get('task', 'transcribe')}|>"]}


def test_an_older_english_folder_forces_its_prompt(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(folders["english"], folder)
    untimed = TOKENS["<|notimestamps|>"]
    change(folder / "generation_config.json", is_multilingual=None, forced_decoder_ids=[[1, untimed]])
    transcriber = load_transcriber(folder)
    assert ours(transcriber, WAVES[:3]) == theirs(folder, WAVES[:3])
    assert transcriber.prompt(transcriber.heard(batch_of(WAVES[:1]))).tolist() == [[START, untimed]]


@pytest.mark.parametrize("name", ["many", "english"])
def test_the_loss_and_its_gradient_are_those_of_transformers(folders: dict[str, Path], name: str) -> None:
    transcriber, model = load_transcriber(folders[name]), whole(folders[name])
    heard = transcriber.heard(batch_of(WAVES)).detach().requires_grad_(True)
    losses = transcriber.token_loss(heard, TEXTS)
    prompts = transcriber.prompt(heard)
    losses.sum().backward()
    assert heard.grad is not None
    for i, text in enumerate(TEXTS):
        prompt = prompts[i].tolist()
        words = [
            TOKENS[c]
            for c in ("Ġ" + text.strip() if text.strip() else "").replace(" ", "Ġ").replace("ö", "Ã¶")
        ]
        state = heard[i : i + 1].detach().requires_grad_(True)
        expected = model(
            encoder_outputs=(state,),
            decoder_input_ids=torch.tensor([[*prompt, *words]]),
            labels=torch.tensor([[-100] * (len(prompt) - 1) + [*words, END]]),
        ).loss
        expected.backward()
        torch.testing.assert_close(losses[i], expected)
        torch.testing.assert_close(heard.grad[i], state.grad[0])
    assert bool(heard.grad.abs().sum((1, 2)).gt(0).all())


def test_a_clip_costs_the_same_in_a_batch_and_alone(folders: dict[str, Path]) -> None:
    transcriber = load_transcriber(folders["many"])
    heard = transcriber.heard(batch_of(WAVES))
    alone = [transcriber.token_loss(heard[i : i + 1], TEXTS[i : i + 1]) for i in range(len(WAVES))]
    torch.testing.assert_close(transcriber.token_loss(heard, TEXTS), torch.cat(alone))


def test_training_around_it_switches_no_dropout_on(folders: dict[str, Path]) -> None:
    transcriber = load_transcriber(folders["many"])
    assert transcriber.decoder.config.dropout > 0
    expected = transcriber.token_loss(transcriber.heard(batch_of(WAVES)), TEXTS)
    transcriber.train()
    assert torch.equal(transcriber.token_loss(transcriber.heard(batch_of(WAVES)), TEXTS), expected)
    assert not any(parameter.requires_grad for parameter in transcriber.parameters())


def merged(folder: Path, init: float, *, final_norm: bool = True) -> MergedBackbone:
    base = load_backbone(folder, final_norm=final_norm, window="30s")
    generator = torch.Generator().manual_seed(3)
    deltas = {
        name: (name != POSITIONS) * 0.3 * torch.randn(weight.shape, generator=generator)
        for name, weight in base.weights().items()
    }
    vector = TaskVector(deltas, fingerprint(base.weights()), "expert")
    return MergedBackbone(base, {"ser": vector}, init=init)


@pytest.mark.parametrize("final_norm", [True, False])
def test_over_a_merged_encoder_it_says_what_that_whisper_says(
    folders: dict[str, Path], final_norm: bool
) -> None:
    folder = folders["many"]
    plain = ours(load_transcriber(folder), WAVES)
    assert ours(load_transcriber(folder, merged(folder, 0.0, final_norm=final_norm)), WAVES) == plain
    encoder = merged(folder, 0.7, final_norm=final_norm)
    model = whole(folder)
    state = {name.removeprefix("encoder."): tensor for name, tensor in encoder.merged_state().items()}
    model.model.encoder.load_state_dict(state)
    expected = [model.generate(features(folder, wave), **TRANSCRIBE)[0].tolist() for wave in WAVES]
    assert expected != plain
    assert ours(load_transcriber(folder, encoder), WAVES) == expected


def test_the_loss_teaches_coefficients(folders: dict[str, Path]) -> None:
    encoder = merged(folders["many"], 0.4)
    transcriber = load_transcriber(folders["many"], encoder)
    batch = batch_of(WAVES)
    loss = transcriber.token_loss(transcriber.heard(batch), TEXTS).mean()
    (gradient,) = torch.autograd.grad(loss, encoder.coefficients)
    step = 1e-3
    for group in range(3):
        costs = []
        for sign in (1, -1):
            with torch.no_grad():
                encoder.coefficients[group] += sign * step
                costs.append(transcriber.token_loss(transcriber.heard(batch), TEXTS).mean().double())
                encoder.coefficients[group] -= sign * step
        assert float(gradient[group]) == pytest.approx(float(costs[0] - costs[1]) / (2 * step), rel=0.05)


def test_an_encoder_without_final_norm_is_heard_alike(folders: dict[str, Path]) -> None:
    bare = load_backbone(folders["many"], window="30s")
    transcriber = load_transcriber(folders["many"], bare)
    expected = whole(folders["many"]).model.encoder(features(folders["many"], WAVES[1])).last_hidden_state
    torch.testing.assert_close(transcriber.heard(batch_of(WAVES[1:2])), expected)
    assert not torch.allclose(bare(WAVES[1][None], torch.tensor([8000])).layers[-1], expected, atol=0.1)


def test_clips_longer_than_the_window_are_refused(folders: dict[str, Path]) -> None:
    transcriber = load_transcriber(folders["many"])
    with pytest.raises(AudioError, match=r"^too long for this encoder: clip 1 \(2.0 s\).*cut longer record"):
        transcriber.predict(batch_of([WAVES[0], tone(0, LONGEST + 160)]))


def test_texts_longer_than_the_decoder_are_refused(folders: dict[str, Path]) -> None:
    transcriber = load_transcriber(folders["many"])
    heard = transcriber.heard(batch_of(WAVES[:2]))
    assert transcriber.token_loss(heard, ["", "y" * 35]).isfinite().all()
    with pytest.raises(LabelError, match=r"'yyy.* has 37 tokens and .* room for 36; shorten it") as refused:
        transcriber.token_loss(heard, ["", "y" * 36])
    assert "\n" not in str(refused.value)


def test_nothing_is_warned_of_that_nobody_can_act_on(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import logging

    transcriber, model = load_transcriber(folders["english"]), whole(folders["english"])
    logging.get_logger("transformers").addHandler(caplog.handler)
    try:
        logging.warning_once.cache_clear()
        ours(transcriber, WAVES[:2])
        assert not caplog.records
        logging.warning_once.cache_clear()
        model.generate(torch.cat([features(folders["english"], wave) for wave in WAVES[:2]]))
    finally:
        logging.get_logger("transformers").removeHandler(caplog.handler)
    assert caplog.records


@pytest.fixture(scope="session")
def real_models() -> Path:
    folder = os.environ.get("VOXSTRATA_MODELS")
    if not folder:
        pytest.skip("VOXSTRATA_MODELS is not set: no real Whisper here")
    return Path(folder)


def real_clips(data: Path, each: int) -> list[Path]:
    """Clips of three corpora, of 1 to 16 s, spread over each."""
    found = []
    for pattern in ("RAVDESS/*/*.flac", "AN4/**/*.flac", "LibriSpeech/**/*.flac"):
        paths = sorted(data.glob(pattern))
        found += paths[:: len(paths) // each][:each]
    return found


@pytest.mark.parametrize(
    ("name", "each", "asked"),
    [
        ("whisper-tiny.en", 2, {}),
        pytest.param("whisper-base", 1, TRANSCRIBE, marks=pytest.mark.slow),
    ],
)
def test_real_whisper_is_transformers_word_for_word(
    real_models: Path, real_data: Path, name: str, each: int, asked: dict[str, Any]
) -> None:
    paths = real_clips(real_data, each)
    waves = [torch.from_numpy(load_audio(path)) for path in paths]
    transcriber, model = load_transcriber(real_models / name), whole(real_models / name)
    with torch.no_grad():
        heard = transcriber.heard(batch_of(waves))
        said = transcriber.tokens(heard)
        for row, tokens, wave in zip(heard, said, waves, strict=True):
            spectrum = features(real_models / name, wave)
            torch.testing.assert_close(row, model.model.encoder(spectrum).last_hidden_state[0])
            assert tokens == model.generate(spectrum, **asked)[0].tolist()
    assert all(said) and len(set(map(tuple, said))) > each
    sentence = {"1": "kids are talking by the door", "2": "dogs are sitting by the door"}
    expected = [sentence[path.stem.split("-")[4][1]] for path in paths[:each]]
    assert [NORMALIZERS["basic"](text) for text in transcriber.texts(said[:each])] == expected
