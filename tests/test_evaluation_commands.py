"""`voxstrata evaluate` and `voxstrata compare`, on files that any system may have written."""

import io
import json
import sys

import numpy as np
import pytest
import soundfile

from voxstrata.cli.main import main
from voxstrata.corpora.prepare import prepare
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
        ("not json\n", "line 1 is not JSON"),
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


def test_word_errors_are_counted_by_kind_in_the_terminal_and_in_json(run, tmp_path):
    path = tmp_path / "a.jsonl"
    texts = [("go on now", "go in now"), ("go on now", "go"), ("stop", "oh stop"), ("a b c", "a b c")]
    rows = [
        {"id": i, "speaker": i, "reference_transcript": true, "transcript": heard}
        for i, (true, heard) in enumerate(texts)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    _, out, _ = run("evaluate", path, "--resamples", 5)
    assert "substitutions 1 (10.00 %), deletions 2 (20.00 %), insertions 1 (10.00 %)" in out
    _, out, _ = run("evaluate", path, "--resamples", 5, "--json")
    transcript = json.loads(out)["transcript"]
    assert transcript["deletions"] == {"count": 2, "rate": 0.2} and transcript["wer"]["value"] == 0.4
    _, out, _ = run("compare", path, path, "--resamples", 5)
    assert out.count("substitutions 1 (10.00 %), deletions 2 (20.00 %), insertions 1 (10.00 %)") == 2


def give_input(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_read_as_a_file(run, tmp_path, monkeypatch):
    a, b = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", step=1)
    give_input(monkeypatch, b"\xef\xbb\xbf" + a.read_bytes().replace(b"\n", b"\r\n"))
    code, out, err = run("evaluate", "-", "--json", "--resamples", 20)
    assert (code, err) == (0, "") and json.loads(out) == score(read_predictions(a), resamples=20).as_dict()
    for given in (("-", b), (a, "-")):
        give_input(monkeypatch, (a if given[0] == "-" else b).read_bytes())
        code, out, _ = run("compare", *given, "--json", "--resamples", 20)
        expected = compare(read_predictions(a), read_predictions(b), resamples=20)
        assert code == 0 and json.loads(out) == expected.as_dict()


@pytest.mark.parametrize("command", [("evaluate", "-", "-"), ("compare", "-", "-"), ("evaluate", "-")])
def test_standard_input_that_is_empty_or_named_twice_is_one_line(run, monkeypatch, command):
    give_input(monkeypatch, b"")
    code, out, err = run(*command)
    assert (code, out, err.count("\n")) == (2, "", 1) and "standard input" in err


@pytest.fixture
def two_runs(tmp_path):
    for name, step in (("a", 0), ("b", 1)):
        folder = tmp_path / name / "predictions"
        folder.mkdir(parents=True)
        write(folder / "test.jsonl", step=step)
        write(folder / "dev.jsonl", step=step, clips=24)
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize("split", [None, "test", "dev"])
def test_a_run_folder_stands_for_its_predictions(run, two_runs, split):
    files = [folder / "predictions" / f"{split or 'test'}.jsonl" for folder in two_runs]
    options = [] if split is None else ["--split", split]
    _, out, _ = run("evaluate", two_runs[0], "--json", "--resamples", 20, *options)
    assert json.loads(out) == score(read_predictions(files[0]), resamples=20).as_dict()
    _, out, _ = run("compare", *two_runs, "--json", "--resamples", 20, *options)
    assert json.loads(out) == compare(*map(read_predictions, files), resamples=20).as_dict()
    _, out, _ = run("compare", two_runs[0], files[1], "--resamples", 20, *options)
    assert f"A {files[0]}" in out and f"B {files[1]}" in out


def test_what_a_run_folder_lacks_is_one_line(run, two_runs, tmp_path):
    (tmp_path / "empty").mkdir()
    file = two_runs[0] / "predictions" / "test.jsonl"
    for arguments, said in (
        (
            ("evaluate", two_runs[0], "--split", "train"),
            "no predictions of the split 'train'; it has dev, test",
        ),
        (("evaluate", tmp_path / "empty"), "is a folder without predictions/test.jsonl"),
        (("evaluate", file, "--split", "dev"), "leave the split out"),
        (("compare", two_runs[0], tmp_path / "none"), "no predictions file at"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1) and said in err


def test_two_speakers_give_an_interval_and_no_verdict(run, tmp_path):
    a, b = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl")
    for path in (a, b):
        rows = [json.loads(line) for line in path.read_text().splitlines() if line]
        for row in rows:
            row["speaker"] = f"s{int(row['id'][1:]) % 2}"
            row["transcript"] = "uh" if path == b else "go on"
        path.write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = run("compare", a, b, "--resamples", 50)
    assert code == 0 and "is better" not in out and "[100.00, 100.00]" in out
    assert out.count("no verdict with only 2 known speakers: at least 5 are needed") == 1
    _, out, _ = run("compare", a, b, "--resamples", 50, "--json")
    found = json.loads(out)["differences"]["wer"]
    assert (found["shown"], found["speakers"]) == (False, 2) and found["missing"].startswith("no verdict")


def test_scores_do_not_hang_on_the_order_of_keys(run, tmp_path):
    found = []
    for names in (("f", "m"), ("m", "f")):
        path = tmp_path / "a.jsonl"
        rows = [
            {
                "id": i,
                "classes": {"gender": dict.fromkeys(names, 0.5)},
                "reference_classes": {"gender": "fm"[i % 2]},
            }
            for i in range(8)
        ]
        path.write_text("\n".join(map(json.dumps, rows)))
        found.append(run("evaluate", path, "--json", "--resamples", 5)[1])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"classes": {"g": {"f": float("nan"), "m": 1.0}}, "reference_classes": {"g": "f"}}, "'classes'"),
        ({"emotion": "fear", "reference_emotion": "fear", "probabilities": {"fear": float("inf")}}, "'prob"),
        ({"arousal": 1e308, "reference_arousal": 3.0}, "'arousal'"),
    ],
)
def test_answers_that_are_no_numbers_are_refused_with_row_and_field(run, tmp_path, row, field):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, **row}) for i in range(3)))
    for command in (("evaluate", path), ("compare", path, path)):
        code, out, err = run(*command)
        assert (code, out, err.count("\n")) == (2, "", 1) and f"line 1: {field}" in err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"emotion": "x", "reference_emotion": "x", "probabilities": {"x": 0.5, "y": 0.2}},
            "its probabilities sum to 0.7",
        ),
        (
            {"classes": {"g": {"f": 0.9, "m": 0.9}}, "reference_classes": {"g": "f"}},
            "its classes of g sum to 1.8",
        ),
    ],
)
def test_probabilities_that_do_not_sum_to_one_are_refused_with_clip_and_field(run, tmp_path, row, said):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"c{i}", **row}) for i in range(3)))
    for command in (("evaluate", path), ("compare", path, path)):
        code, out, err = run(*command)
        assert (code, out, err.count("\n")) == (2, "", 1) and f"clip 'c0': {said}" in err


@pytest.fixture
def two_subsets(tmp_path):
    """LibriSpeech with test-clean and test-other, prepared, and predictions that err on `other` alone."""
    for number, subset in enumerate(("test-clean", "test-other")):
        chapter = tmp_path / "LibriSpeech" / subset / f"{number + 1}" / "7"
        chapter.mkdir(parents=True)
        samples = np.random.default_rng(number).normal(size=800) * 0.1
        soundfile.write(chapter / f"{number + 1}-7-0000.flac", samples, 16_000)
        (chapter / f"{number + 1}-7.trans.txt").write_text(f"{number + 1}-7-0000 GO ON\n")
    prepare("librispeech", tmp_path / "LibriSpeech", tmp_path / "prepared")
    rows = [
        {"id": f"librispeech/{n}-7-0000", "transcript": heard, "reference_transcript": "go on"}
        for n, heard in ((1, "go on"), (2, "go"))
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_clean_and_other_of_librispeech_are_scored_apart(run, two_subsets):
    file = two_subsets / "p.jsonl"
    arguments = ("evaluate", file, "--by", "subset", "--corpus", two_subsets / "prepared", "--resamples", 5)
    code, out, _ = run(*arguments, "--json")
    rates = {name: scores["transcript"]["wer"]["value"] for name, scores in json.loads(out).items()}
    assert code == 0
    assert rates == {f"{file} (subset test-clean)": 0.0, f"{file} (subset test-other)": 0.5}
    _, out, _ = run(*arguments)
    assert "(subset test-clean)" in out and "(subset test-other)" in out


def test_parts_that_cannot_be_told_are_one_line(run, two_subsets):
    file, corpus = two_subsets / "p.jsonl", two_subsets / "prepared"
    strange = two_subsets / "q.jsonl"
    strange.write_text('{"id": "x", "transcript": "a", "reference_transcript": "a"}')
    for arguments, said in (
        (("evaluate", file, "--by", "subset"), "--by needs --corpus"),
        (("evaluate", file, "--corpus", corpus), "--corpus needs --by"),
        (("evaluate", file, "--by", "room", "--corpus", corpus), "'room'; it has chapter, speaker, subset"),
        (("evaluate", strange, "--by", "subset", "--corpus", corpus), "1 clips are not in"),
        (("evaluate", file, "--by", "subset", "--corpus", two_subsets / "no"), "no prepared corpus in"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1) and said in err
