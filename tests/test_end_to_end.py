"""The main job at toy size: corpora, experts, rows, table, report, recognition; and doing nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from voxstrata.backbone.encoder import build_backbone
from voxstrata.experiments.tables.table import read_table_spec
from voxstrata.labels import EMOTIONS
from voxstrata.methods.pretraining.tiny_encoder import tiny_config

SYNTH = {"clips": [48, 8, 16], "voices": [4, 2, 2], "labelled": 0.5, "seed": 3}
LENGTH = {"epochs": 1, "warmup_steps": 0}


#: Rows beside the first ones, and whether they answer in words.
OTHER_ROWS = {
    "mtl": True,
    "mtl-merged": True,
    "ser-full": False,
    "ser-head": False,
    "asr-only": False,
    "ser-only": False,
    "global": False,
    "static": False,
    "dual-out": False,
    "dual-heard": False,
    "dual-unheard": False,
    "late-fusion": False,
    "text-reference": False,
    "text-recognized": True,
    "statistics": False,
    "statistics-by-speaker": False,
    "asr": True,
}


def other_runs(vectors: dict) -> dict:
    """The other rows of the packaged table, small."""
    rest = {"vectors": {"asr": "$run.asr", "ser": "$run.ser-rest"}}
    return {
        "asr-out": {"recipe": "finetune-asr", "set": {"rates": {"head": 2.0e-3}}},
        "mtl": {"recipe": "multitask", "grid": {"asr_weight": [0.1, 1.0]}},
        "mtl-merged": {"recipe": "multitask", "set": {"vectors": vectors, "selected_by": "emotion"}},
        "ser-full": {"recipe": "multitask", "set": {"asr_weight": 0}},
        "ser-head": {"recipe": "adaltm", "set": {"base": "$run.ser"}},
        "asr-only": {"recipe": "adaltm", "set": {"vectors": {"asr": "$run.asr"}}},
        "ser-only": {"recipe": "adaltm", "set": {"vectors": {"ser": "$run.ser"}}},
        "global": {"recipe": "adaltm", "set": {"vectors": vectors, "granularity": "global"}},
        "dual-out": {"recipe": "adaltm", "set": {"vectors": vectors | {"asr": "$run.asr-out"}}},
        "ser-rest": {"recipe": "finetune-ser", "set": {"data": {"crop_s": 2}}},
        "dual-heard": {"recipe": "adaltm", "set": rest},
        "dual-unheard": {"recipe": "adaltm", "set": rest | {"fit_on": "heldout"}},
        "late-fusion": {"recipe": "late-fusion", "set": {"experts": vectors}},
        "text-reference": {"recipe": "text"},
        "text-recognized": {"recipe": "text", "set": {"transcripts": "$run.asr"}},
        "statistics": {"recipe": "statistics"},
        "statistics-by-speaker": {"recipe": "statistics", "set": {"speaker_normalized": True}},
    }


def toy_settings(base: Path) -> dict:
    """What is laid over each recipe: a yardstick has no base and no training, late fusion no base."""
    trained = {"training": LENGTH}
    return {
        # Named, since half of the speakers need not have every class.
        "all": {"data": {"corpora": [{"path": "$corpus.speech"}], "batch_size": 8, "labels": list(EMOTIONS)}},
        "late-fusion": trained,
        **{
            name: {"base": str(base), **trained}
            for name in ("finetune-asr", "finetune-ser", "adaltm", "multitask")
        },
    }


def toy_parts() -> dict:
    """A SER expert on half of the speakers; coefficients on that half, or on the other one."""

    def speech(take: str) -> dict:
        speakers = {"part": "$part", "of": 2, "take": take}
        return {"data": {"corpora": [{"path": "$corpus.speech", "speakers": speakers}]}}

    return {"ser-rest": speech("rest"), "dual-heard": speech("next"), "dual-unheard": speech("part")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random base and a toy version of the AdaLTM table."""
    folder = tmp_path_factory.mktemp("toy")
    config = tiny_config(
        hidden_size=32, layers=2, attention_heads=2, feed_forward=48, channels=36, position_kernel=16
    )
    build_backbone(config, seed=1).save(folder / "base")
    vectors = {"asr": "$run.asr", "ser": "$run.ser"}
    table = {
        "title": "toy",
        "runs": {
            "asr": {"recipe": "finetune-asr"},
            "ser": {"recipe": "finetune-ser", "set": {"data": {"crop_s": 2}}},
            "frozen": {"recipe": "adaltm"},
            "static": {"recipe": "adaltm", "set": {"vectors": vectors, "granularity": "static"}},
            "dual": {"recipe": "adaltm", "set": {"vectors": vectors}},
            **other_runs(vectors),
        },
        "rows": [
            {"run": "frozen", "title": "frozen"},
            {"run": "ser", "title": "SER expert", "paper": {"macro_f1": 36}},
            {"run": "dual", "title": "dual"},
            *({"run": name, "title": name} for name in OTHER_ROWS),
        ],
        "scales": {
            "toy": {
                "note": "toy",
                "corpora": {"speech": {"synth": SYNTH}},
                "set": toy_settings(folder / "base"),
                "rows": ["frozen", "ser", "dual"],
            }
        },
    }
    every = dict(table["scales"]["toy"], rows=None, runs=toy_parts(), axes={"part": [1, 2]})
    table["scales"]["every-row"] = every
    table["columns"] = ["uar", "precision", "macro_f1", "wer"]
    (folder / "toy.yaml").write_text(yaml.safe_dump(table))
    return folder


def command(place: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "voxstrata.cli.main", *arguments]


def reproduce(place: Path, out: str = "runs", scale: str = "toy") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(place, "reproduce", "toy.yaml", "--scale", scale, "--out", out, "--json"),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def table(place: Path) -> dict:
    done = reproduce(place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_table_has_every_row_with_intervals(table: dict) -> None:
    assert [row["name"] for row in table["rows"]] == ["frozen", "ser", "dual"]
    for row in table["rows"]:
        uar = row["metrics"]["uar"]
        assert 0 <= uar["speaker"][0] <= uar["value"] <= uar["speaker"][1] <= 1


def test_runs_that_no_row_needs_are_not_run(place: Path, table: dict) -> None:
    names = {path.name.rsplit("-", 1)[0] for path in (place / "runs").iterdir()}
    assert {"asr", "ser", "frozen", "dual"} <= names and not {"static", "mtl.1"} & names


def test_a_run_folder_holds_what_it_promises(place: Path, table: dict) -> None:
    run = next((place / "runs").glob("dual-*"))
    for part in ("recipe.yaml", "provenance.json", "journal.jsonl", "metrics.json", "report.html"):
        assert (run / part).is_file(), part
    rows = [json.loads(line) for line in (run / "predictions/test.jsonl").read_text().splitlines()]
    assert len(rows) == SYNTH["clips"][2]
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-5 for row in rows)
    told = json.loads((run / "model/coefficients.json").read_text())
    assert told["vectors"] == ["asr", "ser"] and len(told["coefficients"]) == 3
    assert told["coefficients"] != [[0.5, 0.5]] * 3
    parents = json.loads((run / "provenance.json").read_text())["parents"]
    assert set(parents) == {"asr", "ser"}


@pytest.mark.slow
def test_every_row_of_the_adaltm_table_runs(place: Path, table: dict) -> None:
    done = reproduce(place, scale="every-row")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert list(rows) == ["frozen", "ser", "dual", *OTHER_ROWS]
    packaged = {row.run for row in read_table_spec("adaltm-wavlm-tiny").rows}
    assert {name.removesuffix("-by-emotion") for name in packaged} == {*rows, "asr-out"}
    for name, row in rows.items():
        assert ("uar" in row["metrics"]) == (name != "asr"), name
        assert ("wer" in row["metrics"]) == OTHER_ROWS.get(name, False), name
    for first in table["rows"]:
        assert rows[first["name"]]["metrics"]["uar"] == first["metrics"]["uar"]
    assert [tried["asr_weight"] for tried in rows["mtl"]["tried_on_dev"]] == [0.1, 1.0]
    assert rows["mtl"]["title"].startswith("mtl (asr_weight ")
    # Reference and recognised words are asked of one classifier; only what it reads differs.
    assert rows["text-recognized"]["metrics"]["wer"] == rows["asr"]["metrics"]["wer"]


@pytest.mark.slow
def test_what_a_run_was_fitted_on_is_told(place: Path, table: dict) -> None:
    assert reproduce(place, scale="every-row").returncode == 0
    runs = place / "runs"
    parents = {
        path.parent.name.rsplit("-", 1)[0]: set(json.loads(path.read_text())["parents"])
        for path in runs.glob("*/provenance.json")
    }
    assert parents["mtl-merged"] == parents["late-fusion"] == {"asr", "ser"}
    assert (parents["ser-head"], parents["text-recognized"]) == ({"base"}, {"transcripts"})
    assert not parents["mtl.1"] and not parents["text-reference"]


def test_what_is_done_is_not_done_again(place: Path, table: dict) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in (place / "runs").glob("*/COMPLETE")}
    again = reproduce(place)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (place / "runs").glob("*/COMPLETE")} == stamps
    assert json.loads(again.stdout)["rows"] == table["rows"]


def test_predict_tells_emotion_and_words_and_goes_on_after_a_bad_file(place: Path, table: dict) -> None:
    run = next((place / "runs").glob("dual-*"))
    clip = next((place / "runs" / "corpora").rglob("*.flac"))
    (place / "broken.wav").write_bytes(b"no audio")
    arguments = ("predict", "--model", str(run), str(place / "broken.wav"), str(clip), "--json")
    done = subprocess.run(command(place, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    bad, good = (json.loads(line) for line in done.stdout.splitlines())
    assert "broken.wav" in bad["path"] and bad["error"]
    assert set(good["probabilities"]) and isinstance(good["transcript"], str)


def test_evaluate_agrees_with_the_run_s_own_scores(place: Path, table: dict) -> None:
    run = next((place / "runs").glob("dual-*"))
    arguments = ("evaluate", str(run / "predictions/test.jsonl"), "--json")
    done = subprocess.run(command(place, *arguments), capture_output=True, text=True, check=True)
    own = json.loads((run / "metrics.json").read_text())["test"]
    assert json.loads(done.stdout)["emotion"]["uar"] == own["emotion"]["uar"]


@pytest.mark.slow
def test_killed_at_any_moment_the_table_comes_out_the_same(place: Path, table: dict) -> None:
    """SIGKILL between and inside runs; started again, the rows are those of the undisturbed table."""
    for wait_s in (6, 9, 12, 15):
        process = subprocess.Popen(
            command(place, "reproduce", "toy.yaml", "--scale", "toy", "--out", "killed"),
            cwd=place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = reproduce(place, "killed")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["metrics"] for row in rows] == [row["metrics"] for row in table["rows"]]


def test_a_missing_data_root_is_one_line(place: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VOXSTRATA_DATA"}
    done = subprocess.run(
        command(place, "reproduce", "adaltm", "--scale", "real"),
        cwd=place,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 2
    assert "VOXSTRATA_DATA" in done.stderr and "Traceback" not in done.stderr
