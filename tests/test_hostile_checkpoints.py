"""Checkpoints that are broken, foreign or made to harm: one line, exit 2, and memory bounded by the file."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hostile import refused
from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.encoder import load_backbone
from voxstrata.methods.adaltm.task_vector import TaskVector, is_task_vector

Q_PROJ = "encoder.layers.0.attention.q_proj.weight"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"x", "no file of torch"),
        (b"path,emotion\na.wav,anger\n", "it is text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"<!doctype html><html>not found</html>", "a web page"),
        (b"\x1f\x8b\x08\x00 and so on", "gzip"),
        (b"PK\x03\x04 cut off", "cannot read"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "cannot read"),
        (bytes(range(256)) * 4, "no file of torch"),
    ],
)
@pytest.mark.parametrize("ending", ["pt", "bin", "ckpt"])
def test_what_is_no_torch_file_is_said_to_be_what_it_is(tmp_path, content, message, ending):
    (tmp_path / f"x.{ending}").write_bytes(content)
    refused(message, open_checkpoint, tmp_path / f"x.{ending}")


def test_safetensors_under_another_name_are_read(tmp_path, state):
    save_file(state, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / "x.bin")
    read = open_checkpoint(tmp_path / "x.bin")
    assert all(torch.equal(read.tensor(name), tensor) for name, tensor in state.items())


def test_old_and_new_torch_files_are_read_as_before(tmp_path, state):
    for new in (False, True):
        torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        read = open_checkpoint(tmp_path / "x.pt")
        assert all(torch.equal(read.tensor(name), tensor) for name, tensor in state.items())


def repacked(source: Path, target: Path, **contents: bytes) -> None:
    """A torch file with compressed entries, some of them with another content."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            name = Path(entry.filename).name
            new.writestr(entry.filename, contents.get(name.replace(".", "_"), old.read(entry)))


def test_a_pickle_that_swells_is_refused_by_its_directory(tmp_path, state):
    torch.save(state, tmp_path / "x.pt")
    # Text of 400 MB, which deflates to 400 kB.
    swollen = b"\x80\x02X" + struct.pack("<I", 400_000_000) + b"a" * 400_000_000 + b"."
    repacked(tmp_path / "x.pt", tmp_path / "swells.pt", data_pkl=swollen)
    del swollen
    assert (tmp_path / "swells.pt").stat().st_size < 2_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused("claims to unpack to 4", open_checkpoint, tmp_path / "swells.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_bytearray_as_long_as_a_pickle_likes_is_not_made(tmp_path):
    class Long:
        def __reduce__(self):
            return bytearray, (10**10,)

    torch.save({"a": 1}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
        for entry in old.infolist():
            pickled = pickle.dumps({"a": Long()}, 2)
            new.writestr(entry.filename, pickled if entry.filename.endswith("data.pkl") else old.read(entry))
    refused("bytearray", open_checkpoint, tmp_path / "y.pt")


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda weight: weight.to_sparse(), "sparse"),
        (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "quantised"),
        (lambda weight: torch.zeros(1).expand(40_000, 40_000), "larger than the file"),
        (lambda weight: torch.empty(32, 32, device="meta"), "larger than the file"),
        (lambda weight: weight.to(torch.int8), "quantised weights"),
        (lambda weight: weight.to(torch.float8_e4m3fn), "quantised weights"),
        (lambda weight: weight.to(torch.complex64), "complex64"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values_are_named(tmp_path, state, odd, message):
    torch.save(state | {Q_PROJ: odd(state[Q_PROJ])}, tmp_path / "x.pt")
    assert "q_proj" in refused(message, open_checkpoint, tmp_path / "x.pt")


def bitsandbytes_8bit(state, *, scales: bool):
    """The layers' matrices in int8, each beside the largest of each row, as bitsandbytes stores them."""
    stored = dict(state)
    for name in [name for name in state if ".layers." in name and state[name].ndim == 2]:
        largest = state[name].abs().amax(1)
        stored[name] = (127 * state[name] / largest[:, None]).round().to(torch.int8)
        if scales:
            stored[name.replace("weight", "SCB")] = largest
            stored[name.replace("weight", "weight_format")] = torch.tensor(0, dtype=torch.uint8)
    return stored


def gptq(state):
    stored = {name: tensor for name, tensor in state.items() if ".attention." not in name}
    for name in [name for name in state if ".attention." in name and name.endswith("proj.weight")]:
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            stored[name.replace("weight", part)] = torch.zeros(4, 32, dtype=torch.int32)
    return stored


@pytest.mark.parametrize(
    "quantise",
    [
        lambda state: bitsandbytes_8bit(state, scales=True),
        lambda state: bitsandbytes_8bit(state, scales=False),
        gptq,
    ],
)
def test_quantised_weights_are_refused_in_one_line(folder, encoder, state, quantise):
    save_file(quantise(state), folder / "model.safetensors")
    for read in (load_backbone, lambda place: TaskVector.between(encoder, place)):
        refused(r"quantised weights.*float32", read, folder)


def test_empty_tensors_of_zero_3_are_named(folder, state):
    empty = {name: torch.empty(0) if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    save_file(empty, folder / "model.safetensors")
    refused(r"without values.*ZeRO-3.*zero_to_fp32", load_backbone, folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38, -1e12])
def test_weights_that_no_training_gives_are_refused_at_load(folder, encoder, state, value):
    state["encoder.layers.1.feed_forward.intermediate_dense.weight"][3, 5] = value
    save_file(state, folder / "model.safetensors")
    refused("intermediate_dense", load_backbone, folder)
    refused("intermediate_dense", TaskVector.between, encoder, folder)
    refused("intermediate_dense", lambda: open_checkpoint(folder).fingerprint())


@pytest.mark.parametrize("number", ["1000000000", "9" * 5000, "1000"])
def test_a_layer_that_no_encoder_has_takes_no_time(folder, state, number):
    save_file(state | {f"encoder.layers.{number}.final_layer_norm.bias": torch.zeros(32)}, folder / "x.pt")
    began = time.monotonic()
    refused("names a layer|names are longer", open_checkpoint, folder / "x.pt")
    assert time.monotonic() - began < 5


WRAPPED = {
    "FSDP": lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    "FSDP all over": lambda name: (
        "_fsdp_wrapped_module." + name.replace("layers.1.", "layers.1._fsdp_wrapped_module.")
    ),
    "torch.compile of layers": lambda name: name.replace("layers.1.", "layers.1._orig_mod."),
    "torch.compile over data parallel": lambda name: "_orig_mod.module.wavlm." + name,
    "activation checkpoints": lambda name: name.replace(
        ".attention.", "._checkpoint_wrapped_module.attention."
    ),
    "data parallel encoder": lambda name: name.replace("encoder.", "encoder.module.", 1),
    "a class of one's own": lambda name: name.replace("encoder.", "encoder.model.", 1),
    "all at once": lambda name: "module._orig_mod." + name.replace("layers.0.", "layers.0.module._orig_mod."),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_segments_of_wrappers_are_stripped_anywhere(folder, state, wrapper):
    stored = {WRAPPED[wrapper](name): tensor for name, tensor in state.items()}
    assert stored.keys() != state.keys()
    save_file(stored | {"module.lm_head.weight": torch.zeros(3, 32)}, folder / "model.safetensors")
    read = load_backbone(folder).weights()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    assert list(open_checkpoint(folder).left_out.values()) == ["CTC head"]


def test_lora_factors_behind_wrappers_are_found(tmp_path, encoder):
    a, b = torch.randn(2, 32), torch.randn(32, 2)
    module = "base_model.model.encoder.layers.1._orig_mod.attention.v_proj"
    save_file(
        {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, tmp_path / "adapter_model.safetensors"
    )
    settings = {"r": 2, "lora_alpha": 4, "alpha_pattern": {r"layers\.1\.attention\.v_proj": 6}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    vector = TaskVector.between(encoder, tmp_path)
    torch.testing.assert_close(vector.deltas["encoder.layers.1.attention.v_proj.weight"], 3 * b @ a)


def shard(folder: Path, state) -> dict[str, str]:
    names = sorted(state)
    shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: state[name] for name in members}, folder / file)
    (folder / "model.safetensors").unlink()
    return {name: file for file, members in shards.items() for name in members}


def test_an_index_given_as_a_file_stands_for_its_folder(folder, state, encoder):
    places = shard(folder, state)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert not TaskVector.between(encoder, index).norms()[1]
    assert load_backbone(str(index)).weights().keys() == state.keys()
    index.rename(folder / "pytorch_model.bin.index.json")
    refused("several .bin files", load_backbone, folder / "pytorch_model.bin.index.json")
    save_file(state, folder / "model.safetensors")
    (folder / "pytorch_model.bin.index.json").write_text("never looked at")
    assert load_backbone(folder / "pytorch_model.bin.index.json").weights().keys() == state.keys()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("../model.safetensors", "no file of its folder"),
        ("/etc/passwd", "no file of its folder"),
        ("..", "no file of its folder"),
        ("pipe.safetensors", "no such file"),
        ("folder.safetensors", "no such file"),
        ("gone.safetensors", "no such file"),
        ("shard-1.bin", "only .safetensors are read"),
        (3, "weight_map"),
        (None, "weight_map"),
    ],
)
def test_a_weight_map_stays_inside_its_folder(folder, state, place, message):
    places = shard(folder, state)
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "folder.safetensors").mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places | {Q_PROJ: place}}))
    refused(message, open_checkpoint, folder)


def test_a_pipe_is_never_waited_for(tmp_path):
    for name in ("model.safetensors", "x.pt"):
        os.mkfifo(tmp_path / name)
        refused("no plain file", open_checkpoint, tmp_path / name)
        assert not is_task_vector(tmp_path / name)
        refused("no such file", TaskVector.load, tmp_path / name)
    refused("no weight file", open_checkpoint, tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cast_back", [False, True])
def test_rounding_of_storage_is_no_learning(folder, encoder, state, dtype, cast_back):
    """An expert of which one layer was tuned, by a step that every number format shows."""
    tuned = [name for name in state if name.startswith("encoder.layers.1.")]
    for name in tuned:
        state[name] = 1.25 * state[name] + 0.25
    short = {name: tensor.to(dtype) for name, tensor in state.items()}
    assert any(
        not torch.equal(short[name].float(), tensor) for name, tensor in state.items() if name not in tuned
    )
    stored = {name: tensor.float() for name, tensor in short.items()} if cast_back else short
    save_file(stored, folder / "model.safetensors")
    vector = TaskVector.between(encoder, folder)
    assert vector.zero_groups() == (0, 1)
    assert f"stored in {str(dtype).removeprefix('torch.')}" in vector.coverage()
    for name in tuned:
        torch.testing.assert_close(
            vector.deltas[name] + encoder.weights()[name], short[name].float(), atol=1e-6, rtol=0
        )


def test_in_float32_every_difference_counts_and_nothing_is_said(folder, encoder, state):
    moved = {name: tensor + 1e-6 * tensor.abs() + 1e-7 for name, tensor in state.items()}
    save_file(moved, folder / "model.safetensors")
    vector = TaskVector.between(encoder, folder)
    assert not vector.zero_groups() and "stored in" not in vector.coverage()
    for name, tensor in encoder.weights().items():
        assert torch.equal(vector.deltas[name], moved[name] - tensor)


def test_a_program_that_reads_a_broken_file_ends_with_one_line_and_2(tmp_path):
    (tmp_path / "x.pt").write_text("path,emotion\n")
    done = subprocess.run(
        [sys.executable, "-m", "voxstrata.cli.main", "inspect", tmp_path / "x.pt"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "it is text" in done.stderr


def test_entries_that_refer_to_themselves_or_are_shared_without_end_take_no_time(tmp_path, state):
    shared: list = []
    for _ in range(60):
        shared = [shared] * 10
    itself: list = []
    itself.append(itself)
    buffer = io.BytesIO()
    torch.save({"model": state, "shared": shared, "itself": itself}, buffer)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    assert open_checkpoint(tmp_path / "x.pt").num_layers == 2
