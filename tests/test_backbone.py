import copy
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    BertConfig,
    HubertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMForCTC,
)

from voxstrata.backbone.encoder import SpeechEncoder, build_backbone, load_backbone, normalize_waveforms
from voxstrata.backbone.groups import group_sizes, layer_index, partition
from voxstrata.backbone.headers import read_base
from voxstrata.errors import AudioError, CheckpointError, VoxstrataError

CONFIGS = {"wavlm": WavLMConfig, "hubert": HubertConfig, "wav2vec2": Wav2Vec2Config}
EVERY = [(k, s, n) for k in CONFIGS for s in (True, False) for n in ("layer", "group")]


def tiny(kind="wavlm", stable=True, norm="layer", **more):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    front = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    return CONFIGS[kind](
        **{**sizes, **front, "do_stable_layer_norm": stable, "feat_extract_norm": norm, **more}
    )


def frozen(config, **options):
    encoder = build_backbone(config, seed=0)
    return SpeechEncoder(encoder.model, normalize=True, **options).requires_grad_(False).eval()


def batch(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    waveforms = torch.zeros(len(lengths), max(lengths))
    for row, n in enumerate(lengths):
        waveforms[row, :n] = 0.2 * torch.randn(n, generator=generator) + 0.05
    return waveforms, torch.tensor(lengths)


@pytest.mark.parametrize(("kind", "stable", "norm"), EVERY)
def test_a_padded_batch_equals_one_by_one(kind, stable, norm):
    encoder = frozen(tiny(kind, stable, norm))
    waveforms, lengths = batch([6000, 4000, 6000, 400, 4100])
    states = encoder(waveforms, lengths)
    assert states.lengths.tolist() == [18, 12, 18, 1, 12]
    assert states.mask().sum(1).tolist() == states.lengths.tolist()
    for row, n in enumerate(lengths.tolist()):
        alone = encoder(waveforms[row : row + 1, :n], lengths[row : row + 1])
        for together, single in zip(states.layers, alone.layers, strict=True):
            assert together.shape == (5, 18, 32)
            torch.testing.assert_close(together[row, : single.shape[1]], single[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_padding_content_and_width_do_not_matter(norm):
    encoder = frozen(tiny(norm=norm))
    waveforms, lengths = batch([3000, 2000])
    wide = torch.full((2, 5000), 7.0)
    for row, n in enumerate(lengths):
        wide[row, :n] = waveforms[row, :n]
    for a, b in zip(encoder(waveforms, lengths).layers, encoder(wide, lengths).layers, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a[1, :5], b[1, :5], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "stable", "norm"), EVERY)
def test_states_are_the_raw_layer_outputs(kind, stable, norm):
    encoder = frozen(tiny(kind, stable, norm))
    seen = []
    for layer in encoder.model.encoder.layers:
        layer.register_forward_hook(lambda m, i, out: seen.append(out[0] if isinstance(out, tuple) else out))
    states = encoder(*batch([3000]))
    assert len(states.layers) == encoder.num_layers == len(seen) == 2
    assert all(torch.equal(a, b) for a, b in zip(states.layers, seen, strict=True))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_ties_the_last_state_to_the_norm_changes_no_state(kind):
    encoder = frozen(tiny(kind, stable=True))
    encoder.model.config.tie_last_hidden_states = True
    with torch.no_grad():
        for parameter in encoder.model.encoder.layer_norm.parameters():
            parameter.add_(0.5)
    seen = []
    encoder.model.encoder.layer_norm.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    last = encoder(*batch([3000])).layers[-1]
    assert torch.equal(last, seen[0]), "what transformers norms is the last layer's raw output"
    assert not torch.allclose(last, encoder.model.encoder.layer_norm(last), atol=0.1)


def test_two_threads_that_share_an_encoder_get_their_own_states():
    encoder = frozen(tiny(stable=True))
    clips = [batch([3000 + 400 * number]) for number in range(4)]
    alone = [encoder(*clip).layers for clip in clips]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            together = threads.map(lambda clip: encoder(*clip).layers, clips)
            for a, b in zip(alone, together, strict=True):
                assert len(a) == len(b) and all(map(torch.equal, a, b))


@pytest.mark.parametrize("kind", CONFIGS)
def test_last_hidden_state_of_transformers_5_is_before_the_final_norm(kind):
    encoder = frozen(tiny(kind, stable=True))
    with torch.no_grad():
        for parameter in encoder.model.encoder.layer_norm.parameters():
            parameter.add_(0.5)
    waveforms, lengths = batch([3000])
    out = encoder.model(normalize_waveforms(waveforms, lengths), output_hidden_states=True)
    normed = encoder.model.encoder.layer_norm(out.hidden_states[-1])
    assert not torch.allclose(out.hidden_states[-1], out.last_hidden_state, atol=0.1)
    torch.testing.assert_close(normed, out.last_hidden_state)
    torch.testing.assert_close(encoder(waveforms, lengths).layers[-1], out.hidden_states[-1])
    final = SpeechEncoder(encoder.model, normalize=True, final_norm=True)(waveforms, lengths)
    torch.testing.assert_close(final.layers[-1], out.last_hidden_state)
    torch.testing.assert_close(final.layers[0], out.hidden_states[1])


def test_final_norm_is_refused_where_there_is_none():
    with pytest.raises(CheckpointError, match="do_stable_layer_norm"):
        frozen(tiny(stable=False), final_norm=True)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(400, 900), min_size=1, max_size=4), st.floats(-2, 2), st.floats(1e-3, 3))
def test_normalisation_equals_the_feature_extractor(lengths, offset, scale):
    waveforms, counts = batch(lengths)
    clips = [(scale * w[:n] + offset).numpy() for w, n in zip(waveforms, lengths, strict=True)]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    expected = extractor(clips, padding=True, sampling_rate=16_000, return_tensors="np")["input_values"]
    padded = torch.zeros_like(waveforms)
    for row, clip in enumerate(clips):
        padded[row, : len(clip)] = torch.from_numpy(clip)
    np.testing.assert_allclose(normalize_waveforms(padded, counts).numpy(), expected, atol=2e-3)
    exact = normalize_waveforms(padded.double(), counts)
    assert exact.sum(1).abs().max() < 1e-6


@pytest.mark.parametrize(("kind", "norm"), [("wavlm", "layer"), ("hubert", "group")])
def test_states_equal_transformers_fed_by_its_own_feature_extractor(kind, norm):
    encoder = frozen(tiny(kind, norm=norm))
    waveforms, lengths = batch([3500])
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    values = extractor(waveforms[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    expected = encoder.model(values, output_hidden_states=True).hidden_states[1:]
    for a, b in zip(encoder(waveforms, lengths).layers, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_short_clips_are_named():
    encoder = frozen(tiny())
    waveforms, lengths = batch([800, 399, 500, 20])
    with pytest.raises(AudioError, match=r"clip 1 \(399 samples\), clip 3 \(20 samples\).*400") as caught:
        encoder(waveforms, lengths)
    assert "\n" not in str(caught.value)
    with pytest.raises(AudioError, match="do not hold"):
        encoder(waveforms[:, :700], torch.tensor([800, 500, 500, 500]))


@pytest.mark.parametrize(
    ("kernels", "strides"), [([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]), ([320, 3], [160, 2])]
)
def test_receptive_field_is_the_shortest_clip_with_a_frame(kernels, strides):
    config = tiny(conv_dim=[16] * len(kernels), conv_kernel=kernels, conv_stride=strides)
    encoder = frozen(config)
    shortest = encoder.front_end.samples(1)
    assert encoder.frame_lengths(torch.tensor([shortest, shortest - 1])).tolist() == [1, 0]
    assert encoder(*batch([shortest])).layers[0].shape[1] == 1


def test_a_frozen_encoder_stays_in_eval_mode_inside_a_model_in_train_mode():
    config = tiny(layerdrop=0.9, mask_time_prob=0.9, mask_time_length=2, hidden_dropout=0.5)
    model = torch.nn.Sequential(frozen(config)).train()
    assert not any(module.training for module in model[0].modules())
    waveforms, lengths = batch([3000])
    states = [model[0](waveforms, lengths).layers[-1] for _ in range(2)]
    assert torch.equal(*states)


def test_a_trainable_encoder_drops_out_but_never_drops_states_or_masks():
    config = tiny(layerdrop=0.9, mask_time_prob=0.9, mask_time_length=2, feat_proj_dropout=0.0)
    config.hidden_dropout = config.attention_dropout = config.activation_dropout = 0.0
    encoder = build_backbone(config, seed=0).train()
    assert encoder.training
    waveforms, lengths = batch([3000])
    torch.testing.assert_close(encoder(waveforms, lengths).layers, encoder.eval()(waveforms, lengths).layers)
    config.hidden_dropout = 0.5
    dropping = build_backbone(config, seed=0).train()
    assert len(dropping(waveforms, lengths).layers) == 2
    assert not torch.equal(dropping(waveforms, lengths).layers[1], dropping(waveforms, lengths).layers[1])


def test_build_is_deterministic_and_leaves_config_and_random_state_alone():
    config = tiny(layerdrop=0.3)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build_backbone(config, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert config.layerdrop == 0.3
    names = [name for name, tensor in first.weights().items() if tensor.ndim > 1 and "layer_norm" not in name]
    assert all(torch.equal(first.weights()[n], second.weights()[n]) for n in names)
    assert not torch.equal(first.weights()[names[-1]], other.weights()[names[-1]])
    assert all(p.requires_grad for p in first.parameters())


@pytest.mark.parametrize(("kind", "stable", "norm"), EVERY)
def test_a_saved_folder_opens_here_and_in_plain_transformers(tmp_path, kind, stable, norm):
    config = tiny(kind, stable, norm, layerdrop=0.3)
    encoder = build_backbone(config, seed=3).eval()
    encoder.save(tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["architectures"] == [type(encoder.model).__name__]
    assert written["layerdrop"] == 0.3
    plain, info = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    again = load_backbone(tmp_path / "out")
    assert again.normalize == (norm == "layer")
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)
        assert torch.equal(plain.state_dict()[name], tensor)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_half_precision_folders_are_loaded_as_float32(tmp_path):
    encoder = build_backbone(tiny(), seed=3)
    encoder.save(tmp_path / "half", dtype=torch.float16)
    encoder.save(tmp_path / "full")
    half, full = (tmp_path / n / "model.safetensors" for n in ("half", "full"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = load_backbone(tmp_path / "half").weights()
    for name, tensor in encoder.weights().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.half().float())


def test_normalisation_comes_from_the_option_then_the_folder_then_the_architecture(tmp_path):
    build_backbone(tiny(), seed=0).save(tmp_path)
    settings_file = tmp_path / "preprocessor_config.json"
    settings_file.write_text('{"do_normalize": false}')
    assert not load_backbone(tmp_path).normalize
    assert load_backbone(tmp_path, normalize=True).normalize
    settings_file.unlink()
    assert load_backbone(tmp_path).normalize
    settings_file.write_text("{")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        load_backbone(tmp_path)


def test_the_backbone_of_a_ctc_checkpoint_is_loaded(tmp_path):
    torch.manual_seed(0)
    model = WavLMForCTC(tiny(vocab_size=12)).eval()
    model.save_pretrained(tmp_path)
    encoder = load_backbone(tmp_path)
    waveforms, lengths = batch([3000])
    values = normalize_waveforms(waveforms, lengths)
    expected = model.wavlm(values, output_hidden_states=True).hidden_states[1:]
    torch.testing.assert_close(encoder(waveforms, lengths).layers, expected)


def test_names_that_lead_nowhere_are_one_line_errors(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("wavlm-nowhere", "nobody/nothing", "./nowhere", "a/b/c", tmp_path / "none"):
        with pytest.raises(CheckpointError) as caught:
            load_backbone(name)
        assert "\n" not in str(caught.value)
        assert str(name) in str(caught.value)


def test_other_models_are_refused(tmp_path):
    BertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"bert.*no speech encoder"):
        load_backbone(tmp_path)


def test_a_folder_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    encoder = build_backbone(tiny(), seed=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(VoxstrataError, match="cannot write"):
        encoder.save(tmp_path / "file" / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_wavlm_large_has_25_groups_of_the_published_sizes():
    config = WavLMConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    with torch.device("meta"):
        state = AutoModel.from_config(config).state_dict()
    assert len(state) == 488
    assert group_sizes(state) == (13_125_760, 12_601_880, *[12_596_760] * 23)
    assert sum(group_sizes(state)) == 315_453_120
    assert sorted(name for names in partition(state) for name in names) == sorted(state)


def test_layer_ten_is_not_layer_one():
    assert layer_index("encoder.layers.10.attention.q_proj.weight") == 11
    assert layer_index("encoder.layers.1.attention.q_proj.weight") == 2
    assert layer_index("feature_projection.encoder.layers.1.weight") == 0
    with pytest.raises(CheckpointError, match="gaps"):
        partition(["encoder.layers.0.weight", "encoder.layers.2.weight"])


def test_an_encoder_can_be_copied():
    encoder = frozen(tiny())
    waveforms, lengths = batch([3000])
    torch.testing.assert_close(
        copy.deepcopy(encoder)(waveforms, lengths).layers, encoder(waveforms, lengths).layers
    )


def test_packaged_names_win_over_folders_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.setattr("voxstrata.backbone.locate._WEIGHTS", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    build_backbone(tiny(), seed=1).save(tmp_path / "weights/wavlm-mini", dtype=torch.float16)
    build_backbone(tiny(num_hidden_layers=1), seed=1).save(tmp_path / "wavlm-mini")
    assert load_backbone("wavlm-mini").num_layers == 2
    assert load_backbone("./wavlm-mini").num_layers == 1
    with pytest.raises(CheckpointError, match="wavlm-mini"):
        load_backbone("./wavlm-other")


@pytest.mark.parametrize("read", [load_backbone, read_base])
def test_an_encoder_is_built_once_to_be_checked_and_loaded(read, encoder_folder, monkeypatch):
    family = type(load_backbone(encoder_folder).family)
    whole, built = family.build, []
    monkeypatch.setattr(family, "build", lambda self, config: built.append(config) or whole(self, config))
    read(str(encoder_folder))
    assert len(built) == 1
