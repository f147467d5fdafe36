"""The packaged table of HarmoniFuse: every scale's recipes hold, and a toy scale runs to its page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import toy_tasks
from voxstrata.backbone.encoder import build_backbone
from voxstrata.experiments.tables.planned_runs import plan
from voxstrata.experiments.tables.table import read_table_spec
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.methods.pretraining.tiny_encoder import tiny_config
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import merged_values, read_yaml

TABLE = read_table_spec("harmonifuse")
SINGLE = {f"{task}-{form}" for task in ("asr", "ser") for form in ("middle", "last", "gated")}


#: Row -> the layer that is taken alone (None: gated) of four, the gates, and the scores of the LM's layers.
BUILT = {
    **{f"{task}-middle": (3, set(), "last") for task in ("asr", "ser")},
    **{f"{task}-last": (4, set(), "last") for task in ("asr", "ser")},
    **{f"{task}-gated": (None, {task}, "last") for task in ("asr", "ser")},
    "none": (4, set(), "last"),
    "gated-shared": (None, {"shared"}, "last"),
    "gated": (None, {"asr", "ser"}, "last"),
    "lm-fusion": (4, set(), "both"),
    "both": (None, {"asr", "ser"}, "both"),
    "three-tasks": (None, {"asr", "ser", "gender"}, "both"),
    "both-merged": (None, {"asr", "ser"}, "both"),
}


def planned(scale_name: str, out: Path) -> dict[str, HarmoniFuseRecipe]:
    scale = TABLE.scale(scale_name)
    corpora = {name: SimpleNamespace(folder=out / name, fingerprint=name) for name in scale.corpora}
    runs = plan(TABLE, scale, corpora, out)
    assert len({run.folder.path for run in runs}) == len(runs), "two rows are one"
    return {run.name: run.recipe for run in runs if isinstance(run.recipe, HarmoniFuseRecipe)}


@pytest.mark.parametrize("scale", ["demo", "real", "synth"])
def test_rows_differ_in_what_they_are_named_by_and_in_nothing_else(scale, tmp_path):
    runs = planned(scale, tmp_path)
    both = runs["both"]
    told = {name: (r.encoder_fusion.mode, r.layer_fusion.scores, tuple(r.tasks)) for name, r in runs.items()}
    assert told["both"] == ("gated", "both", ("asr", "ser"))
    assert told["none"] == ("last", "last", ("asr", "ser"))
    assert told["lm-fusion"] == ("last", "both", ("asr", "ser"))
    assert told["gated"] == told["gated-shared"] == ("gated", "last", ("asr", "ser"))
    assert (runs["gated"].encoder_fusion.per_task, runs["gated-shared"].encoder_fusion.per_task) == (
        True,
        False,
    )
    assert told["three-tasks"][2] == ("asr", "ser", "gender")
    assert runs["ser-middle"].encoder_fusion.layer == runs["asr-middle"].encoder_fusion.layer == 3
    assert runs["both-merged"].base.startswith(str(tmp_path / "merged-"))
    assert {name for name in runs if len(runs[name].tasks) == 1} == SINGLE
    steps = {name: recipe.training.steps for name, recipe in runs.items()}
    for name, recipe in runs.items():
        like = recipe.training.model_copy(update={"steps": both.training.steps})
        assert (like, recipe.rates, recipe.lm) == (both.training, both.rates, both.lm), name
        assert steps[name] == steps[name.replace("middle", "gated").replace("last", "gated")], name
        if scale == "demo" or len(recipe.tasks) == 2:
            assert steps[name] == steps["both"], name
    if scale != "demo":
        # As many steps of each task alone as beside the other: three seconds of words to one of emotions.
        assert steps["asr-gated"] + steps["ser-gated"] == steps["both"] < steps["three-tasks"]
    for name, recipe in runs.items():
        for task, use in recipe.tasks.items():
            assert task == "gender" or use == both.tasks[task], name


@pytest.fixture(scope="module")
def four_layers(tmp_path_factory) -> Path:
    """An encoder that has a middle layer of the table's number, and another one behind it."""
    folder = tmp_path_factory.mktemp("encoders") / "four"
    sizes = {"hidden_size": 32, "layers": 4, "attention_heads": 2, "feed_forward": 64}
    build_backbone(tiny_config(**sizes, channels=36, position_kernel=8), seed=0).save(folder)
    return folder


@pytest.mark.parametrize("scale", ["demo", "real", "synth"])
def test_each_row_builds_the_fusions_that_it_is_named_by(scale, four_layers, tmp_path):
    runs = planned(scale, tmp_path / "plan")
    corpora = toy_tasks.two_corpora(tmp_path)
    folder = {task: corpora["words" if task == "asr" else "feelings"] for task in ("asr", "ser", "gender")}
    known = {}
    assert runs.keys() == BUILT.keys()
    for name, (only, gates, scores) in BUILT.items():
        row = runs[name]
        tasks = {
            task: {"corpora": [{"path": folder[task]}]} if task in row.tasks else None for task in folder
        }
        toy = toy_tasks.recipe(four_layers, corpora, tasks=tasks)
        toy = row.model_copy(update={part: getattr(toy, part) for part in ("base", "tasks", "data", "lm")})
        if (key := tuple(row.tasks)) not in known:
            known[key] = method_of(toy).sources(toy)
        system = method_of(toy).build(toy, known[key], lambda line: None)
        assert isinstance(system, HarmoniFuse), name
        fusion, layers = system.encoder_fusion, system.layer_fusion
        assert (fusion.only, set(fusion.logits)) == (only, gates), name
        assert (layers.scores, layers.network is not None) == (scores, scores == "both"), name
        assert set(layers.task_scores) == (set(row.tasks) if scores == "both" else set()), name


def test_the_papers_numbers_stand_at_its_model_alone():
    assert {row.run: row.paper for row in TABLE.rows if row.paper} == {
        "both": {"uar": 76.51, "accuracy": 76.31, "wer": 3.5}
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_toy_scale_runs_from_nothing_to_a_page_and_a_recognizer(tiny_encoder, tmp_path):
    tiny_encoder().save(tmp_path / "base")
    length = {"epochs": 1, "steps": None, "warmup_steps": 0}
    content = read_yaml("harmonifuse", "tables")
    speech = {"clips": [40, 8, 12], "voices": [4, 2, 2], "labelled": 1.0, "seed": 3}
    toy = {
        "corpora": {"speech": {"synth": speech}, "reading": {"synth": speech | {"read": True, "seed": 4}}},
        "axes": {"seed": [0]},
        "set": {
            "all": {"base": str(tmp_path / "base"), "data": {"corpora": [{"path": "$corpus.speech"}]}},
            "finetune-ser": {"training": length},
            "finetune-asr": {"training": length},
            "adaltm": {"training": length},
            "harmonifuse": {
                "tasks": {"asr": {"corpora": [{"path": "$corpus.reading"}]}},
                "lm": {"layers": 2, "size": 32, "heads": 2, "feed_forward": 64},
                "connector": {"width": 32},
                "decoding": {"tokens_per_s": 2.0, "tokens_extra": 1},
                "training": {"steps": 3, "warmup_steps": 1},
            },
        },
        "runs": {"merged": {"vectors": {"asr": "$run.asr-expert"}}},
    }
    content["runs"] = merged_values(
        content["runs"],
        {name: {"set": {"encoder_fusion": {"layer": 1}}} for name in ("asr-middle", "ser-middle")},
    )
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(content | {"scales": {"toy": toy}}))
    command = [sys.executable, "-m", "voxstrata.cli.main"]
    done = subprocess.run(
        [*command, "reproduce", "toy.yaml", "--scale", "toy", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    for name, row in rows.items():
        expected = {"asr": {"wer"}, "ser": {"uar", "accuracy"}}.get(
            name.split("-")[0], {"uar", "accuracy", "wer"}
        )
        assert row["metrics"].keys() == expected | ({"uar_gender"} if name == "three-tasks" else set()), name
    run = (tmp_path / "runs" / "tables" / "toy-toy" / rows["three-tasks"]["runs"][0]).resolve()
    page = (run / "report.html").read_text()
    assert "Prompt-adaptive layer fusion" in page and "UAR gender" in page
    assert "76.5" in (tmp_path / "runs" / "tables" / "toy-toy" / "report.html").read_text()
    recording = next((tmp_path / "runs" / "corpora").rglob("*.wav"), None) or next(
        (tmp_path / "runs" / "corpora").rglob("*.flac")
    )
    heard = subprocess.run(
        [*command, "predict", str(recording), "--model", str(run)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert heard.returncode == 0, heard.stderr
    assert "gender: " in heard.stdout and "neutral" in heard.stdout
