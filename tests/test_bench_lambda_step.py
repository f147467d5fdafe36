import json
from dataclasses import replace
from functools import partial

import psutil
import pytest
import torch
from typer.testing import CliRunner

from voxstrata.benchmarks import lambda_step
from voxstrata.benchmarks.lambda_step import (
    COMPARES,
    FUSION_BENCH,
    LambdaStepOptions,
    _fusion_bench,
    _merged,
    _vector_megabytes,
    run,
)
from voxstrata.benchmarks.measure import Runs
from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError

CASES = ("all-groups", "front-zero", "front-kept")
OURS = ("functional_call", "lean", "checkpointed", "low-rank", "idle-kept")


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", "lambda-step", "--quick", *arguments])


def test_bench_lambda_step_prints_and_writes_what_it_found():
    done = bench("--ways", ",".join(OURS), "--vector-dtype", "bfloat16", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["benchmark"] == "lambda-step" and told["reference"] == "functional_call"
    assert tuple(told["compares"]) == tuple(told["settings"]["ways"]) == OURS
    assert told["settings"]["vector_dtype"] == "bfloat16" and told["settings"]["shape"] == "tiny"
    assert tuple(row["vectors"] for row in told["rows"]) == CASES
    for row in told["rows"]:
        assert tuple(row["modes"]) == OURS
        assert row["modes"]["lean"]["time_ratio"] > 0 and len(row["modes"]["lean"]["runs_s"]) == 2
    lines = done.stderr.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[:2] for line in lines if line.startswith(CASES)] == [
        [case, way] for case in CASES for way in OURS
    ]


@pytest.fixture
def instead_of_runs(monkeypatch):
    """A function that gives ways what they find, without running them; lists what was asked for."""
    asked = []

    def give(runs):
        def interleaved(modes, cases, **how):
            asked.append((list(modes), cases, how["repeats"], how["threads"]))
            return {case: {mode: runs.get(mode, Runs((1.0,), 10**6)) for mode in modes} for case in cases}

        monkeypatch.setattr(lambda_step, "interleaved", interleaved)
        return asked

    return give


def test_cases_and_ways_can_be_chosen_and_the_first_way_is_the_reference(instead_of_runs):
    asked = instead_of_runs({"lean": Runs((2.0,), 5 * 10**5)})
    ways, cases = ["lean", "functional_call"], ("front-kept", "all-groups")
    done = bench("--ways", ",".join(ways), "--cases", " , ".join(cases), "--threads", "1", "--json")
    assert done.exit_code == 0, done.output
    assert asked == [(ways, cases, 2, 1)]
    told = json.loads(done.stdout)
    assert told["reference"] == "lean" and [row["vectors"] for row in told["rows"]] == [*cases]
    modes = told["rows"][0]["modes"]
    assert modes["functional_call"]["time_ratio"] == 0.5 and "time_ratio" not in modes["lean"]
    assert modes["lean"]["over"] == {
        "functional_call": {"time_ratio": 2.0, "cpu_ratio": None, "memory_ratio": 0.5}
    }


def test_ratios_are_over_both_denominators_where_both_ran(monkeypatch, instead_of_runs):
    monkeypatch.setattr(lambda_step, "_installed", lambda package: True)
    monkeypatch.setattr(lambda_step, "version", lambda package: "0.0")
    instead_of_runs(
        {"functional_call": Runs((2.0,), 4), "lean": Runs((1.0,), 1), FUSION_BENCH: Runs((4.0,), 8)}
    )
    told = run(LambdaStepOptions()).as_dict()
    assert told["machine"]["fusion_bench"] == "0.0"
    for row in told["rows"]:
        lean = row["modes"]["lean"]
        assert (lean["time_ratio"], lean["memory_ratio"]) == (0.5, 0.25)
        assert lean["over"] == {FUSION_BENCH: {"time_ratio": 0.25, "cpu_ratio": None, "memory_ratio": 0.125}}


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--ways", "lean,fast", "checkpointed"),
        ("--cases", "front-zero,none", "front-kept"),
        ("--vector-dtype", "float64", "bfloat16"),
    ],
)
def test_wrong_options_are_one_line_errors(flag, value, named):
    done = bench(flag, value)
    assert isinstance(done.exception, VoxstrataError)
    assert value.split(",")[-1] in str(done.exception) and named in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_wrong_shape_is_named():
    with pytest.raises(VoxstrataError, match="'huge'"):
        run(LambdaStepOptions(shape="huge"))


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(lambda_step, "_installed", lambda package: False)
    with pytest.raises(VoxstrataError, match="fusion_bench is not installed"):
        run(LambdaStepOptions(ways=("lean", FUSION_BENCH)))


def test_a_fault_is_named_beside_the_table_and_ends_with_3(instead_of_runs):
    instead_of_runs({"functional_call": Runs((), None, "memory was out")})
    done = bench("--ways", "functional_call,lean", "--cases", "all-groups", "--json")
    assert done.exit_code == 3
    assert "failed" in done.stderr and "1.000" in done.stderr
    assert "functional_call failed on all-groups: memory was out" in done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["modes"]["functional_call"] == {"fault": "memory was out"}
    assert row["modes"]["lean"]["median_s"] == 1 and row["modes"]["lean"]["time_ratio"] is None


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", [*OURS[1:], FUSION_BENCH])
def test_every_way_computes_the_same(way, case):
    if way == FUSION_BENCH:
        pytest.importorskip(FUSION_BENCH, reason="fusion_bench is in the environment of `make bench`")
    options = replace(LambdaStepOptions().quick(), clip_s=0.2)
    waveforms, lengths = (
        torch.randn(2, 3200, generator=torch.Generator().manual_seed(0)),
        torch.tensor([3200] * 2),
    )
    build = _fusion_bench if way == FUSION_BENCH else partial(_merged, way)
    expected = _merged("functional_call", options, case, waveforms, lengths)().layers
    for layer, other in zip(build(options, case, waveforms, lengths)().layers, expected, strict=True):
        assert layer.requires_grad
        torch.testing.assert_close(layer, other)


@pytest.mark.parametrize(
    ("way", "figure"), [("lean", "MB of vectors"), ("low-rank", "MB of vectors, low-rank")]
)
def test_the_size_of_the_vectors_is_that_of_what_is_held(way, figure):
    options = LambdaStepOptions().quick()
    waveforms, lengths = torch.randn(1, 3200), torch.tensor([3200])
    merged = _merged(way, options, "all-groups", waveforms, lengths).func
    parts = [
        part
        for vector in merged.held.deltas
        for one in vector.values()
        for part in ([one] if isinstance(one, torch.Tensor) else [one.left, one.right])
    ]
    assert bool(merged.held.linears) == (way == "low-rank")
    assert _vector_megabytes(options)[figure] == pytest.approx(sum(4 * part.numel() for part in parts) / 1e6)


def test_all_ways_are_explained():
    assert set(COMPARES) == {*OURS, FUSION_BENCH}


@pytest.mark.slow
@pytest.mark.skipif(psutil.virtual_memory().available < 14e9, reason="12 GB are needed")
def test_at_large_shape_the_gradient_is_near_float64():
    """25 x 2 coefficients; that lean is the plain merge in float64 is shown at small shapes."""
    options = LambdaStepOptions(shape="large")
    samples = int(options.clip_s * lambda_step.SAMPLE_RATE)
    waveforms = torch.randn(options.batch_size, samples, generator=torch.Generator().manual_seed(1))
    lengths = torch.full((options.batch_size,), samples)
    merged = _merged("lean", options, "all-groups", waveforms, lengths).func

    def gradient(waves: torch.Tensor) -> torch.Tensor:
        merged.coefficients.grad = None
        states = merged(waves, lengths)
        torch.stack([layer.square().mean() for layer in states.layers]).sum().backward()
        return merged.coefficients.grad.double().clone()

    found = gradient(waveforms)
    merged.double()
    exact = gradient(waveforms.double())
    assert found.shape == (25, 2)
    # Measured 9.2e-7.
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5
