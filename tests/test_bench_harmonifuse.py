"""`bench harmonifuse` at toy size: both ways do the same work, and padding is counted."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from toy_tasks import write_corpus
from voxstrata.benchmarks import harmonifuse
from voxstrata.benchmarks.harmonifuse import HarmoniFuseBenchOptions, padding_efficiency
from voxstrata.cli.main import app


def test_bench_harmonifuse_prints_and_writes_what_it_found(tmp_path):
    out = tmp_path / "harmonifuse.json"
    corpus = write_corpus(tmp_path, "words", (20, 1, 1), text=("ab",))
    given = ["--quick", "--threads", "1", "--corpus", str(corpus), "--json", str(out)]
    done = CliRunner().invoke(app, ["bench", "harmonifuse", *given])
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text())
    assert told["reference"] == "plain"
    assert [row["part"] for row in told["rows"]] == ["decoding", "training step", "sum of states"]
    assert all(row["modes"]["ours"]["time_ratio"] > 0 for row in told["rows"])
    assert told["figures"] == {"padding efficiency, prepared": pytest.approx(0.95, abs=0.05)}
    assert "padding efficiency" in done.stdout


def test_both_ways_of_a_part_give_the_same():
    options = HarmoniFuseBenchOptions(tokens=8).quick()
    torch.manual_seed(0)
    found = [harmonifuse._decoding(cached, options)() for cached in (True, False)]
    assert found[0] == found[1] and [len(row) for row in found[0]] == [8, 8]


def test_padding_is_the_share_of_speech_in_padded_batches():
    assert padding_efficiency([2.0] * 64) == 1
    assert padding_efficiency([1.0, 3.0], batch_size=2) == pytest.approx(4 / 6)
    drawn = harmonifuse.padding_figures(HarmoniFuseBenchOptions())
    assert min(drawn.values()) > 0.85
