"""`voxstrata merge` on the command line: what it prints, what --check finds, and one line for bad input."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from merged_files import WEIGHTS, edit_json, moved, tensors
from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError


def run(*words: object):
    return CliRunner().invoke(app, ["merge", *map(str, words)])


def fault(*words: object) -> str:
    """The one line of a merge that is refused."""
    done = run(*words)
    assert isinstance(done.exception, VoxstrataError), (done.output, done.exception)
    assert done.exception.exit_code == 2
    line = str(done.exception)
    assert "\n" not in line and line
    return line


@pytest.fixture
def given(encoder_folder: Path, expert_folders: dict[str, Path], tmp_path: Path) -> list[object]:
    """A merge of one expert, less its coefficient's file or number."""
    return [
        "--base",
        encoder_folder,
        "--vector",
        f"asr={expert_folders['asr']}:0.5",
        "--out",
        tmp_path / "out",
    ]


def test_coefficients_are_echoed_as_they_are_used(encoder_folder, expert_folders, tmp_path):
    (tmp_path / "c.csv").write_text("Layer;Coefficient\n0;0\n1;0.25\n2;-1\n")
    asr, ser = expert_folders["asr"], expert_folders["ser"]
    vectors = ["--vector", f"asr={asr}:0.1,0.2,0.3", "--vector", f"ser={ser}:{tmp_path / 'c.csv'}"]
    done = run("--base", encoder_folder, *vectors, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["coefficients"] == {"asr": [0.1, 0.2, 0.3], "ser": [0.0, 0.25, -1.0]}
    assert told["layers"] == ["0", "1", "2"]
    assert [line.split() for line in done.stderr.splitlines()[:4]] == [
        *(["layer", "asr", "ser"], ["0", "0.1", "0"], ["1", "0.2", "0.25"], ["2", "0.3", "-1"]),
    ]


def test_coefficients_of_training_are_taken(encoder_folder, expert_folders, tmp_path):
    rows = [[0.1, 0.4], [0.2, 0.5], [0.3, 0.6]]
    file = tmp_path / "coefficients.json"
    file.write_text(json.dumps({"granularity": "layer", "vectors": ["asr", "ser"], "coefficients": rows}))
    vectors = [
        word for name, folder in expert_folders.items() for word in ("--vector", f"{name}={folder}:{file}")
    ]
    done = run("--base", encoder_folder, *vectors, "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["coefficients"] == {"asr": [0.1, 0.2, 0.3], "ser": [0.4, 0.5, 0.6]}


def test_a_yaml_file_and_options_that_win_over_it(encoder_folder, expert_folders, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"base: {encoder_folder}\nmethod: task-arithmetic\nvectors:\n"
        f"  asr: {{path: {expert_folders['asr']}, coefficients: [0.1, 0.2, 0.3]}}\n"
    )
    done = run(file, "--out", tmp_path / "out", "--dtype", "float16", "--json")
    told = json.loads(done.stdout)
    assert told["coefficients"] == {"asr": [0.1, 0.2, 0.3]} and told["dtype"] == "float16"


@pytest.mark.parametrize(
    ("coefficient", "words"),
    [
        ("nan", ["the coefficient is nan", "numbers from"]),
        ("inf", ["the coefficient is inf"]),
        ("1e9", ["the coefficient is 1e+09"]),
        ("0.1,0.2", ["2 coefficients", "3 groups (layers 0 to 2)"]),
        ("[0.1,0.2,0.3,0.4]", ["4 coefficients", "3 groups"]),
        ("half", ["'half' is no coefficient", "a list per layer"]),
        ("gone.csv", ["cannot read gone.csv"]),
        ("", ["lacks a path or a coefficient", "NAME=PATH:COEFFICIENT"]),
    ],
)
def test_coefficients_that_are_none(encoder_folder, expert_folders, tmp_path, coefficient, words):
    vector = f"asr={expert_folders['asr']}:{coefficient}"
    line = fault("--base", encoder_folder, "--vector", vector, "--out", tmp_path / "out")
    assert all(word in line for word in words), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("layer,weight\n0,1\n", ["no column coefficient", "'layer', 'weight'"]),
        ("coefficient\n1\n", ["no column layer"]),
        ("", ["no column layer and none coefficient"]),
        ("layer,coefficient\n0,1\n1,2\n", ["2 coefficients", "lacks layer 2"]),
        ("layer,coefficient\n0,1\n1,1\n2,1\n3,1\n", ["has a layer '3'"]),
        ("layer,coefficient\n0,1\n0,1\n2,1\n", ["line 3", "again"]),
        ("layer,coefficient\n0,x\n", ["line 2", "'x'", "number"]),
        ("layer,coefficient\n0,nan\n", ["line 2", "nan"]),
        ("layer,coefficient\n0\n", ["line 2", "1 value for 2 columns"]),
        (b"\xff\xfe\x00", ["UTF-8"]),
    ],
)
def test_tables_of_coefficients_that_are_none(encoder_folder, expert_folders, tmp_path, table, words):
    file = tmp_path / "c.csv"
    file.write_bytes(table if isinstance(table, bytes) else table.encode())
    vector = f"asr={expert_folders['asr']}:{file}"
    line = fault("--base", encoder_folder, "--vector", vector, "--out", tmp_path / "out")
    assert all(word in line for word in words), line


def test_a_path_with_colons_is_split_at_the_last(encoder_folder, expert_folders, tmp_path):
    odd = moved(expert_folders["asr"], tmp_path / "run 12:30:00" / "best=1", 0)
    done = run("--base", encoder_folder, "--vector", f"asr={odd}:0.5", "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["parents"]["asr"]["path"] == str(odd)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--method", "tsa-arithmetic"], "did you mean task-arithmetic?"),
        (["--method", "task_arithmetic"], "did you mean task-arithmetic?"),
        (["--set", "density=0.5", "--set", "density=0.6"], "option density is given twice"),
        (["--set", "density"], "no option with a value"),
        (["--set", "nonsense=1"], "nonsense: there is no such key"),
        (["--dtype", "int8"], "dtype is 'int8'; allowed are float32, float16, bfloat16"),
        (["--parts", "head"], "parts is 'head'; allowed are encoder, decoder, all"),
        (["--parts", "decoder"], "the base holds no decoder"),
        (["--seed", "-1"], "seed: found -1; at least 0 is needed"),
    ],
)
def test_options_that_are_none(given, words, found):
    assert found in fault(*given, *words)


def test_requests_that_lack_something(given, encoder_folder, expert_folders, tmp_path):
    asr = expert_folders["asr"]
    assert "no base" in fault("--vector", f"asr={asr}:1", "--out", tmp_path / "out")
    assert "no vector" in fault("--base", encoder_folder, "--out", tmp_path / "out")
    assert "give --out" in fault(*given[:-2])
    assert "has no name" in fault("--base", encoder_folder, "--vector", f"{asr}:1", "--out", tmp_path / "o")
    assert "vector asr is given twice" in fault(*given, "--vector", f"asr={asr}:1")
    assert "letters (A-Z, a-z), digits" in fault(
        "--base", encoder_folder, "--vector", f"a/b={asr}:1", "--out", tmp_path
    )


def test_checkpoints_that_cannot_be_merged(given, encoder_folder, expert_folders, tiny_encoder, tmp_path):
    def vector(folder: Path) -> list[object]:
        return ["--base", encoder_folder, "--vector", f"asr={folder}:1", "--out", tmp_path / "out"]

    from transformers import AutoConfig

    from voxstrata.backbone.encoder import build_backbone

    config = AutoConfig.from_pretrained(encoder_folder)
    config.num_hidden_layers = 3
    build_backbone(config, seed=0).save(tmp_path / "deep")
    assert "3 transformer layers, but the model has 2" in fault(*vector(tmp_path / "deep"))
    config.num_hidden_layers, config.intermediate_size = 2, 96
    build_backbone(config, seed=0).save(tmp_path / "wide")
    assert "another size" in fault(*vector(tmp_path / "wide"))
    assert "asr is the base itself" in fault(*vector(encoder_folder))
    twice = fault(*given, "--vector", f"again={expert_folders['asr'] / WEIGHTS}:1")
    assert "vectors asr and again are the same file" in twice
    tiny_encoder(7).save(tmp_path / "stranger")
    assert "does not come from this base" in fault(*vector(tmp_path / "stranger"))
    cut = moved(encoder_folder, tmp_path / "cut", 1)
    (cut / WEIGHTS).write_bytes((cut / WEIGHTS).read_bytes()[:-100])
    assert "cannot read" in (line := fault(*vector(cut))) and "fetch it again" in line
    assert "no model folder or file" in fault(*vector(tmp_path / "no where"))
    heard = moved(encoder_folder, tmp_path / "heard", 1)
    told = json.loads((heard / "preprocessor_config.json").read_text())
    edit_json(heard / "preprocessor_config.json", do_normalize=not told["do_normalize"])
    assert "expects its input in another form" in fault(*vector(heard))
    assert run(*vector(heard), "--allow-foreign").exit_code == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_weights_that_are_none_are_named(given, encoder_folder, tmp_path, value):
    name = "encoder.layers.1.feed_forward.output_dense.weight"
    bad = tensors(encoder_folder)[name].clone()
    bad[0, 0] = value
    folder = moved(encoder_folder, tmp_path / "bad", 1, **{name: bad})
    line = fault("--base", encoder_folder, "--vector", f"asr={folder}:1", "--out", tmp_path / "out")
    assert name in line and "NaN, infinite" in line
    line = fault("--base", folder, "--vector", f"asr={encoder_folder}:1", "--out", tmp_path / "out")
    assert name in line
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad"]


def test_a_saved_task_vector_is_no_checkpoint(encoder, encoder_folder, expert_folders, tmp_path):
    from voxstrata.methods.adaltm.task_vector import TaskVector

    TaskVector.between(encoder, expert_folders["asr"]).save(tmp_path / "v.safetensors")
    line = fault(
        "--base", encoder_folder, "--vector", f"v={tmp_path / 'v.safetensors'}:1", "--out", tmp_path / "o"
    )
    assert "saved task vector" in line


def test_folders_that_are_not_written(given, encoder_folder, expert_folders, tmp_path, monkeypatch):
    words, asr = given[:-1], expert_folders["asr"]
    assert "lies in" in fault(*words, asr / "out")
    assert "is or holds" in fault(*words, asr)
    assert "is or holds" in fault(*words, asr.parent)
    monkeypatch.chdir(tmp_path)
    assert "current folder" in fault(*words, ".")
    (tmp_path / "file").write_text("")
    assert "no folder" in fault(*words, tmp_path / "file")
    assert "cannot write" in fault(*words, tmp_path / "file" / "out")
    assert "cannot write" in fault(*words, "/proc/out")
    assert asr.is_dir() and sorted(file.name for file in tmp_path.iterdir()) == ["file"]


def test_a_full_disk(given, tmp_path, monkeypatch):
    import shutil

    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: free)
        assert "are free at" in fault(*given)
    write = Path.open

    def full(self: Path, mode: str = "r", *rest, **named):
        if self.name == WEIGHTS and "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", full)
    line = fault(*given)
    assert "No space left on device" in line and "tmp" not in Path(line.split()[2]).name
    assert not list(tmp_path.iterdir())


def test_values_that_float16_cannot_hold(encoder_folder, tmp_path):
    name = "encoder.layer_norm.weight"
    large = moved(encoder_folder, tmp_path / "large", 1, **{name: torch.full((32,), 1e6)})
    words = ["--base", encoder_folder, "--vector", f"asr={large}:1", "--out", tmp_path / "out"]
    line = fault(*words, "--dtype", "float16")
    assert name in line and "bfloat16" in line
    assert run(*words, "--dtype", "bfloat16").exit_code == 0


def test_check_reads_headers_only(given, expert_folders, tmp_path, monkeypatch):
    from voxstrata.backbone.safetensors_files import SafetensorsFile

    def refuse(self, name):
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(SafetensorsFile, "read", refuse)
    done = run(*given, "--check")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[-1] == "can be merged"
    topics = {(line.split()[1], line.split()[2]) for line in lines[:-1]}
    assert topics >= {
        *(("merge", "method"), ("base", "layout"), ("asr", "shapes"), ("asr", "kinship"), ("asr", "input")),
        *(("asr", "coefficients"), ("merge", "dtype"), ("merge", "licence"), ("merge", "output")),
    }
    assert not (tmp_path / "out").exists()


def test_check_names_every_fault_in_a_line_of_its_own(encoder_folder, expert_folders, tmp_path):
    state = load_file(expert_folders["ser"] / WEIGHTS)
    broken = moved(expert_folders["ser"], tmp_path / "broken", 0)
    del state["encoder.layers.0.final_layer_norm.bias"]
    save_file(state, broken / WEIGHTS)
    words = ["--base", encoder_folder, "--vector", f"asr={expert_folders['asr']}:0.1,0.2"]
    done = run(*words, "--vector", f"ser={broken}:0.5", "--method", "tais", "--check", "--json")
    assert done.exit_code == 2
    told = json.loads(done.stdout)
    errors = {
        (one["about"], one["topic"]): one["text"] for one in told["findings"] if one["level"] == "error"
    }
    assert not told["can_be_merged"] and set(errors) == {
        *(("merge", "method"), ("ser", "shapes"), ("asr", "coefficients")),
    }
    assert "encoder.layers.0.final_layer_norm.bias" in errors["ser", "shapes"]


def test_check_tells_of_licences_labels_and_kinship(encoder_folder, expert_folders, tmp_path):
    nc = moved(expert_folders["ser"], tmp_path / "nc", 0)
    (nc / "README.md").write_text("---\nlicense: cc-by-nc-nd-4.0\nbase_model: someone/else\n---\n")
    edit_json(nc / "config.json", id2label={"0": "angry", "1": "happy"})
    done = run("--base", encoder_folder, "--vector", f"nc={nc}:1", "--check")
    assert "without commercial use or changed copies" in done.stdout
    assert "names someone/else as its base" in done.stdout
    assert "angry, happy" in done.stdout


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[1, 2]", "holds no keys"),
        ("base: x\nvectors: {}\nmethod: ties", "vectors"),
        ("base: x\nvectors: {a: {path: b}}\nmethod: ties", "vectors.a.coefficients"),
        ("base: x\nvectors: {a: {path: b, coefficients: .nan}}\nmethod: ties", "vectors.a.coefficients"),
        ("base: x\nvectros: {}\nmethod: ties", "vectros: there is no such key"),
        ("base: [", "is not YAML"),
    ],
)
def test_yaml_that_is_none(tmp_path, text, found):
    (tmp_path / "m.yaml").write_text(text)
    assert found in fault(tmp_path / "m.yaml", "--out", tmp_path / "out")
    gone = fault(tmp_path / "gone.yaml", "--out", tmp_path / "out")
    assert "No such file" in gone and "--base, --vector and --method" in gone


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--vector", "漢={asr}:1"), "vectors.漢: found '漢'; a name of letters (A-Z, a-z)"),
        (("--vector", "../x={asr}:1"), "vectors.../x"),
        (("--vector", "asr={asr}:1", "--seed", "-1"), "seed: found -1; at least 0"),
        (("--vector", "base={asr}:1"), "called base, which the base itself is called"),
    ],
)
def test_names_that_a_merge_cannot_have(encoder_folder, expert_folders, tmp_path, words, found):
    """No name of a class of the program; and no vector in the place of the base in merge.yaml."""
    given = [word.format(asr=expert_folders["asr"]) for word in words]
    line = fault("--base", encoder_folder, *given, "--out", tmp_path / "out")
    assert found in line and "_Names" not in line and not (tmp_path / "out").exists()


def test_a_merge_that_is_the_base_is_said(encoder_folder, expert_folders, tmp_path):
    given = ["--base", encoder_folder, "--vector", f"asr={expert_folders['asr']}:0,0,0", "--out"]
    done = run(*given, tmp_path / "none")
    assert done.exit_code == 0 and "warning: every coefficient is 0: the merge is the base" in done.stderr
    ours, theirs = tensors(tmp_path / "none"), tensors(encoder_folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    given[3] = given[3].replace("0,0,0", "0,0,0.1")
    assert "every coefficient" not in run(*given, tmp_path / "some").stderr


def test_a_warning_names_the_vector(encoder_folder, expert_folders, tmp_path):
    expert = moved(encoder_folder, tmp_path / "expert", seed=3)
    edit_json(expert / "config.json", model_type="hubert")
    done = run("--base", encoder_folder, "--vector", f"mine={expert}:1", "--allow-foreign", "--check")
    assert "mine is of model type hubert, the base of wavlm" in done.stdout


@pytest.mark.parametrize(("key", "value"), [("hidden_size", 64), ("hidden_size", 10**9), ("model_type", 5)])
def test_a_base_whose_configuration_is_of_other_weights(given, encoder_folder, tmp_path, key, value):
    """The merge would have that configuration, and no program could open it."""
    base = moved(encoder_folder, tmp_path / "base", seed=0, scale=0.0)
    edit_json(base / "config.json", **{key: value})
    line = fault("--base", base, *given[2:])
    assert str(base / "config.json") in line and str(value) in line and not (tmp_path / "out").exists()
