"""Settings beside a checkpoint that are nonsense or made to harm: one line, before anything is built."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hostile import refused
from voxstrata.backbone.encoder import load_backbone
from voxstrata.backbone.headers import read_base, read_expert
from voxstrata.methods.adaltm.task_vector import TaskVector


def changed(folder: Path, file: str, **settings) -> Path:
    about = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(about | settings))
    return folder


def test_an_expert_that_hears_otherwise_is_refused_by_name(folder, encoder_folder, encoder):
    base = read_base(str(encoder_folder))
    assert read_expert(str(folder), base) and TaskVector.between(encoder, folder)
    changed(folder, "preprocessor_config.json", do_normalize=False)
    message = (
        r"expects its input in another form.*as they are \(do_normalize\), the base normalised.*allow_foreign"
    )
    refused(message, TaskVector.between, encoder, folder)
    refused(message, read_expert, str(folder), base)
    assert TaskVector.between(encoder, folder, allow_foreign=True)
    # A run with normalize: false on the same base.
    plain = load_backbone(encoder_folder, normalize=False)
    assert TaskVector.between(plain, folder) and read_expert(str(folder), base, normalize=False)
    refused("the base as they are", TaskVector.between, plain, encoder_folder)


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"num_attention_heads": 4}, "num_attention_heads 4, the base 2"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act relu, the base gelu"),
        ("config.json", {"conv_stride": [5, 2, 2, 2, 2, 2, 3]}, "conv_stride"),
        ("config.json", {"layer_norm_eps": 1e-3}, "layer_norm_eps 0.001"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate 8000, the base 16000"),
    ],
)
def test_settings_that_no_weight_tells_are_compared(folder, encoder, file, settings, message):
    refused(
        f"expects its input in another form.*{message}",
        TaskVector.between,
        encoder,
        changed(folder, file, **settings),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers null"),
        ({"num_hidden_layers": -1}, "num_hidden_layers -1"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers 1000000; allowed is 1 to 1,000"),
        ({"num_hidden_layers": 3}, "has 2 transformer layers"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 2**16, "num_attention_heads": 2}, "other shapes|another size"),
        ({"intermediate_size": 10**12}, "intermediate_size"),
        ({"num_attention_heads": 0}, "num_attention_heads 0"),
        ({"num_attention_heads": 3}, "does not divide"),
        ({"conv_dim": None}, "conv_dim null"),
        ({"conv_dim": [10**9] * 7}, "conv_dim"),
        ({"conv_dim": [8] * 5}, "conv_stride"),
        ({"conv_kernel": [3] * 10**5}, "conv_kernel"),
        ({"conv_stride": [0] * 7}, "conv_stride"),
        ({"num_conv_pos_embeddings": 10**9}, "num_conv_pos_embeddings"),
        ({"num_conv_pos_embedding_groups": 10**5}, "num_conv_pos_embedding_groups"),
        ({"num_buckets": -5}, "num_buckets"),
        ({"layer_norm_eps": None}, "layer_norm_eps null"),
        ({"hidden_dropout": 7}, "hidden_dropout 7"),
        ({"hidden_act": "nonsense"}, "config"),
        ({"hidden_act": 7}, "config"),
        ({"add_adapter": True, "num_adapter_layers": 10**6}, "num_adapter_layers"),
        ({"model_type": "nonsense"}, "config.json"),
        ({"model_type": None, "auto_map": {"AutoConfig": "evil.Config"}}, "config.json"),
        ({"feat_extract_norm": "nonsense"}, "config"),
    ],
)
def test_sizes_that_no_encoder_has_are_refused_before_it_is_built(folder, settings, message):
    began = time.monotonic()
    refused(message, load_backbone, changed(folder, "config.json", **settings))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "[" * 100_000, '{"a": NaN}', '{"a": ' + "9" * 5000 + "}"]
)
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_settings_that_are_no_json_object_are_one_line(folder, content, file):
    (folder / file).write_text(content)
    refused(file, load_backbone, folder)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"conv_feature_layers": "[(512,10,5)] * 1000000000"}, "conv_feature_layers"),
        ({"conv_feature_layers": "[(512,10,5)] + " * 10**5 + "[(1,1,1)]"}, "conv_feature_layers"),
        ({"conv_feature_layers": None}, "conv_feature_layers"),
        ({"encoder_layers": 10**6}, "num_hidden_layers 1000000"),
        ({"encoder_embed_dim": -3}, "hidden_size -3"),
        ({"encoder_layers": None}, "architecture"),
        ({"activation_fn": ["gelu"]}, "architecture"),
    ],
)
def test_an_architecture_that_a_torch_file_tells_is_checked_as_well(tmp_path, state, cfg, message):
    told = {
        "extractor_mode": "layer_norm",
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
        "activation_fn": "gelu",
        "layer_norm_first": True,
        "conv_feature_layers": "[(36,400,160)] + [(36,3,2)]",
        "conv_bias": True,
        "conv_pos": 8,
        "conv_pos_groups": 16,
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "num_buckets": 320,
        "max_distance": 800,
    }
    torch.save({"cfg": told, "model": state}, tmp_path / "good.pt")
    assert load_backbone(tmp_path / "good.pt").num_layers == 2
    torch.save({"cfg": {**told, **cfg}, "model": state}, tmp_path / "x.pt")
    refused(message, load_backbone, tmp_path / "x.pt")


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*b", "(.*)(.*)(.*)(.*)x", "a{9999}", "(", "(?=a)b", "a" * 999]
)
def test_patterns_of_adapters_are_never_run_without_bound(tmp_path, encoder, pattern):
    module = "base_model.model.encoder.layers.1.attention.v_proj"
    factors = {f"{module}.lora_A.weight": torch.zeros(2, 32), f"{module}.lora_B.weight": torch.zeros(32, 2)}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    settings = {"r": 2, "lora_alpha": 4, "alpha_pattern": {pattern: 6}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    began = time.monotonic()
    refused("alpha_pattern", TaskVector.between, encoder, tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": None},
        {"lora_alpha": 1e300},
        {"lora_alpha": True},
        {"r": -2},
        {"r": "2"},
        {"r": None},
        {"alpha_pattern": [1]},
        {"rank_pattern": {"a": -1}},
        {"base_model_name_or_path": 7},
        {"base_model_name_or_path": ["a"]},
    ],
)
def test_settings_of_adapters_that_are_none_are_refused(tmp_path, encoder, settings):
    module = "base_model.model.encoder.layers.1.attention.v_proj"
    factors = {f"{module}.lora_A.weight": torch.zeros(2, 32), f"{module}.lora_B.weight": torch.zeros(32, 2)}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4} | settings))
    refused("adapter_config.json", TaskVector.between, encoder, tmp_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"left_out": "["}, "left_out"),
        ({"left_out": "[" * 100_000}, "nested"),
        ({"left_out": "7"}, "header"),
        ({"left_out": '{"a": 7}'}, "header"),
        ({"kinship": "nan"}, "header"),
        ({"kinship": "1e999"}, "header"),
        ({"kinship": "high"}, "header"),
        ({"base_sha256": ""}, "header"),
        ({"base_sha256": None}, "header"),
        ({"source": None}, "header"),
    ],
)
def test_a_header_of_a_vector_that_tells_nonsense_is_refused(
    tmp_path, encoder, encoder_folder, metadata, message
):
    path = tmp_path / "v.safetensors"
    TaskVector.between(encoder, encoder_folder).save(path)
    told = {
        "format": "voxstrata-task-vector-1",
        "base_sha256": "0" * 64,
        "source": "x",
        "left_out": "{}",
        "kinship": "1.0",
        **metadata,
    }
    save_file(
        load_file(path), path, metadata={name: value for name, value in told.items() if value is not None}
    )
    refused(message, TaskVector.load, path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"encoder.layers.999999999.a": torch.zeros(1)}, "names a layer"),
        ({"encoder.layers.0.a": torch.tensor([float("nan")])}, "NaN"),
        ({"encoder.layers.0.a": torch.tensor([1e38])}, "NaN, infinite or above"),
        ({"encoder.layers.0.a": torch.zeros(3, dtype=torch.int8)}, "no floats"),
        ({"a": torch.zeros(3)}, "no transformer layers"),
    ],
)
def test_a_vector_of_no_encoder_is_refused(tmp_path, tensors, message):
    told = {"format": "voxstrata-task-vector-1", "base_sha256": "0" * 64, "source": "x", "left_out": "{}"}
    save_file(tensors, tmp_path / "v.safetensors", metadata=told | {"kinship": "1.0"})
    refused(message, TaskVector.load, tmp_path / "v.safetensors")
