"""The pages of results say what the archived answers give, and their sentences what their tables say."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import result_pages  # noqa: E402

BLOCK = re.compile(r"<!-- begin ([\w-]+) -->\n(.*?)<!-- end \1 -->\n", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.,])[+-]?\d+\.\d+(?!\w)")
#: Numbers of sentences that are no results: chance of eight classes, parameters of wavlm-tiny in millions.
GIVEN = {"12.5", "1.6"}
RESULTS = (DOCS / "results.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Headings of the second level -> what stands below each."""
    return dict(re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))


def linked(text: str) -> str:
    """The pages of full tables that a text links to."""
    names = re.findall(r"\]\((results/[\w-]+\.md)", text)
    return "".join((DOCS / name).read_text(encoding="utf-8") for name in names)


def unfounded(text: str, tables: str) -> set[str]:
    """Numbers of the sentences of a text that none of its tables has."""
    sentences = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", BLOCK.sub("", text))
    return set(NUMBER.findall(sentences)) - set(NUMBER.findall(tables)) - GIVEN


@pytest.mark.parametrize("question", [name for name in sections(RESULTS) if name.endswith("?")])
def test_the_numbers_of_an_answer_stand_in_its_tables(question: str) -> None:
    text = sections(RESULTS)[question]
    blocks = "".join(block for _, block in BLOCK.findall(text))
    assert not unfounded(text, blocks + linked(text))
    if blocks:
        assert (
            text.count("**Found.**")
            == text.count("**It means**")
            == text.count("**The data cannot tell**")
            == 1
        )
        assert "| " in blocks and "](figures/" in blocks


def test_a_number_that_no_table_has_is_found() -> None:
    block = "<!-- begin x -->\n| row | 12.3 [-1.0, 2.0] |\n<!-- end x -->\n"
    text = f"UAR 12.3 [-1.0, 2.0], +12.3 and 4.5, of `model-1.7`, see [here](page-1.8.md).\n{block}"
    assert unfounded(text, block) == {"+12.3", "4.5"}


def test_the_readme_states_the_rows_of_the_page() -> None:
    ((_, block),) = BLOCK.findall(README)
    rows = [line for line in block.splitlines() if line.startswith("| ") and "UAR" not in line]
    page = dict(BLOCK.findall(RESULTS))["words-against-emotions"]
    of_page = {
        cells[1]: cells
        for cells in (re.split(r"\s*\|\s*", line) for line in page.splitlines())
        if len(cells) > 5
    }
    assert len(rows) > 4
    for line in rows:
        _, name, emotions, words, _ = re.split(r"\s*\|\s*", line)
        assert (emotions, words) == (of_page[name][2], of_page[name][4])
    assert not unfounded(sections(README)["Results"], block)


def parts(drawing: str) -> tuple[list[str], list[float]]:
    """A drawing's text and its numbers."""
    number = r"-?\d+(?:\.\d+)?"
    return re.split(number, drawing), [float(found) for found in re.findall(number, drawing)]


@pytest.mark.slow
def test_tables_and_figures_are_what_the_archives_give() -> None:
    pinned = re.search(r"^matplotlib==(\S+)", (ROOT / "constraints" / "tested.txt").read_text(), re.MULTILINE)
    assert pinned
    pages = result_pages.pages()
    assert {path.name for path in pages} >= {"results.md", "README.md", "adaltm-real.md", "layers.svg"}
    for path, text in pages.items():
        written = path.read_text(encoding="utf-8")
        if path.suffix != ".svg":
            assert written == text, f"{path.name} is not what docs/answers give: make results"
        elif version("matplotlib") == pinned[1]:
            (words, numbers), (others, found) = parts(written), parts(text)
            assert words == others and found == pytest.approx(numbers, abs=0.02), path.name
