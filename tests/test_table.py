"""Tables: order, references, and run folders whose names change with what they depend on, and only then."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from small_tables import BASIC, SWEEP, table
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import RecipeError
from voxstrata.experiments.run import execute
from voxstrata.experiments.tables.pieces import Piece, narrowed, points, variants
from voxstrata.experiments.tables.planned_runs import order, plan, run_values
from voxstrata.experiments.tables.references import content_key, references, substitute
from voxstrata.experiments.tables.table import Table, read_table_spec
from voxstrata.recipes.reading import merged_values, validate
from voxstrata.runs import RunFolder


def test_parents_come_before_children_and_only_needed_runs_are_planned():
    content = table()
    names = order(content, content.scale("small"))
    assert sorted(names) == ["asr", "dual", "ser", "single"]
    assert names.index("dual") > max(names.index("asr"), names.index("ser"))
    assert names.index("single") > names.index("ser")


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda e: e[0] > e[1])), st.randoms())
def test_any_acyclic_table_is_ordered(edges, random):
    needs = {i: sorted(parent for child, parent in edges if child == i) for i in range(6)}
    runs = {
        f"r{i}": {"recipe": "adaltm", "set": {"vectors": {f"v{p}": f"$run.r{p}" for p in needs[i]}}}
        for i in random.sample(range(6), 6)
    }
    content = Table.model_validate(
        {
            "title": "t",
            "runs": runs,
            "rows": [{"run": name, "title": name} for name in runs],
            "scales": {"s": {"corpora": {}}},
        }
    )
    names = order(content, content.scale("s"))
    assert sorted(names) == sorted(runs)
    assert all(names.index(f"r{child}") > names.index(f"r{parent}") for child, parent in edges)


def test_circles_and_missing_runs_are_named():
    circle = table({"runs": {"ser": {"recipe": "adaltm", "set": {"vectors": {"a": "$run.dual"}}}}})
    with pytest.raises(RecipeError, match="dual -> ser -> dual"):
        order(circle, circle.scale("small"))
    missing = table({"runs": {"dual": {"set": {"vectors": {"asr": "$run.nobody"}}}}})
    with pytest.raises(RecipeError, match="'dual' needs 'nobody'"):
        order(missing, missing.scale("small"))


def test_a_grid_stands_for_a_run_of_each_combination():
    content = table(SWEEP)
    at = content.scale("small")
    members = content.members(at, "joint")
    assert members == {
        "joint.1": {"asr_weight": 0.1, "rates.encoder": 1e-4},
        "joint.2": {"asr_weight": 0.1, "rates.encoder": 1e-3},
        "joint.3": {"asr_weight": 1.0, "rates.encoder": 1e-4},
        "joint.4": {"asr_weight": 1.0, "rates.encoder": 1e-3},
    }
    assert order(content, at) == ["ser", "single", *members]
    values = run_values(content, at, "joint.3")
    assert (values["asr_weight"], values["rates"]["encoder"]) == (1.0, 1e-4)
    assert values["rates"]["head"] == run_values(content, at, "joint.1")["rates"]["head"]
    other = table(merged_values(SWEEP, {"scales": {"small": {"grids": {"joint": {"asr_weight": [2.0]}}}}}))
    assert order(other, other.scale("small"))[-1] == "joint.1"
    none = table(merged_values(SWEEP, {"scales": {"small": {"grids": {"joint": {}}}}}))
    assert order(none, none.scale("small"))[-1] == "joint"


def test_a_run_cannot_build_on_a_grid():
    content = table(merged_values(SWEEP, {"runs": {"single": {"set": {"vectors": {"ser": "$run.joint"}}}}}))
    with pytest.raises(RecipeError, match="'single' needs 'joint', which stands for several runs"):
        order(content, content.scale("small"))


def test_a_scale_names_the_rows_that_it_has():
    content = table({"scales": {"small": {"rows": ["single"]}}})
    at = content.scale("small")
    assert [row.run for row in content.shown(at)] == ["single"]
    assert order(content, at) == ["ser", "single"]


def test_each_lexical_strength_has_corpora_runs_and_rows_of_its_own():
    at = table(
        {
            "scales": {
                "small": {
                    "corpora": {
                        "speech": {"reader": None, "folder": None,
                                   "synth": {"seed": 1, "lexical_strength": "$lexical_strength"}},
                        "other": {"synth": {"seed": 2}},
                    },
                    "axes": {"lexical_strength": [0, 0.5], "seed": [3, 4]},
                }
            }
        }
    ).scale("small")  # fmt: skip
    found = variants(narrowed(table(), at, Piece(seed=4)))
    assert list(found) == ["lexical strength 0", "lexical strength 0.5"]
    for strength, scale in zip((0, 0.5), found.values(), strict=True):
        assert scale.corpora["speech"].synth == {"seed": 1, "lexical_strength": strength}
        assert scale.corpora["other"].synth == {"seed": 2}
        assert scale.axes.seed == (4,) and not scale.axes.lexical_strength
    plain = table().scale("small")
    assert variants(plain) == {"": plain}


def test_references_are_found_and_replaced_at_any_depth():
    value = {"a": ["$run.x", {"b": ("$corpus.y-1", "$fold")}], "c": "no $run.z", "d": 3}
    assert (references(value, "run"), references(value, "corpus")) == ({"x"}, {"y-1"})
    known = {"$run.x": "X", "$corpus.y-1": "Y", "$fold": None}
    assert substitute(value, known) == {"a": ["X", {"b": ["Y", None]}], "c": "no $run.z", "d": 3}
    with pytest.raises(
        RecipeError, match=r"\$seed is not known here; there are \$corpus.y-1, \$fold, \$run.x"
    ):
        substitute(["$seed"], known)


def test_axes_are_combined():
    given = {"seed": [0, 1], "fold": [2, 3], "part": [1, 4]}
    axes = table({"scales": {"small": {"axes": given}}}).scale("small").axes
    every = [{"$seed": s, "$fold": f, "$part": p} for s in (0, 1) for f in (2, 3) for p in (1, 4)]
    assert list(points(axes)) == every
    assert list(points(table().scale("small").axes)) == [{"$seed": 0, "$fold": None, "$part": None}]


def test_tables_that_do_not_hold_are_refused_with_every_fault(tmp_path):
    def refused(changes: dict, message: str) -> None:
        path = tmp_path / "table.yaml"
        path.write_text(yaml.safe_dump(merged_values(copy.deepcopy(BASIC), changes)))
        with pytest.raises(RecipeError, match=message):
            read_table_spec(path)

    refused({"colour": 1, "scales": {"small": {"axis": {}}}}, r"(?s)axis.*colour|colour.*axis")
    refused({"rows": [{"run": "nobody", "title": "x"}]}, "names run 'nobody'")
    refused({"rows": [{"run": "dual", "title": "x", "choose": "luck"}]}, "chosen by 'luck'")
    refused({"scales": {"small": {"rows": ["asr"]}}}, "'asr', which no row shows")
    refused({"scales": {"small": {"grids": {"daul": {"seed": [1]}}}}}, "grids.daul is no run")
    refused({"contrasts": [{"run": "dual", "over": "asr"}]}, "contrast names 'asr', which no row shows")
    rows = [{"run": "dual", "title": "x"}, {"run": "asr", "title": "y", "normalizer": "none"}]
    refused(
        {"rows": rows, "contrasts": [{"run": "dual", "over": "asr"}]},
        "dual less asr: .* after 'basic' and 'none'; give both one normalizer",
    )
    refused({"runs": {"asr": {"grid": {"seed": []}}}}, "runs.asr.grid.seed")
    refused({"runs": {"a.b": {"recipe": "adaltm"}}}, "'a.b' is no word")
    with pytest.raises(RecipeError, match="no scale 'huge'; this table has small"):
        table().scale("huge")


def test_scale_settings_for_recipes_or_runs_that_are_not_there_are_refused(tmp_path):
    path = tmp_path / "table.yaml"
    for changes in ({"set": {"finetune-sre": {"seed": 1}}}, {"runs": {"daul": {"seed": 1}}}):
        values = merged_values(copy.deepcopy(BASIC), {"scales": {"small": changes}})
        path.write_text(yaml.safe_dump(values))
        with pytest.raises(RecipeError, match=r"finetune-sre|daul"):
            read_table_spec(path)


@pytest.fixture
def keys(encoder_folder, corpus_folder, tmp_path):
    """A function of changes to the table: run name -> names of its folders."""
    corpora = {"speech": PreparedCorpus.load(corpus_folder)}

    def planned(changes: dict | None = None, out: Path = tmp_path) -> dict[str, list[str]]:
        based = {"scales": {"small": {"set": {"all": {"base": str(encoder_folder)}}}}}
        content = table(merged_values(based, changes or {}))
        folders: dict[str, list[str]] = {}
        for run in plan(content, content.scale("small"), corpora, out):
            assert run.folder.path.parent == out
            folders.setdefault(run.name, []).append(run.folder.path.name)
        return folders

    return planned


def changed(before: dict[str, list[str]], after: dict[str, list[str]]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_a_change_gives_new_folders_to_what_hangs_on_it_and_to_nothing_else(keys, tmp_path):
    before = keys()
    assert keys(out=tmp_path / "elsewhere") == before
    assert changed(before, keys({"runs": {"asr": {"set": {"training": {"epochs": 3}}}}})) == {"asr", "dual"}
    assert changed(before, keys({"runs": {"single": {"set": {"init": 0.3}}}})) == {"single"}
    ser = {"scales": {"small": {"set": {"finetune-ser": {"rates": {"head": 0.5}}}}}}
    assert changed(before, keys(ser)) == {"ser", "dual", "single"}
    one = {"scales": {"small": {"runs": {"dual": {"granularity": "global"}}}}}
    assert changed(before, keys(one)) == {"dual"}
    assert not changed(before, keys({"title": "Another", "columns": ["wer"]}))


def test_another_base_with_other_weights_gives_all_runs_new_folders(keys, tiny_encoder, tmp_path):
    before = keys()
    copies = tmp_path / "copy", tmp_path / "other"
    tiny_encoder(0).save(copies[0])
    tiny_encoder(5).save(copies[1])

    def with_base(folder: Path) -> dict[str, list[str]]:
        return keys({"scales": {"small": {"set": {"all": {"base": str(folder)}}}}})

    assert not changed(before, with_base(copies[0]))
    assert changed(before, with_base(copies[1])) == set(before)


def test_each_seed_has_runs_of_its_own_with_parents_of_that_seed(keys):
    found = keys({"scales": {"small": {"axes": {"seed": [0, 1]}}}})
    assert all(len(set(folders)) == 2 for folders in found.values())
    assert {name: folders[:1] for name, folders in found.items()} == keys()


def test_content_keys_do_not_depend_on_the_order_of_keys():
    assert content_key({"a": [1, {"x": 2, "y": 3}]}) == content_key({"a": [1, {"y": 3, "x": 2}]})
    assert content_key({"a": [1, 2]}) != content_key({"a": [2, 1]})


def test_a_recipe_that_could_not_start_may_be_corrected_in_the_same_folder(
    encoder_folder, corpus_folder, tmp_path
):
    values = {"system": "finetune", "task": "ser", "base": str(encoder_folder), "training": {"steps": 1}}
    with pytest.raises(RecipeError, match="names no corpus"):
        execute(validate(values, "first"), RunFolder(tmp_path / "run"))
    corrected = values | {"data": {"corpora": [{"path": str(corpus_folder)}]}}
    assert execute(validate(corrected, "second"), RunFolder(tmp_path / "run")).is_complete
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        execute(validate(corrected | {"seed": 3}, "third"), RunFolder(tmp_path / "run"))


def test_the_twins_are_compared_by_the_same_recipes():
    adaltm, twins = read_table_spec("adaltm-wavlm-tiny"), read_table_spec("wavlm-tiny")
    real, ssl = adaltm.scale("real"), adaltm.scale("ssl")
    for run in ssl.rows:
        of_twin = run_values(adaltm, ssl, run)
        assert of_twin.pop("base") == "build/weights/wavlm-tiny-ssl"
        assert of_twin == {k: v for k, v in run_values(adaltm, real, run).items() if k != "base"}
    shared = {"frozen": (real, "frozen"), "frozen-ssl": (ssl, "frozen")}
    for run, (scale, same) in shared.items():
        assert run_values(twins, twins.scale("real"), run) == run_values(adaltm, scale, same)


def test_a_table_that_is_not_there_is_named_as_one(tmp_path):
    with pytest.raises(RecipeError, match="no table 'foo'; give a file, or one of adaltm, adaltm-paper"):
        read_table_spec("foo")
