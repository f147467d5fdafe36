"""The documents say what is so: lines run, commands parse, keys are the program's, links resolve."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from voxstrata import __version__
from voxstrata.cli.main import app
from voxstrata.config.recipe import Recipe
from voxstrata.corpora.synthetic.plan import SynthesisOptions
from voxstrata.experiments.tables.table import Table, read_table
from voxstrata.methods.adaltm.recipe import AdaLTMRecipe
from voxstrata.methods.baselines.finetune import FinetuneRecipe
from voxstrata.methods.baselines.late_fusion import LateFusionRecipe
from voxstrata.methods.baselines.multitask import MultitaskRecipe
from voxstrata.methods.baselines.statistics import StatisticsRecipe
from voxstrata.methods.baselines.text import TextRecipe
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe
from voxstrata.methods.pretraining.recipe import PretrainRecipe
from voxstrata.recipes.reading import packaged, read_recipe

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "voxstrata"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
RECIPES_PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(text: str, heading: str) -> str:
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert match, f"no section {heading!r}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """Cells of the tables' rows whose first cell is code."""
    return [[cell.strip() for cell in line.strip(" |").split(" | ")] for line in text.splitlines()
            if line.startswith("| `")]  # fmt: skip


def leaf_commands(command: Any, path: tuple[str, ...] = ("voxstrata",)) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, child in command.commands.items():
        yield from leaf_commands(child, (*path, name))


CLI = typer.main.get_command(app)
LEAVES = dict(leaf_commands(CLI))


def test_the_eight_lines_of_the_readme_run(
    encoder_folder: Path,
    expert_folders: dict[str, Path],
    recordings: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModel

    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.labels import LabelSet
    from voxstrata.methods.encoder_models import EmotionModel
    from voxstrata.methods.model_folder import save_model

    shutil.copytree(encoder_folder, tmp_path / "microsoft" / "wavlm-large")
    for name, folder in expert_folders.items():
        shutil.copytree(folder, tmp_path / "runs" / name / "model" / "encoder")
    model = EmotionModel(load_backbone(encoder_folder), LabelSet(("anger", "neutral")))
    save_model(model, tmp_path / "runs" / "adaltm" / "model")
    shutil.copy(recordings[0], tmp_path / "call.wav")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(README, "python")
    assert len([line for line in block.splitlines() if line]) == 8
    exec(compile(block, "README.md", "exec"), {})
    assert "Recognition(emotion='" in capsys.readouterr().out
    assert AutoModel.from_pretrained("merged").config.num_hidden_layers == 2


def command_lines() -> list[str]:
    """Every `voxstrata ...` line of the documents, in blocks and in the text."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        inside = [line for block in blocks(text, "sh") for line in block.splitlines()]
        outside = re.findall(
            r"(?<!`)`(voxstrata[^`\n]*)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
        )
        found += [line for line in [*inside, *outside] if re.match(r"(\.venv/bin/)?voxstrata(\s|$)", line)]
    return sorted(set(found))


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_of_the_documents_parses(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    # Where the shell writes the answer is no part of the command.
    words = words[: words.index(">")] if ">" in words else words
    command: Any = CLI
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command = command.commands[words.pop(0)]
    if not words or words == ["--help"]:
        return
    given = command.make_context(line, words).params
    if given.get("recipe", "").islower():
        read_recipe(given["recipe"], given["overrides"] or [])
    if given.get("table", "").islower():
        read_table(given["table"]).scale(given["scale"])


def test_there_are_command_lines_to_check() -> None:
    assert len(command_lines()) > 15


def test_the_commands_page_has_every_command_and_no_other() -> None:
    assert set(re.findall(r"^## (.*)$", COMMANDS_PAGE, re.MULTILINE)) == set(LEAVES)


def argument_name(parameter: Any) -> str:
    return re.sub(r"[\[\]]|\.{3}", "", parameter.metavar or parameter.name.upper())


def stated_default(parameter: Any) -> str | None:
    """What the page must say; None where the default is told in words."""
    if parameter.required:
        return "required"
    if parameter.is_flag:
        return "off"
    return None if parameter.default is None else str(parameter.default)


@pytest.mark.parametrize("name", LEAVES)
def test_the_commands_page_has_every_argument_option_and_default(name: str) -> None:
    told = section(COMMANDS_PAGE, name)
    parameters = LEAVES[name].params
    options = {p.opts[0]: p for p in parameters if p.param_type_name == "option"}
    arguments = {argument_name(p) for p in parameters if p.param_type_name == "argument"}
    table = {row[0].strip("`"): row[1:] for row in rows(told)}
    assert set(table) == set(options) | arguments
    for option, parameter in options.items():
        default = stated_default(parameter)
        assert default is None or table[option][0].strip("`") == default, option
    assert blocks(told, "sh") and "Exit codes: 0" in told


def recipe_keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their defaults as YAML reads them; "required" where there is none."""
    for name, field in model.model_fields.items():
        yield from _keys(f"{path}{name}", field.annotation, field.get_default(call_default_factory=True))


def _keys(path: str, kind: Any, default: Any) -> Iterator[tuple[str, Any]]:
    inner = [part for part in get_args(kind) if isinstance(part, type) and issubclass(part, BaseModel)]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from recipe_keys(kind, f"{path}.")
    elif inner and get_origin(kind) is dict:
        yield from recipe_keys(inner[0], f"{path}.NAME.")
    elif inner:
        if default is not PydanticUndefined:
            yield path, list(default) if isinstance(default, tuple) else default
        yield from recipe_keys(inner[0], f"{path}[]." if get_origin(kind) is tuple else f"{path}.")
    else:
        plain = list(default) if isinstance(default, tuple) else default
        yield path, "required" if default is PydanticUndefined else plain


def documented(*headings: str) -> dict[str, Any]:
    told = [row for heading in headings for row in rows(section(RECIPES_PAGE, heading))]
    table = {key.strip("`"): yaml.safe_load(rest[0].strip("`")) for key, *rest in told
             if not key.startswith("`$")}  # fmt: skip
    assert len(table) == sum(not row[0].startswith("`$") for row in told), "a key stands twice"
    return table


BASED = ("Every recipe", "Recipes with a base encoder")


@pytest.mark.parametrize(
    ("model", "headings"),
    [
        (FinetuneRecipe, (*BASED, "finetune")),
        (AdaLTMRecipe, (*BASED, "adaltm")),
        (MultitaskRecipe, (*BASED, "multitask")),
        (PretrainRecipe, ("Every recipe", "pretraining")),
    ],
)
def test_the_recipes_page_has_every_key_and_default(
    model: type[BaseModel], headings: tuple[str, ...]
) -> None:
    # The system decides which schema is read, so that it must be given although each has its own name.
    assert documented(*headings) == dict(recipe_keys(model)) | {"system": "required"}


def test_the_recipes_page_has_every_key_of_late_fusion() -> None:
    told = documented(*BASED, "late-fusion")
    del told["base"]
    assert told == dict(recipe_keys(LateFusionRecipe)) | {"system": "required"}


def test_the_recipes_page_has_every_key_of_harmonifuse() -> None:
    told = {k: v for k, v in documented(*BASED, "harmonifuse").items() if not k.startswith("head.")}
    assert told == dict(recipe_keys(HarmoniFuseRecipe)) | {"system": "required"}


@pytest.mark.parametrize(("model", "heading"), [(StatisticsRecipe, "statistics"), (TextRecipe, "text")])
def test_the_recipes_page_has_every_key_of_a_yardstick(model: type[BaseModel], heading: str) -> None:
    shared = dict(recipe_keys(Recipe))
    own = {k: v for k, v in recipe_keys(model) if k not in shared and k != "system"}
    assert documented(heading) == own


def test_the_recipes_page_has_every_key_of_a_table() -> None:
    assert documented("Tables") == dict(recipe_keys(Table))


def test_the_recipes_page_has_every_option_of_synth() -> None:
    assert all(field.default is not MISSING for field in fields(SynthesisOptions))
    defaults = {field.name: field.default for field in fields(SynthesisOptions)}
    told = documented("Options of synth")
    assert told == {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}


def test_the_recipes_page_names_every_packaged_recipe() -> None:
    assert all(f"`{name}`" in RECIPES_PAGE for name in packaged())


def test_the_table_on_the_recipes_page_is_one(tmp_path: Path) -> None:
    from voxstrata.experiments.tables.recipes import order

    (text,) = blocks(RECIPES_PAGE, "yaml")
    (tmp_path / "table.yaml").write_text(text)
    table = read_table(tmp_path / "table.yaml")
    assert set(order(table, table.scale("small"))) == {"asr", "ser", "dual"}


def test_the_table_of_clips_in_the_readme_can_be_read(tmp_path: Path) -> None:
    from voxstrata.corpora.own_table import read

    (text,) = blocks(README, "csv")
    (tmp_path / "calls.csv").write_text(text)
    clips = read(tmp_path / "calls.csv")
    assert [clip.split for clip in clips] == ["train", "train", "dev", "test"]
    assert clips[0].votes == {"anger": 3, "neutral": 1} and clips[0].text == "leave me alone"
    columns = {
        name for row in rows(section(README, "Your own data")) for name in re.findall(r"`(\w+)", row[0])
    }
    assert columns == {"path", "id", "speaker", "split", "emotion", "label", "votes", "text", "transcript"}


def test_the_predictions_in_the_readme_can_be_scored(tmp_path: Path) -> None:
    from voxstrata.evaluation.score import score
    from voxstrata.predictions import Prediction, read_predictions

    (text,) = blocks(README, "json")
    (tmp_path / "theirs.jsonl").write_text(text)
    scores = score(read_predictions(tmp_path / "theirs.jsonl"), resamples=10).as_dict()
    assert scores["emotion"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert scores["transcript"]["wer"]["value"] == pytest.approx(1 / 3)
    told = {
        name
        for row in rows(section(README, "Scoring other systems"))
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert told == {field.name for field in fields(Prediction)}


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, fragment = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), f"{page.name} links to {target}"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{page.name} links to {target}"


def rooms() -> set[str]:
    """Modules and folders of modules at the top of the package."""
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    return modules | {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}


def test_the_tree_of_methods_names_what_exists() -> None:
    (tree,) = blocks(
        section((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), "Methods: a paper is a folder"),
        "text",
    )
    named, places = set(), {0: PACKAGE / "methods"}
    for line in tree.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 4
        for name in re.split(r",\s*", re.split(r"\s{2,}", line.strip())[0]):
            place = places[depth - 1] / name
            assert place.exists() or place.with_suffix(".py").exists(), name
            places[depth] = place
            named.add(name.removesuffix(".py").removesuffix("/"))
    folders = {path.parent.name for path in (PACKAGE / "methods").glob("*/__init__.py")}
    assert folders <= named


def imported_rooms(path: Path) -> set[str]:
    modules = [node.module for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
               if isinstance(node, ast.ImportFrom) and node.module]  # fmt: skip
    return {module.split(".")[1] for module in modules if module.startswith("voxstrata.")}


def test_imports_go_one_way_in_the_order_of_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"one way:\*\* (.*?)\. ", text, re.DOTALL)
    order = re.split(r"[,<\s]+", stated)
    assert sorted(order) == sorted({room.removesuffix("/").removesuffix(".py") for room in rooms()})
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in order:
            allowed = set(order[: order.index(room) + 1])
            assert imported_rooms(path) <= allowed, f"{path} imports {imported_rooms(path) - allowed}"


def test_targets_of_make_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    named = {target for text in texts for target in re.findall(r"^make ([\w-]+)|`make ([\w-]+)", text, re.M)}
    for target in {first or second for first, second in named}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    extras: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = {row[0].strip("`") for row in rows(section(README, "Installing"))}
    assert told == set(extras["optional-dependencies"])


def test_citation_and_changelog_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    assert all({"type", "title", "authors"} <= set(reference) for reference in citation["references"])
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
