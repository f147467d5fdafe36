"""Reports of runs with several tasks: whose clips a number is of, what a page is called, how figures lie."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.cli.outcome import outcome
from voxstrata.evaluation.score import score
from voxstrata.predictions import Prediction, write_predictions
from voxstrata.reporting import write_report
from voxstrata.reporting.drawing import Drawing, laid_out
from voxstrata.reporting.figures import confusion_figure, recall_figure
from voxstrata.reporting.scores import EmotionScores
from voxstrata.runs import RunFolder, write_json

NAMES = ("anger", "fear")


def mixed() -> list[Prediction]:
    """Six clips of two speakers tell emotions, nine of three others words, and these a gender."""
    feelings = [
        Prediction(f"f{i}", speaker=f"a{i % 2}", emotion=NAMES[i % 2], reference_emotion=NAMES[i // 3])
        for i in range(6)
    ]
    words = [
        Prediction(
            f"w{i}",
            speaker=f"b{i % 3}",
            transcript="go on",
            reference_transcript="go on now",
            classes={"gender": {"female": 0.75, "male": 0.25}},
            reference_classes={"gender": "female" if i % 3 else "male"},
        )
        for i in range(9)
    ]
    return [*feelings, *words]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path / "both-0")
    found.path.mkdir()
    corpora = {"ser": "runs/corpora/acted-202aa1efae", "asr": "my/read"}
    tasks = {task: {"corpora": [{"path": path}]} for task, path in corpora.items()}
    found.recipe.write_text(
        yaml.safe_dump({"system": "adaltm", "data": {"corpora": []}, "tasks": tasks}, sort_keys=False)
    )
    write_json(found.provenance, {"seed": 3})
    write_json(found.metrics, {"test": score(mixed(), resamples=20).as_dict()})
    write_predictions(found.predictions("test"), mixed())
    found.complete.touch()
    return found


class Text(HTMLParser):
    """The words of a page, and the classes of its figures."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.figures: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "figure":
            self.figures.append(dict(attrs).get("class", ""))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_each_task_tells_its_own_clips_and_speakers_everywhere(run: RunFolder) -> None:
    found = score(mixed(), resamples=20).as_dict()
    assert (found["clips"], found["speakers"]) == (15, 5)
    parts = [found["emotion"], found["transcript"], found["classes"]["gender"]]
    assert [(part["clips"], part["speakers"]) for part in parts] == [(6, 2), (9, 3), (9, 3)]
    text = Text(write_report(run)).text
    assert "Results on test 15 clips, 5 speakers in all" in text
    assert "Emotions 6 clips, 2 speakers UAR" in text
    assert "Words 9 clips, 3 speakers WER" in text and "Gender 9 clips, 3 speakers UAR gender" in text
    (line,) = (line for line in outcome(run) if line.startswith("test:"))
    assert re.search(r"UAR \S+ \[[^]]*\] \(6 clips, 2 speakers\)   WER 33.3 .* \(9 clips, 3 speakers\)", line)
    told = CliRunner().invoke(app, ["evaluate", str(run.path), "--resamples", "20"]).stdout
    for expected in ("15 clips, 5 speakers", "emotion: 6 clips, 2 speakers", "gender: 9 clips, 3 speakers"):
        assert expected in told


def test_tasks_of_the_same_clips_are_counted_once(run: RunFolder) -> None:
    both = [replace(p, emotion="fear", reference_emotion="fear", classes=None) for p in mixed()[6:]]
    write_json(run.metrics, {"test": score(both, resamples=20).as_dict()})
    write_predictions(run.predictions("test"), both)
    (line,) = (line for line in outcome(run) if line.startswith("test:"))
    assert line.count("clips") == 1 and line.endswith("(9 clips, 3 speakers)")
    told = CliRunner().invoke(app, ["evaluate", str(run.path), "--resamples", "20"]).stdout
    assert told.count("9 clips, 3 speakers") == 1


def test_counts_that_add_up_by_chance_to_one_number_are_told_apart(run: RunFolder) -> None:
    """Six clips of two speakers for either task, and none for both."""
    apart = [*mixed()[:6], *(replace(p, classes=None) for p in mixed()[6:] if p.speaker != "b2")]
    write_predictions(run.predictions("test"), apart)
    told = CliRunner().invoke(app, ["evaluate", str(run.path), "--resamples", "20"]).stdout
    assert "12 clips, 4 speakers" in told and told.count("6 clips, 2 speakers") == 2


def test_scores_that_do_not_tell_the_clips_of_a_task_are_counted_from_the_answers(run: RunFolder) -> None:
    old = score(mixed(), resamples=20).as_dict()
    for part in (old["emotion"], old["transcript"], old["classes"]["gender"]):
        del part["clips"], part["speakers"]
    write_json(run.metrics, {"test": old})
    text = Text(write_report(run)).text
    assert "Emotions 6 clips, 2 speakers" in text and "Words 9 clips, 3 speakers" in text


def test_a_page_is_called_by_what_it_is(run: RunFolder) -> None:
    page = write_report(run)
    title = "AdaLTM, emotions and words: acted and read"
    html = page.read_text(encoding="utf-8")
    assert f"<title>{title} – both-0 – voxstrata report</title>" in html
    assert f"<h1><bdi>{title}</bdi></h1>" in html and "folder both-0" in Text(page).text
    for recipe, expected in (
        (
            {"system": "finetune", "task": "asr", "data": {"corpora": [{"path": "a/read"}]}},
            "Fine-tuning, words: read",
        ),
        ({"system": "late-fusion"}, "Late fusion, emotions, words and gender"),
        ({"system": "<b>", "tasks": 3, "data": []}, "&lt;b&gt;, emotions, words and gender"),
        ({"tasks": {}}, "emotions, words and gender"),
    ):
        run.recipe.write_text(yaml.safe_dump(recipe))
        assert f"<title>{expected} – both-0" in write_report(run).read_text(encoding="utf-8")


def test_intervals_are_named_as_in_the_terminal(run: RunFolder) -> None:
    text = Text(write_report(run)).text
    assert "95 % by clip [" in text and "95 % by speaker [" in text
    assert "i.i.d" not in text and "spk" not in text


def drawing(wide: bool) -> Drawing:
    return Drawing("n", "t", "a", "c", "<svg></svg>", ("x",), (), wide=wide)


@pytest.mark.parametrize("layout", ["n", "nn", "nnn", "nwn", "nnw", "wnnnw", "nnnn", "w", "nwnnwn", ""])
def test_no_figure_stands_beside_a_hole(layout: str) -> None:
    """Places fill rows of two, as a browser fills the grid: in order, each where there is room."""
    row = 0
    for place in (place for _, place in laid_out([drawing(one == "w") for one in layout])):
        width = 1 if place == "" else 2
        assert row + width <= 2, "what does not fit begins a new row, and leaves a hole"
        row = (row + width) % 2
    assert row == 0


def test_a_third_figure_has_a_row_to_itself(run: RunFolder) -> None:
    layers = {"vectors": ["asr"], "coefficients": [[0.5], [0.4]], "layer_weights": [0.75, 0.25]}
    write_json(run.model / "coefficients.json", layers)
    for step in (1, 2):
        run.append({"kind": "step", "step": step, "epoch": 0, "loss": 1 / step, "lr": {}})
    figures = Text(write_report(run)).figures
    assert figures == ["", "", "", "", "", "", "alone"]


def texts(svg: str) -> list[tuple[str, float, float, float]]:
    """What is written in a figure: text, left and right end, and height, in points, in matplotlib's font."""
    found = []
    for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        style, text = element.attrib["style"], element.text or ""
        size = float(re.search(r"font-size: ([\d.]+)px", style).group(1))
        width = (
            TextPath((0, 0), text, prop=FontProperties(family="DejaVu Sans", size=size)).get_extents().width
        )
        x, y = float(element.attrib.get("x", "nan")), float(element.attrib.get("y", "nan"))
        left = (
            x
            - width * {"start": 0, "middle": 0.5, "end": 1}[re.search(r"text-anchor: (\w+)", style).group(1)]
        )
        found.append((text, left, left + width, y))
    return found


@pytest.mark.parametrize("clips", [16, 46_366])
def test_recall_of_100_does_not_run_into_the_number_of_clips(clips: int) -> None:
    names = ("anger", "a name that is longer than most")
    svg = recall_figure(
        "test",
        EmotionScores(labels=names, recall=dict.fromkeys(names, 1.0), support=dict.fromkeys(names, clips)),
    ).svg
    drawn = texts(svg)
    numbers = [one for one in drawn if one[0] == "100.0"]
    counts = [one for one in drawn if one[0] == f"n = {clips}"]
    assert len(numbers) == len(counts) == 2
    for number, count in zip(numbers, counts, strict=True):
        assert number[3] == pytest.approx(count[3], abs=1) and number[2] + 2 < count[1]
    page = float(re.search(r'viewBox="0 0 ([\d.]+)', svg).group(1))
    assert max(right for _, _, right, _ in counts) <= page


@pytest.mark.parametrize("size", [2, 8, 10, 11, 16, 40])
def test_numbers_fit_the_cells_of_a_confusion_matrix(size: int) -> None:
    names = tuple(f"class {index}" for index in range(size))
    counts = tuple(tuple(9999 if x == y else 0 for x in range(size)) for y in range(size))
    figure = confusion_figure("test", EmotionScores(labels=names, confusion=counts))
    rows: dict[float, list[tuple[float, float]]] = {}
    for text, left, right, y in texts(figure.svg):
        if text in ("100", "0", "9999"):
            rows.setdefault(y, []).append((left, right))
    assert len(rows) == 2 * size
    for row in rows.values():
        middles = sorted((left + right) / 2 for left, right in row)
        cell = min(b - a for a, b in itertools.pairwise(middles))
        assert max(right - left for left, right in row) < cell
