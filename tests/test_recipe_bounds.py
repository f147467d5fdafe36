"""What training would stumble over is refused with the recipe."""

from __future__ import annotations

import pytest

from voxstrata.errors import RecipeError
from voxstrata.recipes.reading import read_recipe


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["vectors={ser: x}", "init={asr: 0.3}"],
            "init names asr, and the vectors are ser; give a coefficient for",
        ),
        (["vectors={ser: x}", "init=1e39"], "init.*at most 1,000 is allowed"),
        (["vectors={'': x}"], r"a name of letters \(A-Z, a-z\), digits"),
        (["vectors={'../x': y}"], r"a name of letters \(A-Z, a-z\), digits"),
        (["rates.head=1e30"], r"rates.head: found 1e\+30; at most 1,000,000 is allowed"),
        (["data.corpora=[p, p]"], "data.corpora: p is named twice; name each corpus once"),
        (["tasks.ser.corpora=[p, {path: p}]"], "p is named twice"),
    ],
)
def test_what_training_would_stumble_over_is_no_recipe(overrides, sentence):
    with pytest.raises(RecipeError, match=sentence):
        read_recipe("adaltm", ["training.epochs=1", *overrides])


def test_a_corpus_may_be_named_again_for_other_clips():
    given = "data.corpora=[{path: p, fold: 1}, {path: p, splits: [train]}]"
    assert len(read_recipe("finetune-ser", [given]).data.corpora) == 2
