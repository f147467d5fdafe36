"""Reports of run folders and tables."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

from voxstrata.cli.report import register
from voxstrata.errors import VoxstrataError
from voxstrata.evaluation.score import score as score_predictions
from voxstrata.predictions import Prediction, write_predictions
from voxstrata.reporting import write_report, write_table_report
from voxstrata.reporting.answer_tables import confident_mistakes, transcript_sample
from voxstrata.runs import RunFolder, write_json

HOSTILE = "</text><script>alert('x')</script>\"><img src=http://evil>&$x^2$\u202e"
LABELS = ("anger", "neutral", HOSTILE)
CONFUSION = [[7, 2, 1], [3, 4, 0], [0, 0, 0]]
COEFFICIENTS = [[0.5123456789, 0.4], [0.61, 0.3333333333333333], [0.47, 0.58]]


def score(value: float) -> dict:
    return {"value": value, "iid": [value - 0.0512, value + 0.0523], "speaker": [value - 0.1, value + 0.1]}


def emotion_scores() -> dict:
    return {
        "labels": LABELS,
        "uar": score(0.6357),
        "precision": score(0.51),
        "recall": {"anger": 0.7, "neutral": 4 / 7, HOSTILE: None},
        "support": {"anger": 10, "neutral": 7, HOSTILE: 0},
        "confusion": CONFUSION,
    }


def run_folder(path: Path) -> RunFolder:
    run = RunFolder(path)
    run.path.mkdir(parents=True)
    run.recipe.write_text("system: adaltm\nnote: <b>bold</b>\n", encoding="utf-8")
    write_json(run.provenance, {"commit": "623cc07", "seed": 3, "versions": {"torch": "2.13.0"}})
    return run


def journal(run: RunFolder, steps: int) -> None:
    rates = {"head": 1e-3, "coefficients": 1e-2}
    for step in range(1, steps + 1):
        run.append({"kind": "step", "step": step, "epoch": 0, "loss": 3 / step, "lr": rates})
    for step, loss, best in [(steps, 0.8125, True), (steps + 1, 0.9, False)]:
        run.append({"kind": "validation", "step": step, "loss": loss, "best": best, **summary(loss)})


def model(run: RunFolder, vectors: list[str], coefficients: list[list[float]], **more: object) -> None:
    learned = {"vectors": vectors, "coefficients": coefficients, **more}
    write_json(run.model / "coefficients.json", learned)


def summary(value: float) -> dict:
    layers = {f"coefficient/a/b/{layer}": value + layer / 100 for layer in range(11)}
    return layers | {f"layer_weight/{layer}": 0.1 for layer in range(1, 11)}


@pytest.fixture
def full(tmp_path: Path) -> RunFolder:
    run = run_folder(tmp_path / "dual-0")
    journal(run, 30)
    model(run, ["asr", HOSTILE], COEFFICIENTS, layer_weights=[0.75, 0.25])
    write_json(run.metrics, {"test": {"clips": 17, "speakers": 4, "emotion": emotion_scores()}})
    write_predictions(
        run.predictions("test"),
        [
            Prediction("calm", emotion="neutral", reference_emotion="neutral"),
            Prediction(HOSTILE, emotion="anger", reference_emotion=HOSTILE, probabilities={"anger": 0.8765}),
            Prediction("said", transcript=HOSTILE, reference_transcript="go on"),
            Prediction("broken", error=f"cannot be decoded {HOSTILE}"),
        ],
    )
    run.complete.touch()
    return run


def rows(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Elements(HTMLParser):
    """Every start tag of a page, and its words."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def assert_offline_and_safe(page: Path) -> None:
    elements = Elements(page)
    assert not {"script", "img", "link", "iframe", "b"} & {tag for tag, _ in elements.tags}
    for tag, attributes in elements.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", page.read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_holds_the_numbers_of_the_run(full: RunFolder) -> None:
    page = write_report(full)
    assert page == full.report
    text = Elements(page).text
    for expected in ("63.6", "[58.5, 68.8]", "[53.6, 73.6]", "chance 50.0", "17 clips, 4 speakers", "87.6 %"):
        assert expected in text, expected
    assert "623cc07" in text and "2.13.0" in text
    assert "best validation loss 0.8125 at step 30" in text
    assert "asr: mean 0.531, from 0.470 (layer 2) to 0.610 (layer 1)" in text
    assert "Unfinished" not in text


def test_page_opens_offline_and_escapes_what_is_not_ours(full: RunFolder) -> None:
    page = write_report(full)
    assert_offline_and_safe(page)
    text = Elements(page).text
    assert HOSTILE in text
    assert "<b>bold</b>" in text


def test_every_figure_has_a_description_and_every_header_a_scope(full: RunFolder) -> None:
    tags = Elements(write_report(full)).tags
    figures = [attributes for _, attributes in tags if attributes.get("role") == "img"]
    assert len(figures) == sum(tag == "svg" for tag, _ in tags) == 6
    assert all(len(figure["aria-label"]) > 20 for figure in figures)
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")


def test_two_reports_of_a_run_are_the_same_bytes(full: RunFolder) -> None:
    def files() -> dict[str, bytes]:
        write_report(full)
        return {p.name: p.read_bytes() for p in [full.report, *full.figures.iterdir()]}

    first = files()
    full.report.unlink()
    assert first == files()


def test_figures_are_xml_and_leave_matplotlib_as_it_was(full: RunFolder) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(full)
    assert dict(matplotlib.rcParams) == before
    figures = sorted(full.figures.glob("*.svg"))
    assert [f.with_suffix(".csv").is_file() for f in figures] == [True] * 6
    for figure in figures:
        ElementTree.parse(figure)


def test_csv_numbers_equal_the_source(full: RunFolder) -> None:
    write_report(full)
    found = rows(full.figures / "coefficients.csv")
    assert [[float(row["asr"]), float(row[HOSTILE])] for row in found] == COEFFICIENTS
    assert [float(row["weight"]) for row in rows(full.figures / "layer-weights.csv")] == [0.75, 0.25]
    counts = [int(row["count"]) for row in rows(full.figures / "confusion-test.csv")]
    assert counts == [n for row in CONFUSION for n in row]
    recall = [(row["class"], row["recall"], row["support"]) for row in rows(full.figures / "recall-test.csv")]
    assert recall == [("anger", "0.7", "10"), ("neutral", str(4 / 7), "7"), (HOSTILE, "", "0")]
    losses = [float(row["loss"]) for row in rows(full.figures / "loss.csv") if row["series"] == "train"]
    assert losses == [row["loss"] for row in full.journal_rows("step")]


def test_unfinished_run_is_reported_as_such_with_its_best_coefficients_so_far(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "half")
    journal(run, 12)
    text = Elements(write_report(run)).text
    assert "Unfinished." in text and "13 steps" in text
    assert "at the validation of step 12" in text
    found = [float(row["a/b"]) for row in rows(run.figures / "coefficients.csv")]
    assert found == [0.8125 + layer / 100 for layer in range(11)]


def test_run_whose_report_is_its_last_act_is_not_called_unfinished(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "last")
    assert "Unfinished." in Elements(write_report(run)).text
    write_json(run.provenance, {"commit": None, "finished": "2026-01-01 00:00:00"})
    assert "Unfinished." not in Elements(write_report(run)).text


def test_scores_of_the_evaluation_are_read_as_it_writes_them(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "scored")
    words = {"transcript": "go off", "reference_transcript": "go on"}
    answers = [("anger", "anger"), ("neutral", "anger"), ("fear", "neutral"), ("neutral", "neutral")]
    clips = [
        Prediction(f"{i}{e}{ref}", speaker=f"s{i % 4}", emotion=e, reference_emotion=ref, **words)
        for i in range(12)
        for e, ref in answers
    ]
    write_predictions(run.predictions("test"), [*clips, Prediction("lost", error="empty")])
    scores = score_predictions(clips, resamples=50).as_dict()
    write_json(run.metrics, {"test": {**scores, "unanswered": 1, "warnings": ["few <speakers>"]}})
    text = Elements(write_report(run)).text
    assert f"{100 * scores['emotion']['uar']['value']:.1f} %" in text and "chance 50.0" in text
    assert "WER 50.0 %" in text and "Few <speakers>." in text and "1 clips with a reference" in text
    counts = [int(row["count"]) for row in rows(run.figures / "confusion-test.csv")]
    assert counts == [n for row in scores["emotion"]["confusion"] for n in row]


def test_start_of_the_coefficients_is_the_recipes(full: RunFolder) -> None:
    full.recipe.write_text("system: adaltm\ninit: {asr: 0.125}\n", encoding="utf-8")
    write_report(full)
    drawn = (full.figures / "coefficients.svg").read_text(encoding="utf-8")
    assert "init 0.125" in drawn and "init 0.5" in drawn


def test_run_with_nothing_but_recipe_and_provenance(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "bare")
    page = write_report(run)
    assert_offline_and_safe(page)
    assert not run.figures.exists()
    assert not {"figure", "svg"} & {tag for tag, _ in Elements(page).tags}


def test_asr_run_has_error_rates_and_no_emotion_figures(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "asr")
    transcript = {"normalizer": "basic", "wer": {**score(1.234), "speaker": None}, "words": 99}
    write_json(run.metrics, {"test": {"clips": 9, "speakers": 1, "transcript": transcript}})
    clip = Prediction("a", transcript="go off", reference_transcript="Go, on")
    write_predictions(run.predictions("test"), [clip])
    page = Elements(write_report(run))
    assert "123.4" in page.text and "UAR" not in page.text and "basic" in page.text
    assert sum(tag == "mark" for tag, _ in page.tags) == 3  # "on", "off", and the word that explains marks


@pytest.mark.parametrize("granularity", ["global", "static"])
def test_one_coefficient_for_all_layers_is_a_number_not_a_curve(tmp_path: Path, granularity: str) -> None:
    run = run_folder(tmp_path / "flat")
    model(run, ["a", "b"], [[0.43771, 0.5622]] * 3, granularity=granularity, layer_weights=[0.5, 0.5])
    text = Elements(write_report(run)).text
    assert text.count("0.438") == text.count("0.562") == 1
    assert [p.name for p in sorted(run.figures.glob("*.svg"))] == ["layer-weights.svg"]


def test_step_repeated_after_a_resume_counts_once(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "resumed")
    for step, loss in [(1, 3.0), (2, 2.0), (2, 1.5), (3, 1.0)]:
        run.append({"kind": "step", "step": step, "loss": loss})
    write_report(run)
    found = [(row["step"], row["loss"]) for row in rows(run.figures / "loss.csv")]
    assert found == [("1", "3.0"), ("2", "1.5"), ("3", "1.0")]


def test_curve_of_a_long_run_stays_light_and_its_csv_whole(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "long")
    lines = [json.dumps({"kind": "step", "step": step, "loss": 1 + step % 7}) for step in range(20_000)]
    run.journal.write_text("\n".join(lines), encoding="utf-8")
    page = write_report(run)
    assert page.stat().st_size < 150_000
    assert len(rows(run.figures / "loss.csv")) == 20_000


def test_loss_that_is_not_finite_is_still_reported(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "nan")
    for step, loss in enumerate([2.0, float("nan"), float("inf"), 1.0]):
        run.append({"kind": "step", "step": step, "loss": loss, "lr": {"head": 0.0}})
    assert_offline_and_safe(write_report(run))
    assert [row["loss"] for row in rows(run.figures / "loss.csv")] == ["2.0", "nan", "inf", "1.0"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("metrics.json", "{", "is not JSON"),
        ("metrics.json", '{"test": {"emotion": {"labels": ["a", "b"], "confusion": [[1, 2]]}}}', "2 x 2"),
        ("metrics.json", '{"test": {"emotion": {"labels": ["a", "b"], "uar": {}}}}', "uar.value"),
        ("journal.jsonl", '{"kind": "step", "step": 1}', "a step row has loss null"),
        ("model/coefficients.json", '{"vectors": ["a"], "coefficients": [[1, 2]]}', "layer 0 has 2"),
        ("provenance.json", "[]", "must hold a JSON object"),
    ],
)
def test_file_that_does_not_fit_is_named(tmp_path: Path, name: str, content: str, expected: str) -> None:
    run = run_folder(tmp_path / "bad")
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_text(content, encoding="utf-8")
    with pytest.raises(VoxstrataError, match=re.escape(expected)) as fault:
        write_report(run)
    assert name.split("/")[-1] in str(fault.value) and "\n" not in str(fault.value)
    assert not run.report.exists()


def test_mistakes_are_ordered_by_probability_then_id() -> None:
    def wrong(id: str, p: float | None) -> Prediction:
        probabilities = None if p is None else {"x": p}
        return Prediction(id, emotion="x", reference_emotion="y", probabilities=probabilities)

    found = confident_mistakes([wrong("c", 0.5), wrong("n", None), wrong("b", 0.9), wrong("a", 0.5)], most=3)
    assert [m.id for m in found] == ["b", "a", "c"]


def test_transcripts_are_spread_over_the_clips_and_marked_word_by_word() -> None:
    clips = [Prediction(f"{i:03d}", transcript="b c", reference_transcript="a b c") for i in range(95)]
    sample = transcript_sample(clips, most=10)
    assert [pair.id for pair in sample] == [f"{i:03d}" for i in range(0, 95, 10)]
    assert [word.differs for word in sample[0].reference] == [True, False, False]
    assert [word.differs for word in sample[0].transcript] == [False, False]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name, shift in [("d0", 0.0), ("d1", 0.1)]:
        model(RunFolder(tmp_path / name), ["asr", "ser"], [[a + shift, b] for a, b in COEFFICIENTS])
    found = score(0.41) | {"by_seed": [0.402, 0.418]}
    dual = {"runs": ["../d0", "../d1"], "seeds": 2, "metrics": {"uar": found}, "paper": {"uar": 38.94}}
    content = {
        "table": "adaltm",
        "scale": "demo",
        "note": "plumbing, not evidence",
        "columns": ["uar", "wer"],
        "rows": [
            {"name": "dual", "title": "dual vector", **dual},
            {"name": "again", "title": "in-domain", **dual},
            {"name": "expert", "title": HOSTILE, "runs": [], "metrics": {"uar": score(0.3)}, "paper": None},
        ],
    }
    write_json(tmp_path / "table/table.json", content)
    return tmp_path / "table"


def test_table_page_sets_the_papers_numbers_beside_ours(table: Path) -> None:
    page = write_table_report(table)
    assert_offline_and_safe(page)
    elements = Elements(page)
    ours = ("41.0", "[35.9, 46.2] by clip", "[31.0, 51.0] by speaker", "40.2, 41.8")
    for expected in ("plumbing, not evidence", *ours, "38.94", HOSTILE):
        assert expected in elements.text, expected
    found = rows(table / "figures/forest-uar.csv")
    numbers = [(row["value"], row["paper_percent"]) for row in found]
    assert numbers == [("0.41", "38.94"), ("0.41", "38.94"), ("0.3", "")]
    assert not (table / "figures/forest-wer.csv").exists()


def test_overlay_is_the_mean_over_seeds_and_counts_the_same_runs_once(table: Path) -> None:
    write_table_report(table)
    found = rows(table / "figures/coefficients.csv")
    assert {row["row"] for row in found} == {"dual vector"}
    asr = [row for row in found if row["vector"] == "asr"]
    assert [float(row["mean"]) for row in asr] == pytest.approx([a + 0.05 for a, _ in COEFFICIENTS])
    assert [float(row["high"]) - float(row["low"]) for row in asr] == pytest.approx([0.1] * 3)


def test_runs_of_a_row_that_do_not_fit_together_are_refused(table: Path) -> None:
    model(RunFolder(table.parent / "d1"), ["asr"], [[0.5], [0.5]])
    with pytest.raises(VoxstrataError, match="'dual' differ"):
        write_table_report(table)


def test_papers_numbers_that_are_no_percent_are_refused(table: Path) -> None:
    file = table / "table.json"
    file.write_text(file.read_text(encoding="utf-8").replace("38.94", "0.3894"), encoding="utf-8")
    with pytest.raises(VoxstrataError, match="in percent"):
        write_table_report(table)


def test_command_prints_the_page_or_refuses(full: RunFolder, table: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    for folder in (full.path, table):
        result = CliRunner().invoke(app, ["report", str(folder)])
        assert result.exit_code == 0 and result.output.strip() == str(folder / "report.html")
    fault = CliRunner().invoke(app, ["report", str(tmp_path / "nothing")]).exception
    assert isinstance(fault, VoxstrataError)
    assert "neither a run folder" in str(fault) and "\n" not in str(fault)
