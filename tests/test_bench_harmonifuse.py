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
from voxstrata.methods.harmonifuse.lm.language_model import LanguageModel


def test_bench_harmonifuse_prints_and_writes_what_it_found(tmp_path):
    corpus = write_corpus(tmp_path, "words", (20, 1, 1), text=("ab",))
    given = ["--quick", "--threads", "1", "--corpus", str(corpus), "--json"]
    done = CliRunner().invoke(app, ["bench", "harmonifuse", *given])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["reference"] == "plain"
    assert [row["part"] for row in told["rows"]] == ["decoding", "training step"]
    assert all(row["modes"]["ours"]["time_ratio"] > 0 for row in told["rows"])
    assert told["figures"] == {"padding efficiency, prepared": pytest.approx(0.95, abs=0.05)}
    assert "padding efficiency" in done.stderr


def test_both_ways_of_a_part_give_the_same():
    options = HarmoniFuseBenchOptions(tokens=8).quick()
    torch.manual_seed(0)
    found = [harmonifuse._decoding(cached, options)() for cached in (True, False)]
    assert found[0] == found[1] and [len(row) for row in found[0]] == [8, 8]


def test_each_way_is_asked_for_its_own_work(monkeypatch):
    asked = []
    for name in ("_decoding", "_training_step"):
        monkeypatch.setattr(
            harmonifuse, name, lambda ours, options, name=name: lambda: asked.append((name, ours))
        )
    for way in harmonifuse.COMPARES:
        step = harmonifuse._prepare(way, HarmoniFuseBenchOptions())
        for case in harmonifuse.CASES:
            step(case)
    names = ("_decoding", "_training_step")
    assert asked == [(name, False) for name in names] + [(name, True) for name in names]


@pytest.mark.parametrize("cached", [True, False])
def test_decoding_keeps_keys_and_values_in_one_way_only(cached, monkeypatch):
    made = []
    real = LanguageModel.new_cache
    monkeypatch.setattr(LanguageModel, "new_cache", lambda lm: made.append(lm) or real(lm))
    harmonifuse._decoding(cached, HarmoniFuseBenchOptions(tokens=8).quick())()
    assert len(made) == cached


@pytest.mark.parametrize(("fused", "only", "scores"), [(True, None, "both"), (False, 2, "last")])
def test_a_training_step_has_both_fusions_or_last_layers(fused, only, scores, monkeypatch):
    options = HarmoniFuseBenchOptions().quick()
    built = []
    real = harmonifuse._training_system
    monkeypatch.setattr(
        harmonifuse, "_training_system", lambda *given: built.append(real(*given)) or built[-1]
    )
    learn = harmonifuse._training_step(fused, options)
    (system,) = built
    assert system.encoder.num_layers == 2 and system.encoder_fusion.only == only
    assert system.layer_fusion.scores == scores
    before = [parameter.clone() for group in system.parameter_groups() for parameter in group.parameters]
    learn()
    after = [parameter for group in system.parameter_groups() for parameter in group.parameters]
    assert not all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_padding_is_the_share_of_speech_in_padded_batches():
    assert padding_efficiency([2.0] * 64) == 1
    assert padding_efficiency([1.0, 3.0], batch_size=2) == pytest.approx(4 / 6)
    drawn = harmonifuse.padding_figures(HarmoniFuseBenchOptions())
    assert min(drawn.values()) > 0.85
