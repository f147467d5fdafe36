"""Tables over several folds: pooled and fold by fold, with what is not run named."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import recall_score

from small_tables import planned_run, table
from voxstrata.errors import RecipeError, VoxstrataError
from voxstrata.experiments.tables.archive import write_archive
from voxstrata.experiments.tables.contrasts import contrasts_of
from voxstrata.experiments.tables.corpora import corpus_folder
from voxstrata.experiments.tables.finished import finished_runs, write_table
from voxstrata.experiments.tables.pieces import Chosen
from voxstrata.experiments.tables.planned_runs import PlannedRun
from voxstrata.experiments.tables.results import markdown, write_section
from voxstrata.experiments.tables.rows import rows_of
from voxstrata.experiments.tables.table import CorpusSpec
from voxstrata.experiments.tables.unpacked import _corpora, unpack
from voxstrata.predictions import Prediction, read_predictions, write_predictions
from voxstrata.recipes.reading import validate
from voxstrata.reporting.fold_figures import fold_difference_figure, trade_off_figure
from voxstrata.reporting.runs_table import Table, read_table
from voxstrata.runs import RunFolder, write_json

CONTRAST = {"contrasts": [{"run": "dual", "over": "single"}], "columns": ["uar", "wer"]}


def fold_run(folder: Path, name: str, fold: int, answers: str, words: str = "", seed: int = 0) -> PlannedRun:
    """A finished run on a fold's own four speakers (emotions a, b, a, b ...), and on two that read words."""
    run = RunFolder(folder / f"{name}-{seed}-{fold}")
    rows = [
        Prediction(f"{fold}-{n}", speaker=f"s{fold}{n % 4}", emotion=answer, reference_emotion="ab"[n % 2])
        for n, answer in enumerate(answers)
    ]
    rows += [
        Prediction(f"w{n}", speaker=f"w{n % 2}", transcript=word, reference_transcript="x")
        for n, word in enumerate(words)
    ]
    write_predictions(run.predictions("test"), rows)
    run.complete.write_text("{}")
    run.recipe.write_text("system: statistics\n")
    write_json(run.provenance, {"started": "2026-01-02 03:04:05", "data": {}})
    point = (("$seed", seed), ("$fold", fold), ("$part", None))
    return planned_run(name, validate({"system": "statistics"}, name), run, point)


@pytest.fixture
def planned(tmp_path: Path) -> list[PlannedRun]:
    """Folds 1 and 2 of one row, fold 1 of the other; of fold 3 nothing but a run that all folds share."""
    return [
        fold_run(tmp_path, "dual", 1, "abababab", "xx"),
        fold_run(tmp_path, "dual", 2, "aaaabbbb", "xy"),
        fold_run(tmp_path, "single", 1, "aaaaaaab", "yy"),
    ]


def table_of(planned: list[PlannedRun], folder: Path, folds: tuple[int, ...] = (1, 2, 3)) -> Table:
    content = table({**CONTRAST, "scales": {"small": {"axes": {"fold": list(folds)}}}})
    write_table(Chosen(content, "t", "small"), {"": finished_runs(planned)}, folder, {"date": "today"})
    return read_table(folder)


def test_a_row_has_scores_of_all_its_folds_and_of_each(planned: list[PlannedRun], tmp_path: Path) -> None:
    found = table_of(planned, tmp_path / "tables" / "t")
    dual, single = found.row("dual"), found.row("single")
    assert dual is not None and single is not None
    assert (dual.folds, single.folds, found.folds, found.all_folds) == ((1, 2), (1,), [1, 2], (1, 2, 3))
    truth = list("abababab")
    each = {1: recall_score(truth, list("abababab"), average="macro"),
            2: recall_score(truth, list("aaaabbbb"), average="macro")}  # fmt: skip
    assert {fold: one.metrics["uar"].value for fold, one in dual.by_fold.items()} == pytest.approx(each)
    pooled = recall_score(truth * 2, list("ababababaaaabbbb"), average="macro")
    assert dual.metrics["uar"].value == pytest.approx(pooled)
    # The same clips of words in both folds: one error of four answers, two clips.
    assert dual.metrics["wer"].value == pytest.approx(0.25)
    assert dual.answered["emotion"].model_dump() == {"clips": 16, "speakers": 8}
    assert dual.answered["transcript"].model_dump() == {"clips": 2, "speakers": 2}
    assert single.by_fold[1].metrics == single.metrics
    assert single.metrics["uar"].value == pytest.approx(0.625)


def test_intervals_over_folds_draw_the_speakers_of_all(planned: list[PlannedRun], tmp_path: Path) -> None:
    dual = table_of(planned, tmp_path / "tables" / "t").row("dual")
    assert dual is not None
    # Fold 1 is always right, fold 2 half of the time, whoever speaks: only their share of the draw varies.
    generator = np.random.default_rng(0)
    shares = [(generator.integers(8, size=8) < 4).mean() for _ in range(20_000)]
    low, high = np.percentile([share + (1 - share) / 2 for share in shares], [2.5, 97.5])
    assert dual.metrics["uar"].speaker == pytest.approx((low, high), abs=0.07)


def test_differences_are_paired_in_the_folds_of_both(planned: list[PlannedRun], tmp_path: Path) -> None:
    more = [*planned, fold_run(tmp_path, "single", 2, "abababab", "xx")]
    (found,) = table_of(more, tmp_path / "tables" / "t").contrasts
    assert found.folds == (1, 2) and found.clips == 16
    each = {fold: one["uar"].difference for fold, one in found.by_fold.items()}
    assert each == pytest.approx({1: 1 - 0.625, 2: 0.5 - 1})
    assert found.differences["uar"].difference == pytest.approx((each[1] + each[2]) / 2)
    content = table(CONTRAST)
    (alone,) = contrasts_of(content, rows_of(content, content.scale("small"), planned))
    assert alone["folds"] == [1] and alone["by_fold"] == {"1": alone["differences"]}
    assert alone["differences"]["uar"]["difference"] == pytest.approx(each[1])


def test_a_run_that_all_folds_share_makes_no_fold(planned: list[PlannedRun], tmp_path: Path) -> None:
    shared = fold_run(tmp_path, "shared", 0, "", "xy")
    everywhere = [
        planned_run("single", shared.recipe, shared.folder, (("$seed", 0), ("$fold", fold), ("$part", None)))
        for fold in (1, 2, 3)
    ]
    unfinished = fold_run(tmp_path, "dual", 3, "abab")
    unfinished.folder.complete.unlink()
    found = table_of([*planned[:2], *everywhere, unfinished], tmp_path / "tables" / "t")
    assert found.folds == [1, 2]
    (single,) = (row for row in found.rows if row.name == "single")
    assert single.folds == (1, 2) and single.metrics["wer"].value == 0.5
    assert finished_runs(everywhere) == everywhere, "where it is all there is, it is shown"


def test_means_over_seeds_are_of_seeds_with_the_same_folds(tmp_path: Path) -> None:
    planned = [
        fold_run(tmp_path, "dual", 1, "abababab"),
        fold_run(tmp_path, "dual", 2, "abababab"),
        fold_run(tmp_path, "dual", 1, "aaaaaaaa", seed=1),
    ]
    row = table_of(planned, tmp_path / "tables" / "t").row("dual")
    assert row is not None and (row.seeds, row.folds, row.metrics["uar"].value) == (1, (1, 2), 1.0)
    planned.append(fold_run(tmp_path, "dual", 2, "aaaaaaaa", seed=1))
    row = table_of(planned, tmp_path / "tables" / "t").row("dual")
    assert row is not None and (row.seeds, row.metrics["uar"].value) == (2, 0.75)


def test_what_is_missing_reads_not_run(planned: list[PlannedRun], tmp_path: Path) -> None:
    text = markdown(table_of(planned[:2], tmp_path / "tables" / "t"))
    assert "| Single | not run | not run |" in text
    assert "| Dual, less Single: not run | - |" not in text, "no difference has numbers: none is shown"
    assert "Folds 1, 2, pooled; not run: 3." in text
    text = markdown(table_of(planned, tmp_path / "tables" / "t"))
    assert "| Single (fold 1) | 62.5 [" in text and "| Dual, less Single (fold 1) | +37.5 [" in text
    whole, first, second = text.split("### Fold ")
    assert "| Dual | 75.0 [" in whole and "| Dual | 100.0 [" in first and "| Dual | 50.0 [" in second
    assert "| Single | not run | not run |" in second and "| Single | 62.5 [" in first
    assert "Emotions: 16 clips, 8 speakers; words: 2 clips, 2 speakers." in whole
    with pytest.raises(RecipeError, match="no run of t-small is finished there"):
        table_of([], tmp_path / "tables" / "t")


def test_a_warning_is_one_sentence_however_many_rows_have_it() -> None:
    few = "only 4 speakers: an interval by speaker is rough"
    rows = [
        {"name": name, "warnings": [warning] if warning else []}
        for name, warning in (("a", f"emotion: {few}"), ("b", few), ("c", few), ("d", ""), ("e", "odd"))
    ]
    found = Table.model_validate_json(json.dumps({"table": "t", "columns": ["uar"], "rows": rows}))
    assert found.warnings == [f"emotion: {few} (3 of 5 rows)", "odd (e)"]


def test_the_figures_draw_the_numbers_of_the_table(planned: list[PlannedRun], tmp_path: Path) -> None:
    found = table_of([*planned, fold_run(tmp_path, "single", 2, "abababab", "xy")], tmp_path / "tables" / "t")
    drawing = trade_off_figure(found)
    assert drawing is not None
    rows = {(row["row"], row["fold"]): row for row in csv.DictReader(io.StringIO(drawing.csv))}
    assert [float(rows["Dual", fold]["uar"]) for fold in ("all", "1", "2")] == [0.75, 1.0, 0.5]
    assert [float(rows["Single", fold]["wer"]) for fold in ("all", "1", "2")] == [0.75, 1.0, 0.5]
    assert "Dual: UAR 75.0 [" in drawing.alt and ">Dual<" in drawing.svg.replace("</tspan>", "<")
    forest = fold_difference_figure(found.contrasts, ["uar", "wer"])
    rows = {
        (row["fold"], row["metric"]): float(row["difference"])
        for row in csv.DictReader(io.StringIO(forest.csv))
    }
    assert rows["fold 1", "uar"] == pytest.approx(0.375) and rows["fold 2", "wer"] == pytest.approx(0)
    assert rows["all folds", "wer"] == pytest.approx(-0.5)
    assert trade_off_figure(found.model_copy(update={"rows": found.rows[:1]})) is None


def test_archives_of_folds_are_put_together_and_differing_ones_are_refused(
    planned: list[PlannedRun], tmp_path: Path
) -> None:
    archives = [tmp_path / "one.tar.xz", tmp_path / "two.tar.xz"]
    write_archive(archives[0], [planned[0].folder, planned[2].folder])
    write_archive(archives[1], [planned[0].folder, planned[1].folder])
    unpack(archives, tmp_path / "into")
    for run in planned:
        again = read_predictions(tmp_path / "into" / run.folder.path.name / "predictions" / "test.jsonl")
        assert again == read_predictions(run.folder.predictions("test"))
    write_predictions(planned[0].folder.predictions("test"), [Prediction("1-0", emotion="b")])
    write_archive(archives[1], [planned[0].folder])
    with pytest.raises(
        VoxstrataError, match=r"two.tar.xz and .*one.tar.xz hold other answers of the same run"
    ):
        unpack(archives, tmp_path / "into")


@pytest.mark.parametrize(
    "name", ["../out/recipe.yaml", "/etc/passwd", "run/model/weights.safetensors", "run"]
)
def test_an_archive_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "other.tar.xz"
    with tarfile.open(path, "w:xz") as packed:
        entry = tarfile.TarInfo(name)
        entry.size = 2
        packed.addfile(entry, io.BytesIO(b"{}"))
    with pytest.raises(VoxstrataError, match="which is no part of a run; give a file that") as fault:
        unpack([path], tmp_path / "into")
    assert "\n" not in str(fault.value) and not (tmp_path / "out").exists()
    path.write_bytes(b"no archive")
    with pytest.raises(VoxstrataError, match="is no archive of answers"):
        unpack([path], tmp_path / "into")


def test_a_section_is_written_between_its_marks(planned: list[PlannedRun], tmp_path: Path) -> None:
    folder, page = tmp_path / "tables" / "t-small", tmp_path / "page.md"
    page.write_text("before\n\n<!-- begin t-small -->\nformer\n<!-- end t-small -->\n\nbehind\n")
    table_of(planned, folder)
    write_section(page, folder)
    text = page.read_text()
    assert text.startswith("before\n\n<!-- begin t-small -->\n## Test: small\n") and text.endswith(
        "\n\nbehind\n"
    )
    assert "former" not in text
    write_section(page, folder)
    assert page.read_text() == text
    assert json.loads((folder / "table.json").read_text())["rows"][0]["runs"] == [
        "../../dual-0-1",
        "../../dual-0-2",
    ]


def test_the_corpora_of_archived_runs_are_found_by_their_names() -> None:
    read, spoken = CorpusSpec(reader="table", folder="x"), CorpusSpec(synth={"seed": 1})
    spoken_here = corpus_folder("s", spoken, Path(), None).name
    prints = {"a-0123456789": {"1"}, "b": {"2"}, spoken_here: {"3"}, "s-0000000000": {"4"}, "mine": {"5"}}
    found = _corpora({"a": read, "b": read, "s": spoken, "c": read}, prints)
    # A folder of any name is the corpus that no folder is named by; a key of other options is none of them.
    assert {name: one.fingerprint for name, one in found.items()} == {"a": "1", "b": "2", "s": "3", "c": "5"}
    assert _corpora({"unused": spoken}, prints)["unused"].fingerprint == ""
    with pytest.raises(
        VoxstrataError, match="several corpora that may be 'a' \\(a-0000000000, a-0123456789\\)"
    ):
        _corpora({"a": read}, {"a-0123456789": {"1"}, "a-0000000000": {"2"}})
