import json

import pytest
import typer
from typer.testing import CliRunner

from voxstrata.cli import corpus_synth
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.labels import EMOTIONS

pytest.importorskip("espeakng_loader", reason="the extra synth is not installed")


def run(*arguments):
    app = typer.Typer()
    group = typer.Typer()
    corpus_synth.register(group)
    app.callback()(lambda: None)
    app.add_typer(group, name="corpus")
    return CliRunner().invoke(app, ["corpus", "synth", *map(str, arguments)])


def test_the_command_leaves_prepared_corpora_acted_and_read(tmp_path):
    out = tmp_path / "out"
    result = run(out, "--clips", 30, "--voices", "4,2,3", "--read", "--jobs", 2, "--json")
    assert result.exit_code == 0, result.output
    answers = json.loads(result.stdout)
    assert list(answers) == [str(out), *(str(out / "read" / name) for name in corpus_synth.READ_DESIGNS)]
    assert answers[str(out)]["clips"] == {"train": 21, "dev": 3, "test": 6}
    assert 0.7 < answers[str(out)]["oracles"]["both"] < 0.8
    for text in ("about 8 minutes in 150 clips, 9 MB", "labelled", "oracle UAR"):
        assert text in result.stderr
    acted = PreparedCorpus.load(out)
    assert acted.labels == EMOTIONS and len(acted.cuts("test")) == 6
    speakers = {cut.supervisions[0].speaker for cut in acted.cuts("test")}
    for name in corpus_synth.READ_DESIGNS:
        read = PreparedCorpus.load(out / "read" / name)
        assert {cut.supervisions[0].custom["emotion"] for cut in read.cuts()} == {None}
        assert {cut.supervisions[0].speaker for cut in read.cuts("test")} == speakers


def test_unlabelled_speech_holds_both_vocabularies_and_one_split(tmp_path):
    result = run(tmp_path / "out", "--minutes", 1, "--shares", "1,0,0", "--unlabelled", "--json", "--jobs", 1)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)[str(tmp_path / "out")]
    assert answer["clips"] == {"train": 20} and answer["labelled"] == {"train": 0}
    assert answer["oracles"] is None and 40 < answer["seconds"]["train"] < 80


@pytest.mark.parametrize(
    "arguments",
    [
        ("--clips", 10, "--minutes", 1),
        ("--read", "--unlabelled"),
        ("--shares", "1,2"),
        ("--shares", "0,0,0"),
        ("--voices", "a,b,c"),
        ("--minutes", -1),
        ("--minutes", "nan"),
        ("--minutes", "1e300"),
        ("--shares", "nan,1,1"),
        ("--voices", "1_0,1,1"),
        ("--lexical-strength", 2),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_written(arguments, tmp_path):
    result = run(tmp_path / "out", *arguments)
    assert type(result.exception).__name__ == "CorpusError" and "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shares", "counts"), [("0,1,1", (0, 2, 1)), ("1,0,0", (3, 0, 0)), ("0,0,9", (0, 0, 3))]
)
def test_shares_of_few_clips_add_up(shares, counts):
    assert corpus_synth._split_counts(3, None, shares) == counts
