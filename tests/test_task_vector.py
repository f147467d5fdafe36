import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WavLMConfig, WavLMForCTC
from typer.testing import CliRunner

from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.kinship import correlation
from voxstrata.cli.main import app
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector, require_a_change


def tiny(**more):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    front = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    return WavLMConfig(
        **{**sizes, **front, "feat_extract_norm": "layer", "do_stable_layer_norm": True, **more}
    )


@pytest.fixture
def base(tmp_path):
    build_backbone(tiny(), seed=0).save(tmp_path / "base")
    return load_backbone(tmp_path / "base")


@pytest.fixture
def expert(tmp_path, base):
    """A CTC model whose backbone is the base's, moved; its front end is the base's own."""
    torch.manual_seed(1)
    model = WavLMForCTC(tiny(vocab_size=12))
    model.wavlm.load_state_dict(base.model.state_dict())
    with torch.no_grad():
        for name, parameter in model.wavlm.named_parameters():
            if name.startswith("encoder.layers."):
                parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "expert")
    return model


def test_the_vector_is_the_difference_of_expert_and_base(tmp_path, base, expert):
    before = {name: tensor.clone() for name, tensor in base.weights().items()}
    vector = TaskVector.between(base, tmp_path / "expert")
    tuned = expert.wavlm.state_dict()
    assert set(vector.deltas) == set(tuned)
    for name, delta in vector.deltas.items():
        assert torch.equal(delta, tuned[name].float() - before[name])
        assert torch.equal(base.weights()[name], before[name])


def test_the_coverage_statement_counts_groups_and_names_what_is_left_out(tmp_path, base, expert):
    vector = TaskVector.between(base, tmp_path / "expert")
    assert vector.coverage() == (
        f"{len(expert.wavlm.state_dict())} tensors, each in exactly one of 3 groups; zero groups: 0; "
        "left out: lm_head.bias, lm_head.weight (CTC head)"
    )
    assert vector.zero_groups() == (0,)
    changed = [
        torch.cat([d.flatten() for n, d in vector.deltas.items() if f"layers.{layer}." in n])
        for layer in (0, 1)
    ]
    assert vector.norms() == pytest.approx([0, *(float(c.double().norm()) for c in changed)])


def test_a_vector_survives_its_file(tmp_path, base, expert):
    vector = TaskVector.between(base, tmp_path / "expert")
    for dtype, tolerance in ((torch.float32, 0), (torch.bfloat16, 1e-3), (torch.float16, 1e-4)):
        vector.save(tmp_path / "v.safetensors", dtype=dtype)
        again = TaskVector.load(tmp_path / "v.safetensors")
        again.check(base)
        assert (again.source, again.left_out, again.kinship) == (
            vector.source,
            vector.left_out,
            vector.kinship,
        )
        for name, delta in again.deltas.items():
            assert delta.dtype == dtype
            torch.testing.assert_close(delta.float(), vector.deltas[name], atol=tolerance, rtol=0)


def test_a_vector_fits_its_own_base_only(tmp_path, base, expert):
    vector = TaskVector.between(base, tmp_path / "expert")
    other = load_backbone(tmp_path / "base")
    vector.check(other)
    other.model.encoder.layer_norm.bias.data[0] += 1e-3
    for refuse in (lambda: vector.check(other), lambda: MergedBackbone(other, {"asr": vector})):
        with pytest.raises(CheckpointError, match="belongs to the base"):
            refuse()


def test_the_fingerprint_does_not_depend_on_container_spelling_or_precision(tmp_path, base):
    state = {n.replace("parametrizations.weight.original0", "weight_g"): t for n, t in base.weights().items()}
    state = {n.replace("parametrizations.weight.original1", "weight_v"): t for n, t in state.items()}
    (tmp_path / "base/model.safetensors").unlink()
    torch.save(state, tmp_path / "base/pytorch_model.bin")
    again = load_backbone(tmp_path / "base")
    assert fingerprint(again.weights()) == fingerprint(base.weights())
    assert fingerprint(again.double().weights()) == fingerprint(base.weights())


def test_an_expert_of_another_base_is_refused_unless_allowed(tmp_path, base):
    build_backbone(tiny(), seed=9).save(tmp_path / "stranger")
    with pytest.raises(
        CheckpointError, match=r"does not come from this base.*correlate.*0\.2.*allow"
    ) as caught:
        TaskVector.between(base, tmp_path / "stranger")
    assert "\n" not in str(caught.value)
    assert abs(TaskVector.between(base, tmp_path / "stranger", allow_foreign=True).kinship) < 0.1


@pytest.mark.parametrize(("noise", "related"), [(0.1, True), (1.0, True), (20.0, False)])
def test_kinship_bears_heavy_fine_tuning(tmp_path, base, noise, related):
    torch.manual_seed(0)
    state = {n: t + noise * t.std(correction=0) * torch.randn_like(t) for n, t in base.weights().items()}
    save_file(state, tmp_path / "moved.safetensors")
    vector = TaskVector.between(base, tmp_path / "moved.safetensors", allow_foreign=True)
    assert vector.kinship == pytest.approx(1 / (1 + noise**2) ** 0.5, abs=0.05)
    assert (vector.kinship > 0.2) == related


def test_correlation_equals_that_of_torch():
    pair = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    assert correlation(*pair) == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-6)
    assert correlation(torch.ones(5), pair[0, :5]) == 0


def test_differences_that_are_not_finite_are_refused(tmp_path, base):
    for bad in (float("nan"), float("inf")):
        state = {name: tensor.clone() for name, tensor in base.weights().items()}
        state["encoder.layer_norm.bias"][0] = bad
        save_file(state, tmp_path / "bad.safetensors")
        with pytest.raises(CheckpointError, match=r"encoder\.layer_norm\.bias"):
            TaskVector.between(base, tmp_path / "bad.safetensors")


def test_an_overflowing_dtype_is_refused_and_leaves_no_file(tmp_path, base):
    state = {name: tensor + 1e6 for name, tensor in base.weights().items()}
    save_file(state, tmp_path / "far.safetensors")
    vector = TaskVector.between(base, tmp_path / "far.safetensors", allow_foreign=True)
    with pytest.raises(CheckpointError, match="number format"):
        vector.save(tmp_path / "v.safetensors", dtype=torch.float16)
    assert not (tmp_path / "v.safetensors").exists()
    with pytest.raises(CheckpointError, match="cannot write"):
        vector.save(tmp_path / "far.safetensors" / "v.safetensors")


def test_an_expert_without_mask_embedding_differs_there_by_zero(tmp_path, base):
    state = {name: tensor for name, tensor in base.weights().items() if name != "masked_spec_embed"}
    save_file(state, tmp_path / "x.safetensors")
    vector = TaskVector.between(base, tmp_path / "x.safetensors")
    assert set(vector.deltas) == set(base.weights())
    assert vector.zero_groups() == (0, 1, 2)


def test_a_vector_that_is_zero_is_a_warning_and_nothing_but_such_is_refused(tmp_path, base):
    save_file(base.weights(), tmp_path / "x.safetensors")
    zero = TaskVector.between(base, tmp_path / "x.safetensors")
    assert zero.is_zero and zero.coverage().startswith("warning: zero in all groups: the expert's encoder is")
    name = next(iter(zero.deltas))
    one = torch.zeros_like(zero.deltas[name])
    one.view(-1)[0] = 1e-3
    moved = replace(zero, deltas={**zero.deltas, name: one})
    assert not moved.is_zero and "warning" not in moved.coverage()
    assert require_a_change({"a": moved}) == require_a_change({}) == []
    (line,) = require_a_change({"a": moved, "b": zero})
    assert line.startswith("warning: vector b: zero in all groups")
    with pytest.raises(CheckpointError, match="nothing to merge, as b, c changed no tensor"):
        require_a_change({"b": zero, "c": zero})


def test_other_files_are_no_task_vectors(tmp_path, base):
    for path in (tmp_path / "base/model.safetensors", tmp_path / "base/config.json", tmp_path / "none"):
        with pytest.raises(CheckpointError, match="task vector"):
            TaskVector.load(path)
    assert load_file(tmp_path / "base/model.safetensors")


def inspect(*arguments):
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_inspect_shows_layout_groups_and_differences(tmp_path, base, expert):
    plain = json.loads(inspect(tmp_path / "expert", "--json"))
    assert plain["prefix"] == "wavlm." and plain["layers"] == 2
    assert plain["left_out"] == {"lm_head.bias": "CTC head", "lm_head.weight": "CTC head"}
    assert sum(row["parameters"] for row in plain["groups"]) == sum(
        t.numel() for t in base.weights().values()
    )
    vector = TaskVector.between(base, tmp_path / "expert")
    shown = json.loads(inspect(tmp_path / "expert", "--base", tmp_path / "base", "--json"))
    assert shown["comes_from_base"] is True
    assert shown["coverage"] == vector.coverage()
    assert [row["delta_norm"] for row in shown["groups"]] == list(vector.norms())
    vector.save(tmp_path / "v.safetensors")
    stored = json.loads(inspect(tmp_path / "v.safetensors", "--base", tmp_path / "base", "--json"))
    assert stored["groups"] == shown["groups"]
    text = inspect(tmp_path / "expert", "--base", tmp_path / "base")
    assert vector.coverage() in text and "delta_norm" in text
