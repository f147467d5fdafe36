"""Recipes: what is packaged holds, what is wrong is named all at once, what is written reads back."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.config.recipe import Recipe, TrainedRecipe
from voxstrata.documents import parse_yaml
from voxstrata.errors import RecipeError
from voxstrata.experiments.tables.pieces import points
from voxstrata.experiments.tables.planned_runs import order, run_values
from voxstrata.experiments.tables.references import references, substitute
from voxstrata.experiments.tables.table import read_table_spec
from voxstrata.methods.cuts import corpora_in
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import (
    dump,
    merged_values,
    packaged,
    parse_overrides,
    read_recipe,
    read_yaml,
    validate,
)

TABLE_SCALES = [(table, scale) for table in packaged("tables") for scale in read_table_spec(table).scales]


@pytest.mark.parametrize("name", packaged())
def test_packaged_recipes_hold_and_read_back(name, tmp_path):
    recipe = read_recipe(name)
    written = tmp_path / "recipe.yaml"
    written.write_text(dump(recipe), encoding="utf-8")
    assert read_recipe(written) == recipe
    assert dump(read_recipe(written)) == dump(recipe)
    if isinstance(recipe, TrainedRecipe):
        assert recipe.training.total_steps(batches_per_epoch=3) > 0


@pytest.mark.parametrize("name", packaged())
def test_a_key_that_no_recipe_has_is_refused_at_every_depth(name):
    values = read_yaml(name)
    places = [()] + [(key,) for key, value in values.items() if isinstance(value, dict) and value]
    assert len(places) > 2 or not isinstance(read_recipe(name), TrainedRecipe)
    for place in places:
        stray: Any = {"nonsense": 1}
        for key in reversed(place):
            stray = {key: stray}
        with pytest.raises(RecipeError, match=r"\.".join((*place, "nonsense"))):
            validate(merged_values(values, stray), name)


@pytest.mark.parametrize(("table", "scale"), TABLE_SCALES)
def test_every_run_of_a_packaged_table_is_a_recipe(table, scale):
    content = read_table_spec(table)
    at = content.scale(scale)
    names = order(content, at)
    shown = {row.run for row in content.shown(at)}
    assert {member for run in shown for member in content.members(at, run)} <= set(names)
    for point in points(at.axes):
        known = {f"$corpus.{name}": f"corpora/{name}" for name in at.corpora}
        known |= {f"$run.{name}": f"runs/{name}" for name in names} | point
        for name in names:
            recipe = validate(substitute(run_values(content, at, name), known), name)
            assert corpora_in(recipe.data, method_of(recipe).facts(recipe).tasks), f"{name} has no corpus"
            assert "$" not in dump(recipe)


@pytest.mark.parametrize(("table", "scale"), TABLE_SCALES)
def test_every_setting_of_a_packaged_scale_is_used(table, scale):
    content = read_table_spec(table)
    at = content.scale(scale)
    assert set(at.set) <= {"all", *(spec.recipe for spec in content.runs.values())}
    assert set(at.runs) | set(at.grids) <= set(content.runs)
    members = [member for run in content.runs for member in content.members(at, run)]
    used = set().union(*(references(run_values(content, at, run), "corpus") for run in members))
    assert used == set(at.corpora)


def recipes_of(scale: str) -> dict[str, Recipe]:
    """Every run of the table `adaltm-wavlm-tiny` at one point of a scale."""
    table = read_table_spec("adaltm-wavlm-tiny")
    at = table.scale(scale)
    point = next(points(at.axes))
    names = order(table, at)
    known = (
        {f"$corpus.{name}": name for name in at.corpora} | {f"$run.{name}": name for name in names} | point
    )
    return {name: validate(substitute(run_values(table, at, name), known), name) for name in names}


def test_rows_over_frozen_encoders_differ_in_what_they_are_about_alone():
    """Same clips, head, rates, updates and end: what AdaLTM's ablations compare is the encoder."""
    fair = {"data", "training", "seed"}
    runs = {
        name: recipe
        for scale in ("real", "heldout")
        for name, recipe in recipes_of(scale).items()
        if recipe.system in ("adaltm", "late-fusion")
    }
    assert len(runs) == 11
    reference = runs["frozen"]
    for name, recipe in runs.items():
        assert recipe.head == reference.head, name
        assert (recipe.rates.head, recipe.rates.layer_weights) == (
            reference.rates.head,
            reference.rates.layer_weights,
        )
        changes = {}
        if name in ("dual-heard", "dual-unheard"):
            # A quarter of the clips four times as often.
            (use,) = recipe.data.corpora
            assert use.speakers.of == 4 and recipe.training.epochs == 4 * reference.training.epochs
            plain = recipe.data.model_copy(update={"corpora": reference.data.corpora})
            changes = {"data": plain, "training": reference.training}
        changed = recipe.model_copy(update=changes)
        assert changed.model_dump(include=fair) == reference.model_dump(include=fair), name


def test_rows_of_both_selections_do_select():
    runs = recipes_of("real")
    pairs = [(name, name.replace("-by-emotion", "")) for name in runs if "-by-emotion" in name]
    assert len(pairs) == 12
    for by_emotion, jointly in pairs:
        assert runs[by_emotion].training.keep_best and runs[by_emotion].selected_by == "emotion"
        assert runs[jointly] == runs[by_emotion].model_copy(update={"selected_by": "joint"})
    same = {"system": "multitask", "training": {"steps": 1, "keep_best": False}}
    with pytest.raises(RecipeError, match=r"neither training\.keep_best nor training\.patience selects"):
        validate(same | {"selected_by": "emotion"}, "m")
    validate(same, "m")


def test_all_faults_stand_in_one_message():
    values = {
        "system": "finetune",
        "task": "translate",
        "colour": 1,
        "data": {"batch_size": 0, "corpora": [{"folder": "x"}]},
        "training": {"epochs": 1, "stepps": 2},
    }
    with pytest.raises(RecipeError) as caught:
        validate(values, "mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ") and "\n" not in message
    for fault in (
        "task: found 'translate'; allowed: ser, asr",
        "colour: there is no such key",
        "data.batch_size: found 0; more than 0 is needed",
        "training.stepps: there is no such key; did you mean steps?",
        "data.corpora[0].path: is missing; give it a value",
        "data.corpora[0].folder: there is no such key",
    ):
        assert fault in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.steps=5"], r"epochs is \d+ and steps is 5, and one of them sets the length"),
        (["task=asr", "data.crop_s=3"], "crop_s is 3, and crops cut words off"),
        (["system=magic"], "found 'magic'; allowed: adaltm, finetune,"),
        (["rates.encoder=-1"], "rates.encoder"),
        (["training"], "not of the form key=value"),
        (["=3"], "not of the form key=value"),
        (["training.epochs=[1"], "training.epochs"),
    ],
)
def test_overrides_that_do_not_hold_are_named(overrides, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe("finetune-ser", overrides)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.epoch=3", "training.epoch: there is no such key; did you mean epochs?"),
        ("data.batchsize=3", "data.batchsize: there is no such key; did you mean batch_size?"),
        ("qqq=1", "qqq: there is no such key$"),
        ("data.labels=anger", r"data.labels: found 'anger'; give a list, such as \[a, b\]"),
        ("head=d", "head: found 'd'; give keys with values, such as"),
        ("epochs=3", r"epochs: there is no such key; did you mean training\.epochs\?$"),
        ("training.epochs=1.5", "training.epochs: found 1.5; a whole number is needed$"),
        ("training.epochs=1e12", "training.epochs: found .*; at most 1,000,000,000 is allowed$"),
        ("training.keep_best=maybe", "training.keep_best: found 'maybe'; true or false is needed$"),
        ("training.betas=[1, 2, 3]", r"training.betas: found \[1, 2, 3\]; no more than 2 are allowed$"),
        ("training.betas=[0.9]", r"training.betas\[1\]: found \[0.9\]; one value more is needed$"),
        ("training.precision=fp64", "training.precision: found 'fp64'; allowed: fp32, bf16$"),
        ("base=null", "base: found null; a text is needed$"),
        ("seed=true", "seed: found true; a whole number is needed$"),
        ("seed=18446744073709551616", "seed: found 18446744073709551616; less than 9,223,372,036,854,775,8"),
        ("seed=-1", "seed: found -1; at least 0 is needed$"),
        ("head.width=1000000000000", "head.width: found 1000000000000; at most 65,536 is allowed$"),
        ("rates.encoder=.inf", "rates.encoder: found inf; a finite number is needed$"),
        ("data.augment.noise=.nan", "data.augment.noise: found nan; a finite number is needed$"),
        ("data.labels=[a, b, a]", "data.labels: a is named twice; name each label once$"),
        ("system=fine-tune", "system: found 'fine-tune'; allowed: .*; did you mean finetune?"),
        (
            "training.steps=5",
            r"training: epochs is \d+ and steps is 5, .*: training.epochs=null or training.steps=null$",
        ),
    ],
)
def test_faults_are_told_in_sentences_of_ours(override, sentence):
    with pytest.raises(RecipeError, match=sentence):
        read_recipe("finetune-ser", [override])


def test_vectors_without_names_are_told_in_a_sentence_of_ours():
    with pytest.raises(RecipeError, match=r"vectors: found \['a', 'b'\]; give names with values"):
        read_recipe("adaltm", ["vectors=[a, b]"])


@pytest.mark.parametrize("given", ["a", "[a]", "{path: a}", "[{path: a}]"])
def test_a_corpus_may_be_named_by_its_folder_alone(given):
    (use,) = read_recipe("finetune-ser", [f"data.corpora={given}"]).data.corpora
    assert (use.path, use.fold) == ("a", None)
    two = read_recipe("finetune-ser", ["data.corpora=[a, {path: b, fold: 2}]"]).data.corpora
    assert [(use.path, use.fold) for use in two] == [("a", None), ("b", 2)]


@pytest.mark.parametrize("given", ["a", "[a]", "{path: a}", "[{path: a}]"])
def test_a_corpus_of_a_task_may_be_named_by_its_folder_alone(given):
    tasks = ["tasks.ser.corpora=b", f"tasks.asr.corpora={given}"]
    found = read_recipe("adaltm", ["training.epochs=1", *tasks]).tasks
    assert [use.path for use in (*found["ser"].corpora, *found["asr"].corpora)] == ["b", "a"]


@pytest.mark.parametrize(("given", "steps"), [("1e3", 1000), ("2.0E+1", 20), ("7", 7)])
def test_whole_numbers_may_have_an_exponent(given, steps):
    assert (
        read_recipe("finetune-ser", ["training.epochs=null", f"training.steps={given}"]).training.steps
        == steps
    )


PLACES = [
    *("seed", "base", "training", "training.epochs", "training.betas", "data", "data.corpora", "data.labels"),
    *("data.augment.noise", "head.form", "rates.encoder", "system", "task", "allow_leaks", "vectors", "init"),
    *("tasks.ser", "lm.size", "x.y"),
]
WRONG = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=2)
WRONG = st.recursive(
    WRONG, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)


@given(
    st.sampled_from(["finetune", "adaltm", "harmonifuse", "late-fusion", "text", "pretraining"]),
    st.sampled_from(PLACES),
    WRONG,
)
def test_no_value_brings_a_sentence_of_pydantic(system, place, value):
    for part in reversed(place.split(".")):
        value = {part: value}
    try:
        validate({"system": system, **value}, "r")
    except RecipeError as fault:
        assert not re.search(r"Input |Extra |Field |valid (?!emotion)|pydantic|Tuple |Value ", str(fault)), (
            fault
        )


def test_overrides_lie_over_the_recipe_and_later_ones_over_earlier():
    changed = read_recipe(
        "finetune-ser",
        [
            "training.epochs=3",
            "seed=4",
            "training.epochs=7",
            "data.corpora=[{path: a=b, fold: 2}]",
            "rates.head=1e-2",
        ],
    )
    assert (changed.training.epochs, changed.seed, changed.rates.head) == (7, 4, 0.01)
    assert (changed.data.corpora[0].path, changed.data.corpora[0].fold) == ("a=b", 2)
    plain = read_recipe("finetune-ser")
    assert changed.training.warmup_steps == plain.training.warmup_steps
    assert changed.rates.encoder == plain.rates.encoder


KEYS = st.sampled_from("abc")
TREES = st.recursive(
    st.integers(0, 9),
    lambda children: st.dictionaries(KEYS, children, min_size=1, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=3)


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {place: leaf for key, v in value.items() for place, leaf in leaves(v, (*path, key)).items()}


@given(MAPPINGS, MAPPINGS)
def test_laying_over_takes_every_change_and_keeps_what_no_change_touches(base, changes):
    def touched(place: tuple[str, ...]) -> bool:
        return any(place[: len(p)] == p[: len(place)] for p in leaves(changes))

    kept = {place: leaf for place, leaf in leaves(base).items() if not touched(place)}
    before = yaml.safe_dump([base, changes])
    assert leaves(merged_values(base, changes)) == kept | leaves(changes)
    assert yaml.safe_dump([base, changes]) == before


@given(st.lists(st.tuples(st.lists(KEYS, min_size=1, max_size=3), st.integers(0, 9)), max_size=4))
def test_an_override_is_a_path_to_its_value(pairs):
    overrides = [".".join(path) + f"={value}" for path, value in pairs]
    found = parse_overrides(overrides)
    for path, value in pairs[-1:]:
        for part in path:
            found = found[part]
        assert found == value


def test_recipes_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"give a file, or one of .*adaltm.*finetune-asr"):
        read_recipe(tmp_path / "none.yaml")
    for name, content, message in [
        ("list.yaml", b"- 1\n- 2\n", "must hold a mapping"),
        ("empty.yaml", b"", "must hold a mapping"),
        ("broken.yaml", b"a: [1\nb: 2", "is not YAML"),
        ("binary.yaml", b"a: \xff\xfe\n", "binary.yaml"),
        ("systemless.yaml", b"seed: 1\n", "system: is missing; give one of adaltm"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecipeError, match=message):
            read_recipe(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\nsystem: text\nseed: 2\n", "'seed' .*line 1 and again in line 3"),
        ("data:\n  crop_s: 3\n  batch_size: 2\n  'crop_s': 4\n", "'crop_s' .*line 2 and again in line 4"),
        (
            "data:\n  corpora:\n    - path: a\n      fold: 1\n      path: b\n",
            "'path' .*line 3 and again in line 5",
        ),
        ("vectors: {asr: a, asr: b}\n", "'asr' .*line 1 and again in line 1"),
        ("kept: &kept {a: 1}\nx:\n  <<: *kept\n  b: 1\n  b: 2\n", "'b' .*line 4 and again in line 5"),
        ("kept: &kept {a: 1, a: 2}\nx: *kept\n", "'a' .*line 1 and again in line 1"),
        ("folds:\n  1: a\n  0x1: b\n", "'0x1' .*line 2 and again in line 3"),
    ],
)
def test_a_key_that_stands_twice_is_refused_at_every_depth(content, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(RecipeError, match=rf"mine\.yaml: the key {message}") as caught:
        read_yaml(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)


def test_an_override_with_a_key_that_stands_twice_is_refused():
    with pytest.raises(RecipeError, match=r"'vectors=\{asr: a, asr: b\}': the key 'asr'"):
        parse_overrides(["vectors={asr: a, asr: b}"])


def test_anchors_and_merge_keys_mean_what_they_mean_without_the_check(tmp_path):
    content = """
small: &small {a: 1, b: 2}
large: &large
  <<: *small
  b: 3
both:
  <<: [*large, *small]
  a: 4
each:
  <<: *small
  <<: {c: 5}
again: [*large, *large, {a: 1}, {a: 1}]
"""
    (tmp_path / "mine.yaml").write_text(content)
    read = read_yaml(tmp_path / "mine.yaml")
    assert read == yaml.safe_load(content)
    assert read["both"] == {"a": 4, "b": 3}


@given(MAPPINGS)
def test_what_is_written_as_yaml_reads_back(values):
    assert parse_yaml(yaml.safe_dump(values), "a test") == values


def test_the_paper_recipe_of_harmonifuse_hears_both_corpora_in_proportion():
    # LibriSpeech: 281,241 clips of 960.9 h; IEMOCAP in four classes: 5,531 of 7.0 h.
    recipe = read_recipe("paper/harmonifuse")
    clips = {"asr": 281_241, "ser": 5_531 * 4 / 5}
    mean_s = {"asr": 960.9 * 3600 / 281_241, "ser": 7.0 * 3600 / 5_531}
    shares = {name: use.share / mean_s[name] for name, use in recipe.tasks.items()}
    seen = recipe.training.steps * recipe.data.batch_size
    epochs = {name: seen * share / sum(shares.values()) / clips[name] for name, share in shares.items()}
    assert 5 < epochs["asr"] < 15 and epochs["ser"] < 200
