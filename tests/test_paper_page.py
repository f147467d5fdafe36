"""What docs/paper.md tells: one preparation for tables and recipes, hours, and a piece for each GPU."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from test_dry_run import checkpoints, command, release, table
from voxstrata.backbone.headers import model_shapes
from voxstrata.benchmarks.shapes import wavlm_config
from voxstrata.corpora.prepare import prepare


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with checkpoints and an unpacked release; nothing is prepared."""
    shapes = model_shapes(wavlm_config("large")).items()
    checkpoints(tmp_path, {name: tuple(tensor.shape) for name, tensor in shapes})
    release(tmp_path / "corpora" / "MSP-Podcast")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("VOXSTRATA_DATA", raising=False)
    return tmp_path


def test_one_preparation_serves_the_table_and_its_recipes(place: Path) -> None:
    """With `keep=all` a corpus is another one; the command that is told for it prepares the right one."""
    words = ["reproduce", "adaltm-paper", "--scale", "paper", "--corpus", "msp=prepared/msp", "--dry-run"]
    source = place / "corpora" / "MSP-Podcast"
    prepare("msp-podcast", source, Path("prepared/msp"), options={"keep": "all"})
    refused = str(command(*words).exception)
    assert "prepared/msp is not prepared as corpus msp of this table: keep=all, here keep=paper" in refused
    how = refused.split("prepare it anew: ")[1].replace("FOLDER", str(source))
    assert command(*how.split()[1:]).exit_code == 0
    done = command(*words, "--only", "frozen", "--json")
    assert done.exit_code == 0, done.output
    (corpus,) = json.loads(done.stdout)["corpora"]
    assert corpus["folder"] == "prepared/msp" and not (place / "runs").exists()
    use = "data.corpora=[{path: prepared/msp}]"
    assert command("train", "paper/frozen", use, "--dry-run").exit_code == 0


def told_commands() -> tuple[dict[str, str], dict[str, str]]:
    """Rows of the page's first table -> its hours; rows of each piece for a GPU -> the GPU."""
    text = (Path(__file__).parents[1] / "docs" / "paper.md").read_text(encoding="utf-8")
    hours = dict(re.findall(r"^\| [^|]+ \| `([\w,-]+)`[^|]*\| (\d+) h \|", text, re.MULTILINE))
    pieces = dict(re.findall(r"^CUDA_VISIBLE_DEVICES=(\d) .* --only ([\w,-]+) &$", text, re.MULTILINE))
    return hours, pieces


def test_hours_and_pieces_that_the_page_tells_are_those_of_the_table(place: Path) -> None:
    def asked(rows: str) -> dict[str, float]:
        """Run -> its hours on one GPU; 0 where there is no estimate."""
        found = json.loads(table("--json", "--only", rows).stdout)
        return {
            run["name"]: (run["costs"] or {"one_gpu_s": 0.0})["one_gpu_s"] / 3600 for run in found["runs"]
        }

    shutil.rmtree(place / "corpora")
    hours, pieces = told_commands()
    (first, core), halves = hours, [asked(rows) for rows in pieces.values()]
    assert {rows: round(sum(asked(rows).values())) for rows in hours} == {k: int(v) for k, v in hours.items()}
    assert set(first.split(",")) <= set(core.split(",")) and len(pieces) == 2
    # Together the pieces are the core, and the ASR expert alone is in both.
    assert set().union(*halves) == asked(core).keys()
    assert halves[0].keys() & halves[1].keys() == {"asr-expert"}
    # The second GPU comes to it when the first has trained it long since.
    before = list(halves[1])[: list(halves[1]).index("asr-expert")]
    assert sum(halves[1][run] for run in before) > 2 * halves[1]["asr-expert"]
    assert (round(sum(halves[0].values())), round(sum(halves[1].values()) - halves[1]["asr-expert"])) == (
        66,
        87,
    )
