"""The pages of results: tables and figures between marks, from the archived answers in docs/answers.

Called by docs/generate.py. Sentences outside the marks are written by hand; tests/test_result_pages.py checks
that their numbers stand in what is written here.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from decoder_rows import decoder_figure, decoder_rows, rows_of_page
from voxstrata.documents import read_json_object
from voxstrata.experiments.tables.pieces import Chosen
from voxstrata.experiments.tables.results import grid, markdown, numbers, scored, with_section
from voxstrata.experiments.tables.table import read_table_spec
from voxstrata.experiments.tables.unpacked import table_of_archives
from voxstrata.reporting.coefficient_curve import curve_figure
from voxstrata.reporting.drawing import Drawing
from voxstrata.reporting.fold_figures import fold_difference_figure, trade_off_figure
from voxstrata.reporting.runs_table import Difference, Table, TableRow
from voxstrata.reporting.runs_table import read_table as read_finished
from voxstrata.reporting.scores import Score
from voxstrata.reporting.wording import percent, points

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ANSWERS = DOCS / "answers"
#: Archives of `reproduce adaltm --scale real`, in any number: one a fold, or one of all.
REAL = "adaltm-whisper-real-*.tar.xz"
CURVE = ANSWERS / "whisper-curve-fold2.json"
DECODER = ANSWERS / "whisper-decoder-fold2.tar.xz"
NOTE = "<!-- Written by docs/generate.py from docs/answers; `make results` writes it anew. -->\n\n"
#: Coefficients of the curve in its small table.
_FEW = (0.0, 0.5, 1.0, 1.25)
_SERIES = {"uar": "UAR", "wer_ctc": "WER, CTC head", "wer_decoder": "WER, Whisper's decoder"}
#: Rows of the small tables.
_ROWS = (
    *("frozen", "ser-head", "asr-head", "asr", "static", "asr-only", "ser-only", "dual"),
    *("joint-global", "joint", "statistics", "egemaps"),
)
_README_ROWS = ("frozen", "ser-head", "asr", "static", "dual", "joint")
_ASR_VECTOR = (("dual", "ser-only"), ("dual", "frozen"))
_LAYERS = (("joint", "joint-global"), ("joint", "static"))


def real_table() -> Table:
    """The table of AdaLTM's scale `real`, of the folds that are archived."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = Chosen(read_table_spec("adaltm"), "adaltm", "real")
        return read_finished(table_of_archives(chosen, [str(ANSWERS / REAL)], Path(folder)))


def pages() -> dict[Path, str]:
    """Every file of the results -> its text."""
    table, curve = real_table(), read_json_object(CURVE)
    decoded, about = decoder_rows(table, DECODER)
    figures = {
        "cost-in-words": curve_figure(curve["points"]),
        "words-against-emotions": trade_off_figure(table),
        "asr-vector": _forest(table, _ASR_VECTOR),
        "layers": _forest(table, _LAYERS),
        "decoder": decoder_figure(decoded),
    }
    blocks = {
        "cost-in-words": _curve_rows(curve, _FEW),
        "words-against-emotions": _rows(table, _ROWS),
        "asr-vector": [
            *_rows(table, ("frozen", "asr-only", "ser-only", "dual")),
            *_differences(table, _ASR_VECTOR),
        ],
        "layers": _differences(table, _LAYERS),
        "decoder": [
            *rows_of_page(decoded),
            f"Fold {about['fold']}, {about['clips']} clips of AN4; transcripts by `{about['command']}`.\n",
        ],
    }
    text = with_section((DOCS / "results.md").read_text(encoding="utf-8"), "data", _data(table))
    written: dict[Path, str] = {}
    for name, drawing in figures.items():
        assert drawing is not None
        written[DOCS / "figures" / f"{name}.svg"] = drawing.svg
        text = with_section(text, name, "\n".join([*blocks[name], *_image(name, drawing)]))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return {
        **written,
        DOCS / "results.md": text,
        DOCS / "results" / "adaltm-real.md": NOTE + _full_table(table),
        DOCS / "results" / "whisper-curve.md": NOTE + _full_curve(curve),
        ROOT / "README.md": with_section(readme, "results", "\n".join(_readme(table))),
    }


def _data(table: Table) -> str:
    """Folds, clips, speakers and seeds, in a sentence."""
    missing = [row.shown for row in table.rows if not row.finished]
    short = [row.shown for row in table.rows if row.finished and list(row.folds) != table.folds]
    count = {task: f"{one.clips} clips of {one.speakers} speakers" for task, one in table.answered.items()}
    return " ".join(
        [
            f"{_folds(table)}, {_seeds(table)}:",
            f"emotions of {count['emotion']}, words of {count['transcript']}.",
            *([f"Not run yet: {', '.join(missing)}."] if missing else []),
            *([f"Not run on all of these folds: {', '.join(short)}."] if short else []),
        ]
    )


def _folds(table: Table) -> str:
    return f"Fold{'s' * (len(table.folds) > 1)} {numbers(table.folds)} of {len(table.all_folds)}"


def _seeds(table: Table) -> str:
    seeds = max(row.seeds for row in table.rows)
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _rows(table: Table, names: Sequence[str]) -> list[str]:
    """A row each: both metrics over all folds, and from the lowest fold to the highest."""
    cells = [[_title(row, table), *_ranged(row, "uar"), *_ranged(row, "wer")] for row in _found(table, names)]
    return grid(["encoder", "UAR", "by fold", "WER", "by fold"], cells)


def _found(table: Table, names: Sequence[str]) -> Iterator[TableRow]:
    return (row for name in names if (row := table.row(name)) is not None)


def _title(row: TableRow, table: Table) -> str:
    return row.shown if list(row.folds) == table.folds else f"{row.shown} (folds {numbers(row.folds)})"


def _ranged(row: TableRow, metric: str) -> list[str]:
    values = row.of_folds(metric)
    low, high = (percent(value) for value in (min(values), max(values))) if values else ("", "")
    return [
        scored(row.metrics.get(metric)),
        "-" if not values else low if low == high else f"{low} to {high}",
    ]


def _forest(table: Table, pairs: Sequence[tuple[str, str]]) -> Drawing | None:
    return fold_difference_figure([one for pair in pairs if (one := table.contrast(*pair))], ["uar", "wer"])


def _differences(table: Table, pairs: Sequence[tuple[str, str]]) -> list[str]:
    cells = []
    for one in filter(None, (table.contrast(*pair) for pair in pairs)):
        found = [one.differences.get(metric) for metric in ("uar", "wer")]
        cells.append([one.title, *(part for difference in found for part in _difference(difference))])
    return grid(["difference, points", "UAR", "smallest detectable", "WER", "smallest detectable"], cells)


def _difference(found: Difference | None) -> list[str]:
    """A difference, and the smallest one that these data would show with 80 % power."""
    return (
        ["-", "-"] if found is None else [points(found.difference, found.interval), percent(found.smallest)]
    )


def _image(name: str, drawing: Drawing) -> list[str]:
    alt = drawing.alt.replace("[", "(").replace("]", ")")
    return [f"![{alt}](figures/{name}.svg)", "", f"*{drawing.caption}*", ""]


def _curve_rows(curve: Mapping[str, Any], at: Sequence[float] | None = None) -> list[str]:
    shown = [point for point in curve["points"] if at is None or point["coefficient"] in at]
    cells = [
        [
            f"{point['coefficient']:g}",
            *(scored(Score.model_validate_json(json.dumps(point["scores"][name]))) for name in _SERIES),
        ]
        for point in shown
    ]
    return grid(["coefficient", *_SERIES.values()], cells)


def _full_curve(curve: Mapping[str, Any]) -> str:
    about, clips = curve["provenance"], curve["points"][0]["clips"]
    lines = [
        "# Cost in words: full table\n",
        f"`{curve['command']}`, {about['started'][:10]} UTC, {about['machine']}, with the runs of "
        "[the table of AdaLTM](adaltm-real.md). Percent, with 95 % intervals by resampling speakers; "
        f"{clips['uar']} clips for UAR, {clips['wer_ctc']} for WER. Behind [the results](../results.md).\n",
        *_curve_rows(curve),
    ]
    return "\n".join(lines)


def _full_table(table: Table) -> str:
    return "\n".join(
        [
            "# AdaLTM on Whisper: full tables\n",
            "Behind [the results](../results.md). The archived answers give these tables without training: "
            f"`voxstrata reproduce adaltm --scale real --answers 'docs/answers/{REAL}'`.\n",
            markdown(table),
        ]
    )


def _readme(table: Table) -> list[str]:
    """The rows of the first page, with what they are of."""
    cells = [
        [_title(row, table), *(scored(row.metrics.get(metric)) for metric in ("uar", "wer"))]
        for row in _found(table, _README_ROWS)
    ]
    speakers = {task: one.speakers for task, one in table.answered.items()}
    return [
        f"Whisper tiny.en, RAVDESS ({_folds(table).lower()}, {speakers['emotion']} test speakers), AN4 "
        f"({speakers['transcript']}); percent, 95 % intervals by speaker, {_seeds(table)}:\n",
        *grid(["encoder", "UAR", "WER"], cells),
    ]
