import copy
import pickle

import pytest
import torch
from transformers import HubertConfig, Wav2Vec2Config, WavLMConfig

from voxstrata.backbone import clip_by_clip
from voxstrata.backbone.clip_by_clip import features_in_pieces
from voxstrata.backbone.encoder import build_backbone

#: Of transformers' own attention on padded batches.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

CONFIGS = {"wavlm": WavLMConfig, "hubert": HubertConfig, "wav2vec2": Wav2Vec2Config}
LENGTHS = [8000, 5000, 8000, 400, 5100]


def group_norm(kind, stable=False, **more):
    """The layout of WavLM-Base, HuBERT-Base and wav2vec2-Base, small and without dropout."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    front = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    drops = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout")
    config = CONFIGS[kind](**{**sizes, **front, **dict.fromkeys(drops, 0.0), **more})
    config.do_stable_layer_norm, config.feat_extract_norm = stable, "group"
    return config


def batch(dtype=torch.float32, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.full((len(lengths), max(lengths)), 0.7, dtype=dtype)  # what stands behind is no matter
    for row, n in enumerate(lengths):
        level = 0.02 * 5**row
        waveforms[row, :n] = level * torch.randn(n, generator=generator, dtype=dtype) + 0.1
    return waveforms, torch.tensor(lengths)


@pytest.mark.parametrize("attention", ["fast", "reference"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_padded_batch_equals_transformers_clip_by_clip(kind, normalize, attention):
    encoder = build_backbone(group_norm(kind), seed=0, attention=attention).eval()
    encoder.normalize = normalize
    waveforms, lengths = batch()
    states = encoder(waveforms, lengths)
    for row, n in enumerate(LENGTHS):
        clip = waveforms[row : row + 1, :n]
        if normalize:
            clip = (clip - clip.mean()) / (clip.var(unbiased=False) + 1e-7).sqrt()
        alone = encoder.model(clip, output_hidden_states=True).hidden_states[1:]
        assert alone[0].shape[1] == states.lengths[row]
        for together, single in zip(states.layers, alone, strict=True):
            torch.testing.assert_close(together[row, : single.shape[1]], single[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_gradients_of_a_padded_batch_are_those_of_its_clips(kind, stable):
    encoder = build_backbone(group_norm(kind, stable), seed=0).double().train()
    waveforms, lengths = batch(torch.float64)

    def loss(states):
        valid = states.mask().unsqueeze(-1)
        return sum((layer.tanh() * valid).sum() for layer in states.layers)

    def gradients():
        found = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        encoder.zero_grad()
        return found

    loss(encoder(waveforms, lengths)).backward()
    together = gradients()
    for row, n in enumerate(LENGTHS):
        loss(encoder(waveforms[row : row + 1, :n], lengths[row : row + 1])).backward()
    alone = gradients()
    assert set(together) == set(alone) and "model.feature_extractor.conv_layers.0.conv.weight" in alone
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("kind", CONFIGS)
def test_only_the_convolutions_run_clip_by_clip(kind):
    encoder = build_backbone(group_norm(kind), seed=0).eval()
    shapes = {"front end": [], "convolutions": [], "transformer": []}
    for name, module in (
        ("front end", encoder.model.feature_extractor),
        ("convolutions", encoder.model.feature_extractor.conv_layers[0]),
        ("transformer", encoder.model.encoder.layers[0]),
    ):
        module.register_forward_pre_hook(lambda m, args, into=shapes[name]: into.append(args[0].shape))
    encoder(*batch())
    assert [tuple(shape) for shape in shapes["convolutions"]] == [(1, 1, n) for n in LENGTHS]
    assert [tuple(shape) for shape in shapes["front end"]] == [(5, 16, 24)]  # hooks see the batch
    assert [tuple(shape) for shape in shapes["transformer"]] == [(5, 24, 32)]


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_position_embedding_sees_zeros_behind_the_end(kind, stable, norm):
    config = group_norm(kind, stable)
    config.feat_extract_norm = norm
    encoder = build_backbone(config, seed=0).eval()
    seen = []
    encoder.model.encoder.pos_conv_embed.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    states = encoder(*batch())
    (hidden,) = seen
    assert torch.equal(hidden.abs().sum(-1) != 0, states.mask())


def test_features_stand_in_the_order_of_the_clips_and_are_zero_behind():
    encoder = build_backbone(group_norm("wavlm"), seed=0).eval()
    waveforms, lengths = batch()
    front_end = encoder.model.feature_extractor
    features = features_in_pieces(front_end, waveforms, LENGTHS, clips=1)
    frames = encoder.frame_lengths(lengths).tolist()
    assert features.shape == (5, 16, 24) and frames == [24, 15, 24, 1, 15]
    for row, (n, valid) in enumerate(zip(LENGTHS, frames, strict=True)):
        alone = front_end(waveforms[row : row + 1, :n])[0]
        torch.testing.assert_close(features[row, :, :valid], alone, atol=1e-6, rtol=1e-5)
        assert not features[row, :, valid:].any()


@pytest.mark.parametrize("clips", [1, 2])
def test_a_large_front_end_runs_in_pieces_on_a_cpu(monkeypatch, clips):
    config = group_norm("wavlm")
    config.feat_extract_norm = "layer"
    encoder = build_backbone(config, seed=0).eval()
    waveforms, lengths = batch()
    whole = encoder(waveforms, lengths).layers
    assert clip_by_clip.clips_at_a_time(config, waveforms) == len(waveforms)
    one = (waveforms.shape[1] - config.conv_kernel[0]) // config.conv_stride[0] + 1
    monkeypatch.setattr(clip_by_clip, "_PIECE_BYTES", clips * one * config.conv_dim[0] * 4)
    sizes = []
    encoder.model.feature_extractor.conv_layers[0].register_forward_hook(
        lambda m, args, out: sizes.append(len(out))
    )
    pieces = encoder(waveforms, lengths)
    assert sizes == ([1] * 5 if clips == 1 else [2, 2, 1])
    mask = pieces.mask()
    for expected, found in zip(whole, pieces.layers, strict=True):
        torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-4)
    assert clip_by_clip.clips_at_a_time(config, waveforms.to("meta")) == len(waveforms)


def test_a_copy_runs_its_own_front_end():
    encoder = build_backbone(group_norm("wavlm"), seed=0).eval()
    expected = encoder(*batch()).layers
    copies = [copy.deepcopy(encoder) for _ in range(2)]
    # torch pickles no module with weight norm, so no whole encoder.
    copies[1].model.feature_extractor = pickle.loads(pickle.dumps(encoder.model.feature_extractor))
    with torch.no_grad():
        encoder.model.feature_extractor.conv_layers[0].conv.weight.zero_()
    for other in copies:
        assert all(torch.equal(a, b) for a, b in zip(other(*batch()).layers, expected, strict=True))


def test_gradient_checkpointing_changes_no_gradient():
    encoder = build_backbone(group_norm("wavlm"), seed=0).double().train()
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            encoder.model.activation_checkpointing_enable({"use_reentrant": False})
        encoder.zero_grad()
        sum(layer.tanh().sum() for layer in encoder(*batch(torch.float64)).layers).backward()
        found.append({n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-12, rtol=1e-9)
