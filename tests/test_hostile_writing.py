"""What a full disk, a kill or a closed pipe leaves: all or nothing, and one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from voxstrata.backbone.encoder import load_backbone
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.runs import RunFolder, atomic_write, sweep, written_whole

MAIN = [sys.executable, "-m", "voxstrata.cli.main"]


def gone() -> int:
    """The id of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def left(folder: Path, name: str, process: int) -> Path:
    """What a process was writing."""
    made = folder / f".{name}.{process}.tmp"
    made.mkdir(parents=True)
    (made / "half").write_text("half")
    return made


def test_what_killed_processes_left_is_swept_when_a_run_starts(tmp_path):
    run = RunFolder(tmp_path / "run")
    dead, living = gone(), os.getpid()
    swept = [left(run.path, "model", dead), left(run.path / "cache" / "fronts", "x", dead)]
    kept = [left(run.path, "model", living), run.path / ".notes.tmp", run.path / "a.12.tmp"]
    for path in kept[1:]:
        path.write_text("someone's own")
    with run.lock():
        assert not any(path.exists() for path in swept)
        assert all(path.exists() for path in kept)


def test_what_a_killed_process_left_is_swept_when_the_same_is_written_again(tmp_path):
    mine, other = left(tmp_path, "out", gone()), left(tmp_path, "another", gone())
    with written_whole(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "a").write_text("whole")
    assert not mine.exists() and other.exists()
    assert (tmp_path / "out" / "a").read_text() == "whole"


def test_a_folder_killed_between_two_renamings_comes_back(tmp_path):
    former = left(tmp_path, "model-former", gone())
    left(tmp_path, "model", gone())
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and not former.exists()
    assert (tmp_path / "model" / "half").read_text() == "half"


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("x")]
)
def test_after_a_fault_all_is_as_it_was(tmp_path, fault):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    expected = VoxstrataError if isinstance(fault, OSError) else type(fault)
    with pytest.raises(expected) as caught, written_whole(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "a").write_text("new")
        raise fault
    if isinstance(fault, OSError):
        assert str(caught.value).startswith(f"cannot write {tmp_path / 'out'}: No space left on device;")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("someone's own")
    with pytest.raises(VoxstrataError, match=r"cannot write .*out"):
        atomic_write(tmp_path / "out", "text")
    assert (tmp_path / "out" / "a").read_text() == "someone's own"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_process_killed_while_it_writes_leaves_the_old_file_and_its_rest_goes(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from voxstrata.runs import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('new'); print('writing', flush=True); time.sleep(60)"
    )
    (tmp_path / "out").write_text("old")
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "out"], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2 and (tmp_path / "out").read_text() == "old"
    with written_whole(tmp_path / "out") as partial:
        partial.write_text("newer")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out").read_text() == "newer"


@pytest.mark.parametrize("name", ["voxstrata.runs.os.fsync", "voxstrata.backbone.folder.save_file"])
def test_an_export_on_a_full_disk_leaves_nothing_and_can_be_given_again(
    encoder_folder, tmp_path, monkeypatch, name
):
    from voxstrata.exporting.write import Wanted, export

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(name, full)
        with pytest.raises(VoxstrataError, match=rf"cannot write {out}[^:]*: No space left") as caught:
            export(str(encoder_folder), out, Wanted(), notify=print)
    assert "\n" not in str(caught.value) and not any(tmp_path.iterdir())
    export(str(encoder_folder), out, Wanted(), notify=print)
    assert load_backbone(out).num_layers == 2


def test_a_vector_that_cannot_be_written_leaves_the_older_one(encoder, encoder_folder, tmp_path, monkeypatch):
    vector = TaskVector.between(encoder, encoder_folder)
    path = tmp_path / "v.safetensors"
    vector.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("voxstrata.runs.os.fsync", lambda _: os.write(10**6, b""))
    with pytest.raises(CheckpointError, match="cannot write"):
        vector.save(path, dtype=torch.bfloat16)
    assert path.read_bytes() == before and [found.name for found in tmp_path.iterdir()] == ["v.safetensors"]


def program(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*MAIN, *map(str, arguments)], stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("inspect", "whisper-tiny.en")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_on_a_full_disk_is_one_line_and_2(arguments, unbuffered):
    with Path("/dev/full").open("w") as full:
        done = program(*arguments, stdout=full, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 2
    assert done.stderr == (
        "voxstrata: cannot write to standard output: No space left on device; free space, or write "
        "elsewhere\n"
    )


def test_a_reader_that_has_seen_enough_is_no_fault_to_speak_of():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = program("inspect", "whisper-tiny.en", "--json", stdout=closed)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(os.name == "nt", reason="names may be as long there")
@pytest.mark.parametrize("name", ["x" * 300, "a/" + "y" * 300])
def test_a_name_that_no_file_can_have_is_one_line_and_2(tmp_path, name):
    for arguments in (("inspect", tmp_path / name), ("export", tmp_path / name, tmp_path / "out")):
        done = program(*arguments, stdout=subprocess.DEVNULL)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


NO_MEMORY = "there is not enough memory for this; take smaller batches or files, or a larger machine"
FAULTS = {
    "PermissionError(13, 'Permission denied', '/some/file')": (
        "cannot read or write '/some/file': Permission denied; give another, or mend it"
    ),
    "OSError(5, 'Input/output error')": (
        "cannot read or write a file: Input/output error; see --debug for where"
    ),
    "MemoryError()": NO_MEMORY,
    "RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes.')": NO_MEMORY,
    "KeyboardInterrupt()": "stopped by Ctrl-C",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("debug", [False, True])
def test_a_fault_of_the_machine_in_any_command_is_one_line(fault, debug):
    code = (
        "import sys, voxstrata.cli.main as main\n"
        "sys.argv = ['voxstrata', *sys.argv[1:], 'fail']\n"
        f"def fail(): raise {fault}\n"
        "main.app.command('fail')(fail); main.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *["--debug"] * debug], capture_output=True, text=True, check=False
    )
    assert done.returncode == (130 if "Keyboard" in fault else 1 if debug else 2)
    if debug and "Keyboard" not in fault:
        assert "Traceback" in done.stderr
    else:
        assert done.stderr == f"voxstrata: {FAULTS[fault]}\n"


def test_a_fault_of_ours_still_shows_where():
    code = (
        "import sys, voxstrata.cli.main as main; sys.argv = ['voxstrata', 'fail']\n"
        "def fail(): raise KeyError('ours')\n"
        "main.app.command('fail')(fail); main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_ctrl_c_while_a_command_reads_is_130():
    code = (
        "import sys, time, voxstrata.cli.main as main; sys.argv = ['voxstrata', 'wait']\n"
        "def wait(): print('ready', flush=True); time.sleep(60)\n"
        "main.app.command('wait')(wait); main.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout is not None and waiting.stderr is not None
        assert waiting.stdout.readline() == "ready\n"
        began = time.monotonic()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=30) == 130 and time.monotonic() - began < 30
        assert waiting.stderr.read() == "voxstrata: stopped by Ctrl-C\n"
