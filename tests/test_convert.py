"""Saved outputs of other tools as predictions files; the outputs here are made in those tools' layouts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError
from voxstrata.evaluation.converted import KINDS, VOX_PROFILE, converted
from voxstrata.predictions import Prediction, read_predictions, write_predictions

#: emotion2vec+ in the order of its nine outputs.
LABELS = ["生气/angry", "厌恶/disgusted", "恐惧/fearful", "开心/happy", "中立/neutral", "其他/other",
          "难过/sad", "吃惊/surprised", "<unk>"]  # fmt: skip
SCORES = [0.5, 0.05, 0.05, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]
OURS = ["anger", "disgust", "fear", "happiness", "neutral", "other", "sadness", "surprise", "unknown"]


def rows(kind: str, value: Any) -> list[Prediction]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return converted(kind, text.encode(), "output.json")


def lines(*values: Any) -> str:
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n"


@pytest.mark.parametrize(
    ("text", "emotion", "words"),
    [
        ("<|en|><|ANGRY|><|Speech|><|withitn|>Not again!", "anger", "Not again!"),
        ("< | en | >< | SAD | >< | Speech | >< | woitn | > so it is", "sadness", "so it is"),
        ("<|zh|><|EMO_UNKNOWN|><|BGM|><|withitn|>好", "unknown", "好"),
        ("<|en|><|HAPPY|><|Speech|>a <|en|><|SAD|><|Speech|>b <|en|><|SAD|><|Cry|>c", "sadness", "a b c"),
        ("<|en|><|EMO_UNKNOWN|>a <|en|><|EMO_UNKNOWN|>b <|en|><|HAPPY|>c", "happiness", "a b c"),
        ("<|nospeech|><|EMO_UNKNOWN|><|Event_UNK|><|woitn|>", "unknown", ""),
        ("plain words", None, "plain words"),
    ],
)
def test_sensevoice_tells_emotions_in_tags(text: str, emotion: str | None, words: str) -> None:
    (row,) = rows("funasr", [{"key": "a", "text": text}])
    assert (row.id, row.emotion, row.transcript, row.probabilities) == ("a", emotion, words, None)


@pytest.mark.parametrize("labels", [LABELS, [label.rpartition("/")[2] for label in LABELS]])
def test_emotion2vec_tells_all_probabilities(labels: list[str]) -> None:
    one = {"key": "a", "labels": labels, "scores": SCORES, "feats": [0.25] * 4}
    for saved in ([one], lines(one), lines([one]), json.dumps([one], indent=2), json.dumps(one, indent=2)):
        (row,) = rows("funasr", saved)
        assert (row.id, row.emotion) == ("a", "anger")
        assert row.probabilities == pytest.approx(dict(zip(OURS, SCORES, strict=True)))


def test_a_pipeline_is_read_in_all_ways_to_save_it() -> None:
    found = [{"score": 0.75, "label": "ang"}, {"score": 0.25, "label": "neu"}]
    ways = [
        lines({"path": "x/a.wav", "output": found}, {"path": "x/b.wav", "predictions": found[:1]}),
        {"x/a.wav": found, "x/b.wav": found[:1]},
        [{"file": "x/a.wav", "result": found}, {"file": "x/b.wav", "result": [found[:1]]}],
    ]
    for saved in ways:
        first, second = rows("transformers", saved)
        assert (first.path, first.emotion) == ("x/a.wav", "anger")
        assert first.probabilities == {"anger": 0.75, "neutral": 0.25}
        assert (second.path, second.emotion, second.probabilities) == ("x/b.wav", "anger", None)
    (words,) = rows("transformers", [{"path": "a.wav", "text": " so it is"}])
    assert words.transcript == "so it is"


def test_vox_profile_has_its_classes_in_order_or_by_name() -> None:
    logits = [0.5 * k for k in range(9)]
    powers = [math.exp(one) for one in logits]
    expected = [one / sum(powers) for one in powers]
    ours = [*(name.lower() for name in VOX_PROFILE[:-1]), "other"]
    for saved in (
        {"path": "a.wav", "logits": [logits]},
        {"path": "a.wav", "probabilities": expected},
        {"path": "a.wav", "probs": dict(zip(VOX_PROFILE, expected, strict=True))},
    ):
        (row,) = rows("vox-profile", [saved])
        assert row.emotion == "other"
        assert row.probabilities == pytest.approx(dict(zip(ours, expected, strict=True)))
    (row,) = rows("vox-profile", lines({"path": "a.wav", "arousal": 0.6, "valence": 0.4, "dominance": 0.5}))
    assert (row.arousal, row.valence, row.dominance, row.emotion) == (0.6, 0.4, 0.5, None)


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("whisperx", [], "no kind 'whisperx'; there are funasr, vox-profile, transformers"),
        ("funasr", [{"key": "a", "text": "so it is 😊"}], "the tags are pictures"),
        ("funasr", [{"key": "a", "labels": LABELS, "scores": SCORES[:8]}], "9 classes have 8 scores"),
        ("funasr", [{"key": "a", "labels": ["a", "b"], "scores": [[0.5, 0.5]]}], "scores are of frames"),
        ("funasr", [{"key": "a", "value": "x"}], "there is no text"),
        ("funasr", [{"key": "a", "text": "x"}, {"key": "a", "text": "y"}], "stands already in"),
        ("transformers", {"a.wav": [{"name": "x"}]}, "a classification gives a list"),
        ("transformers", "not JSON", "is not JSON"),
        ("transformers", [], "holds no rows"),
        ("vox-profile", [{"path": "a.wav", "probs": [0.5] * 4}], "9 classes have 4 scores"),
        ("vox-profile", [{"path": "a.wav", "logits": ["x"] * 9}], "logits are a list of finite numbers"),
        ("vox-profile", [{"path": "a.wav"}], "none of probabilities"),
    ],
)
def test_what_cannot_be_read_is_one_line(kind: str, value: Any, told: str) -> None:
    with pytest.raises(VoxstrataError, match=told) as caught:
        rows(kind, value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    table = tmp_path / "calls.csv"
    table.write_text(
        "path,emotion,speaker,text\nx/a.1.wav,anger,ann,not again\nx/b.wav,neutral,ben,fine\n"
        "y/c.wav,anger,ann,no\n"
    )
    return table


def convert(*given: object):
    return CliRunner().invoke(app, ["convert", *map(str, given)], catch_exceptions=False)


def test_rows_take_ids_and_references_and_are_scored_and_compared(calls: Path, tmp_path: Path) -> None:
    """FunASR's keys are names of files without their ends."""
    output = tmp_path / "output.jsonl"
    output.write_text(
        lines({"key": "b", "text": "<|en|><|NEUTRAL|>fine"}, {"key": "a.1", "text": "<|en|><|SAD|>no"})
    )
    done = convert("funasr", output, "--references", calls, "--out", tmp_path / "theirs.jsonl")
    assert done.exit_code == 0 and "1 of 3 recordings" in done.stderr
    first, second = read_predictions(tmp_path / "theirs.jsonl")
    assert (first.id, first.speaker, first.emotion, first.reference_emotion) == (
        "calls/x/a.1",
        "calls-ann",
        "sadness",
        "anger",
    )
    assert (second.id, second.transcript, second.reference_transcript) == ("calls/x/b", "fine", "fine")
    ours = [Prediction(row.id, speaker=row.speaker, emotion="anger", reference_emotion=row.reference_emotion)
            for row in (first, second)]  # fmt: skip
    write_predictions(tmp_path / "ours.jsonl", ours)
    scored = CliRunner().invoke(app, ["evaluate", str(tmp_path / "theirs.jsonl"), "--json"])
    assert scored.exit_code == 0 and json.loads(scored.stdout)["emotion"]["uar"]["value"] == 0.5
    files = [str(tmp_path / "theirs.jsonl"), str(tmp_path / "ours.jsonl")]
    assert CliRunner().invoke(app, ["compare", *files, "--json"]).exit_code == 0
    again = convert("funasr", output, "--references", tmp_path / "ours.jsonl", "--out", tmp_path / "t2.jsonl")
    assert again.exit_code == 0 and [row.id for row in read_predictions(tmp_path / "t2.jsonl")] == [
        "calls/x/a.1",
        "calls/x/b",
    ]


def test_a_prepared_corpus_gives_references(corpus_folder: Path, tmp_path: Path) -> None:
    from voxstrata.corpora.prepared import PreparedCorpus

    cuts = list(PreparedCorpus.load(corpus_folder).stream("test"))
    found = [{"score": 1.0, "label": "angry"}]
    output = tmp_path / "o.jsonl"
    output.write_text(lines(*({"path": cut.recording.sources[0].source, "output": found} for cut in cuts)))
    done = convert("transformers", output, "--references", corpus_folder, "--out", tmp_path / "t.jsonl")
    assert done.exit_code == 0, done.output
    told = {row.id: row.reference_emotion for row in read_predictions(tmp_path / "t.jsonl")}
    assert told == {cut.id: cut.supervisions[0].custom["emotion"] for cut in cuts}


@pytest.mark.parametrize(
    ("keys", "told"),
    [(["z"], "is of no recording of the references"), (["b", "x/b.wav"], "two outputs are of the recording")],
)
def test_outputs_that_fit_no_reference_are_refused(
    calls: Path, tmp_path: Path, keys: list[str], told: str
) -> None:
    (tmp_path / "o.jsonl").write_text(lines(*({"key": key, "text": "x"} for key in keys)))
    with pytest.raises(VoxstrataError, match=told):
        convert("funasr", tmp_path / "o.jsonl", "--references", calls, "--out", tmp_path / "t.jsonl")


def test_a_name_that_two_recordings_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,emotion\nx/a.wav,anger\ny/a.wav,neutral\n")
    (tmp_path / "o.jsonl").write_text(lines({"key": "a", "text": "x"}))
    with pytest.raises(VoxstrataError, match="'a' fits t/x/a, t/y/a; save outputs with whole paths"):
        convert(
            "funasr", tmp_path / "o.jsonl", "--references", tmp_path / "t.csv", "--out", tmp_path / "t.jsonl"
        )


def test_every_kind_stands_in_the_documentation() -> None:
    page = (Path(__file__).parents[1] / "docs" / "scoring.md").read_text(encoding="utf-8")
    assert all(f"- `{kind}`: " in page for kind in KINDS)
