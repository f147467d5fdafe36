"""The Space and the container: what they name exists, and the Space answers."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

pytest.importorskip("gradio")

from served import joint_run
from voxstrata.cli.main import app

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "examples" / "space"
EXTRAS = re.compile(r"\[([\w,]+)\]")


def extras_of_the_package() -> set[str]:
    import tomllib

    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in (ROOT / "Containerfile").read_text().splitlines() if line.strip()]
    return [tuple(line.split(" ", 1)) for line in lines if not line.startswith("#")]


def test_the_container_copies_what_exists_and_runs_a_command_that_exists():
    found = instructions()
    assert found[0][0] == "FROM" and {name for name, _ in found} <= {
        *("FROM", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD"),
    }
    for place in (place for name, rest in found if name == "COPY" for place in rest.split()[:-1]):
        assert (ROOT / place).exists(), place
    (install,) = (rest for name, rest in found if name == "RUN" and rest.startswith("pip install"))
    words = shlex.split(install)
    assert set(EXTRAS.search(words[-1])[1].split(",")) <= extras_of_the_package()
    assert words[words.index("--constraint") + 1] in [
        rest.split()[-1] for name, rest in found if name == "COPY"
    ]
    program, command, *options = json.loads(dict(found)["CMD"])
    assert program == "voxstrata"
    known = {one for parameter in get_command(app).commands[command].params for one in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known
    assert dict(found)["EXPOSE"] == options[options.index("--port") + 1] == "7860"
    assert dict(found)["VOLUME"] == options[options.index("--model") + 1]
    assert "127.0.0.1:7860/health" in dict(found)["HEALTHCHECK"]
    # It does not run as root.
    assert [name for name, _ in found].index("USER") < [name for name, _ in found].index("CMD")


def test_the_space_has_the_front_matter_that_spaces_need():
    _, front, text = (SPACE / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["sdk"] == "gradio" and (SPACE / found["app_file"]).is_file() and text.strip()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints/tested.txt").read_text(), re.M))
    assert found["sdk_version"] == pinned["gradio"]
    assert len(found["short_description"]) <= 60
    for line in (SPACE / "requirements.txt").read_text().splitlines():
        if extras := EXTRAS.search(line):
            assert set(extras[1].split(",")) <= extras_of_the_package()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_space_starts(encoder_folder, expert_folders, tmp_path):
    run = joint_run(tmp_path / "joint", encoder_folder, expert_folders)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = subprocess.Popen(
        [sys.executable, str(SPACE / "app.py")],
        env={**os.environ, "VOXSTRATA_MODEL": str(run), "PORT": str(port)},
        cwd=tmp_path,
    )
    try:
        while True:
            assert started.poll() is None
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert json.load(answer)["model"] == "joint"
                    break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            assert b"voxstrata: joint" in page.read()
    finally:
        started.terminate()
        started.wait(60)
