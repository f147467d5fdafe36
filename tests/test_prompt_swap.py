"""What sets alpha: swaps against the model asked by hand, shares against numpy, and the command on a run."""

from __future__ import annotations

import json
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_harmonifuse import ASR, GENDER, SER, SMALL, build, moved, of, one
from toy_tasks import recipe, two_corpora
from voxstrata.analysis.prompt_swap import SWAPS, PromptSwaps, shares_of_variance, swap_prompts
from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.batch import Batch
from voxstrata.cli.main import main
from voxstrata.cli.prompts import drawn_clips
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CheckpointError
from voxstrata.experiments.run import execute
from voxstrata.inference.path import predict
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.harmonifuse.options import EncoderFusionOptions, LayerFusionOptions
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.methods.model_folder import save_model
from voxstrata.runs import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched")


def with_scores(scores: str) -> object:
    return SMALL.but(layer_fusion=LayerFusionOptions(width=16, scores=scores))


def studied(system: HarmoniFuse, clips: Batch) -> PromptSwaps:
    """The clips one by one, so that sums over batches count."""
    return swap_prompts(system, [one(clips, row) for row in range(len(clips))])


def mean(alpha: torch.Tensor) -> list[float]:
    return alpha[:, 0].mean(0).tolist()


@torch.no_grad()
def test_alpha_is_that_of_the_model_asked_by_hand(encoder, clips):
    system = moved(build(encoder, (ASR, SER, GENDER)))
    found = studied(system, clips)
    assert found.clips == 6 and found.tasks == ("asr", "ser", "gender") and not found.notes
    assert [(pair.asked, pair.other) for pair in found.pairs] == list(permutations(found.tasks, 2))
    for pair in found.pairs:
        a, b = pair.asked, pair.other
        by_hand = {
            "own": system.prompt_state(clips, a).alpha,
            "prompt": system.prompt_state(clips, a, prompt=system.prompts[b]).alpha,
            "scalars": system.prompt_state(clips, b, prompt=system.prompts[a], gate=a).alpha,
            "both": system.prompt_state(clips, b, gate=a).alpha,
        }
        for swap in SWAPS:
            assert pair.alpha[swap] == pytest.approx(mean(by_hand[swap]), abs=1e-5)
            if swap != "own":
                gap = (by_hand[swap] - by_hand["own"])[:, 0].abs().sum(-1).mean() / 2
                assert pair.distance[swap] == pytest.approx(float(gap), abs=1e-5)
                assert pair.distance[swap] > 1e-3


@torch.no_grad()
def test_swapping_both_is_asking_the_other_task_with_its_gate(encoder, clips):
    system = moved(build(encoder))
    states = encoder(clips.waveforms, clips.lengths)
    layers = system.prompt_layers(states, "ser", prompt=system.prompts["asr"], gate="asr")
    swapped, asked = system.layer_fusion(layers, "asr"), system.prompt_state(clips, "asr")
    assert torch.equal(swapped.alpha, asked.alpha) and torch.equal(swapped.states, asked.states)
    one_gate = SMALL.but(encoder_fusion=EncoderFusionOptions(per_task=False))
    there, back = studied(moved(build(encoder, options=one_gate)), clips).pairs
    assert there.alpha["both"] == back.alpha["own"] and back.alpha["both"] == there.alpha["own"]
    assert there.alpha["prompt"] == back.alpha["scalars"]


@torch.no_grad()
def test_the_path_leads_from_the_own_prompt_to_the_other(encoder, clips):
    system = moved(build(encoder))
    for pair in studied(system, clips).pairs:
        assert [point.share for point in pair.path] == [i / 8 for i in range(9)]
        assert pair.path[0].alpha == pair.alpha["own"] and pair.path[0].distance == 0
        assert pair.path[8].alpha == pair.alpha["prompt"]
        assert pair.path[8].distance == pair.distance["prompt"]
        own, other = system.prompts[pair.asked], system.prompts[pair.other]
        for point in pair.path[1:8]:
            prompt = own + point.share * (other - own)
            alpha = system.prompt_state(clips, pair.asked, prompt=prompt).alpha
            assert point.alpha == pytest.approx(mean(alpha), abs=1e-5)


@torch.no_grad()
def test_a_class_counts_as_changed_where_the_head_of_the_task_says_another(encoder, clips):
    system = moved(build(encoder, (ASR, SER, GENDER)))
    for parameter in (*system.prompts.values(), *system.layer_fusion.task_scores.values()):
        parameter *= 4
    found = {(pair.asked, pair.other): pair.changed for pair in studied(system, clips).pairs}
    assert all(found["asr", other] == dict.fromkeys(SWAPS[1:]) for other in ("ser", "gender"))
    answers = [row.emotion for row in predict(system, [of(clips, "ser")])]
    for other in ("asr", "gender"):
        prompt, gate = system.prompts[other], "ser"
        by_hand = {
            "prompt": system.prompt_state(clips, "ser", prompt=prompt),
            "scalars": system.prompt_state(clips, other, prompt=system.prompts["ser"], gate=gate),
            "both": system.prompt_state(clips, other, gate=gate),
        }
        for swap, fused in by_hand.items():
            best = system.heads.class_logits(fused.states[:, 0], "ser").argmax(-1)
            names = [tuple(SER.labels)[index] for index in best.tolist()]
            changed = sum(a != b for a, b in zip(names, answers, strict=True)) / 6
            assert found["ser", other][swap] == pytest.approx(changed)
    assert any(share > 0 for changed in found.values() for share in changed.values() if share)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 6), st.integers(0, 99))
def test_shares_are_covariances_with_the_scores_and_sum_to_one(tasks, clips, layers, seed):
    rng = np.random.default_rng(seed)
    s, f = rng.normal(size=(tasks, layers)), rng.normal(size=(tasks, clips, layers)) + 3 * rng.normal()
    shares = shares_of_variance(torch.from_numpy(s), torch.from_numpy(f))
    s, f = s - s.mean(-1, keepdims=True), f - f.mean(-1, keepdims=True)
    parts = np.broadcast_arrays(s[:, None], f.mean(1, keepdims=True), f)
    parts = [part.ravel() for part in (parts[0], parts[1], parts[2] - parts[1])]
    scores = sum(parts)
    expected = [np.cov(part, scores, bias=True)[0, 1] / scores.var() for part in parts]
    told = [shares.scalars, shares.network_mean, shares.network_variation]
    assert told == pytest.approx(expected) and sum(told) == pytest.approx(1)
    assert shares.variance == pytest.approx(scores.var())
    # Moving all layers alike moves no softmax.
    assert shares_of_variance(torch.from_numpy(s), torch.from_numpy(f + 7)).scalars == pytest.approx(told[0])


@torch.no_grad()
def test_shares_of_a_model_are_those_of_its_alpha(encoder, clips):
    system = moved(build(encoder))
    shares = studied(system, clips).shares
    assert shares.scalars + shares.network_mean + shares.network_variation == pytest.approx(1)
    assert min(shares.scalars, shares.network_variation) > 0
    scores = torch.stack([system.prompt_state(clips, task).alpha[:, 0].log() for task in system.tasks])
    centred = scores - scores.mean(-1, keepdim=True)
    assert shares.variance == pytest.approx(float(centred.square().mean()), rel=1e-3)


def test_with_s_alone_the_network_explains_nothing_and_the_prompt_moves_nothing(encoder, clips):
    found = studied(moved(build(encoder, options=with_scores("task"))), clips)
    assert (found.shares.scalars, found.shares.network_mean, found.shares.network_variation) == (1, 0, 0)
    for pair in found.pairs:
        assert pair.distance["prompt"] == 0 and pair.distance["scalars"] == pair.distance["both"] > 0
        assert all(point.distance == 0 for point in pair.path)
    assert found.notes == ("layer_fusion.scores is task: without the network alpha cannot see the prompt",)


def test_without_s_there_is_no_s_to_swap(encoder, clips):
    found = studied(moved(build(encoder, options=with_scores("input"))), clips)
    assert found.shares.scalars == 0
    for pair in found.pairs:
        assert pair.alpha["scalars"] is pair.alpha["both"] is pair.distance["both"] is None
        assert pair.distance["prompt"] > 0 and len(pair.path) == 9
        assert pair.changed["scalars"] is None
    assert found.notes == ("layer_fusion.scores is input: there are no scalars s, so swapping them is n/a",)


def test_without_scores_only_the_prompt_can_change_an_answer(encoder, clips):
    found = studied(moved(build(encoder, options=with_scores("last"))), clips)
    assert found.shares is None and "alpha, its path and shares are n/a" in found.notes[0]
    for pair in found.pairs:
        assert pair.alpha == dict.fromkeys(SWAPS) and pair.path is None
        assert (pair.changed["prompt"] is None) == (pair.asked == "asr")
        assert pair.changed["both"] is None


def test_what_a_model_at_its_start_or_one_that_answers_in_words_cannot_tell(encoder, clips):
    start = studied(build(encoder).eval(), clips)
    assert start.shares is None and start.notes == ("the scores of all layers are equal, so shares are n/a",)
    assert start.pairs[0].alpha["both"] == pytest.approx([1 / 3] * 3)
    words = SMALL.but(class_answers="words", encoder_trained="all")
    found = studied(moved(build(encoder, options=words, letters="abcdefghijklmnopqrstuvwxyz")), clips)
    assert found.shares is not None and "there is no class head" in found.notes[0]
    assert all(pair.changed == dict.fromkeys(SWAPS[1:]) for pair in found.pairs)


def test_one_task_is_refused(encoder, clips):
    with pytest.raises(CheckpointError, match="has the one task ser, and prompts are swapped between two"):
        studied(build(encoder, (SER,)), clips)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    return two_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def run(encoder_folder, corpora, tmp_path_factory) -> RunFolder:
    return execute(recipe(encoder_folder, corpora), RunFolder(tmp_path_factory.mktemp("runs") / "toy"))


@pytest.fixture
def called(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["voxstrata", "prompts", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(str(stopped.value.code)), out, err

    return call


def test_the_command_prints_tables_and_writes_the_numbers(called, run, corpora):
    code, printed, err = called(run.path, "--corpus", corpora["feelings"], "--clips", 3, "--json")
    assert code == 0 and "note:" not in err
    told, out = json.loads(printed), err
    assert (told["clips"], told["tasks"]) == (3, ["asr", "ser"])
    assert told["settings"] == {"fold": None, "split": "test", "clips": 3, "seed": 0}
    assert "torch" in told["provenance"]["versions"]
    for pair in told["pairs"]:
        rows = [*pair["alpha"].values(), *(point["alpha"] for point in pair["path"])]
        assert len(rows) == 4 + 9
        for row in rows:
            assert len(row) == 2 and sum(row) == pytest.approx(1)
    shares = told["shares"]
    total = shares["scalars"] + shares["network_mean"] + shares["network_variation"]
    assert total == pytest.approx(1)
    assert out.splitlines()[0].endswith(", test: 3 clips")
    for heading in ("alpha of asr, swapped for ser", "alpha of ser, swapped for asr", "asr to ser",
                    "network, beyond that mean", "ser, swapped for asr"):  # fmt: skip
        assert heading in out
    lines = [line.split() for line in out.splitlines()]
    own = told["pairs"][0]["alpha"]
    assert ["1", *(f"{own[swap][0]:.3f}" for swap in SWAPS)] in lines
    assert ["s", f"{100 * shares['scalars']:.2f}"] in lines


def test_clips_are_drawn_by_seed(corpora):
    corpus = PreparedCorpus.load(Path(corpora["feelings"]))

    def drawn(count: int | None, seed: int) -> list[str]:
        source = drawn_clips(corpus, split="train", fold=None, count=count, seed=seed)
        return sorted(name for ids in source.plan(0) for name in ids)

    assert drawn(6, 0) == drawn(6, 0) != drawn(6, 1)
    assert len(drawn(6, 0)) == 6 and set(drawn(6, 0)) < set(drawn(None, 0))
    assert len(drawn(None, 0)) == len(drawn(100, 0)) == 18


def test_bad_input_is_told_in_one_line(called, run, corpora, encoder_folder, tmp_path):
    emotion = EmotionModel(load_backbone(encoder_folder), LabelSet(("anger", "neutral")))
    save_model(emotion, tmp_path / "emotion" / "model")
    save_model(build(load_backbone(encoder_folder), (SER,)), tmp_path / "single" / "model")
    feelings = ("--corpus", corpora["feelings"])
    for arguments, told in (
        ((tmp_path, *feelings), "holds no model: give a finished run of the system harmonifuse"),
        ((tmp_path / "emotion", *feelings), "holds a model of kind 'emotion', which has no prompts: give"),
        ((tmp_path / "single", *feelings), "this model has the one task ser"),
        ((run.path, *feelings, "--split", "later"), "no split 'later'; there are train, dev, test"),
        ((run.path, *feelings, "--fold", "2"), "has no fold 2; there are none"),
        ((run.path, "--corpus", tmp_path), "no prepared corpus in"),
    ):
        code, out, err = called(*arguments)
        assert (code, out) == (2, "")
        lines = [line for line in err.splitlines() if line.startswith("voxstrata: ")]
        assert len(lines) == 1 and told in lines[0]
