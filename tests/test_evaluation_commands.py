"""`voxstrata evaluate` and `voxstrata compare`, on files that any system may have written."""

import json
import sys

import pytest

from voxstrata.cli.main import main
from voxstrata.evaluation.comparison import compare
from voxstrata.evaluation.score import score
from voxstrata.predictions import read_predictions

NAMES = ("anger", "fear", "neutral", "sadness")


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["voxstrata", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return stopped.value.code, out, err

    return call


def write(path, step=0, start=0, clips=48, drop=(), **more):
    rows = []
    for i in range(start, start + clips):
        true = NAMES[i % 4]
        row = {
            "id": f"c{i}",
            "speaker": f"s{i % 12}",
            "reference_emotion": true,
            "emotion": true if (i + step) % 3 else NAMES[(i + 1) % 4],
            "reference_transcript": "Go on.",
            "transcript": "go on" if (i * 7 + step) % 5 else "go",
            "model_version": {"unknown": ["field", i]},
            **more,
        }
        rows.append({key: value for key, value in row.items() if key not in drop})
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return path


def test_evaluate_prints_tables_and_json_prints_the_scores(run, tmp_path):
    path = write(tmp_path / "a.jsonl")
    code, out, err = run("evaluate", path)
    expected = score(read_predictions(path))
    assert (code, err) == (0, "")
    assert "48 clips, 12 speakers\n" in out
    assert f"{100 * expected.emotion.metrics['uar'].value:.2f}" in out
    assert all(word in out for word in ("UAR", "WER", "normaliser: basic", *NAMES))
    code, out, err = run("evaluate", path, "--json", "--seed", 3, "--resamples", 50, "--normalizer", "none")
    assert code == 0
    assert json.loads(out) == score(read_predictions(path), seed=3, resamples=50, normalizer="none").as_dict()


def test_several_files_are_scored_each_or_pooled(run, tmp_path):
    a, b = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", start=48, step=1)
    _, out, _ = run("evaluate", a, b, "--json", "--resamples", 20)
    assert {name: row["clips"] for name, row in json.loads(out).items()} == {str(a): 48, str(b): 48}
    _, out, _ = run("evaluate", a, b, "--pool", "--json", "--resamples", 20)
    both = [*read_predictions(a), *read_predictions(b)]
    assert json.loads(out) == score(both, resamples=20).as_dict()
    code, out, err = run("evaluate", a, a.rename(tmp_path / "c.jsonl"), "--pool")
    assert code == 2 and out == "" and err.count("\n") == 1


def test_rows_of_other_systems_are_enough(run, tmp_path):
    path = write(tmp_path / "a.jsonl", drop=("speaker", "transcript", "reference_transcript"))
    code, out, err = run("evaluate", path, "--resamples", 20)
    assert code == 0 and "unknown speakers" in out and "WER" not in out
    assert "warning" in err and "no row names a speaker" in err


def test_clips_without_an_answer_are_printed_loudly(run, tmp_path):
    path = write(tmp_path / "a.jsonl")
    failed = {"id": "x", "speaker": "s1", "reference_emotion": "fear", "error": "cannot decode"}
    path.write_text(path.read_text() + json.dumps(failed) + "\n")
    _, out, _ = run("evaluate", path, "--resamples", 20)
    assert "49 clips, 12 speakers, 1 WITHOUT AN ANSWER (counted as wrong)" in out
    _, out, _ = run("evaluate", path, "--resamples", 20, "--errors", "leave-out")
    assert "48 clips, 12 speakers, 1 WITHOUT AN ANSWER (left out)" in out


def test_many_classes_keep_the_table_narrow(run, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"id": i, "emotion": f"class{i % 14}", "reference_emotion": f"class{i % 13}"} for i in range(200)]
    path.write_text("\n".join(map(json.dumps, rows)))
    _, out, _ = run("evaluate", path, "--resamples", 5)
    assert "class12" in out and max(map(len, out.splitlines())) <= 100


def test_compare_prints_a_table_and_json(run, tmp_path):
    a, b = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", step=1)
    code, out, err = run("compare", a, b)
    assert (code, err) == (0, "")
    assert all(word in out for word in ("UAR", "WER", "B - A", "detectable", "speakers"))
    code, out, _ = run("compare", a, b, "--json", "--resamples", 50, "--seed", 2)
    found = compare(read_predictions(a), read_predictions(b), resamples=50, seed=2)
    assert code == 0 and json.loads(out) == found.as_dict()


def test_compare_says_which_is_better(run, tmp_path):
    a, b = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl")
    b.write_text(b.read_text().replace('"transcript": "go on"', '"transcript": "uh"'))
    _, out, _ = run("compare", a, b)
    assert "UAR: no difference shown" in out and "WER: A is better" in out


def test_compare_says_where_it_falls_back_to_clips(run, tmp_path):
    a = write(tmp_path / "a.jsonl", drop=("speaker",))
    b = write(tmp_path / "b.jsonl", step=1, drop=("speaker",))
    _, out, err = run("compare", a, b, "--resamples", 50)
    assert "clips" in out and "resampled by clip only" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not json\n", "line 1: not JSON"),
        ('{"emotion": "anger"}\n', 'at least "id"'),
        ('{"id": "a"}\n{"id": "a"}\n', "stands already in line 1"),
        ('{"id": "a", "emotion": 3}\n', "'emotion' must be a string"),
        ('{"id": "a", "emotion": "fear"}\n', "nothing to score"),
        ("", "holds no rows"),
        (None, "no predictions file"),
    ],
)
def test_a_broken_file_is_one_line_and_exit_code_2(run, tmp_path, content, said):
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_text(content)
    code, out, err = run("evaluate", path)
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--normalizer", "whisper"), "choose one of none, basic"),
        (("--errors", "ignore"), "choose one of wrong, leave-out"),
        (("--labels", "anger,fear"), "outside the given set"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(run, tmp_path, options, said):
    a = write(tmp_path / "a.jsonl")
    for command in (("evaluate", a), ("compare", a, a)):
        code, out, err = run(*command, *options)
        assert (code, out, err.count("\n")) == (2, "", 1) and said in err


def test_compare_of_other_clips_is_one_line_and_exit_code_2(run, tmp_path):
    a, b = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", start=1)
    code, out, err = run("compare", a, b)
    assert (code, out, err.count("\n")) == (2, "", 1) and "'c0'" in err and "'c48'" in err
