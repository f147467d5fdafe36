import json
import operator
import os
import signal
from functools import partial

import pytest
import torch
from transformers import WavLMConfig
from typer.testing import CliRunner

from voxstrata.benchmarks.attention import AttentionOptions, run
from voxstrata.benchmarks.measure import Runs, interleaved, machine
from voxstrata.benchmarks.result import BenchmarkResult, Row
from voxstrata.benchmarks.shapes import wavlm_config
from voxstrata.benchmarks.worker import peak_beyond_resident, wants_memory
from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError

#: Steps that any process can import: they hold as many bytes as the case says, once or twice.
BYTES = {"once": partial(partial, operator.mul, b"x"), "twice": partial(partial, operator.mul, b"xx")}
MEGABYTE = 10**6
TOO_MUCH = 2**62


def test_bench_attention_prints_and_writes_what_it_found():
    done = CliRunner().invoke(app, ["bench", "attention", "--quick", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["benchmark"] == "attention" and told["reference"] == "reference"
    assert set(told["compares"]) == {"fast", "reference"}
    assert told["settings"]["shape"] == "tiny" and told["machine"]["torch"]
    assert [(row["clip_s"], row["pass"]) for row in told["rows"]] == [
        (clip_s, kind) for clip_s in (0.5, 1) for kind in ("forward", "forward+backward")
    ]
    for row in told["rows"]:
        fast, reference = row["modes"]["fast"], row["modes"]["reference"]
        assert len(fast["runs_s"]) == len(reference["runs_s"]) == 2
        assert fast["median_s"] > 0 and fast["time_ratio"] > 0
        assert "time_ratio" not in reference
        assert fast["memory_ratio"] is None or fast["memory_ratio"] > 0
    lines = done.stderr.splitlines()
    assert max(map(len, lines)) <= 100
    (headings,) = (line.split() for line in lines if "median s" in line)
    assert " ".join(headings) == "clip_s pass way median s MB time ratio CPU ratio memory ratio"
    assert sum("forward+backward" in line for line in lines) == 4
    assert any(line.startswith("settings: shape tiny, clips_s 0.5 1, batch_size 2") for line in lines)


@pytest.mark.parametrize(
    ("flag", "value", "named"), [("--clips", "2,x", "seconds"), ("--shape", "huge", "base")]
)
def test_wrong_options_are_one_line_errors(flag, value, named):
    done = CliRunner().invoke(app, ["bench", "attention", flag, value])
    assert isinstance(done.exception, VoxstrataError)
    assert value in str(done.exception) and named in str(done.exception)
    assert "\n" not in str(done.exception)


def test_runs_take_turns_and_memory_is_what_each_needs():
    said = []
    sizes = (20 * MEGABYTE, 60 * MEGABYTE)
    found = interleaved(BYTES, sizes, repeats=2, progress=lambda done, total, text: said.append((done, text)))
    assert said == list(
        enumerate(
            f"{size}, {mode}, {kind}"
            for size in sizes
            for kind in ("warm-up", "memory", "time", "time")
            for mode in ("once", "twice")
        )
    )
    assert set(found) == set(sizes)
    for size, runs in found.items():
        assert all(len(r.seconds) == 2 and min(r.seconds) > 0 for r in runs.values())
        for mode, factor in (("once", 1), ("twice", 2)):
            peak = runs[mode].peak_bytes
            assert peak is None or peak == pytest.approx(factor * size, abs=2 * MEGABYTE)


def test_memory_that_was_freed_before_is_needed_again():
    work = partial(operator.mul, b"x", 50 * MEGABYTE)
    first, second = peak_beyond_resident(work), peak_beyond_resident(work)
    assert first is None or first == pytest.approx(second, abs=2 * MEGABYTE)
    assert first is None or first == pytest.approx(50 * MEGABYTE, abs=2 * MEGABYTE)


def test_a_failing_step_is_told_with_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)'half' failed at 0.*ZeroDivisionError"):
        interleaved({"half": partial(partial, operator.truediv, 1)}, [0], repeats=1)


def test_a_process_that_ends_is_named():
    with pytest.raises(VoxstrataError, match="process of 'gone' ended at 7 with status 7"):
        interleaved({"gone": partial(partial, os._exit)}, [7], repeats=1)


@pytest.mark.parametrize(
    ("step", "case", "told"),
    [(partial(operator.mul, b"x"), TOO_MUCH, ""), (signal.raise_signal, int(signal.SIGKILL), "SIGKILL")],
)
def test_a_way_without_memory_loses_its_case_and_nothing_else(step, case, told):
    modes = {"greedy": partial(partial, step), "modest": partial(partial, operator.eq, 0)}
    found = interleaved(modes, [case, 0], repeats=2)
    assert found[case]["greedy"].fault and told in found[case]["greedy"].fault
    for runs in (found[case]["modest"], found[0]["greedy"], found[0]["modest"]):
        assert len(runs.seconds) == 2 and not runs.fault


def test_that_nothing_got_through_is_an_error():
    with pytest.raises(VoxstrataError, match=r"no way got through: .*; choose"):
        interleaved({"asks": partial(partial, operator.mul, b"x")}, [TOO_MUCH], repeats=1)


def test_torchs_want_of_memory_is_one():
    with pytest.raises(RuntimeError) as fault:
        torch.empty(2**60, dtype=torch.uint8)
    assert wants_memory(fault.value) and not wants_memory(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize("failed", ["ours", "theirs", "others"])
def test_a_fault_takes_the_ratios_of_its_way_only(failed):
    runs = {name: Runs((2.0,), 8, cpu_seconds=(1.0,)) for name in ("ours", "theirs", "others")}
    runs[failed] = Runs((), None, "memory was out")
    row = Row({"clip_s": 2}, runs)
    result = BenchmarkResult("x", {n: n for n in runs}, "theirs", {}, machine(), (row,), ("theirs", "others"))
    (told,) = result.as_dict()["rows"]
    assert told["modes"][failed] == {"fault": "memory was out"}
    assert result.faults() == [f"{failed} failed on 2: memory was out"]
    cells = {line[1]: line[2:] for line in result.table()[1]}
    assert cells[failed] == ["failed", "-", "-", "-", "-"]
    for name in runs.keys() - {failed}:
        known = failed != "theirs"
        assert cells[name] == ["2.000", "0", *["1.00" if known else "-"] * 3]
        over = {"time_ratio": 1.0, "cpu_ratio": 1.0, "memory_ratio": 1.0}
        lost = {"time_ratio": None, "cpu_ratio": None, "memory_ratio": None}
        assert told["modes"][name]["over"] == {
            other: lost if other == failed else over for other in ("theirs", "others") if other != name
        }


def test_ratios_are_medians_over_turns():
    runs = {
        "ours": Runs((1.0, 8.0, 3.0), 40, cpu_seconds=(1.0, 1.0, 1.0)),
        "theirs": Runs((2.0, 4.0, 4.0), 160, cpu_seconds=(2.0, 1.0, 0.5)),
    }
    row = Row({"clip_s": 2}, runs)
    assert row.time_ratio("ours", "theirs") == 0.75
    assert row.cpu_ratio("ours", "theirs") == 1.0
    assert row.memory_ratio("ours", "theirs") == 0.25
    unknown = Row({"clip_s": 2}, {"ours": Runs((1.0,), None), "theirs": Runs((2.0,), None)})
    assert unknown.memory_ratio("ours", "theirs") is None and unknown.cpu_ratio("ours", "theirs") is None
    result = BenchmarkResult("x", {"ours": "a", "theirs": "b"}, "theirs", {}, machine(), (row,))
    (told,) = result.as_dict()["rows"]
    assert told["modes"]["ours"] == {
        "median_s": 3.0,
        "runs_s": [1.0, 8.0, 3.0],
        "cpu_s": [1.0, 1.0, 1.0],
        "peak_bytes": 40,
        "time_ratio": 0.75,
        "cpu_ratio": 1.0,
        "memory_ratio": 0.25,
    }
    assert result.table() == (
        ["clip_s", "way", "median s", "MB", "time ratio", "CPU ratio", "memory ratio"],
        [
            ["2", "ours", "3.000", "0", "0.75", "1.00", "0.25"],
            ["2", "theirs", "4.000", "0", "1.00", "1.00", "1.00"],
        ],
    )
    assert not result.faults()


def test_shapes_are_those_of_wavlm():
    base, large = wavlm_config("base"), wavlm_config("large")
    assert (base.hidden_size, base.num_hidden_layers, base.feat_extract_norm) == (768, 12, "group")
    assert base.to_dict() == WavLMConfig().to_dict()
    assert (large.hidden_size, large.num_hidden_layers, large.do_stable_layer_norm) == (1024, 24, True)
    with pytest.raises(VoxstrataError, match="'huge'"):
        run(AttentionOptions(shape="huge"))
