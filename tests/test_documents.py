"""The documents say what is so: lines run, commands parse, keys are the program's, links resolve."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from voxstrata import __version__
from voxstrata.cli.main import app
from voxstrata.experiments.tables.table import read_table_spec
from voxstrata.recipes.reading import read_recipe

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "voxstrata"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: Pages of the first version's results, and of changes: records, in the words of their day.
RECORDS = {"results-wavlm-tiny.md", "CHANGELOG.md"}
#: Words that the field does not use, and what it says.
PRIVATE = {"yardstick": "baseline", "told": "stated", "seam": "interface", "heard": "seen in training"}
COLUMNS = ("path", "id", "speaker", "split", "emotion", "start", "end", "offset", "duration", "fold")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


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
    save_model(model, tmp_path / "runs" / "joint" / "model")
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
        read_table_spec(given["table"]).scale(given["scale"])


def test_there_are_command_lines_to_check() -> None:
    assert len(command_lines()) > 15


def test_the_table_on_the_page_of_tables_is_one(tmp_path: Path) -> None:
    from voxstrata.experiments.tables.planned_runs import order

    (text,) = blocks(page("experiment-tables"), "yaml")
    (tmp_path / "table.yaml").write_text(text)
    table = read_table_spec(tmp_path / "table.yaml")
    assert set(order(table, table.scale("small"))) == {"asr", "ser", "dual"}


def test_the_table_of_clips_on_the_page_of_own_data_can_be_read(tmp_path: Path) -> None:
    from voxstrata.corpora.own_table import read

    (text,) = blocks(page("own-data"), "csv")
    (tmp_path / "calls.csv").write_text(text)
    clips = read(tmp_path / "calls.csv")
    assert [clip.split for clip in clips] == ["train", "train", "dev", "test"]
    assert clips[0].votes == {"anger": 3, "neutral": 1} and clips[0].text == "leave me alone"
    columns = {
        name for row in rows(section(page("own-data"), "The table")) for name in re.findall(r"`(\w+)", row[0])
    }
    assert columns == {*COLUMNS, "label", "votes", "text", "transcript"}


def test_the_predictions_on_the_page_of_scoring_can_be_scored(tmp_path: Path) -> None:
    from voxstrata.evaluation.score import score
    from voxstrata.predictions import Prediction, read_predictions

    (text,) = blocks(page("scoring"), "json")
    (tmp_path / "theirs.jsonl").write_text(text)
    scores = score(read_predictions(tmp_path / "theirs.jsonl"), resamples=10).as_dict()
    assert scores["emotion"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert scores["transcript"]["wer"]["value"] == pytest.approx(1 / 3)
    told = {name for row in rows(page("scoring")) for name in re.findall(r"`(\w+)`", row[0])}
    assert told == {field.name for field in fields(Prediction)}


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_users_read_the_words_of_the_field(path: Path) -> None:
    words = set(re.findall(r"[a-z]+", path.read_text(encoding="utf-8").lower()))
    found = {word: PRIVATE[word] for word in words & set(PRIVATE) if path.name not in RECORDS}
    assert not found, f"{path.name}: write {found}"


def test_the_pasted_output_of_the_demo_has_its_rows() -> None:
    table = read_table_spec("adaltm")
    found = [block for block in blocks(page("start"), "text") if table.title in block]
    assert len(found) == 1 and "<!-- output of make demo -->" in page("start")
    for row in table.shown(table.scale("demo")):
        assert re.search(rf"^  {re.escape(row.title)}  .*\d", found[0], re.MULTILINE), row.title


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.split()) <= 900


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
    told = {row[0].strip("`") for row in rows(section(page("start"), "Install"))}
    assert told == set(extras["optional-dependencies"])


def test_citation_and_changelog_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    assert all({"type", "title", "authors"} <= set(reference) for reference in citation["references"])
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
