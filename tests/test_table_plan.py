"""Experts in the layouts they are published in: planned before training, and keyed by what they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.locate import locate, packaged_names
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CheckpointError
from voxstrata.experiments.dry_run.whole_table import dry_run_table
from voxstrata.experiments.tables.pieces import Chosen
from voxstrata.experiments.tables.planned_runs import order, plan
from voxstrata.experiments.tables.table import Table, read_table_spec

BASE, SER = "microsoft/wavlm-large", "tiantiaf/wavlm-large-categorical-emotion"
ASR = "patrickvonplaten/wavlm-libri-clean-100h-large"
LOW = "encoder.layers.0.attention.q_proj"


def vox_profile(folder: Path, weights: Mapping[str, Tensor]) -> Path:
    """An encoder as vox-profile publishes it: with heads, and a config.json that is not of transformers."""
    folder.mkdir(parents=True)
    heads = {"weights": torch.zeros(3), "emotion_layer.0.weight": torch.zeros(9, 8)}
    stored = {f"backbone_model.{name}": tensor.contiguous() for name, tensor in weights.items()}
    save_file(stored | heads, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"pretrain_model": "wavlm_large", "hidden_dim": 256}))
    return folder


def adapter(folder: Path, base: SpeechEncoder, *, seed: int = 0, alpha: int = 8) -> Path:
    """A LoRA adapter that does not tell its base."""
    generator = torch.Generator().manual_seed(seed)
    out, features = base.weights()[f"{LOW}.weight"].shape
    folder.mkdir()
    stored = {
        f"base_model.model.{LOW}.lora_A.weight": torch.randn(4, features, generator=generator),
        f"base_model.model.{LOW}.lora_B.weight": torch.randn(out, 4, generator=generator),
    }
    save_file(stored, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": 4, "lora_alpha": alpha, "base_model_name_or_path": None}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


def table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    values = {
        "title": "Test",
        "runs": runs,
        "rows": [{"run": name, "title": name} for name in runs],
        "scales": {"small": {"corpora": {}}},
    }
    return Table.model_validate(values)


def keys(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    content = table(runs)
    planned = plan(content, content.scale("small"), {}, Path("runs"))
    return {run.name: run.folder.path.name for run in planned}


def systems(base: Path, expert: Path) -> dict[str, dict[str, Any]]:
    """A run of every system that takes experts."""
    merged = {"base": str(base), "vectors": {"ser": str(expert)}}
    fused = {"architecture": str(base), "experts": {"ser": str(expert)}}
    return {
        "merged": {"recipe": "adaltm", "set": merged},
        "joint": {"recipe": "multitask", "set": merged},
        "fused": {"recipe": "late-fusion", "set": fused},
    }


def test_the_table_of_the_paper_is_planned_with_the_published_layouts(
    encoder_folder, expert_folders, corpus_folder, tmp_path, monkeypatch
):
    load_backbone(encoder_folder).save(tmp_path / BASE)
    load_backbone(expert_folders["asr"]).save(tmp_path / ASR)
    vox_profile(tmp_path / SER, load_backbone(expert_folders["ser"]).weights())
    monkeypatch.chdir(tmp_path)
    content = read_table_spec("adaltm-paper")
    scale = content.scale("paper")
    planned = plan(content, scale, {"msp": PreparedCorpus.load(corpus_folder)}, tmp_path)
    assert [run.name for run in planned] == order(content, scale)
    assert {"mtl-merged.1", "dual", "late-fusion"} < {run.name for run in planned}
    assert len({run.folder.path for run in planned}) == len(planned)


def test_the_layout_of_an_expert_changes_no_key_and_its_weights_do(encoder_folder, expert_folders, tmp_path):
    weights = load_backbone(expert_folders["ser"]).weights()
    same = vox_profile(tmp_path / "same", weights)
    other = vox_profile(tmp_path / "other", weights | {f"{LOW}.bias": weights[f"{LOW}.bias"] + 1})
    plain = keys(systems(encoder_folder, expert_folders["ser"]))
    assert keys(systems(encoder_folder, same)) == plain
    assert not set(keys(systems(encoder_folder, other)).values()) & set(plain.values())


def test_an_expert_is_planned_on_a_base_that_is_still_to_be_trained(expert_folders, tmp_path):
    ser = vox_profile(tmp_path / "ser", load_backbone(expert_folders["ser"]).weights())
    runs = {
        "base": {"recipe": "pretrain-tiny"},
        "merged": {"recipe": "adaltm", "set": {"base": "$run.base", "vectors": {"ser": str(ser)}}},
    }
    assert keys(runs).keys() == runs.keys()


def test_an_adapter_that_does_not_tell_its_base_is_keyed_by_its_product(encoder, encoder_folder, tmp_path):
    first = keys(systems(encoder_folder, adapter(tmp_path / "first", encoder)))
    assert keys(systems(encoder_folder, adapter(tmp_path / "copy", encoder))) == first
    for name, options in {"factors": {"seed": 1}, "scale": {"alpha": 4}}.items():
        other = keys(systems(encoder_folder, adapter(tmp_path / name, encoder, **options)))
        assert not set(other.values()) & set(first.values())


def test_a_dry_run_tells_of_the_expert_that_cannot_be_planned(encoder_folder, expert_folders, tmp_path):
    ser = vox_profile(tmp_path / "ser", load_backbone(expert_folders["ser"]).weights())
    runs = systems(encoder_folder, ser)
    assert not [fault for fault in dry_run_faults(runs, tmp_path) if str(ser) in fault]
    assert keys(runs).keys() == runs.keys()
    del runs["fused"]["set"]["architecture"]
    (fault,) = [fault for fault in dry_run_faults(runs, tmp_path) if str(ser) in fault]
    with pytest.raises(CheckpointError) as caught:
        keys(runs)
    assert fault == str(caught.value)


def dry_run_faults(runs: Mapping[str, Mapping[str, Any]], out: Path) -> tuple[str, ...]:
    return dry_run_table(Chosen(table(runs), "test", "small"), out=out, data=None).faults


@pytest.mark.parametrize("name", packaged_names())
def test_packaged_encoders_are_keyed_alike_as_base_and_as_expert(name):
    assert open_checkpoint(locate(name)).fingerprint() == fingerprint(load_backbone(name).weights())
