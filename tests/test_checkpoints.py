import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WavLMConfig, WavLMForCTC, WavLMForSequenceClassification

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.encoder import build_backbone
from voxstrata.errors import CheckpointError


def tiny(**more):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    front = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    return WavLMConfig(
        **{**sizes, **front, "feat_extract_norm": "layer", "do_stable_layer_norm": True, **more}
    )


@pytest.fixture(scope="module")
def encoder():
    return build_backbone(tiny(), seed=0)


@pytest.fixture(scope="module")
def state(encoder):
    return {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}


def old_spelling(state):
    pairs = (
        (".parametrizations.weight.original0", ".weight_g"),
        (".parametrizations.weight.original1", ".weight_v"),
    )
    renamed = {}
    for name, tensor in state.items():
        for new, old in pairs:
            name = name.replace(new, old)
        renamed[name] = tensor
    assert set(renamed) != set(state)
    return renamed


def assert_same(path, state):
    checkpoint = open_checkpoint(path)
    checkpoint.check(state)
    assert set(checkpoint.stored) == set(state)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in state.items())
    return checkpoint


@pytest.mark.parametrize("prefix", ["", "wavlm.", "backbone_model.", "module.wavlm.", "model."])
@pytest.mark.parametrize("spell", [dict, old_spelling])
@pytest.mark.parametrize("ending", ["safetensors", "bin", "pt"])
def test_every_prefix_spelling_and_container_reads_the_same(tmp_path, state, prefix, spell, ending):
    stored = {prefix + name: tensor for name, tensor in spell(state).items()}
    stored |= {"lm_head.weight": torch.zeros(3, 32), "layer_weights": torch.zeros(3)}
    path = tmp_path / f"weights.{ending}"
    save_file(stored, path) if ending == "safetensors" else torch.save(stored, path)
    for given in (path, tmp_path):
        checkpoint = assert_same(given, state)
        assert checkpoint.prefix == prefix
        assert sorted(checkpoint.left_out) == ["layer_weights", "lm_head.weight"]
        assert checkpoint.num_layers == 2


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_a_state_dict_one_level_deeper_is_found(tmp_path, state, wrapper):
    torch.save({"step": 3, wrapper: state, "cfg": {"a": 1}}, tmp_path / "x.pt")
    assert_same(tmp_path, state)


def test_old_torch_files_are_read(tmp_path, state):
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(tmp_path, state)


def test_sharded_safetensors_are_read_and_their_gaps_named(tmp_path, state):
    names = sorted(state)
    shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({f"wavlm.{n}": state[n] for n in members}, tmp_path / file)
    places = {f"wavlm.{n}": file for file, members in shards.items() for n in members}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert assert_same(tmp_path, state).container.kind == "sharded safetensors"
    index.write_text(json.dumps({"weight_map": places | {"wavlm.gone": "model-1-of-2.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"wavlm\.gone"):
        open_checkpoint(tmp_path)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="weight_map"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        (WavLMForCTC, {"lm_head.weight", "lm_head.bias"}),
        (WavLMForSequenceClassification, {"projector.weight", "classifier.bias", "layer_weights"}),
    ],
)
def test_heads_of_transformers_models_are_left_out(tmp_path, encoder, model, heads):
    whole = model(tiny(vocab_size=12, use_weighted_layer_sum=True))
    whole.save_pretrained(tmp_path)
    checkpoint = assert_same(tmp_path, dict(whole.wavlm.state_dict()))
    assert heads <= set(checkpoint.left_out)


def test_half_precision_is_read_as_float32(tmp_path, state):
    save_file({name: tensor.bfloat16() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    tensor = open_checkpoint(tmp_path).tensor("encoder.layer_norm.weight")
    assert tensor.dtype == torch.float32


def refused(path, expected, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path).check(expected)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_named(tmp_path, state):
    path = tmp_path / "model.safetensors"

    def store(**changes):
        save_file({name: t for name, t in {**state, **changes}.items() if t is not None}, path)

    store(**{"encoder.layers.1.final_layer_norm.bias": None})
    refused(path, state, r"lacks 1 tensor \(encoder\.layers\.1\.final_layer_norm\.bias\)")
    store(**{name: None for name in state if "feed_forward" in name})
    refused(path, state, r"lacks 8 tensors \(.*, \.\.\.\)")
    store(**{"encoder.layer_norm.bias": torch.zeros(7)})
    refused(path, state, r"encoder\.layer_norm\.bias \(7,\) for \(32,\)")
    store(**{"feature_extractor.conv_layers.0.conv.bias": torch.zeros(16)})
    refused(path, state, r"holds 1 tensor \(feature_extractor\.conv_layers\.0\.conv\.bias\)")
    refused(
        path, dict(build_backbone(tiny(num_hidden_layers=3), seed=0).weights()), "2 transformer layers.* 3"
    )
    store(masked_spec_embed=None)
    open_checkpoint(path).check(state)


def test_what_is_no_speech_encoder_is_refused(tmp_path, state):
    path = tmp_path / "model.safetensors"
    save_file({"bert.embeddings.weight": torch.zeros(2)}, path)
    refused(path, state, r"no speech encoder.*bert\.embeddings\.weight")
    save_file({p + n: t.clone() for p in ("a.", "b.") for n, t in state.items()}, path)
    refused(path, state, "2 encoders")
    save_file({n: t.clone() for n, t in (old_spelling(state) | state).items()}, path)
    refused(path, state, "twice")
    path.write_bytes(b"not a checkpoint")
    refused(path, state, "cannot read")
    path.unlink()
    refused(path, state, "no checkpoint")
    refused(tmp_path, state, "no weight file; there should be one safetensors, bin, pt, pth, ckpt")
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model-00001-of-00002.bin")
    refused(tmp_path, state, "in several .bin files .* save it again")


def test_a_folder_with_one_file_of_any_ending_is_read(tmp_path, state):
    torch.save({"model": state}, tmp_path / "best.pth")
    open_checkpoint(tmp_path).check(state)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_is_unpickled(tmp_path, state):
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Bomb(trace)))
    trace.rmdir()
    torch.save({"model": state, "args": Bomb(trace)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", state, "not unpickled")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "b.pt").write_bytes(pickle.dumps({"model": Bomb(trace)}, protocol))
        refused(tmp_path / "b.pt", state, "not unpickled")
    (tmp_path / "c.bin").write_bytes(b"")
    refused(tmp_path / "c.bin", state, "cannot read")
    assert not trace.exists()


def test_a_loaded_tensor_outlives_its_file(tmp_path, state):
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    name = "encoder.layer_norm.weight"
    tensor = open_checkpoint(path).tensor(name)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(tensor, state[name])
    assert not load_or_none(path)


def load_or_none(path):
    try:
        return load_file(path)
    except Exception:
        return None


def test_parameters_that_were_saved_as_such_are_plain_tensors(encoder, tmp_path):
    torch.save(
        {name: torch.nn.Parameter(tensor) for name, tensor in encoder.model.state_dict().items()},
        tmp_path / "x.pt",
    )
    found = open_checkpoint(tmp_path / "x.pt")
    tensors = {name: found.tensor(name) for name in found.all_shapes()}
    assert tensors and not any(tensor.requires_grad for tensor in tensors.values())
