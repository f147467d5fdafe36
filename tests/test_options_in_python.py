"""Options built in Python, and recipes: each fault is one sentence of place, value and what is allowed."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from voxstrata.config.data import CorpusUse, Data
from voxstrata.config.head import HeadOptions
from voxstrata.config.training import Training
from voxstrata.errors import OptionsError, RecipeError
from voxstrata.methods.baselines.finetune import FinetuneRates
from voxstrata.methods.harmonifuse.options import HarmoniFuseOptions
from voxstrata.recipes.reading import read_recipe

WHOLE = "a whole number is needed"
FAULTS: dict[str, Callable[[], Any]] = {
    f"Training: epochs: found 'x'; {WHOLE}": lambda: Training(epochs="x"),
    f"Training: epochs: found '1_0'; {WHOLE}": lambda: Training(epochs="1_0"),
    f"Training: epochs: found '2:30'; {WHOLE}": lambda: Training(epochs="2:30"),
    f"Training: epochs: found true; {WHOLE}": lambda: Training(epochs=True),
    "Training: clip_norm: found true; a number is needed": lambda: Training(epochs=1, clip_norm=True),
    "Training: clip_norm: found 'inf'; a number is needed": lambda: Training(epochs=1, clip_norm="inf"),
    "Training: clip_norm: found nan; a finite number is needed": lambda: Training(epochs=1, clip_norm=np.nan),
    "Training: epoch: there is no such key; did you mean epochs?": lambda: Training(epoch=3),
    "Training: neither epochs nor steps is given; give one of them, e.g. training.epochs=3": lambda: (
        Training()
    ),
    "Training: epochs is 3 and steps is 4, and one of them sets the length; take the other one out: "
    "training.epochs=null or training.steps=null": lambda: Training(epochs=3, steps=4),
    "Training: warmup is 0.1 and warmup_steps is 5, and one of them sets the warm-up; set the other one to "
    "0: training.warmup=0 or training.warmup_steps=0": lambda: Training(epochs=3, warmup=0.1, warmup_steps=5),
    "HeadOptions: form: found 'e'; allowed: a, b, c, d": lambda: HeadOptions(form="e"),
    "HeadOptions: batch_norm is true and form is b, and only form a has it; give one of "
    "head.batch_norm=false and head.form=a": lambda: HeadOptions(form="b", batch_norm=True),
    "Data: corpora[0].pth: there is no such key; did you mean path?": lambda: Data(corpora=[{"pth": "x"}]),
    "Data: corpora[1].speakers.prt: there is no such key; did you mean part?": lambda: Data(
        corpora=[{"path": "x"}, {"path": "y", "speakers": {"prt": 1, "take": "part"}}]
    ),
    "CorpusUse: path: found ''; a text that is not empty is needed": lambda: CorpusUse(path=""),
    "HarmoniFuseOptions: lm.siz: there is no such key; did you mean size?": lambda: HarmoniFuseOptions(
        lm={"siz": 3}
    ),
    "FinetuneRates: encoder: found -1; at least 0 is needed": lambda: FinetuneRates(encoder=-1),
    f"Training: epochs: found [2]; {WHOLE}": lambda: Training(epochs=1).but(epochs=[2]),
}


@pytest.mark.parametrize("line", FAULTS)
def test_options_that_do_not_hold_are_one_line(line):
    with pytest.raises(RecipeError) as caught:
        FAULTS[line]()
    assert str(caught.value) == line
    assert isinstance(caught.value, OptionsError) and isinstance(caught.value, ValueError)


def test_options_are_values():
    options = Training(epochs=np.int64(2), clip_norm="1e-1")
    assert (options.epochs, options.clip_norm) == (2, 0.1) and type(options.epochs) is int
    assert copy.deepcopy(options) == pickle.loads(pickle.dumps(options)) == options != options.but(epochs=3)
    with pytest.raises(
        OptionsError, match=r"Training is not changed after it was made; make another: but\(ep"
    ):
        options.epochs = 3


#: Overrides of a recipe -> what is said of them; the whole of it after the recipe's name.
RECIPES = {
    (
        "finetune-ser",
        "data.corpora=[{pth: x}]",
    ): "data.corpora[0].pth: there is no such key; did you mean path?",
    ("finetune-ser", "data.corpora=[{path: x, speakers: {part: 1, take: rst}}]"): (
        "data.corpora[0].speakers.take: found 'rst'; allowed: part, rest, next; did you mean rest?"
    ),
    (
        "harmonifuse",
        "tasks.asr.corporra=x",
    ): "tasks.asr.corporra: there is no such key; did you mean corpora?",
    ("harmonifuse", "tasks.asr.corpora=[{path: x, fol: 1}]"): (
        "tasks.asr.corpora[0].fol: there is no such key; did you mean fold?"
    ),
    ("adaltm", "init=x"): (
        "init: found 'x'; a number is needed; or give names with values, such as {asr: runs/asr, ser: "
        "runs/ser}"
    ),
    ("adaltm", "init=5000"): "init: found 5000; at most 1,000 is allowed",
    ("adaltm", "init={asr: x}"): "init.asr: found 'x'; a number is needed",
    ("adaltm", "vectors={asr: null}"): "vectors.asr: found null; a text is needed",
    (
        "adaltm",
        "vectors={1: x}",
    ): "vectors: found the key 1; a key is a name: put one that is a number in quotes",
    ("finetune-ser", "training.epochs=2:30"): f"training.epochs: found '2:30'; {WHOLE}",
    ("finetune-ser", "training.epochs=1_0"): f"training.epochs: found '1_0'; {WHOLE}",
    ("finetune-ser", "seed=2026-11-30"): f"seed: found '2026-11-30'; {WHOLE}",
    ("finetune-ser", "data.crop_s=yes"): "data.crop_s: found 'yes'; a number is needed",
    ("finetune-ser", "base="): "base: found null; a text is needed",
    ("finetune-ser", "base=''"): "base: found ''; a text that is not empty is needed",
    ("finetune-ser", "base=3"): "base: found 3; a text is needed",
    ("late-fusion", "experts={a: ''}"): "experts.a: found ''; a text that is not empty is needed",
}


@pytest.mark.parametrize("given", RECIPES, ids=" ".join)
def test_a_fault_of_a_recipe_is_told_once_and_before_anything_else(given):
    name, override = given
    notes: list[str] = []
    with pytest.raises(RecipeError) as caught:
        read_recipe(name, [override], notify=notes.append)
    assert str(caught.value) == f"{name}: {RECIPES[given]}" and not notes


def test_values_of_a_recipe_mean_what_a_person_meant():
    recipe = read_recipe(
        "finetune-ser",
        ["data.labels=[yes, no, on]", "training.keep_best=no", "rates.head=1e-3", "training.epochs=017"],
    )
    assert recipe.data.labels == ("yes", "no", "on") and recipe.training.keep_best is False
    assert recipe.rates.head == 0.001 and recipe.training.epochs == 17
    assert read_recipe("finetune-ser", ["data.batch_size=1_000"]).data.batch_size == 1000


@pytest.mark.parametrize("override", ["training.=3", ".training=3", "training..epochs=3", "=3", "training"])
def test_an_override_without_a_name_is_named(override):
    with pytest.raises(
        RecipeError, match=r"override '.*' is not of the form key=value, e\.g\. training.epochs=3"
    ):
        read_recipe("finetune-ser", [override])


def test_the_nearest_recipe_is_named():
    with pytest.raises(
        RecipeError, match=r"no recipe 'finetune-srr'; did you mean finetune-ser\?; give a file"
    ):
        read_recipe("finetune-srr")


@pytest.mark.parametrize(
    ("base", "advice"),
    [
        ("some/absent", "fetch it first: hf download some/absent$"),
        ("x.pt", "an architecture of the same size$"),
    ],
)
def test_advice_on_a_base_names_what_is_there(tmp_path, monkeypatch, base, advice):
    (tmp_path / "x.pt").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []
    read_recipe("finetune-ser", [f"base={base}"], notify=notes.append)
    (note,) = notes
    assert note.startswith(f"warning: neither config.json nor name of {base} shows its size")
    assert re.search(advice, note)
