"""The model card of an export: parents with hashes, revisions and licences; coefficients, scores, data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from torch import ones

from voxstrata.errors import CheckpointError
from voxstrata.exporting.card import Facts, card, coefficient_sets, figures
from voxstrata.exporting.lineage import Ancestor, Lineage, lineage_of
from voxstrata.reporting.scores import SplitScores
from voxstrata.runs import RunFolder, write_json

REVISION = "0123456789abcdef0123456789abcdef01234567"


def run_of(folder: Path, **about: Any) -> Path:
    """A run's folder with its provenance and a model folder."""
    run = RunFolder(folder)
    write_json(run.provenance, {"parents": {}, "data": {}, **about})
    write_json(run.model / "model.json", {"kind": "emotion"})
    return folder


def published(folder: Path, front: str) -> Path:
    """A model of the hub's layout, with a card."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": ones(3)}, folder / "model.safetensors")
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with one model in it."""
    cache = tmp_path / "cache"
    place = cache / "models--some--wavlm-asr"
    published(place / "snapshots" / REVISION, "license: cc-by-nc-4.0\ntags: [asr]")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(REVISION)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return place / "snapshots" / REVISION


def facts(**changes: Any) -> Facts:
    given: dict[str, Any] = {"name": "merge", "source": "runs/merge", "form": "emotion", "about": None}
    return Facts(**{**given, "model_type": "wavlm", "longest_s": 30.0, **changes})


def test_parents_are_listed_with_revision_hash_and_licence(hub: Path, tmp_path: Path) -> None:
    run_of(tmp_path / "ser", base="wavlm-tiny", data={str(tmp_path / "prepared" / "ravdess"): "0"})
    parents = {"asr": "some/wavlm-asr", "ser": "../ser"}
    run = run_of(tmp_path / "merge", base="wavlm-tiny", parents=parents)
    lineage = lineage_of(str(run), run / "model")
    found = {one.role: one for one in lineage.ancestors}
    assert list(found) == ["base", "asr", "ser", "ser: base"]
    digest = hashlib.sha256((hub / "model.safetensors").read_bytes()).hexdigest()
    assert found["asr"] == Ancestor(
        "asr", "some/wavlm-asr", "some/wavlm-asr", REVISION, {"model.safetensors": digest}, "cc-by-nc-4.0"
    )
    assert found["ser"].is_run and found["base"].licence == "apache-2.0"
    assert lineage.hub_ids == ["some/wavlm-asr"] and lineage.licence is None
    text = card(facts(lineage=lineage))
    assert f"| asr | `some/wavlm-asr` | {REVISION} | `model.safetensors` `{digest}` | cc-by-nc-4.0 |" in text
    (warning,) = (line for line in lineage.warnings() if "some/wavlm-asr" in line)
    assert "cc-by-nc-4.0" in warning and f"**Warning:** {warning}" in text
    # A card is passed on: it names no place on this machine.
    assert str(tmp_path) not in text


def test_data_that_is_not_for_commercial_use_is_warned_of(corpus_folder: Path, tmp_path: Path) -> None:
    named = {str(tmp_path / "my-calls"): "0", str(corpus_folder): "1"}
    run = run_of(tmp_path / "ser", base="wavlm-tiny", data=named)
    lineage = lineage_of(str(run), run / "model")
    # A corpus that is not there any more goes by its folder's name.
    assert lineage.corpora["my-calls"] is None and len(lineage.corpora) == 2
    limited = Lineage((), {"ravdess": "CC BY-NC-SA 4.0", "an4": "free for any use"})
    assert limited.warnings() == ["trained on data that is not for commercial use: ravdess (CC BY-NC-SA 4.0)"]


@pytest.mark.parametrize(
    ("licence", "limited"),
    [
        ("cc-by-nc-4.0", True),
        ("CC BY-NC-SA 4.0", True),
        ("research only, by agreement", True),
        ("other: non-commercial", True),
        ("apache-2.0", False),
        ("mit", False),
        ("ncsa", False),
    ],
)
def test_licences_that_bar_commercial_use_are_known_by_their_words(licence: str, limited: bool) -> None:
    lineage = Lineage((Ancestor("base", "x/y", "x/y", licence=licence),))
    assert bool(lineage.warnings()) is limited


def test_the_front_matter_is_yaml_that_the_hub_reads(tmp_path: Path) -> None:
    ancestors = (
        Ancestor("base", "whisper-tiny.en", "openai/whisper-tiny.en", licence="mit"),
        Ancestor("asr", "../asr", is_run=True),
    )
    write_json(tmp_path / "c.json", {"vectors": ["asr"], "coefficients": [[0.5], [1.0]]})
    merged = coefficient_sets(tmp_path / "c.json")
    text = card(facts(lineage=Lineage(ancestors), coefficients=merged))
    front = yaml.safe_load(text.split("---")[1])
    assert front == {
        "library_name": "transformers",
        "tags": ["voxstrata", "speech"],
        "pipeline_tag": "audio-classification",
        "base_model": ["openai/whisper-tiny.en"],
        "base_model_relation": "merge",
        "license": "mit",
    }
    plain = yaml.safe_load(card(facts(lineage=Lineage(ancestors[:1]))).split("---")[1])
    assert plain["base_model_relation"] == "finetune"


def test_scores_stand_with_their_intervals_and_coefficients_as_table_and_figure(tmp_path: Path) -> None:
    metric = {"value": 0.5, "iid": [0.4, 0.6], "speaker": [0.3, 0.7]}
    emotion = {"clips": 20, "speakers": 4, "labels": ["a", "b"], "uar": metric}
    scores = SplitScores.model_validate_json(json.dumps({"emotion": emotion}))
    about = {"vectors": ["a|b", "ser"], "coefficients": [[0.25, 1.0], [0.75, 0.0]]}
    write_json(tmp_path / "c.json", {**about, "coefficients_asr": [[0.1, 0.2], [0.3, 0.4]]})
    found = coefficient_sets(tmp_path / "c.json")
    text = card(facts(scores={"test": scores}, coefficients=found))
    assert "| test | emotion | UAR | 50.0 | [30.0, 70.0] | [40.0, 60.0] | 20 clips, 4 speakers |" in text
    assert "| layer | a\\|b | ser |" in text and "| 1 | 0.75 | 0 |" in text
    assert "Merged for words" in text and "| 0 | 0.1 | 0.2 |" in text
    drawn = figures(found)
    assert list(drawn) == ["coefficients.svg", "coefficients-words.svg"]
    for name, figure in drawn.items():
        assert f"]({name})" in text and figure.svg.startswith("<?xml")


@pytest.mark.parametrize(
    "content",
    [
        {"coefficients": [[0.5]]},
        {"vectors": ["a"], "coefficients": [["x"]]},
        {"vectors": ["a"], "coefficients": [[1, 2]]},
    ],
)
def test_coefficients_that_name_no_vector_are_one_line(tmp_path: Path, content: dict[str, Any]) -> None:
    write_json(tmp_path / "c.json", content)
    with pytest.raises(CheckpointError, match=r"c\.json does not tell the coefficients"):
        coefficient_sets(tmp_path / "c.json")
    assert coefficient_sets(tmp_path / "none.json") == {}
