"""Masked prediction: masks, the alignment of targets with frames, and what the targets tell."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import WavLMConfig

from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.backbone.front_end import PHASES, mel_frequencies, quadrature_filters, start_from_mel
from voxstrata.config.training import Training
from voxstrata.heads.layer_sum import LayerSum
from voxstrata.methods.pretraining.acoustic_targets import WINDOW, AcousticTargets, frames_of
from voxstrata.methods.pretraining.system import (
    SPAN,
    MaskedPrediction,
    PretrainingOptions,
    Readouts,
    frame_offset,
    masked_frames,
    span_mask,
)
from voxstrata.methods.pretraining.tiny_encoder import start_front_end, tiny_config
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit

SAMPLE_RATE = 16_000


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def voice(pitch_hz: float, samples: int = 16_000) -> torch.Tensor:
    """Harmonics that fall by 6 dB an octave, in a little noise, [1, N]."""
    number = torch.arange(1, int(4000 / pitch_hz) + 1).unsqueeze(1)
    turns = (
        number * pitch_hz * torch.arange(samples) / SAMPLE_RATE + torch.linspace(0, 1, len(number))[:, None]
    )
    waves = torch.cos(2 * math.pi * turns) / number
    return waves.sum(0, keepdim=True) + 0.01 * noise(1, samples)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.floats(0.05, 0.95), st.integers(0, 99))
def test_masks_are_spans_that_end_with_their_clips(lengths, share, seed):
    frames = max(lengths)
    mask = span_mask(torch.tensor(lengths), frames, share, torch.Generator().manual_seed(seed))
    assert mask.shape == (len(lengths), frames)
    for row, length in zip(mask.tolist(), lengths, strict=True):
        assert not any(row[length:])
        runs = "".join("x" if masked else " " for masked in row[:length]).split(" ")
        for run, is_last in zip(runs, [*[False] * (len(runs) - 1), True], strict=True):
            assert not run or len(run) >= SPAN or is_last


@pytest.mark.parametrize("share", [0.3, 0.5, 0.65])
def test_the_masked_share_is_near_its_aim(share):
    mask = span_mask(torch.full((80,), 400), 400, share, torch.Generator().manual_seed(0))
    assert float(mask.float().mean()) == pytest.approx(share, abs=0.03)


CONFIGS = {
    "tiny": tiny_config(hidden_size=32, layers=1, attention_heads=2, feed_forward=32, channels=36),
    "standard": WavLMConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=[8] * 7,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_click_changes_the_target_frames_that_the_encoder_frames_cover(name):
    encoder = build_backbone(CONFIGS[name], seed=0).eval()
    count = int(encoder.frame_lengths(torch.tensor([8000])))
    times = range(2500, 2500 + 2 * 320, 37)
    quiet = noise(1, 8000)
    clicks = torch.cat([quiet + 50 * F.one_hot(torch.tensor([t]), 8000) for t in times])
    with torch.no_grad():
        front = encoder.model.feature_extractor
        heard = (front(clicks) - front(quiet)).abs().amax(1) > 1e-3
    windows = frames_of(clicks, count, frame_offset(encoder)) - frames_of(quiet, count, frame_offset(encoder))
    seen = windows.abs().amax(-1) > 1e-3
    assert heard.shape == seen.shape == (len(times), count)
    # The encoder's view and the target's window differ in width: one holds the other, around one centre.
    wide, narrow = (heard, seen) if name == "tiny" else (seen, heard)
    assert (wide | ~narrow).all() and narrow.any(1).all() and wide.sum() - narrow.sum() < len(times)
    index = torch.arange(count).float()
    centres = [float(((rows * index).sum(1) / rows.sum(1)).mean()) for rows in (heard.float(), seen.float())]
    assert centres[0] == pytest.approx(centres[1], abs=0.1)


@pytest.mark.parametrize("offset", [0, 100, 200, 360, 1000])
def test_target_windows_are_centred_every_20_ms(offset):
    time = torch.arange(1.0, 5001.0).unsqueeze(0)
    windows = frames_of(time, 12, offset)
    assert windows.shape == (1, 12, WINDOW)
    for frame in range(12):
        start = offset + 320 * frame - WINDOW // 2
        expected = [t + 1 if 0 <= t < 5000 else 0 for t in range(start, start + WINDOW)]
        assert windows[0, frame].tolist() == expected


def test_masked_frames_holds_the_mask_embedding_in_front_of_the_layers(tiny_encoder):
    encoder = tiny_encoder().eval()
    encoder.model.masked_spec_embed.data.copy_(torch.arange(32.0))
    waveforms, lengths = noise(2, 6000), torch.tensor([6000, 4000])
    frames = int(encoder.frame_lengths(lengths).max())
    mask = span_mask(lengths // 400, frames, 0.5, torch.Generator().manual_seed(2))
    seen = []
    watch = encoder.model.encoder.register_forward_pre_hook(
        lambda module, inputs, named: seen.append((inputs or tuple(named.values()))[0].clone()),
        with_kwargs=True,
    )
    with torch.no_grad():
        encoder(waveforms, lengths)
        with masked_frames(encoder, mask):
            encoder(waveforms, lengths)
        encoder(waveforms, lengths)
    watch.remove()
    plain, masked, after = seen
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(masked[mask], encoder.model.masked_spec_embed.expand(int(mask.sum()), -1))
    assert torch.equal(masked[~mask], plain[~mask])
    assert torch.equal(after, plain)


@pytest.fixture(scope="module")
def fitting():
    return [
        (
            torch.cat([voice(90 + 20 * i), noise(1, 16_000, seed=i)]),
            torch.tensor([16_000, 16_000]),
            torch.tensor([49, 49]),
        )
        for i in range(8)
    ]


def test_targets_are_deterministic_ids_below_the_clusters(fitting):
    twice = [AcousticTargets(12, 7), AcousticTargets(12, 7)]
    for targets in twice:
        targets.fit(fitting, 360, seed=3)
    first, second = (targets(fitting[0][0], 360, *fitting[0][1:]).ids for targets in twice)
    for stream, clusters in (("cepstral", 12), ("prosodic", 7)):
        assert torch.equal(first[stream], second[stream])
        assert first[stream].shape == (2, 49) and first[stream].dtype == torch.int64
        assert set(first[stream].unique().tolist()) <= set(range(clusters))
        assert first[stream][0].tolist() != first[stream][1].tolist()
    with torch.autocast("cpu", torch.bfloat16):
        again = twice[0](fitting[0][0], 360, *fitting[0][1:]).ids
    assert all(torch.equal(again[stream], first[stream]) for stream in first)


def test_clusters_are_the_nearest_centroids(fitting):
    targets = AcousticTargets(12, 7)
    targets.fit(fitting, 360, seed=3)
    waveforms = fitting[2][0]
    values = targets.features(waveforms, 49, 360)["cepstral"][0, 20]
    scaled = (values - targets.cepstral_mean) / targets.cepstral_scale
    distances = [float((scaled - centroid).norm()) for centroid in targets.cepstral_centroids]
    assert distances.index(min(distances)) == int(
        targets(waveforms, 360, *fitting[2][1:]).ids["cepstral"][0, 20]
    )


@pytest.mark.parametrize("pitch_hz", [90, 120, 180, 240, 330])
def test_the_prosodic_stream_hears_the_pitch(pitch_hz):
    found = AcousticTargets().features(voice(pitch_hz), 49, 360)["prosodic"][0, 5:44]
    periodicity, pitch = found[:, 0], found[:, 2]
    assert (periodicity > 0.8).all()
    assert float(pitch.median()) == pytest.approx(math.log2(pitch_hz), abs=0.03)


def test_the_prosodic_stream_hears_that_noise_has_no_pitch():
    found = AcousticTargets().features(noise(1, 16_000), 49, 360)["prosodic"][0]
    assert float((found[:, 2] == 0).float().mean()) > 0.9


def test_targets_do_not_depend_on_the_level():
    targets, wave = AcousticTargets(), voice(150)
    quiet, loud = targets.features(wave, 49, 360), targets.features(40 * wave, 49, 360)
    for stream in quiet:
        torch.testing.assert_close(quiet[stream], loud[stream], rtol=1e-3, atol=1e-3)


def clips_that_end_voiced() -> list[torch.Tensor]:
    """Clips [N] of several lengths and pitches, silent and then voiced to their ends."""
    clips = []
    for samples, pitch_hz in ((16_000, 110), (48_000, 170), (16_239, 260), (720, 320), (31_111, 90)):
        wave = voice(pitch_hz, samples)[0] * torch.linspace(0.5, 2, samples)
        wave[: samples // 3] = 0.01 * noise(samples // 3)
        clips.append(wave)
    return clips


@pytest.mark.parametrize("field", [400, 720])
def test_a_batch_has_the_targets_of_its_clips_alone(fitting, field):
    targets, offset = AcousticTargets(12, 7), field // 2
    targets.fit(fitting, offset, seed=3)
    clips = clips_that_end_voiced()
    lengths = torch.tensor([len(clip) for clip in clips])
    frames = (lengths - field) // 320 + 1
    together, count = pad_sequence(clips, batch_first=True), int(frames.max())
    batch = targets.features(together, count, offset, lengths, frames)
    answers = targets(together, offset, lengths, frames)
    for row, clip in enumerate(clips):
        own, wave = slice(row, row + 1), clip.unsqueeze(0)
        valid = int(frames[row])
        for stream, single in targets.features(wave, valid, offset).items():
            torch.testing.assert_close(batch[stream][own, :valid], single, rtol=1e-3, atol=1e-3)
        alone = targets(wave, offset, lengths[own], frames[own])
        torch.testing.assert_close(answers.statistics[own], alone.statistics, rtol=1e-3, atol=1e-3)
        for stream, ids in alone.ids.items():
            assert torch.equal(answers.ids[stream][own, :valid], ids)


def test_a_fit_hears_the_clips_alone():
    clips, offset = clips_that_end_voiced(), 200
    lengths = torch.tensor([len(clip) for clip in clips])
    frames = (lengths - 400) // 320 + 1
    apart = [(clip.unsqueeze(0), lengths[i : i + 1], frames[i : i + 1]) for i, clip in enumerate(clips)]
    batch, singles = AcousticTargets(12, 7), AcousticTargets(12, 7)
    batch.fit([(pad_sequence(clips, batch_first=True), lengths, frames)], offset, seed=0)
    singles.fit(apart, offset, seed=0)
    for name, found in batch.state_dict().items():
        if not name.endswith("centroids"):
            torch.testing.assert_close(found, singles.state_dict()[name], rtol=1e-3, atol=1e-3)


def test_quadrature_filters_rise_with_frequency_and_have_four_phases():
    filters = quadrature_filters(16, 400)
    assert filters.shape == (16 * PHASES, 1, 400)
    norms = [max(1.0, hz / 500) for hz in mel_frequencies(17, 60, 7600)[:-1] for _ in range(PHASES)]
    torch.testing.assert_close(filters.norm(dim=-1).squeeze(1), torch.tensor(norms))
    torch.testing.assert_close(filters[0::PHASES], -filters[2::PHASES], rtol=0, atol=1e-3)


def test_a_pure_tone_excites_the_band_at_its_frequency():
    convolution = torch.nn.Conv1d(1, 260, 400, stride=160)
    start_from_mel(convolution)
    assert (convolution.weight[256:] == 0).all() and (convolution.bias[256:] > 0).all()
    centres = mel_frequencies(65, 60, 7600)[:-1]
    time = torch.arange(8000) / SAMPLE_RATE
    for band in range(2, 64, 3):
        tone = torch.sin(2 * math.pi * centres[band] * time).view(1, 1, -1)
        with torch.no_grad():
            energy = convolution(tone)[0, :256].relu().square().view(64, PHASES, -1).sum((1, 2))
        assert abs(int(energy.argmax()) - band) <= 1, centres[band]


def test_level_channels_tell_loudness_behind_the_layer_norm(tiny_encoder):
    layer = tiny_encoder().model.feature_extractor.conv_layers[0]
    gains, wave = (0.03, 0.1, 0.3, 1.0, 3.0), noise(1, 1, 4000)
    with torch.no_grad():
        behind = [layer.layer_norm(layer.conv(gain * wave).transpose(1, 2)).mean((0, 1)) for gain in gains]
        bands = layer.conv.weight[:-4]
        deaf = [
            F.layer_norm(F.conv1d(g * wave, bands).transpose(1, 2), (len(bands),)).mean((0, 1)) for g in gains
        ]
    falls = torch.stack(behind).diff(dim=0)[:, -1]
    assert (falls < -0.05).all()
    assert float((torch.stack(deaf) - deaf[-1]).abs().max()) < 0.01


@pytest.mark.parametrize(("channels", "level", "bias"), [(35, 4, True), (36, 4, False), (8, 4, True)])
def test_channels_that_hold_no_whole_bands_are_refused(channels, level, bias):
    with pytest.raises(ValueError, match=f"{channels} channels do not hold {level} level channels"):
        start_from_mel(torch.nn.Conv1d(1, channels, 40, bias=bias), level_channels=level)


def test_statistics_are_those_of_the_valid_frames(fitting):
    targets = AcousticTargets(12, 7)
    targets.fit(fitting, 360, seed=0)
    waveforms, lengths, _ = fitting[1]
    found = targets(waveforms, 360, lengths, torch.tensor([49, 30])).statistics
    features = targets.features(waveforms, 49, 360, lengths, torch.tensor([49, 30]))
    values = torch.cat([features["cepstral"], features["prosodic"][..., :5]], dim=-1)
    for row, frames in enumerate((49, 30)):
        valid = values[row, :frames]
        expected = torch.cat([valid.mean(0), valid.std(0, correction=0)])
        expected = (expected - targets.statistics_mean) / targets.statistics_scale
        torch.testing.assert_close(found[row], expected, rtol=1e-3, atol=1e-3)


def system(encoder, fitting, phonemes: int = 0) -> MaskedPrediction:
    targets = AcousticTargets(12, 7)
    targets.fit(fitting, 360, seed=0)
    torch.manual_seed(0)
    return MaskedPrediction(encoder, targets, phonemes=phonemes, options=PretrainingOptions(lr=3e-3))


def test_pretraining_learns_in_a_few_steps(tiny_encoder, fitting, emotion_batch, in_memory, tmp_path):
    made = system(tiny_encoder(), fitting)
    groups = made.parameter_groups()
    assert {id(p) for group in groups for p in group.parameters} == {id(p) for p in made.parameters()}
    before = made.eval().loss(emotion_batch).item()
    fit(made, in_memory([emotion_batch]), None, RunFolder(tmp_path), Training(steps=20))
    assert made.eval().loss(emotion_batch).item() < 0.8 * before
    assert sum(made.summary().values()) == pytest.approx(3)


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
def test_encoders_of_other_kinds_learn_and_are_found_again(kind, fitting, emotion_batch, in_memory, tmp_path):
    sizes = {"hidden_size": 32, "layers": 2, "attention_heads": 2, "feed_forward": 64, "channels": 36}
    encoder = build_backbone(tiny_config(kind=kind, position_kernel=8, **sizes), seed=0)
    start_front_end(encoder)
    made = system(encoder, fitting)
    before = made.eval().loss(emotion_batch).item()
    fit(made, in_memory([emotion_batch]), None, RunFolder(tmp_path), Training(steps=20))
    assert made.eval().loss(emotion_batch).item() < 0.85 * before
    encoder.eval().save(tmp_path / "saved")
    again = load_backbone(tmp_path / "saved").eval()
    assert again.model.config.model_type == kind
    heard = [one(emotion_batch.waveforms, emotion_batch.lengths).layers[-1] for one in (encoder, again)]
    torch.testing.assert_close(*heard)


def test_readouts_are_layer_sums_norms_and_maps(tiny_encoder):
    readouts = Readouts(tiny_encoder(), {"a": 3, "b": 5})
    torch.nn.init.normal_(readouts.layer_weights)
    layers = [noise(2, 7, 32, seed=seed) for seed in range(2)]
    for stream, size, row in (("a", 3, 0), ("b", 5, 1)):
        layer_sum = LayerSum(2, normalize=True)
        layer_sum.logits.data.copy_(readouts.layer_weights[row])
        expected = readouts.maps[stream](readouts.norms[stream](layer_sum(layers)))
        found = readouts(layers)[stream]
        assert found.shape == (2, 7, size)
        torch.testing.assert_close(found, expected)


def test_phonemes_are_learned_where_they_are_known(tiny_encoder, fitting, emotion_batch):
    made = system(tiny_encoder(), fitting, phonemes=4).eval()
    clips = len(emotion_batch)
    starts = torch.tensor([[0.0, 0.2]]).repeat(clips, 1)
    told = replace(emotion_batch, phoneme_starts=starts, phonemes=torch.tensor([[1, 2]]).repeat(clips, 1))
    made.loss(told).backward()
    gradient = made.readouts.maps["phoneme"].bias.grad
    assert (gradient[[1, 2]] < 0).all() and (gradient[[0, 3]] > 0).all()
    made.zero_grad()
    unknown = replace(told, phonemes=torch.full((clips, 2), -100))
    made.loss(unknown).backward()
    assert not made.readouts.maps["phoneme"].bias.grad.any()


def test_targets_come_from_the_clean_waveforms(tiny_encoder, fitting, emotion_batch):
    made = system(tiny_encoder(), fitting).eval()
    noisy = replace(emotion_batch, waveforms=emotion_batch.waveforms + noise(*emotion_batch.waveforms.shape))
    same = replace(noisy, clean=noisy.waveforms)
    assert torch.equal(made.loss(noisy), made.loss(same))
    assert not torch.equal(made.loss(noisy), made.loss(replace(noisy, clean=emotion_batch.waveforms)))


def test_the_validation_loss_masks_the_same_frames_each_time(tiny_encoder, fitting, emotion_batch):
    made = system(tiny_encoder(), fitting).eval()
    assert torch.equal(made.loss(emotion_batch), made.loss(emotion_batch))
    made.train()
    assert not torch.equal(made.loss(emotion_batch), made.loss(emotion_batch))
