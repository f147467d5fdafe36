"""Probes: what is planted in a layer is found there, scikit-learn by hand agrees, and faults are one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score, recall_score

from voxstrata.analysis.clips import ClipChoice, choose_clips, divided_speakers
from voxstrata.analysis.frame_answers import FrameAnswers
from voxstrata.analysis.probes import FIXED_COST, FIXED_PENALTY, Examples, probe_classes, probe_numbers
from voxstrata.analysis.states import FrameSample, collect, layer_states
from voxstrata.analysis.study import study
from voxstrata.analysis.targets import USUAL_TARGETS, ProbeOptions, plan_probes
from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.cli.main import main
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import VoxstrataError

LAYERS, WIDTH, PLANTED = 3, 6, 1


def planted(answers: np.ndarray, seed: int) -> Examples:
    """Noise in all layers, but in one the answer (a number, or a class) along a direction."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(len(answers), LAYERS, WIDTH))
    number = answers if answers.dtype.kind == "f" else np.unique(answers, return_inverse=True)[1] * 4.0
    states[:, PLANTED, 2] += 3 * number
    units = np.array([f"speaker-{i % 12}" for i in range(len(answers))])
    return Examples((5 + 10 * states).astype(np.float32), answers, units)


def classes(seed: int, count: int = 300) -> np.ndarray:
    """Skewed, as emotions are."""
    return np.random.default_rng(seed).choice(["anger", "joy", "neutral"], count, p=[0.1, 0.3, 0.6])


def by_hand(model, train: Examples, test: Examples, layer: int) -> np.ndarray:
    rows = train.states[:, layer].astype(np.float64)
    mean, scale = rows.mean(0), rows.std(0)
    model.fit((rows - mean) / scale, train.answers)
    return model.predict((test.states[:, layer] - mean) / scale)


def test_classes_planted_in_one_layer_are_found_there_only():
    scores = probe_classes(
        planted(classes(0), 0), planted(classes(1), 1), planted(classes(2), 2), resamples=50
    )
    values = [layer.value for layer in scores.layers]
    assert scores.best == PLANTED and values[PLANTED] > 0.95
    assert all(abs(value - scores.chance) < 0.1 for i, value in enumerate(values) if i != PLANTED)
    assert scores.chance == pytest.approx(1 / 3)
    for layer in scores.layers:
        assert layer.interval is not None and layer.interval[0] <= layer.value <= layer.interval[1]


def test_numbers_planted_in_one_layer_are_found_there_only():
    train, test = (planted(np.random.default_rng(i).normal(size=400), i) for i in (3, 4))
    scores = probe_numbers(train, test, resamples=50)
    values = [layer.value for layer in scores.layers]
    assert scores.best == PLANTED and values[PLANTED] > 0.8 and scores.chance == 0
    assert all(value < 0.05 for i, value in enumerate(values) if i != PLANTED)


def test_shuffled_classes_are_at_chance():
    train, test = planted(classes(5), 5), planted(classes(6), 6)
    shuffled = np.random.default_rng(0).permutation(train.answers)
    scores = probe_classes(Examples(train.states, shuffled, train.units), test, resamples=50)
    assert all(abs(layer.value - scores.chance) < 0.15 for layer in scores.layers)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_probes_are_those_of_scikit_learn_by_hand(layer):
    train, test = planted(classes(7), 7), planted(classes(8), 8)
    weighted = LogisticRegression(C=FIXED_COST, class_weight="balanced", max_iter=1000)
    answers = by_hand(weighted, train, test, layer)
    found = probe_classes(train, test, resamples=2).layers[layer]
    assert found.value == pytest.approx(recall_score(test.answers, answers, average="macro"))
    assert found.strength == FIXED_COST and found.converged
    answers = by_hand(LogisticRegression(C=FIXED_COST, max_iter=1000), train, test, layer)
    scores = probe_classes(train, test, measure="accuracy", resamples=2)
    assert scores.layers[layer].value == pytest.approx(accuracy_score(test.answers, answers))
    assert scores.chance == pytest.approx(np.mean(test.answers == "neutral"))
    train, test = (planted(np.random.default_rng(i).normal(size=90) + 50, i) for i in (9, 10))
    answers = by_hand(Ridge(alpha=FIXED_PENALTY), train, test, layer)
    assert probe_numbers(train, test, resamples=2).layers[layer].value == pytest.approx(
        r2_score(test.answers, answers)
    )


def test_the_strength_is_the_one_that_does_best_on_dev():
    train, test, dev = (planted(classes(i, 60), i) for i in (11, 12, 13))
    scores = probe_classes(train, test, dev, resamples=2)
    for layer, found in enumerate(scores.layers):
        on_dev = {}
        for cost in (0.001, 0.01, 0.1, 1.0):
            model = LogisticRegression(C=cost, class_weight="balanced", max_iter=1000)
            on_dev[cost] = recall_score(dev.answers, by_hand(model, train, dev, layer), average="macro")
        assert on_dev[found.strength] == pytest.approx(max(on_dev.values()))


def test_intervals_resample_speakers_and_not_clips():
    test = planted(classes(1), 1)
    alone = Examples(test.states, test.answers, np.array(["one"] * len(test)))
    assert all(layer.interval is None for layer in probe_classes(planted(classes(0), 0), alone).layers)


def test_parts_that_do_not_fit_are_refused():
    train, test = planted(classes(0), 0), planted(classes(1), 1)
    fewer = Examples(test.states[:, :2], test.answers, test.units)
    with pytest.raises(VoxstrataError, match=r"train \[300, 3, 6\], test \[300, 2, 6\]; .* of one encoder"):
        probe_classes(train, fewer)
    with pytest.raises(VoxstrataError, match="test has 300 states, 299 answers and 300 units"):
        probe_classes(train, Examples(test.states, test.answers[1:], test.units))
    with pytest.raises(VoxstrataError, match="have 1 class; a probe needs at least two"):
        probe_classes(Examples(train.states, np.array(["joy"] * 300), train.units), test)
    same = Examples(test.states, np.ones(300), test.units)
    with pytest.raises(VoxstrataError, match="all the same number"):
        probe_numbers(same, same)


def kept(sample: FrameSample, target: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, answers, clips = sample.known(target)
    return sample.states[rows], answers, clips


def test_a_sample_of_frames_is_bounded_and_knows_no_order_of_clips():
    rng = np.random.default_rng(0)
    clips = [(i, rng.random(count), rng.normal(size=count)) for i, count in enumerate([7, 3, 12, 1, 5, 9])]

    def sampled(order: list[int]) -> FrameSample:
        sample = FrameSample(10, 2, 1, ("energy", "pitch"))
        for number, keys, energy in (clips[i] for i in order):
            states = torch.from_numpy(energy).expand(2, -1).unsqueeze(-1)
            pitch = np.where(energy > 0, 1.0, np.nan)
            sample.offer(number, keys, states, {"energy": energy, "pitch": pitch})
        return sample

    first, second = (sampled(order) for order in ([0, 1, 2, 3, 4, 5], [4, 2, 5, 0, 3, 1]))
    for one, other in zip(kept(first, "energy"), kept(second, "energy"), strict=True):
        np.testing.assert_array_equal(one, other)
    keys = np.concatenate([keys for _, keys, _ in clips])
    lowest = np.argsort(keys)[:10]
    states, answers, numbers = kept(first, "energy")
    np.testing.assert_array_equal(answers, np.concatenate([energy for *_, energy in clips])[lowest])
    np.testing.assert_allclose(states[:, 1, 0], answers, rtol=1e-6)
    np.testing.assert_array_equal(numbers, np.repeat(range(6), [7, 3, 12, 1, 5, 9])[lowest])
    np.testing.assert_array_equal(first.known("pitch")[1], np.ones((answers > 0).sum()))


def spoken(seed: int, hertz: float) -> np.ndarray:
    """Half a second or more: two tones in turn, louder and quieter, in noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(8000 + 400 * (seed % 7)) / SAMPLE_RATE
    wave = sum(np.sin(2 * np.pi * k * hertz * (1 + 0.3 * (time > 0.25)) * time) / k for k in (1, 2, 3))
    return (0.1 * wave * (1 + (time % 0.2 > 0.1)) + 0.002 * rng.normal(size=len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """48 clips of 8 speakers: the emotion is the pitch; a gender, a column of one class, and phonemes."""
    folder = tmp_path_factory.mktemp("probed")
    rows = []
    for i in range(48):
        speaker, high = i % 8, i % 3 == 0
        soundfile.write(folder / f"{i:02d}.wav", spoken(i, 300 if high else 100 + 5 * speaker), SAMPLE_RATE)
        rows.append(
            {
                "path": f"{i:02d}.wav",
                "speaker": f"s{speaker}",
                "split": "train" if speaker < 4 else "dev" if speaker < 6 else "test",
                "emotion": "joy" if high else "calm",
                "gender": "female" if speaker % 2 else "male",
                "room": "same",
                "own": f"of-{i}",
                "phonemes": " ".join(f"{0.05 * k:.3f}:{'abc'[(i + k) % 3]}" for k in range(9)),
            }
        )
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", folder / "table.jsonl", folder / "prepared")
    return folder / "prepared"


def test_layers_are_those_of_transformers_and_layer_0_the_projected_features(encoder_folder, corpus):
    encoder = load_backbone(encoder_folder)
    cuts = PreparedCorpus.load(corpus).cuts("dev")
    (batch, *_) = BatchSource(cuts, BatchOptions(batch_size=1, shuffle=False)).epoch(0)
    layers, mask = layer_states(encoder, batch)
    assert encoder.normalize and mask.all()
    wave = (batch.waveforms - batch.waveforms.mean()) / (batch.waveforms.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        heard = encoder.model(wave, output_hidden_states=True)
        projected, _ = encoder.model.feature_projection(heard.extract_features)
    assert len(layers) == encoder.num_layers + 1
    for found, expected in zip(layers[1:], heard.hidden_states[1:], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert layers[0].shape == projected.shape == layers[1].shape


def test_padding_changes_nothing(encoder_folder, corpus):
    encoder, prepared = load_backbone(encoder_folder), PreparedCorpus.load(corpus)
    parts = {cut.id: "train" for cut in prepared.cuts("test")}
    targets = ("phonemes", "pitch", "energy")
    found = []
    for size in (1, 12):
        options = BatchOptions(batch_size=size, shuffle=False, phonemes=("a", "b", "c"))
        found.append(
            collect(
                encoder,
                BatchSource(prepared.cuts("test"), options).epoch(0),
                parts,
                frame_answers=FrameAnswers(encoder, targets),
                sizes={"train": 150},
            )
        )
    alone, padded = found
    assert alone.ids == padded.ids and len(set(alone.ids)) == 12
    np.testing.assert_allclose(alone.means, padded.means, atol=1e-4)
    for target in targets:
        one, other = (kept(each.frames["train"], target) for each in found)
        assert 20 < len(one[1]) <= 150
        for expected, got in zip(one, other, strict=True):
            np.testing.assert_allclose(expected, got, atol=1e-3)


def test_the_answers_of_frames_are_what_was_spoken(encoder_folder, corpus):
    encoder, prepared = load_backbone(encoder_folder), PreparedCorpus.load(corpus)
    options = BatchOptions(batch_size=1, shuffle=False, phonemes=("a", "b", "c"))
    batch = next(iter(BatchSource(prepared.cuts("train"), options).epoch(0)))
    number = int(Path(batch.references[0].path).stem)
    framewise = FrameAnswers(encoder, ("phonemes", "pitch", "energy"))
    answers = framewise(batch)
    centre_s = framewise.offset / SAMPLE_RATE + 0.02 * np.arange(answers["phonemes"].shape[1])
    said = (number + np.minimum(8, (centre_s / 0.05).astype(int))) % 3
    np.testing.assert_array_equal(answers["phonemes"][0], said)
    hertz = 300 if number % 3 == 0 else 100 + 5 * (number % 8)
    assert np.nanmedian(2 ** answers["pitch"][0][centre_s < 0.2]) == pytest.approx(hertz, rel=0.05)
    loud, quiet = (np.median(answers["energy"][0][(centre_s % 0.2 > 0.1) == s]) for s in (True, False))
    assert loud - quiet == pytest.approx(np.log(4), abs=0.5)


def test_clips_are_drawn_by_seed_and_speakers_stand_in_all_parts(corpus):
    prepared = PreparedCorpus.load(corpus)
    few = [choose_clips(prepared, ClipChoice(("emotion",), max_clips=6, seed=seed)) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2] and len(few[0]) == 18
    clips = choose_clips(prepared, ClipChoice(("speaker",)))
    parts = divided_speakers(clips, 0)
    assert [len(parts[part]) for part in ("train", "dev", "test")] == [32, 8, 8]
    assert all(len(set(part.values())) == 8 for part in parts.values())
    assert len({clip for part in parts.values() for clip in part}) == 48


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["voxstrata", "probe", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(str(stopped.value.code)), out, err

    return call


def test_the_command_prints_a_table_and_writes_the_numbers(run, encoder_folder, corpus):
    code, printed, err = run(encoder_folder, "--corpus", corpus, "--json", "--resamples", 20)
    assert code == 0
    told = json.loads(printed)
    assert tuple(told["targets"]) == tuple(n for n in USUAL_TARGETS) and not err.startswith("voxstrata:")
    out = err[err.index(" on ") - len(str(encoder_folder)) :]
    lines = out.splitlines()
    assert lines[1].split() == ["layer", *USUAL_TARGETS]
    assert [line.split()[0] for line in lines[3:9]] == ["0", "1", "2", "chance", "train", "test"]
    assert out.split("\n\n")[0].count("*") == len(USUAL_TARGETS)
    emotion = told["targets"]["emotion"]
    assert emotion["chance"] == 0.5 and emotion["classes"] == ["calm", "joy"] and emotion["units"] == 2
    assert emotion["examples"] == {"train": 24, "dev": 12, "test": 12}
    best = emotion["layers"][emotion["best_layer"]]
    assert best["value"] > 0.9 and f"{100 * best['value']:.1f} [" in out
    assert told["targets"]["energy"]["layers"][0]["value"] > 0.3
    assert told["encoder"]["layers"] == 2 and len(told["encoder"]["fingerprint"]) == 64
    assert told["settings"]["seed"] == 0 and "scikit-learn" in told["provenance"]["versions"]
    assert "note: emotion: 2 test speakers" in err


def test_the_same_seed_gives_the_same_numbers(encoder_folder, corpus):
    encoder, prepared = load_backbone(encoder_folder), PreparedCorpus.load(corpus)
    options = ProbeOptions(targets=("gender", "pitch"), max_clips=8, max_frames=100, resamples=20, seed=3)
    first, second = (study(encoder, prepared, plan_probes(prepared, options)) for _ in range(2))
    assert first.as_dict() == second.as_dict()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--target", "accent"), "no clip of table tells accent; there are emotion, energy, gender, own,"),
        (("--target", "room"), "all train clips that tell room have the one class 'same'"),
        (("--target", "own"), "12 of the 12 classes of own in the test clips are in no training clip"),
        (("--train", "test"), "train and test are both the split test"),
        (("--test", "later"), "no split 'later'; there are train, dev, test"),
        (("--fold", "3"), "has no fold 3; there are none"),
        (("--target", "speaker", "--max-clips", "2"), "0 speakers have 5 clips or more"),
        (("--target", "pitch", "--target", "pitch"), "a target is named twice in pitch, pitch"),
    ],
)
def test_bad_input_is_told_in_one_line(run, encoder_folder, corpus, arguments, told):
    code, out, err = run(encoder_folder, "--corpus", corpus, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("voxstrata: ") and told in err


def test_a_corpus_without_test_clips_or_a_model_that_is_not_there_is_told(
    run, encoder_folder, corpus, tmp_path
):
    rows = [json.loads(line) for line in (corpus.parent / "table.jsonl").read_text().splitlines()]
    kept = "".join(json.dumps(row) + "\n" for row in rows if row["split"] != "test")
    (corpus.parent / "untested.jsonl").write_text(kept)
    prepare("table", corpus.parent / "untested.jsonl", tmp_path / "untested")
    code, _, err = run(encoder_folder, "--corpus", tmp_path / "untested", "--target", "emotion")
    assert code == 2 and "table has no test clips; it has train 24, dev 12" in err
    code, _, err = run(tmp_path / "no-model", "--corpus", corpus)
    assert code == 2 and "no model folder or file at" in err and len(err.splitlines()) == 1


def test_an_encoder_with_other_frames_can_be_probed_for_clips_only(tiny_encoder, corpus):
    encoder = tiny_encoder().requires_grad_(False).eval()
    encoder.model.config.conv_stride = [160, 3]
    prepared = PreparedCorpus.load(corpus)
    with pytest.raises(VoxstrataError, match="pitch: the encoder has a frame every 480 samples"):
        study(encoder, prepared, plan_probes(prepared, ProbeOptions(targets=("pitch",))))


def test_real_recordings_have_pitch_and_energy_in_their_layers(real_data, encoder_folder, tmp_path):
    files = sorted((real_data / "AN4" / "wav").rglob("*.flac"))[::25]
    speakers = sorted({path.parent.name for path in files})
    rows = [
        {"path": str(path), "speaker": path.parent.name, "split": ("train", "train", "test")[place % 3]}
        for path in files
        for place in [speakers.index(path.parent.name)]
    ]
    (tmp_path / "an4.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = prepare("table", tmp_path / "an4.jsonl", tmp_path / "an4")
    options = ProbeOptions(targets=("pitch", "energy"), max_frames=1500, resamples=20)
    found = study(load_backbone(encoder_folder), corpus, plan_probes(corpus, options))
    pitch, energy = (target.scores.layers for target in found.targets)
    assert max(layer.value for layer in energy) > 0.5 and max(layer.value for layer in pitch) > 0.1
    assert found.targets[1].examples == {"train": 1500, "test": 750}
