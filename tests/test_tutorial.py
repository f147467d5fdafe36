"""The tutorial's commands run as they stand there, and print what it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
#: Language and content of each block, in order.
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
#: A training of the size that a test can wait for prints the same lines with other numbers.
QUICK = ["training.epochs=1", "--limit", "32"]


def run(folder: Path, line: str) -> str:
    """Standard output and error of a command of the page, with trainings cut short."""
    words = shlex.split(line)
    assert words[0] == "voxstrata"
    command = [sys.executable, "-m", "voxstrata.cli.main", *words[1:]]
    done = subprocess.run(
        command + (QUICK if words[1] == "train" else []),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout + done.stderr


def plain(line: str, *, masked: bool) -> str:
    """A line without its spacing and, if masked, its numbers."""
    line = re.sub(r"[-+]?\d[\d,]*(\.\d+)?", "#", line) if masked else line
    return re.sub(r"\s+", " ", re.sub(r"[─]+", "─", line)).strip()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_tutorial_runs_and_prints_what_it_shows(tmp_path: Path) -> None:
    printed, trained, shown = "", False, 0
    for language, content in BLOCKS:
        if language == "python":
            subprocess.run([sys.executable, "-c", content], cwd=tmp_path, check=True)
        elif language == "sh":
            lines = content.replace("\\\n", " ").splitlines()
            printed = "\n".join(run(tmp_path, line) for line in lines)
            trained = trained or "voxstrata train" in content
        elif language == "text":
            found = {plain(line, masked=trained) for line in printed.splitlines()}
            wanted = {plain(line, masked=trained) for line in content.splitlines() if line.strip()} - {"..."}
            missing = [line for line in wanted if not any(line in other for other in found)]
            assert not missing, f"not printed: {missing}\n{printed}"
            shown += 1
    assert shown >= 6
