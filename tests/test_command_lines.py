"""Command lines and Ctrl-C: whatever is typed and pressed, one clear line and the right exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from voxstrata.cli import main as program
from voxstrata.errors import did_you_mean


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """The one line in which a command refuses what it was given."""
    monkeypatch.setattr(sys, "argv", ["voxstrata", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        program.main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out, (end.value.code, out, err)
    assert err.startswith("voxstrata: ") and err.count("\n") == 1, err
    return err.removeprefix("voxstrata: ").rstrip("\n")


#: A command line -> what is said of it, without the page that it ends with.
USAGE = {
    "evaluat x": "there is no command 'evaluat'; did you mean evaluate?; the commands are demo,",
    "corpus prepar x": "there is no command 'prepar'; did you mean prepare?; the commands are list,",
    "xyzzy": "there is no command 'xyzzy'; the commands are demo,",
    "evaluate": "evaluate needs PREDICTIONS: predictions files (JSON lines, of any system), run folders,",
    "reproduce adaltm": "reproduce needs --scale: a scale of the table, such as demo or real; see ",
    "reproduce adaltm --scale demo --fold x": "reproduce --fold: found 'x'; a whole number is needed; see ",
    "train finetune-ser --limit -1": "train --limit: found '-1'; at least 1 is needed; see ",
    "train finetune-ser --limit 1.5": "train --limit: found '1.5'; a whole number is needed; see ",
    "train finetune-ser --tflops x": "train --tflops: found 'x'; a number is needed; see ",
    "evaluate x --resamples 9999999": "evaluate --resamples: found '9999999'; at most 1,000,000 is",
    "evaluate x --seed " + "9" * 5000: "evaluate --seed: found '9",
    "evaluate x --resamples": "evaluate --resamples needs a value: bootstrap samples, by clip",
    "corpus prepare table x y --folds by-speaker": "corpus prepare --folds needs 2 values (by-speaker N): ",
    "corpus synth x --minutes 1,5": "corpus synth --minutes: found '1,5'; a number is needed; see ",
    "evaluate x --json=yes": "evaluate --json takes no value; leave the value out; see ",
    "evaluate x --resample 5": "evaluate has no option --resample; did you mean --resamples?; see ",
    "evaluate -z": "evaluate has no option -z; see ",
    "--json evaluate x": "--json is an option of evaluate; give it after that; see ",
    "report a b": "report takes fewer arguments: 'b' is too much; leave it out; see ",
    "corpus list a": "corpus list takes fewer arguments: 'a' is too much; leave it out; see ",
}


@pytest.mark.parametrize("line", USAGE, ids=lambda line: line[:60])
def test_a_command_line_that_is_none_is_one_line_of_ours(line, capsys, monkeypatch):
    found = told(capsys, monkeypatch, *line.split())
    assert found.startswith(USAGE[line]) and found.endswith(" -h") and len(found) < 400
    assert "Input should" not in found and "Usage" not in found and "Error" not in found


@pytest.mark.parametrize("words", [("inspect", ""), ("evaluate", "x", "--labels", ""), ("report", "")])
def test_an_empty_argument_is_named_by_its_number(words, capsys, monkeypatch):
    number = words.index("") + 1
    assert told(capsys, monkeypatch, *words) == (
        f"argument {number} is empty (a variable that is not set?); give it a value, or leave it out"
    )


@pytest.mark.parametrize("words", [(), ("corpus",), ("--debug",)])
def test_without_a_command_the_help_is_shown(words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["voxstrata", *words])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 2 and capsys.readouterr().out.startswith("Usage: ")


def test_the_nearest_name_is_told_where_one_is_near():
    assert did_you_mean("trian", ["train", "predict"]) == "; did you mean train?"
    assert did_you_mean("x", ["train"]) == "" and did_you_mean("train", []) == ""


#: What a module does while Ctrl-C comes: waits, catches everything, makes another exception of everything.
WAITING = {
    "plain": "wait()",
    "forgets": "try: wait()\nexcept BaseException: pass\nwait()",
    "converts": "try: wait()\nexcept BaseException as fault: raise ImportError('no such library') from fault",
}


@pytest.mark.parametrize("kind", WAITING)
def test_ctrl_c_while_a_library_loads_is_130_and_one_line(kind, tmp_path):
    (tmp_path / "heavy.py").write_text(
        f"import time\ndef wait():\n    print('ready', flush=True); time.sleep(60)\n{WAITING[kind]}\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import voxstrata.cli.main as main; sys.argv = ['voxstrata', 'wait']\n"
        "def wait(): import heavy\n"
        "main.app.command('wait')(wait); main.main()"
    )
    stopped(code)


def test_ctrl_c_of_which_a_library_makes_another_exception_is_130_and_one_line():
    code = (
        "import sys, time, voxstrata.cli.main as main; sys.argv = ['voxstrata', 'wait']\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    try: time.sleep(60)\n"
        "    except BaseException as fault: raise ValueError('odd') from fault\n"
        "main.app.command('wait')(wait); main.main()"
    )
    stopped(code)


@pytest.mark.parametrize("module", ["typer", "pydantic"])
def test_ctrl_c_while_what_typer_needs_loads_is_130_and_one_line(module, tmp_path):
    (tmp_path / f"{module}.py").write_text("import time\nprint('ready', flush=True); time.sleep(60)\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "sys.argv = ['voxstrata', 'evaluate', 'x', '--seed', '1']\n"
        "from voxstrata.cli.main import main; main()"
    )
    stopped(code)


def test_what_is_half_written_goes_when_a_command_is_stopped(tmp_path):
    code = (
        "import sys, time, voxstrata.cli.main as main; sys.argv = ['voxstrata', 'write']\n"
        "from pathlib import Path; from voxstrata.runs import written_whole\n"
        "def write():\n"
        f"    with written_whole(Path({str(tmp_path / 'out')!r})) as partial:\n"
        "        partial.mkdir(); (partial / 'a').write_text('half')\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "main.app.command('write')(write); main.main()"
    )
    for number in ENDS:
        stopped(code, number)
        assert not list(tmp_path.iterdir())


ENDS = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}


@pytest.mark.parametrize("end", ["time.sleep(60)", "import waits"])
def test_sigterm_is_one_line_too(end, tmp_path):
    (tmp_path / "waits.py").write_text("import time; time.sleep(60)\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import time, voxstrata.cli.main as main; sys.argv = ['voxstrata', 'wait']\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        f"    {end}\n"
        "main.app.command('wait')(wait); main.main()"
    )
    stopped(code, signal.SIGTERM)


def stopped(code: str, number: signal.Signals = signal.SIGINT) -> None:
    """Starts a program, stops it once it says that it is ready, and looks at how it ends."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline() == "ready\n"
        time.sleep(0.2)
        running.send_signal(number)
        assert running.wait(timeout=30) == 128 + number
        assert running.stderr.read() == f"voxstrata: {ENDS[number]}\n"


def test_ctrl_c_after_the_work_is_done_changes_nothing():
    code = (
        "import atexit, os, signal, sys, time, voxstrata.cli.main as main; sys.argv = ['voxstrata', 'done']\n"
        # What comes later, as the end of a library does.
        "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.1), print('end')))\n"
        "def done(): print('answer')\n"
        "main.app.command('done')(done); main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "answer\nend\n", "")
