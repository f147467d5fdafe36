"""The command that starts the server: what it opens to whom, and what it refuses."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("gradio")

from served import joint_run
from voxstrata.cli.main import app as command
from voxstrata.errors import VoxstrataError
from voxstrata.serving import require


@pytest.fixture(scope="module")
def run(encoder_folder, expert_folders, tmp_path_factory) -> Path:
    return joint_run(tmp_path_factory.mktemp("runs") / "joint", encoder_folder, expert_folders)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> None:
    """Temporary files lie in a folder of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_public_address_is_asked_for_alone(run, monkeypatch):
    from gradio import networking

    asked = []

    def tunnel(host, port, *rest):
        asked.append((host, port))
        raise RuntimeError("no network")

    monkeypatch.setattr(networking, "setup_tunnel", tunnel)
    monkeypatch.setattr("voxstrata.serving.server.run", lambda app, host, port: None)
    plain = ["serve", "--model", str(run), "--port", "0"]
    assert CliRunner().invoke(command, plain).exit_code == 0 and asked == []
    found = CliRunner().invoke(command, [*plain, "--share"])
    assert "leave --share out" in str(found.exception) and asked[0][0] == "127.0.0.1"


def test_without_gradio_one_line_has_the_command(monkeypatch):
    monkeypatch.setattr(require.importlib.util, "find_spec", lambda name: None)
    found = CliRunner().invoke(command, ["serve"])
    assert "pip install 'voxstrata[page]'" in str(found.exception)
    assert isinstance(found.exception, VoxstrataError)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_other_machines_are_let_in_with_a_warning_alone(host, warned, run, monkeypatch):
    served = []
    monkeypatch.setattr("voxstrata.serving.server.run", lambda app, host, port: served.append((host, port)))
    found = CliRunner().invoke(command, ["serve", "--model", str(run), "--host", host, "--port", "0"])
    assert found.exit_code == 0, found.output
    assert ("warning: " in found.stderr) == warned
    ((where, port),) = served
    assert where == host and f"http://127.0.0.1:{port}" in found.stdout


def test_a_taken_port_is_one_line(run):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        found = CliRunner().invoke(command, ["serve", "--model", str(run), "--port", port])
    assert "give another --port" in str(found.exception)
