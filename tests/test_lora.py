"""LoRA of peft and loralib: merged into full weights as the toolkits do it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import WavLMConfig, WavLMForSequenceClassification, WavLMModel
from typer.testing import CliRunner

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.cli.main import app
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.task_vector import TaskVector

Q, UP, DOWN = "attention.q_proj", "feed_forward.intermediate_dense", "feed_forward.output_dense"


def layer(index, module):
    return f"encoder.layers.{index}.{module}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    front = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    config = WavLMConfig(**sizes, **front, feat_extract_norm="layer", do_stable_layer_norm=True)
    folder = tmp_path_factory.mktemp("base")
    build_backbone(config, seed=0).save(folder)
    return folder


def factors(weights, modules, rank=4, seed=0):
    """Random A and B for some modules of an encoder: module -> (A [r, in], B [out, r])."""
    generator = torch.Generator().manual_seed(seed)

    def pair(out, features):
        draw = [torch.randn(shape, generator=generator) for shape in ((rank, features), (out, rank))]
        return 0.1 * draw[0], 0.1 * draw[1]

    return {module: pair(*weights[f"{module}.weight"].shape) for module in modules}


def product(a, b):
    """B A, entry by entry."""
    return sum(torch.outer(b[:, k], a[k]) for k in range(len(a)))


def adapter_config(**more):
    about = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": None}
    return json.dumps(about | more)


def save_adapter(folder, pairs, prefix="base_model.model.", more=None, **config):
    stored = dict(more or {})
    for module, (a, b) in pairs.items():
        stored |= {f"{prefix}{module}.lora_A.weight": a, f"{prefix}{module}.lora_B.weight": b}
    folder.mkdir(exist_ok=True)
    save_file(stored, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(adapter_config(**config))


MODULES = [layer(0, Q), layer(2, UP), layer(2, DOWN), "feature_projection.projection"]


@pytest.mark.parametrize("prefix", ["base_model.model.", "base_model.model.wavlm."])
@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": 16, "use_rslora": True}, 8.0),
        ({"lora_alpha": 3}, 0.75),
        ({"init_lora_weights": "gaussian", "fan_in_fan_out": True}, 2.0),
    ],
)
def test_an_adapter_becomes_a_full_difference(tmp_path, base, prefix, config, scale):
    encoder = load_backbone(base)
    pairs = factors(encoder.weights(), MODULES)
    head = {"base_model.model.classifier.weight": torch.zeros(2)}
    save_adapter(tmp_path / "a", pairs, prefix, head, **config)
    vector = TaskVector.between(encoder, tmp_path / "a")
    assert vector.left_out == {"base_model.model.classifier.weight": "classification head"}
    assert set(vector.deltas) == set(encoder.weights())
    for name, delta in vector.deltas.items():
        pair = pairs.get(name.removesuffix(".weight"))
        expected = torch.zeros_like(delta) if pair is None else scale * product(*pair)
        torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e-7)
    assert vector.zero_groups() == (2,)
    merged = load_backbone(tmp_path / "a", architecture=base).weights()
    for name, weight in encoder.weights().items():
        torch.testing.assert_close(merged[name], weight + vector.deltas[name])


def test_an_adapter_tells_its_own_base_and_patterns(tmp_path, base):
    encoder = load_backbone(base)
    first, second = (
        factors(encoder.weights(), [layer(0, Q)]),
        factors(encoder.weights(), [layer(1, Q)], rank=2),
    )
    patterns = {"rank_pattern": {"layers.1.attention.q_proj": 2}, "alpha_pattern": {r"layers\.1\..*": 6}}
    save_adapter(tmp_path / "a", first | second, base_model_name_or_path=str(base), **patterns)
    merged = load_backbone(tmp_path / "a").weights()
    for pairs, scale in ((first, 8 / 4), (second, 6 / 2)):
        for module, pair in pairs.items():
            expected = encoder.weights()[f"{module}.weight"] + scale * product(*pair)
            torch.testing.assert_close(merged[f"{module}.weight"], expected)


@pytest.mark.parametrize("rank_stabilized", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_what_peft_saves_equals_what_peft_merges(tmp_path, base, rank_stabilized, whole):
    peft = pytest.importorskip("peft")
    options = peft.LoraConfig(
        r=3,
        lora_alpha=7,
        use_rslora=rank_stabilized,
        target_modules=["q_proj", "output_dense", "gru_rel_pos_linear"],
        modules_to_save=["classifier"],
        bias="all",
        alpha_pattern={} if rank_stabilized else {"layers.1.attention.q_proj": 5},
    )
    model = WavLMForSequenceClassification.from_pretrained(base)
    model = peft.get_peft_model(model, options)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    if whole:
        torch.save(model.state_dict(), tmp_path / "whole.pt")
        (tmp_path / "adapter_config.json").write_text(json.dumps(options.to_dict(), default=list))
    else:
        model.save_pretrained(tmp_path)
    encoder = load_backbone(base)
    vector = TaskVector.between(encoder, tmp_path)
    merged = model.merge_and_unload().wavlm.state_dict()
    for name, weight in encoder.weights().items():
        torch.testing.assert_close(weight + vector.deltas[name], merged[name], rtol=1e-5, atol=1e-6)
    assert any("classifier" in name for name in vector.left_out)


class LoRALinear(nn.Module):
    """loralib's linear layer: factors beside the weight, merged into it in eval mode."""

    def __init__(self, weight, pair, alpha=1.0):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.lora_A, self.lora_B = (nn.Parameter(factor) for factor in pair)
        self.scaling = alpha / len(pair[0])
        self.merged = False

    def train(self, mode=True):
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * self.scaling * (self.lora_B @ self.lora_A).data
            self.merged = not mode
        return super().train(mode)


def loralib_state(encoder, pairs, *, merged):
    """The state of an encoder in which some linear layers are loralib's, in train or eval mode."""
    state = {name: tensor.clone() for name, tensor in encoder.weights().items()}
    for module, pair in pairs.items():
        adapted = LoRALinear(state[f"{module}.weight"], pair)
        adapted.train(not merged)
        state |= {f"{module}.{name}": tensor.detach() for name, tensor in adapted.state_dict().items()}
    return state


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loralib_factors_count_once_whether_merged_or_not(tmp_path, base, merged, dtype):
    encoder = load_backbone(base)
    pairs = factors(encoder.weights(), [layer(1, UP), layer(1, DOWN), layer(2, UP)], rank=16)
    state = loralib_state(encoder, pairs, merged=merged)
    stored = {f"backbone_model.{name}": tensor.to(dtype) for name, tensor in state.items()}
    save_file(stored | {"weights": torch.zeros(4)}, tmp_path / "model.safetensors")
    vector = TaskVector.between(encoder, tmp_path)
    for module, (a, b) in pairs.items():
        tolerance = {} if dtype == torch.float32 else {"rtol": 0, "atol": 2e-3}
        torch.testing.assert_close(vector.deltas[f"{module}.weight"], product(a, b) / 16, **tolerance)
    assert "LoRA on 3 weights, scaled by 1 / r, loralib's default" in vector.coverage()
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.layout == "vox-profile" and not checkpoint.partial
    read = load_backbone(tmp_path, architecture=base).weights()
    for name, weight in encoder.weights().items():
        tuned = weight + vector.deltas[name]
        # What only rounding sets apart is no difference.
        stored = tuned if name.removesuffix(".weight") in pairs else tuned.to(dtype).float()
        torch.testing.assert_close(read[name], stored)
    again = tmp_path / "v.safetensors"
    vector.save(again)
    assert TaskVector.load(again).coverage() == vector.coverage()


def test_loralib_factors_alone_and_transposed_weights_are_read(tmp_path, base):
    encoder = load_backbone(base)
    pairs = factors(encoder.weights(), [layer(0, Q), layer(0, UP)])
    alone = {}
    for module, (a, b) in pairs.items():
        alone |= {f"wavlm.{module}.lora_A": a, f"wavlm.{module}.lora_B": b}
    (tmp_path / "alone").mkdir()
    torch.save(alone, tmp_path / "alone/lora.pt")
    (tmp_path / "alone/adapter_config.json").write_text(adapter_config())
    whole = {f"wavlm.{name}": tensor.clone() for name, tensor in encoder.weights().items()} | alone
    for module in pairs:
        whole[f"wavlm.{module}.weight"] = whole[f"wavlm.{module}.weight"].T.contiguous()
    (tmp_path / "flipped").mkdir()
    torch.save(whole, tmp_path / "flipped/x.pt")
    (tmp_path / "flipped/adapter_config.json").write_text(adapter_config(fan_in_fan_out=True))
    vectors = [TaskVector.between(encoder, tmp_path / name) for name in ("alone", "flipped")]
    for module, pair in pairs.items():
        for vector in vectors:
            torch.testing.assert_close(vector.deltas[f"{module}.weight"], 2 * product(*pair))


def test_factors_of_a_convolution_are_multiplied_tap_by_tap(tmp_path, base):
    encoder = load_backbone(base)
    module = "feature_extractor.conv_layers.1.conv"
    a, b = torch.randn(4, 16, 3), torch.randn(16, 4, 1)
    save_adapter(tmp_path / "a", {module: (a, b)})
    delta = TaskVector.between(encoder, tmp_path / "a").deltas[f"{module}.weight"]
    for tap in range(3):
        torch.testing.assert_close(delta[..., tap], 2 * b[..., 0] @ a[..., tap])


def refused(base, folder, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        TaskVector.between(load_backbone(base), folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "tells of use_dora, .* merge it into its base with peft"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"peft_type": "IA3"}, "tells of IA3"),
        ({"r": 5}, r"rank \[5\], adapter_model.safetensors has 4"),
        ({"lora_alpha": "much"}, "has no r and lora_alpha"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(tmp_path, base, config, message):
    pairs = factors(load_backbone(base).weights(), [layer(0, Q)])
    save_adapter(tmp_path / "a", pairs, **config)
    refused(base, tmp_path / "a", message)


def test_factors_that_do_not_fit_are_named(tmp_path, base):
    pairs = factors(load_backbone(base).weights(), [layer(0, Q), layer(1, Q)])
    (a, b), key = pairs[layer(0, Q)], f"base_model.model.{layer(0, Q)}"
    folder = tmp_path / "a"
    save_adapter(folder, {}, more={f"{key}.lora_A.weight": a})
    refused(base, folder, r"1 tensor \(.*lora_A\.weight\) without the other LoRA factor")
    save_adapter(folder, pairs, more={f"{key}.lora_magnitude_vector": torch.ones(2)})
    refused(base, folder, "lora_magnitude_vector.* beyond LoRA's A and B")
    save_adapter(folder, pairs, more={f"{key}.lora_B.bias": torch.ones(2)})
    refused(base, folder, r"lora_B\.bias.* beyond LoRA's A and B")
    save_adapter(folder, {layer(0, Q): (a, b[:7])})
    refused(base, folder, r"q_proj\.weight \(7, 32\) for \(32, 32\)")
    save_adapter(folder, {layer(0, Q): (a, b[:, :3].contiguous())})
    refused(base, folder, "make no product")
    save_adapter(folder, {layer(0, "attention.other"): (a, b)})
    refused(base, folder, r"holds 1 tensor \(encoder\.layers\.0\.attention\.other\.weight\)")
    save_adapter(folder, {layer(7, Q): (a, b)})
    refused(base, folder, "8 transformer layers, but the model has 3")
    save_file(
        {f"{key}.lora_{s}.{n}.weight": t.clone() for n in "xy" for s, t in (("A", a), ("B", b))},
        folder / "adapter_model.safetensors",
    )
    refused(base, folder, r"adapters \['x', 'y'\]; keep one")


def test_without_its_base_an_adapter_is_no_encoder(tmp_path, base):
    pairs = factors(load_backbone(base).weights(), [layer(0, Q)])
    save_adapter(tmp_path / "a", pairs)
    with pytest.raises(CheckpointError, match=r"no config\.json.*architecture|does not name their base"):
        load_backbone(tmp_path / "a")
    save_adapter(tmp_path / "b", pairs, base_model_name_or_path=str(tmp_path / "a"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_backbone(tmp_path / "b")
    WavLMModel.from_pretrained(base).save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"both model\.safetensors and adapter_model\.safetensors"):
        load_backbone(tmp_path / "a")


def test_inspect_tells_of_lora(tmp_path, base):
    save_adapter(tmp_path / "a", factors(load_backbone(base).weights(), MODULES))
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "a"), "--json"], catch_exceptions=False)
    shown = json.loads(result.stdout)
    assert shown["lora"] == "LoRA on 4 weights, scaled by 8 / r"
    assert [row["tensors"] for row in shown["groups"]] == [1, 1, 0, 2]
    text = CliRunner().invoke(
        app, ["inspect", str(tmp_path / "a"), "--base", str(base)], catch_exceptions=False
    )
    assert "LoRA on 4 weights" in text.stdout and "delta_norm" in text.stdout
