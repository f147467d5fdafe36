"""Merged files: values beside a loop in numpy and beside MergedBackbone, the folder, killed merges."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import voxstrata as vs
from merged_files import WEIGHTS, by_hand, edit_json, merged, moved, request, same, tensors
from voxstrata.backbone.encoder import load_backbone
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.merging.files import merge_request
from voxstrata.merging.request import Expert, read_request
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector

LISTS = ((0.25, 0.5, -0.75), (1.0, 0.0, 0.3))


@pytest.fixture
def base(encoder_folder: Path) -> dict[str, torch.Tensor]:
    return tensors(encoder_folder)


@pytest.fixture
def experts(expert_folders: dict[str, Path]) -> list[dict[str, torch.Tensor]]:
    return [tensors(folder) for folder in expert_folders.values()]


def test_a_merge_is_the_loop_in_numpy(encoder_folder, expert_folders, base, experts, tmp_path):
    made = merged(
        encoder_folder,
        tmp_path / "out",
        **{
            name: (folder, given) for (name, folder), given in zip(expert_folders.items(), LISTS, strict=True)
        },
    )
    same(tensors(tmp_path / "out"), by_hand(base, experts, LISTS), ulps=1)
    assert made.layers == ("0", "1", "2") and tuple(made.coefficients.values()) == LISTS
    assert made.parts == "encoder" and made.dtype == "float32" and made.tensors == len(base)


def test_plain_transformers_opens_what_merged_backbone_exports(encoder_folder, expert_folders, tmp_path):
    encoder = load_backbone(encoder_folder)
    vectors = {name: TaskVector.between(encoder, folder) for name, folder in expert_folders.items()}
    learned = MergedBackbone(encoder, vectors)
    with torch.no_grad():
        learned.coefficients.copy_(torch.tensor(LISTS).T)
    learned.export(tmp_path / "theirs")
    merged(
        encoder_folder,
        tmp_path / "ours",
        **{
            name: (folder, tuple(learned.coefficients[:, k].tolist()))
            for k, (name, folder) in enumerate(expert_folders.items())
        },
    )
    same(tensors(tmp_path / "ours"), tensors(tmp_path / "theirs"), ulps=4)
    wave = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    states = []
    for name in ("ours", "theirs"):
        model, report = AutoModel.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(report.values())
        with torch.no_grad():
            states.append(model.eval()(wave).last_hidden_state)
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("coefficient", [0, 1])
def test_coefficient_0_is_the_base_and_1_the_expert_bit_for_bit(
    encoder_folder, expert_folders, tmp_path, coefficient
):
    merged(encoder_folder, tmp_path / "out", asr=(expert_folders["asr"], coefficient))
    same(tensors(tmp_path / "out"), tensors([encoder_folder, expert_folders["asr"]][coefficient]))


@settings(max_examples=10)
@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_task_arithmetic_is_linear_and_free_of_order(tmp_path_factory, encoder_folder, expert_folders, a, b):
    folder = tmp_path_factory.mktemp("linear")
    both = {"asr": (expert_folders["asr"], tuple(a)), "ser": (expert_folders["ser"], tuple(b))}
    merged(encoder_folder, folder / "both", **both)
    merged(encoder_folder, folder / "turned", **dict(reversed(both.items())))
    merged(encoder_folder, folder / "asr", asr=both["asr"])
    merged(encoder_folder, folder / "ser", ser=both["ser"])
    same(tensors(folder / "both"), tensors(folder / "turned"), ulps=4)
    base, first, second = (tensors(f) for f in (encoder_folder, folder / "asr", folder / "ser"))
    summed = {name: first[name].double() + second[name].double() - base[name].double() for name in base}
    for name, found in tensors(folder / "both").items():
        torch.testing.assert_close(found.double(), summed[name], rtol=1e-6, atol=1e-6)


def test_what_is_merged_at_1_gives_its_vector_back(encoder_folder, expert_folders, tmp_path):
    encoder = load_backbone(encoder_folder)
    merged(encoder_folder, tmp_path / "out", asr=(expert_folders["asr"], 0.5))
    half = TaskVector.between(encoder, tmp_path / "out").deltas
    whole = TaskVector.between(encoder, expert_folders["asr"]).deltas
    for name, delta in whole.items():
        torch.testing.assert_close(2 * half[name], delta, rtol=1e-4, atol=1e-6)


def test_large_tensors_are_merged_in_blocks_as_small_ones_are(
    encoder_folder, expert_folders, tmp_path, monkeypatch
):
    vectors = {name: (folder, 0.4) for name, folder in expert_folders.items()}
    merged(encoder_folder, tmp_path / "whole", **vectors)
    monkeypatch.setattr("voxstrata.merging.work._BLOCK", 7)
    merged(encoder_folder, tmp_path / "blocks", **vectors)
    same(tensors(tmp_path / "whole"), tensors(tmp_path / "blocks"))


def test_the_folder_holds_what_the_base_has_and_a_card(encoder_folder, expert_folders, tmp_path):
    (tmp_path / "base").mkdir()
    for file in encoder_folder.iterdir():
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "base" / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "base" / "notes.txt").write_text("no part of a model")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    nc = moved(tmp_path / "base", tmp_path / "nc", 1)
    (nc / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nbase_model: me/base\n---\nhello\n")
    made = merged(tmp_path / "base", tmp_path / "out", nc=(nc, 0.5), asr=(expert_folders["asr"], 0.25))
    assert {file.name for file in made.folder.iterdir()} == {
        *("config.json", WEIGHTS, "preprocessor_config.json", "vocab.json", "README.md", "merge.yaml"),
    }
    card = (made.folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == ["base", "nc", expert_folders["asr"].name]
    assert front["base_model_relation"] == "merge" and "license" not in front
    assert "arXiv 2212.04089" in card and "| 2 | 0.5 | 0.25 |" in card
    assert "nc is under cc-by-nc-4.0, without commercial use" in card
    assert any("commercial use" in note for note in made.notes)
    assert made.parents["base"]["licence"] == "mit" and made.parents["asr"]["licence"] is None


def test_merge_yaml_makes_the_same_merge_again(encoder_folder, expert_folders, tmp_path):
    (tmp_path / "c.csv").write_text("layer,coefficient\n0,0.1\n2,0.3\n1,0.2\n")
    made = merged(
        encoder_folder,
        tmp_path / "one",
        asr=(expert_folders["asr"], str(tmp_path / "c.csv")),
        ser=(expert_folders["ser"], -1),
    )
    assert made.coefficients == {"asr": (0.1, 0.2, 0.3), "ser": (-1.0, -1.0, -1.0)}
    again = read_request(tmp_path / "one" / "merge.yaml")
    merge_request(again, tmp_path / "two")
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()
    assert (tmp_path / "one" / "merge.yaml").read_text() == (tmp_path / "two" / "merge.yaml").read_text()


def test_merge_yaml_knows_its_parents_by_their_hashes(encoder_folder, expert_folders, tmp_path):
    expert = moved(encoder_folder, tmp_path / "expert", 3)
    merged(encoder_folder, tmp_path / "one", asr=(expert, 0.5))
    state = load_file(expert / WEIGHTS)
    save_file({name: value * 1.01 for name, value in state.items()}, expert / WEIGHTS)
    with pytest.raises(VoxstrataError, match="is not the asr that the file tells of"):
        merge_request(read_request(tmp_path / "one" / "merge.yaml"), tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_number_formats(encoder_folder, tmp_path):
    half = moved(encoder_folder, tmp_path / "half", 5)
    save_file({n: v.half() for n, v in tensors(encoder_folder).items()}, half / WEIGHTS)
    edit_json(half / "config.json", dtype="float16")
    full = moved(encoder_folder, tmp_path / "full", 6)
    made = merged(half, tmp_path / "widest", asr=(full, 1))
    assert (
        made.dtype == "float32"
        and json.loads((made.folder / "config.json").read_text())["dtype"] == "float32"
    )
    same(tensors(made.folder), tensors(full))
    asked = merge_request(
        request(encoder_folder, asr=(full, 0.5)).__class__(
            str(encoder_folder), {"asr": Expert(str(full), 0.5)}, "task-arithmetic", dtype="bfloat16"
        ),
        tmp_path / "asked",
    )
    once = by_hand(tensors(encoder_folder), [tensors(full)], [(0.5,) * 3])
    assert asked.dtype == "bfloat16"
    for name, value in tensors(asked.folder).items():
        assert value.dtype == torch.bfloat16
        assert torch.allclose(value.float(), torch.from_numpy(once[name]), rtol=2**-8, atol=1e-30)


def test_an_expert_that_was_only_rounded_changes_nothing(encoder_folder, expert_folders, tmp_path):
    rounded = moved(encoder_folder, tmp_path / "rounded", 1)
    state = {n: v.bfloat16() for n, v in tensors(encoder_folder).items()}
    state["encoder.layers.1.final_layer_norm.bias"] += 1
    save_file(state, rounded / WEIGHTS)
    made = merged(encoder_folder, tmp_path / "out", asr=(rounded, 0.5))
    base, found = tensors(encoder_folder), tensors(made.folder)
    changed = [name for name in base if not torch.equal(base[name], found[name])]
    assert changed == ["encoder.layers.1.final_layer_norm.bias"]
    assert any("asr is stored in bfloat16" in note for note in made.notes)


def test_what_changes_nothing_is_said_or_refused(encoder_folder, expert_folders, tmp_path):
    copy = moved(encoder_folder, tmp_path / "copy", 1, scale=0)
    edit_json(copy / "config.json", comment="another file")
    state = tensors(encoder_folder)
    save_file(state, copy / WEIGHTS, metadata={"format": "pt", "of": "a copy"})
    with pytest.raises(CheckpointError, match="nothing to merge, as copy changed no tensor"):
        merged(encoder_folder, tmp_path / "out", copy=(copy, 0.5))
    made = merged(encoder_folder, tmp_path / "out", copy=(copy, 0.5), asr=(expert_folders["asr"], 1))
    assert any("vector copy is zero" in note for note in made.notes)


def test_python_merges_files_too(encoder_folder, expert_folders, tmp_path):
    made = vs.merge_files(
        encoder_folder, {"asr": (expert_folders["asr"], 0.5)}, out=tmp_path / "out", method="task-arithmetic"
    )
    assert (
        repr(made) == f"FileMerge({str(tmp_path / 'out')!r}, task-arithmetic: asr 0.50 (mean coefficients))"
    )
    with pytest.raises(VoxstrataError, match="option"):
        vs.merge_files(
            encoder_folder, {"asr": (expert_folders["asr"], 0.5)}, out=tmp_path / "o", densitty=0.2
        )


def test_lists_of_training_clips_are_carried_along(tmp_path):
    from voxstrata.experiments.leaks.training_clips import TrainingClips, training_clips_of

    vs.merge_files("wavlm-tiny", {"asr": ("wavlm-tiny-asr", 0.5)}, out=tmp_path / "out")
    both = TrainingClips().with_parent(training_clips_of("wavlm-tiny", "base"))
    both = both.with_parent(training_clips_of("wavlm-tiny-asr", "expert asr"))
    assert training_clips_of(tmp_path / "out", "model").uses == both.uses and both.uses


def test_an_earlier_merge_is_overwritten_and_nothing_else(encoder_folder, expert_folders, tmp_path):
    out = tmp_path / "out"
    first = request(encoder_folder, asr=(expert_folders["asr"], 0.5))
    merge_request(first, out)
    before = (out / WEIGHTS).read_bytes()
    with pytest.raises(VoxstrataError, match="is there already and holds"):
        merge_request(first, out)
    merge_request(request(encoder_folder, ser=(expert_folders["ser"], 0.5)), out, overwrite=True)
    assert (out / WEIGHTS).read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(VoxstrataError, match="no earlier merge"):
        merge_request(first, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def merge_without_end(base: Path, expert: Path, out: Path) -> None:
    while True:
        merge_request(request(base, asr=(expert, 0.5)), out, overwrite=True)


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_nothing_half_written(encoder_folder, expert_folders, tmp_path):
    out, moments, started = tmp_path / "out", random.Random(0), time.monotonic()
    merged(encoder_folder, tmp_path / "whole", asr=(expert_folders["asr"], 0.5))
    names = {file.name for file in (tmp_path / "whole").iterdir()}
    weights = (tmp_path / "whole" / WEIGHTS).read_bytes()
    # So long as a merge takes here, at whatever speed: some are killed before they end, some behind.
    longest_s, whole = max(0.5, 3 * (time.monotonic() - started)), 0
    for _ in range(25):
        process = multiprocessing.get_context("fork").Process(
            target=merge_without_end, args=(encoder_folder, expert_folders["asr"], out)
        )
        process.start()
        time.sleep(moments.uniform(0, longest_s))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if out.is_dir():
            whole += 1
            assert {file.name for file in out.iterdir()} == names
            assert (out / WEIGHTS).read_bytes() == weights
    assert whole
    merge_request(request(encoder_folder, asr=(expert_folders["asr"], 0.5)), out, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "whole"]
