"""Whisper's states are those of transformers, for clips alone and in batches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel, WavLMConfig, WhisperModel

from voxstrata.backbone.encoder import SpeechEncoder, States, build_backbone, load_backbone
from voxstrata.backbone.families.family import WINDOWS, Window
from voxstrata.backbone.groups import group_sizes, partition
from voxstrata.errors import AudioError, CheckpointError, VoxstrataError
from whisper_by_hand import (
    LENGTHS,
    POSITIONS,
    SAMPLE_RATE,
    clips,
    distance,
    extracted,
    plain_states,
    real_model,
    recorded,
    whisper,
    whisper_config,
)

LONGEST = 30 * SAMPLE_RATE


@pytest.fixture(scope="module")
def whole() -> PreTrainedModel:
    return whisper()


@pytest.fixture(scope="module")
def folder(whole: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper")
    whole.save_pretrained(path)
    return path


def in_window(model: PreTrainedModel, clip: Tensor, bins: int = 80) -> tuple[Tensor, ...]:
    """What transformers' encoder gives for a clip that its extractor has padded to 30 seconds."""
    mel = extracted(clip, bins, "max_length")
    with torch.no_grad():
        out = model.get_encoder()(mel, output_hidden_states=True)
    return (*out.hidden_states, out.last_hidden_state)


def test_in_the_window_states_are_transformers_own(whole: PreTrainedModel, folder: Path) -> None:
    waveforms, lengths = clips((8000, 23_457))
    states = load_backbone(folder, window="30s")(waveforms, lengths)
    final = load_backbone(folder, window="30s", final_norm=True)(waveforms, lengths)
    assert states.lengths.tolist() == [25, 73]
    for row, count in enumerate(lengths.tolist()):
        _, *layers, last = in_window(whole, waveforms[row, :count])
        # Of transformers' own list the last one is behind the norm or before it, by its version.
        raw = plain_states(whole.get_encoder(), extracted(waveforms[row, :count], padding="max_length"))
        assert distance(states.layers[0][row], layers[0][0]) < 1e-5
        assert distance(states.layers[1][row], raw[1][0]) < 1e-5
        assert distance(final.layers[0][row], layers[0][0]) < 1e-5
        assert distance(final.layers[1][row], last[0]) < 1e-5
    assert distance(states.layers[1], final.layers[1]) > 0.1


def test_states_of_clips_are_those_of_a_plain_loop(whole: PreTrainedModel, folder: Path) -> None:
    waveforms, lengths = clips()
    encoder = load_backbone(folder)
    for row, count in enumerate(lengths.tolist()):
        clip = waveforms[row, :count]
        states = encoder(clip[None], lengths[row : row + 1])
        expected = plain_states(whole.model.encoder, extracted(clip))
        assert int(states.lengths) == expected[0].shape[1] == states.layers[0].shape[1]
        for ours, theirs in zip(states.layers, expected, strict=True):
            assert distance(ours, theirs) < 1e-5
        final = load_backbone(folder, final_norm=True)(clip[None], lengths[row : row + 1])
        assert distance(final.layers[-1], whole.model.encoder.layer_norm(expected[-1])) < 1e-5


def one_by_one(encoder: SpeechEncoder, waveforms: Tensor, lengths: Sequence[int]) -> list[States]:
    return [encoder(clip[None, :n], torch.tensor([n])) for clip, n in zip(waveforms, lengths, strict=True)]


@pytest.mark.parametrize("attention", ["fast", "reference"])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_batch_equals_its_clips_whatever_stands_behind_them(
    folder: Path, window: Window, attention: str
) -> None:
    encoder = load_backbone(folder, window=window, attention=attention)
    waveforms, lengths = clips()
    dirty = torch.full((len(lengths), 9000), 0.7)
    for row, count in enumerate(lengths.tolist()):
        dirty[row, :count] = waveforms[row, :count]
    alone = one_by_one(encoder, waveforms, lengths.tolist())
    for batch in (waveforms, dirty):
        states = encoder(batch, lengths)
        assert states.layers[0].shape == (4, 1500 if window == "30s" else 25, 32)
        assert states.lengths.tolist() == [25, 16, 2, 21] == states.mask().sum(1).tolist()
        for row, single in enumerate(alone):
            count = int(states.lengths[row]) if window == "clip" else 1500
            for together, expected in zip(states.layers, single.layers, strict=True):
                assert torch.isfinite(together).all()
                assert distance(together[row, :count], expected[0]) < 1e-5


@pytest.mark.parametrize("window", WINDOWS)
def test_fast_and_reference_attention_agree(folder: Path, window: Window) -> None:
    found = {}
    for attention, ways in (("fast", "sdpa"), ("reference", "eager")):
        encoder = load_backbone(folder, window=window, attention=attention)
        layer = encoder.model.encoder.layers[1].self_attn
        assert layer.config._attn_implementation == ways
        seen: list[object] = []
        layer.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output[1]))
        found[attention] = encoder(*clips())
        # Only transformers' own attention holds its weights.
        assert (seen[0] is None) == (attention == "fast")
    for fast, reference in zip(found["fast"].layers, found["reference"].layers, strict=True):
        assert distance(fast, reference) < 1e-5


@pytest.mark.parametrize("window", WINDOWS)
def test_in_bfloat16_states_are_near(folder: Path, window: Window) -> None:
    for attention in ("fast", "reference"):
        encoder = load_backbone(folder, window=window, attention=attention)
        exact = encoder(*clips())
        with torch.autocast("cpu", torch.bfloat16):
            near = encoder(*clips())
        mask = exact.mask()
        for ours, theirs in zip(near.layers, exact.layers, strict=True):
            assert 0 < distance(ours[mask].float(), theirs[mask]) < 0.03


def test_an_encoder_in_half_precision_still_hears_all_of_its_samples(folder: Path) -> None:
    encoder = load_backbone(folder).bfloat16()
    waveforms, lengths = clips((8000,))
    expected = encoder.model.encoder.conv1(extracted(waveforms[0]).bfloat16())
    heard: list[Tensor] = []
    encoder.model.encoder.conv1.register_forward_hook(lambda module, args, output: heard.append(output))
    encoder(waveforms, lengths)
    assert distance(heard[0].float(), expected.float()) < 0.005


def refused(encoder: SpeechEncoder, lengths: Sequence[int], message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        encoder(torch.zeros(len(lengths), max(lengths)), torch.tensor(lengths))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("window", WINDOWS)
def test_clips_without_a_frame_or_without_positions_are_named(folder: Path, window: Window) -> None:
    encoder = load_backbone(folder, window=window)
    refused(encoder, [8000, 200], r"too short for a frame: clip 1 \(200 samples\).*at least 201 samples")
    refused(encoder, [LONGEST + 1, 8000], r"too long.*clip 0 \(30\.0 s\).*positions for 30 s.*pieces")
    refused(encoder, [8000, 800_000], r"clip 1 \(50\.0 s\)")
    for count, frames in ((201, 1), (LONGEST, 1500)):
        states = encoder(torch.zeros(1, count), torch.tensor([count]))
        assert states.lengths.tolist() == [frames]
        assert states.layers[-1].isfinite().all()


@given(st.integers(201, 20_000))
def test_frames_are_counted_as_they_come_out(samples: int) -> None:
    front = build_backbone(whisper_config(encoder_layers=1), seed=0).front_end
    columns = extracted(torch.zeros(samples)).shape[-1]
    frames = WhisperModel._get_feat_extract_output_lengths(None, torch.tensor(columns))
    assert front.frames(samples) == int(frames)
    fewest = front.samples(front.frames(samples))
    assert fewest <= samples and front.frames(fewest) == front.frames(samples)
    assert fewest == 201 or front.frames(fewest - 1) == front.frames(samples) - 1


def test_other_windows_and_families_are_refused_in_one_line(folder: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    wavlm = build_backbone(WavLMConfig(**sizes, conv_dim=[16] * 7), seed=0)
    for refuse in (
        lambda: SpeechEncoder(wavlm.model, normalize=True, window="30s"),
        lambda: load_backbone(folder, window="20s"),  # type: ignore[arg-type]
    ):
        with pytest.raises(CheckpointError, match=r"window is '\d\ds'; .* has clip") as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_group_zero_is_what_stands_outside_the_layers(folder: Path, whole: PreTrainedModel) -> None:
    weights = load_backbone(folder).weights()
    outside = {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "embed_positions.weight"}
    outside |= {"layer_norm.weight", "layer_norm.bias"}
    groups = partition(weights)
    assert set(groups[0]) == {f"encoder.{name}" for name in outside}
    for number, names in enumerate(groups[1:]):
        layer = whole.model.encoder.layers[number].state_dict()
        assert {name.removeprefix(f"encoder.layers.{number}.") for name in names} == set(layer)
    expected = [
        sum(p.numel() for n, p in whole.model.encoder.named_parameters() if not n.startswith("layers.")),
        *(sum(p.numel() for p in layer.parameters()) for layer in whole.model.encoder.layers),
    ]
    assert list(group_sizes(weights)) == expected
    assert sum(expected) == sum(p.numel() for p in whole.model.encoder.parameters())


def test_positions_are_never_trained(folder: Path) -> None:
    for encoder in (build_backbone(whisper_config(), seed=1), load_backbone(folder).requires_grad_(True)):
        frozen = [name for name, p in encoder.model.named_parameters() if not p.requires_grad]
        assert frozen == [POSITIONS]
        names = {name for name, _ in encoder.model.named_parameters()}
        assert set(encoder.trainable(freeze_front_end=False)) == names - {POSITIONS}
        front = {f"encoder.{part}.{kind}" for part in ("conv1", "conv2") for kind in ("weight", "bias")}
        assert set(encoder.trainable(freeze_front_end=True)) == names - {POSITIONS} - front
        before = encoder.weights()[POSITIONS].clone()
        encoder.train()(*clips()).layers[-1].square().sum().backward()
        # The final norm comes behind the raw states.
        norm = {"encoder.layer_norm.weight", "encoder.layer_norm.bias"}
        assert {n for n, p in encoder.model.named_parameters() if p.grad is not None} == (
            names - {POSITIONS} - norm
        )
        assert torch.equal(encoder.weights()[POSITIONS], before)
        again = copy.deepcopy(encoder).requires_grad_(True)
        assert not dict(again.model.named_parameters())[POSITIONS].requires_grad


def test_a_trained_encoder_drops_out_but_never_drops_layers_or_masks() -> None:
    never = {"encoder_layerdrop": 0.9, "apply_spec_augment": True, "mask_time_prob": 0.9}
    encoder = build_backbone(whisper_config(**never), seed=0).train()
    assert encoder.training
    for drawn, still in zip(encoder(*clips()).layers, encoder.eval()(*clips()).layers, strict=True):
        torch.testing.assert_close(drawn, still)
    dropping = build_backbone(whisper_config(dropout=0.5, **never), seed=0).train()
    assert not torch.equal(dropping(*clips()).layers[0], dropping(*clips()).layers[0])
    frozen = dropping.requires_grad_(False).train()
    assert torch.equal(frozen(*clips()).layers[1], frozen(*clips()).layers[1])


def test_random_weights_come_from_the_seed_and_positions_from_the_formula() -> None:
    first, again, other = (build_backbone(whisper_config(), seed=seed).weights() for seed in (1, 1, 2))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
    drawn = [n for n in first if first[n].ndim > 1 and n != POSITIONS]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
    # Sines and cosines of 16 wavelengths, from 2 pi to 20,000 pi in equal ratios.
    places = torch.arange(1500, dtype=torch.float64)[:, None]
    angles = places / 10_000 ** (torch.arange(16, dtype=torch.float64) / 15)
    expected = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    torch.testing.assert_close(first[POSITIONS], expected, atol=1e-3, rtol=0)


SHAPES = {
    "base": {"d_model": 512, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048},
    "small": {"d_model": 768, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072},
    "large-v3": {
        "d_model": 1280,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "num_mel_bins": 128,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_of_releases_run(shape: str) -> None:
    encoder = build_backbone(whisper_config(**SHAPES[shape]), seed=0).eval().requires_grad_(False)
    waveforms, lengths = clips((3000, 2000))
    states = encoder(waveforms, lengths)
    bins, size = SHAPES[shape].get("num_mel_bins", 80), SHAPES[shape]["d_model"]
    assert encoder.hidden_size == encoder.front_channels == size
    assert encoder.family.feed_forward(encoder.model.config) == 4 * size
    for row, count in enumerate(lengths.tolist()):
        expected = plain_states(encoder.model.encoder, extracted(waveforms[row, :count], bins))
        frames = int(states.lengths[row])
        for ours, theirs in zip(states.layers, expected, strict=True):
            assert ours.shape == (2, 9, size)
            assert distance(ours[row, :frames], theirs[0]) < 1e-5


@pytest.mark.parametrize("name", ["whisper-base", "whisper-tiny.en"])
def test_published_models_give_transformers_states_for_real_speech(real_data: Path, name: str) -> None:
    folder = real_model(name)
    plain = WhisperModel.from_pretrained(folder, dtype=torch.float32).eval()
    recordings = recorded(real_data)[:2]
    lengths = torch.tensor([len(clip) for clip in recordings])
    batch = torch.nn.utils.rnn.pad_sequence(recordings, batch_first=True)
    padded = load_backbone(folder, window="30s", final_norm=True)(batch, lengths)
    own = load_backbone(folder)(batch, lengths)
    for row, clip in enumerate(recordings):
        _, *layers, last = in_window(plain, clip)
        for ours, theirs in zip(padded.layers, [*layers[:-1], last], strict=True):
            assert distance(ours[row], theirs[0]) < 1e-5
        frames = int(own.lengths[row])
        for ours, theirs in zip(own.layers, plain_states(plain.encoder, extracted(clip)), strict=True):
            assert distance(ours[row, :frames], theirs[0]) < 1e-5


def test_an_unknown_attention_is_refused(folder: Path) -> None:
    with pytest.raises(VoxstrataError, match="allowed are fast, reference"):
        load_backbone(folder, attention="flash")  # type: ignore[arg-type]


def test_lengths_here_do_not_come_out_even() -> None:
    assert any(count % 160 for count in LENGTHS) and any((count // 160) % 2 for count in LENGTHS)
