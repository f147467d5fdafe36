"""The reference in docs/reference is the program's: every command, option and key, each with a meaning."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
import yaml
from pydantic import BaseModel

from voxstrata.cli.help_pages import EXAMPLES
from voxstrata.cli.main import app
from voxstrata.config.leaks import MATCHES, STAGES
from voxstrata.corpora.synthetic.plan import SynthesisOptions
from voxstrata.experiments.tables.table import Table
from voxstrata.methods.fits import TABLE
from voxstrata.methods.registry import methods
from voxstrata.recipes.reading import TABLES, packaged

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import generate  # noqa: E402

PAGES = generate.pages()


def section(page: str, heading: str) -> str:
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGES[page], re.DOTALL | re.MULTILINE)
    assert match, f"{page} has no section {heading!r}"
    return match[1]


def rows(text: str) -> dict[str, list[str]]:
    """First cell of each row of the tables, without code marks -> the other cells."""
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("| `")]
    found = {cells[0].strip("`"): cells[1:] for cells in (re.split(r" \| ", line) for line in lines)}
    assert len(found) == len(lines), "a key stands twice"
    return found


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_in_the_tree_are_what_the_program_gives(name: str) -> None:
    path = DOCS / "reference" / name
    assert path.is_file() and path.read_text(encoding="utf-8") == PAGES[name], "run `make reference`"


def test_there_is_no_page_that_nothing_writes() -> None:
    assert {path.name for path in (DOCS / "reference").iterdir()} == set(PAGES)


def leaf_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, child in command.commands.items():
        yield from leaf_commands(child, (*path, name))


LEAVES = dict(leaf_commands(typer.main.get_command(app)))


def test_every_command_has_its_section_and_no_other_has() -> None:
    found = re.findall(r"^## voxstrata (.*)$", PAGES["commands.md"], re.MULTILINE)
    assert sorted(found) == sorted(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_every_argument_and_option_has_its_default_and_a_meaning(name: str) -> None:
    told = section("commands.md", f"voxstrata {name}")
    table = {re.split(r"[ .\]]", key.strip("["))[0]: cells for key, cells in rows(told).items()}
    for parameter in LEAVES[name].params:
        option = parameter.param_type_name == "option"
        key = parameter.opts[0] if option else (parameter.metavar or parameter.name.upper())
        default, meaning = table.pop(re.split(r"[ .\]]", key.strip("["))[0])
        assert len(meaning) > 5, key
        if parameter.required or (option and parameter.is_flag):
            assert default == ("required" if parameter.required else "off")
        else:
            assert default.strip("`") == ("none" if parameter.default is None else str(parameter.default))
    assert not table
    assert f"```sh\n{EXAMPLES[name]}\n```" in told


def recipe_keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their defaults, by a walk of its own; "required" where there is none."""
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else field.get_default(call_default_factory=True)
        kind = field.annotation
        inner = [
            part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        if not inner:
            yield f"{path}{name}", list(default) if isinstance(default, tuple) else default
            continue
        below = {dict: ".NAME.", tuple: "[]."}.get(get_origin(kind), ".")  # type: ignore[arg-type]
        yield from recipe_keys(inner[0], f"{path}{name}{below}")


def documented(page: str, *headings: str) -> dict[str, Any]:
    """Key -> default as YAML reads it, of keys that all have a meaning."""
    told = {key: cells for heading in headings for key, cells in rows(section(page, heading)).items()}
    assert all(len(meaning) > 3 for *_, meaning in told.values()), told
    return {key: yaml.safe_load(default.strip("`")) for key, (default, *_) in told.items()}


SHARED = ("Every recipe", "data", "training", "Base encoder", "head", "tasks")


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_key_of_a_recipe_has_its_default_and_a_meaning(name: str) -> None:
    told = documented("recipes.md", *SHARED) | documented("recipes.md", name)
    for key, default in recipe_keys(methods()[name].recipe):
        # The corpora of a task have the keys of those of `data`.
        place = re.sub(r"^tasks\.NAME\.corpora\[\]", "data.corpora[]", key)
        assert place in told, key
        if place != "system" and key != "training.epochs":
            assert told[place] == default, key


def test_no_method_has_keys_that_its_recipe_has_not() -> None:
    for name, method in methods().items():
        known = {key for key, _ in recipe_keys(method.recipe)}
        own = set(rows(section("recipes.md", name)))
        assert own <= known | set(method.recipe.model_fields), own - known


def test_every_key_of_a_table_and_of_synthetic_speech_has_its_default_and_a_meaning() -> None:
    told = documented("tables.md", "Keys of a table")
    assert all(told[key] == default for key, default in recipe_keys(Table))
    synth = documented("tables.md", "Synthetic speech")
    assert synth == {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for field in fields(SynthesisOptions)
    }


def test_every_packaged_recipe_and_table_is_named_with_what_it_does() -> None:
    told = rows(PAGES["packaged.md"].partition("## Tables")[0])
    assert {name: bool(cells[0]) for name, cells in told.items()} == dict.fromkeys(packaged(), True)
    assert all(f"\n### {name}\n" in PAGES["packaged.md"] for name in packaged(TABLES))


def test_defaults_and_leaks_are_the_program_s() -> None:
    rates = {f"{fit.asr_encoder:.1e}" for sizes in TABLE.values() for fit in sizes.values()}
    assert all(rate in PAGES["defaults.md"] for rate in rates)
    same = [(f.smoothing, f.batch_size, f.warmup, f.layer_weights, f.coefficients, *f.head_options.values())
            for sizes in TABLE.values() for f in sizes.values()]  # fmt: skip
    assert len(set(same)) == 1, "the page tells one value for all"
    told = rows(PAGES["leaks.md"])
    assert {key: cells[0] for key, cells in told.items()} == STAGES | MATCHES
