"""What killed processes left of tars and speech is swept; what runs lay down is held to its form."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.corpora.shar import write_shar
from voxstrata.corpora.synthetic import crew as crew_module
from voxstrata.corpora.synthetic.crew import Crew
from voxstrata.corpora.synthetic.generate import generate
from voxstrata.corpora.synthetic.plan import SynthesisOptions
from voxstrata.errors import CorpusError, VoxstrataError
from voxstrata.experiments.leaks.training_clips import ClipTrace, TrainingClips, Use

TINY = SynthesisOptions(clips=(4, 2, 2), voices=(2, 1, 1), seed=3)


def gone() -> int:
    """The id of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def needs_espeak() -> None:
    pytest.importorskip("espeakng_loader", reason="the extra synth is not installed")


def test_tars_that_a_killed_process_was_writing_go(corpus_folder, tmp_path):
    half = tmp_path / f".out.{gone()}.tmp"
    (half / "shar").mkdir(parents=True)
    (half / "shar" / "recording.000000.tar").write_bytes(b"half")
    (tmp_path / "out").mkdir()
    write_shar(PreparedCorpus.load(corpus_folder), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_corpus_cannot_be_packed_onto_a_file(corpus_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CorpusError, match=r"cannot write .*file/out: .*; free space"):
        write_shar(PreparedCorpus.load(corpus_folder), tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


def test_clips_that_a_killed_worker_was_writing_go_and_the_corpus_is_the_same(tmp_path):
    needs_espeak()
    generate(tmp_path / "whole", TINY, jobs=1)
    generate(tmp_path / "again", TINY, jobs=1)
    clip = next((tmp_path / "again").rglob("*.flac"))
    content = clip.read_bytes()
    half = clip.with_name(f".{clip.name}.{gone()}.tmp")
    half.write_bytes(content[:50])
    clip.unlink()
    generate(tmp_path / "again", TINY, jobs=1)
    whole, again = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
                    for f in (tmp_path / "whole", tmp_path / "again"))  # fmt: skip
    assert whole == again and not half.exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "[" * 10**5, '{"a": NaN}', '{"a": "\\ud800"}', "\0", '{"a": 1%s}' % ("0" * 5000)],
)
def test_a_manifest_of_speech_that_is_none_is_one_line(content, tmp_path):
    needs_espeak()
    (tmp_path / "synthetic.json").write_text(content)
    with pytest.raises(CorpusError, match=r"synthetic.json.*choose another folder") as caught:
        generate(tmp_path, TINY, jobs=1)
    assert "\n" not in str(caught.value)


def test_half_an_answer_of_a_speech_worker_is_one_line(monkeypatch):
    class Process:
        class stdin:
            write = staticmethod(lambda text: None)
            flush = staticmethod(lambda: None)

        class stdout:
            readline = staticmethod(lambda: '{"clips": [[1.5, "0.')

    made = Crew.__new__(Crew)
    made._free = crew_module.queue.Queue()
    made._free.put(Process())
    with pytest.raises(
        VoxstrataError, match=r"answer of a speech worker is not JSON.*start the same command again"
    ):
        made._ask({"version": True})


LIST = TrainingClips(
    {Use("fine-tuning", "r"): frozenset([ClipTrace("a", "s", "00", None), ClipTrace("b", None, "", "11")])},
    ("x",),
)


def lines(path: Path) -> list[str]:
    LIST.write(path)
    assert TrainingClips.read(path) == LIST
    return gzip.decompress(path.read_bytes()).decode().splitlines()


@pytest.mark.parametrize(
    "line",
    [
        "", "[", "3", "null", "{}", "[" * 10**5, '["a", "s", "0", null]', '["a", "s", "0", null, [7]]',
        '["a", "s", "0", null, [-1]]', '["a", "s", "0", null, ["0"]]', '["a", 3, "0", null, [0]]',
        '[["a"], "s", "0", null, [0]]', '["a", "s", "0", {"b": 1}, [0]]', '["a", "\\ud800", "0", null, [0]]',
        '["a", "s", "0", null, [0.0]]', '["a", "s", "0", null, [true]]', '["a", "s", "0", null, NaN]',
        '["a", "s", "0", null, [1%s]]' % ("0" * 5000),
    ],
)  # fmt: skip
def test_a_row_of_training_clips_that_is_none_is_one_line(line, tmp_path):
    head, first, second = lines(tmp_path / "l")
    (tmp_path / "l").write_bytes(gzip.compress("\n".join([head, first, line, second]).encode()))
    told_in_one_line(tmp_path / "l")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": None}, {"format": [1]}, {"uses": None}, {"uses": [["a"]]}, {"uses": [["a", ["b"]]]},
        {"uses": {"a": 1}}, {"unknown": None}, {"unknown": "x"}, {"unknown": [3]},
    ],
)  # fmt: skip
def test_a_head_of_training_clips_that_is_none_is_one_line(changes, tmp_path):
    head, *rows = lines(tmp_path / "l")
    odd = json.dumps(json.loads(head) | changes)
    (tmp_path / "l").write_bytes(gzip.compress("\n".join([odd, *rows]).encode()))
    told_in_one_line(tmp_path / "l")


@pytest.mark.parametrize("end", range(0, 100, 7))
def test_broken_bytes_of_training_clips_are_one_line(end, tmp_path):
    lines(tmp_path / "l")
    content = bytearray((tmp_path / "l").read_bytes())
    for at in range(10 + end % 20, len(content), 5):
        content[at] ^= 0x55
    (tmp_path / "l").write_bytes(content)
    told_in_one_line(tmp_path / "l")


def told_in_one_line(path: Path) -> None:
    with pytest.raises(VoxstrataError, match=r"train that run again|update voxstrata") as caught:
        TrainingClips.read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
