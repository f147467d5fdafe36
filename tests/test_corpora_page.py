"""The page on corpora says what the readers say."""

import re
from pathlib import Path

import pytest

from voxstrata.corpora.label_maps import LABEL_MAPS
from voxstrata.corpora.readers import READERS

PAGE = (Path(__file__).parent.parent / "docs" / "corpora.md").read_text(encoding="utf-8")
SECTIONS = {
    match[1]: text
    for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)
    if (match := re.search(r"^Name: `([\w-]+)`", text, re.MULTILINE))
}


@pytest.mark.parametrize("name", sorted(set(READERS) - {"synthetic"}))
def test_every_corpus_has_its_options_and_values_on_the_page(name: str) -> None:
    _, _, options = SECTIONS[name].partition("| Option | Values |")
    told = {
        cells[1].strip(" `"): tuple(re.findall(r"`([\w-]+)`", cells[2]))
        for line in options.splitlines()
        if line.startswith("| `") and (cells := line.split("|"))
    }
    assert told == {option.name: option.values for option in READERS[name].options}


@pytest.mark.parametrize("name", sorted(set(READERS) - {"synthetic", "table", "tess", "ravdess"}))
def test_every_emotion_of_a_corpus_is_on_the_page(name: str) -> None:
    assert all(label in SECTIONS[name] for label in READERS[name].labels)


def test_every_map_is_on_the_page() -> None:
    told = re.findall(r"^\| `([\w-]+)` \|", PAGE.partition("## Label maps")[2], re.MULTILINE)
    assert told == sorted(LABEL_MAPS)
