import json
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from voxstrata.batches.cached import CachedStates
from voxstrata.benchmarks import cached
from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError


def test_bench_cached_prints_and_writes_what_it_found(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    done = CliRunner().invoke(app, ["bench", "cached", "--quick", "--threads", "1", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["benchmark"] == "cached" and told["reference"] == "uncached"
    assert told["settings"]["shape"] == "tiny" and told["settings"]["clips"] == 10
    (row,) = told["rows"]
    assert row["epochs"] == 3
    ours, theirs = row["modes"]["cached"], row["modes"]["uncached"]
    assert len(ours["runs_s"]) == len(theirs["runs_s"]) == 2
    assert ours["time_ratio"] == pytest.approx(ours["median_s"] / theirs["median_s"], rel=0.9)
    assert "time ratio" in done.stderr and "cached" in done.stderr
    assert not [*(tmp_path / "temporary").iterdir()]


def test_the_ways_train_the_same_but_for_the_cache(tmp_path, monkeypatch):
    options = cached.CachedOptions().quick()
    cached._write_corpus(tmp_path, options)
    seen = {}
    real = cached.fit

    def fit(system, train, dev, run, how):
        result = real(system, train, dev, run, how)
        seen[type(train)] = ([row["loss"] for row in run.journal_rows()], len([*dev.epoch(0)]))
        return result

    monkeypatch.setattr(cached, "fit", fit)
    for way in cached.COMPARES:
        cached._prepare(way, options, tmp_path)(2)
    (plain, dev), (known, _) = seen[cached.BatchSource], seen[CachedStates]
    assert len(plain) == 2 * (2 + 1) and dev == 1
    assert known == pytest.approx(plain, rel=1e-4)
    left = {path.name for path in Path(tmp_path).iterdir()} - {f"{i}.wav" for i in range(options.clips)}
    assert left == {"clips.jsonl", "prepared"}


@pytest.mark.parametrize(("flag", "value"), [("--shape", "huge"), ("--clips", "4")])
def test_wrong_options_are_refused(flag, value):
    done = CliRunner().invoke(app, ["bench", "cached", flag, value])
    assert isinstance(done.exception, VoxstrataError) or done.exit_code == 2
