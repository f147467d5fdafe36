"""A small file in every published layout: the encoder read from it answers as the one it was made of."""

from __future__ import annotations

import argparse
import json
import re

import pytest
import torch
from safetensors.torch import save_file
from transformers import HubertConfig, Wav2Vec2Config, WavLMConfig

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.backbone.unilm import conv_layers, wavlm_config
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.task_vector import TaskVector

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
FRONT = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
#: What unilm's own file of WavLM-Large says, at this size.
CFG = {
    "extractor_mode": "layer_norm",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 2,
    "activation_fn": "gelu",
    "layer_norm_first": True,
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "conv_bias": False,
    "normalize": True,
    "conv_pos": 16,
    "conv_pos_groups": 2,
    "relative_position_embedding": True,
    "num_buckets": 320,
    "max_distance": 800,
    "gru_rel_pos": True,
    "dropout": 0.0,
    "encoder_layerdrop": 0.05,
}


def moved(encoder, seed=1):
    """The encoder as if fine-tuned: every tensor has moved a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return encoder


def config(**form):
    return WavLMConfig(**SIZES, **FRONT, **(form or LARGE))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    build_backbone(config(), seed=0).save(folder)
    return folder


@pytest.fixture(scope="module")
def expert():
    return moved(build_backbone(config(), seed=0)).eval()


@pytest.fixture(scope="module")
def state(expert):
    return {name: tensor.clone() for name, tensor in expert.model.state_dict().items()}


def fairseq_names(state):
    """Transformers' names -> those of fairseq and unilm, part by part of a name."""
    renamed = {}
    for name, tensor in state.items():
        if name == "masked_spec_embed":
            name = "mask_emb"
        name = name.replace("feature_projection.projection", "post_extract_proj")
        name = name.replace("feature_projection.layer_norm", "layer_norm")
        name = name.replace("pos_conv_embed.conv.parametrizations.weight.original0", "pos_conv.0.weight_g")
        name = name.replace("pos_conv_embed.conv.parametrizations.weight.original1", "pos_conv.0.weight_v")
        name = name.replace("pos_conv_embed.conv", "pos_conv.0")
        if name.startswith("feature_extractor"):
            grouped = "feature_extractor.conv_layers.1.layer_norm.weight" not in state
            name = name.replace(".conv.", ".0.").replace(".layer_norm.", ".2." if grouped else ".2.1.")
        name = re.sub(r"(encoder\.layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm", name)
        name = name.replace("feed_forward.intermediate_dense", "fc1").replace(
            "feed_forward.output_dense", "fc2"
        )
        name = name.replace("gru_rel_pos_const", "grep_a").replace("gru_rel_pos_linear", "grep_linear")
        name = name.replace("rel_attn_embed", "relative_attention_bias").replace(".attention.", ".self_attn.")
        renamed[name] = tensor
    assert len(renamed) == len(state)
    return renamed


def prefixed(prefix, state, **more):
    return {prefix + name: tensor for name, tensor in state.items()} | more


def zeros(*names):
    return {name: torch.zeros(2) for name in names}


VOX_PROFILE_HEADS = zeros(
    "weights",
    *(f"model_seq.{i}.weight" for i in (0, 3, 6)),
    *("emotion_layer.0.bias", "detailed_out_layer.2.weight", "arousal_layer.0.bias", "valence_layer.2.bias"),
)


def unilm(folder, state):
    torch.save({"cfg": CFG, "model": fairseq_names(state)}, folder / "WavLM-Large.pt")
    return {}


def unilm_without_mask(folder, state):
    names = {name: tensor for name, tensor in fairseq_names(state).items() if name != "mask_emb"}
    torch.save({"cfg": CFG, "model": names}, folder / "wavlm_large.pt")
    return {}


def fairseq_ctc(folder, state):
    stored = prefixed("w2v_encoder.w2v_model.", fairseq_names(state))
    torch.save({"model": stored | zeros("w2v_encoder.proj.weight")}, folder / "checkpoint_best.pt")
    return {"w2v_encoder.proj.weight": "CTC head"}


def vox_profile(folder, state):
    save_file(prefixed("backbone_model.", state) | VOX_PROFILE_HEADS, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"pretrain_model": "wavlm_large", "hidden_dim": 256}))
    return {
        "weights": "weights of its layer sum",
        "model_seq.3.weight": "pointwise convolutions of its head",
        "emotion_layer.0.bias": "emotion head",
        "arousal_layer.0.bias": "head of arousal, valence, dominance",
    }


def s3prl(folder, state):
    content = {
        "Downstream": zeros("connector.weight"),
        "Featurizer": zeros("weights"),
        "Upstream": prefixed("model.", fairseq_names(state)),
        "Optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        "Step": 12,
        "Args": argparse.Namespace(upstream="wavlm_large", device="cuda"),
        "Config": {"runner": {"total_steps": 10}},
    }
    torch.save(content, folder / "dev-best.ckpt")
    return {
        "Downstream": "downstream model",
        "Featurizer": "weights of its layer sum",
        "Optimizer": "state of its training",
    }


def speechbrain(folder, state):
    torch.save(prefixed("model.", state), folder / "wav2vec2.ckpt")
    torch.save(zeros("0.w.weight"), folder / "model.ckpt")
    torch.save({"optimizer": {}}, folder / "modelopt.ckpt")
    (folder / "hyperparams.yaml").write_text("wav2vec2_hub: microsoft/wavlm-large\n")
    return {"model.ckpt": "another file of the folder", "modelopt.ckpt": "another file of the folder"}


def speechbrain_pretraining(folder, state):
    torch.save(prefixed("model.wav2vec2.", state, **zeros("model.quantizer.a")), folder / "wav2vec2.ckpt")
    return {"model.quantizer.a": "pre-training head"}


def challenge(folder, state):
    torch.save(state, folder / "final_ssl.pt")
    torch.save(zeros("fc.0.0.weight"), folder / "final_ser.pt")
    torch.save(zeros("sap_linear.weight"), folder / "final_pool.pt")
    return {"final_pool.pt": "attentive pooling", "final_ser.pt": "emotion head"}


def challenge_on_the_hub(folder, state):
    heads = zeros("ser_model.fc.0.0.weight", "pool_model.attention")
    save_file(prefixed("ssl_model.", state) | heads, folder / "model.safetensors")
    return {"ser_model.fc.0.0.weight": "emotion head", "pool_model.attention": "attentive pooling"}


LAYOUTS = {
    unilm: "unilm or fairseq",
    unilm_without_mask: "unilm or fairseq",
    fairseq_ctc: "unilm or fairseq",
    vox_profile: "vox-profile",
    s3prl: "s3prl",
    speechbrain: "SpeechBrain",
    speechbrain_pretraining: "SpeechBrain",
    challenge: "transformers",
    challenge_on_the_hub: "MSP-Podcast challenge",
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_encoder_it_was_made_of(tmp_path, base, expert, state, layout, emotion_batch):
    left_out = layout(tmp_path, state)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.layout == LAYOUTS[layout]
    assert left_out.items() <= checkpoint.left_out.items()
    assert "outside the encoder" not in checkpoint.left_out.values()
    tells_itself = layout in (unilm, unilm_without_mask)
    read = load_backbone(tmp_path, architecture=None if tells_itself else base)
    assert read.normalize and read.model.config.max_bucket_distance == 800
    with torch.no_grad():
        expected = expert(emotion_batch.waveforms, emotion_batch.lengths).layers
        found = read(emotion_batch.waveforms, emotion_batch.lengths).layers
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_task_vector(tmp_path, base, state, layout):
    layout(tmp_path, state)
    before = load_backbone(base)
    vector = TaskVector.between(before, tmp_path)
    for name, weight in before.weights().items():
        lacks = layout is unilm_without_mask and name == "masked_spec_embed"
        assert torch.equal(vector.deltas[name], state[name] - weight if not lacks else weight * 0)


@pytest.mark.parametrize(
    ("kind", "form"),
    [(WavLMConfig, BASE), (Wav2Vec2Config, LARGE), (Wav2Vec2Config, BASE), (HubertConfig, BASE)],
)
def test_fairseq_names_of_every_kind_and_size_are_read(tmp_path, kind, form):
    encoder = build_backbone(kind(**SIZES, **FRONT, **form), seed=0)
    encoder.save(tmp_path / "plain")
    torch.save({"model_weight": fairseq_names(encoder.model.state_dict())}, tmp_path / "hubert_base.pt")
    read = load_backbone(tmp_path / "hubert_base.pt", architecture=tmp_path / "plain")
    assert all(torch.equal(tensor, read.weights()[name]) for name, tensor in encoder.weights().items())


def test_a_unilm_file_tells_its_architecture(state):
    told, plain = wavlm_config(CFG).to_dict(), config().to_dict()
    architecture = [
        *SIZES,
        *FRONT,
        *LARGE,
        "num_buckets",
        "max_bucket_distance",
        "conv_kernel",
        "conv_stride",
    ]
    assert {name: told[name] for name in architecture} == {name: plain[name] for name in architecture}
    published = wavlm_config(
        CFG | {"conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"}
    )
    defaults = WavLMConfig()
    assert list(published.conv_kernel) == list(defaults.conv_kernel)
    assert list(published.conv_stride) == list(defaults.conv_stride)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_feature_layers": "__import__('os').system('true')"}, "conv_feature_layers .* a sum like"),
        ({"extractor_mode": "other"}, "does not describe a WavLM .*'other'"),
        ({"gru_rel_pos": False}, "without gated relative positions"),
    ],
)
def test_a_cfg_that_cannot_be_used_is_refused_in_one_line(changes, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        wavlm_config(CFG | changes)
    assert "\n" not in str(caught.value)
    assert conv_layers("[(8,10,5)]*2+[(4,2,2)]") == [(8, 10, 5), (8, 10, 5), (4, 2, 2)]


def refused(place, message, **options):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_backbone(place, **options)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_architecture_asks_for_one(tmp_path, state):
    vox_profile(tmp_path, state)
    refused(tmp_path, r"config\.json.*architecture")
    refused(tmp_path / "model.safetensors", r"config\.json.*architecture")
    (tmp_path / "config.json").unlink()
    refused(tmp_path, r"no config\.json.*architecture")


def test_unknown_parts_of_a_fairseq_encoder_are_named(tmp_path, base, state):
    stored = fairseq_names(state) | {"encoder.layers.1.self_attn.novelty": torch.zeros(3)}
    torch.save({"cfg": CFG, "model": stored}, tmp_path / "x.pt")
    refused(tmp_path, r"holds 1 tensor \(encoder\.layers\.1\.attention\.novelty\)")
    del stored["encoder.layers.1.self_attn.novelty"], stored["encoder.layers.1.fc1.bias"]
    torch.save({"cfg": CFG, "model": stored}, tmp_path / "x.pt")
    refused(tmp_path, r"lacks 1 tensor \(encoder\.layers\.1\.feed_forward\.intermediate_dense\.bias\)")


def test_an_s3prl_run_with_a_frozen_upstream_says_so(tmp_path, base):
    torch.save(
        {"Downstream": zeros("connector.weight"), "Featurizer": zeros("weights"), "Step": 3},
        tmp_path / "dev-best.ckpt",
    )
    refused(tmp_path, "no Upstream: its encoder was not fine-tuned", architecture=base)


def test_two_encoders_in_entries_of_one_file_are_refused(tmp_path, base, state):
    torch.save({"model": state, "ema": state}, tmp_path / "x.pt")
    refused(tmp_path, "2 encoders, under", architecture=base)


class Settings:
    """Stands for the classes of a training framework."""


def test_a_file_with_other_objects_is_refused_and_names_them(tmp_path, base, state):
    torch.save({"model": fairseq_names(state), "cfg": Settings()}, tmp_path / "fairseq.pt")
    refused(tmp_path, r"Python objects .*Settings.* not unpickled .* state_dict alone", architecture=base)
