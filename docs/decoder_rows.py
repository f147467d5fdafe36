"""Word error rates of Whisper's own decoder over merged encoders, from archived transcripts.

Called by docs/result_pages.py. The archive holds a predictions file for each row, as `voxstrata predict
CORPUS --model RUN --transcriber openai/whisper-tiny.en --words merged --json` writes it, and `about.json`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import voxstrata as vs
from voxstrata.experiments.tables.results import grid, scored
from voxstrata.reporting.drawing import GRID, PALETTE, Drawing, canvas, legend_below, to_svg
from voxstrata.reporting.runs_table import Table
from voxstrata.reporting.scores import Score
from voxstrata.reporting.wording import interval, percent

#: Row of the table -> its name in the archive.
_ROWS = {
    "frozen": "base",
    "ser-head": "ser",
    "asr": "asr",
    "static": "static",
    "dual": "dual",
    "joint": "joint",
}
#: What reads the encoder's states -> colour and marker.
_READERS = {"CTC head": (PALETTE[1], "s"), "Whisper's decoder": (PALETTE[4], "^")}


@dataclass(frozen=True)
class DecoderRow:
    """An encoder's word error rates under both readers; of the decoder also its additions.

    Args:
        title: of the row.
        scores: reader -> WER.
        insertions: of the decoder, per reference word.
    """

    title: str
    scores: dict[str, Score]
    insertions: float


def decoder_rows(table: Table, archive: Path) -> tuple[list[DecoderRow], Mapping[str, Any]]:
    """The rows in the order of the page, and what the archive says of itself."""
    with tarfile.open(archive) as packed:
        files = {Path(one.name).stem: packed.extractfile(one) for one in packed.getmembers()}
        texts = {name: file.read().decode("utf-8") for name, file in files.items() if file is not None}
    about = json.loads(texts.pop("about"))
    rows = []
    for name, stored in _ROWS.items():
        row = table.row(name)
        assert row is not None
        answers = [json.loads(line) for line in texts[stored].splitlines()]
        found = vs.evaluate(answers, normalizer=about["normalizer"]).as_dict()["transcript"]
        # Scores of an expert's words are the same in all folds, those of a merge are of the fold of its run.
        of_fold = row.by_fold.get(about["fold"])
        head = (of_fold.metrics if of_fold else row.metrics)["wer"]
        decoder = Score.model_validate_json(json.dumps(found["wer"]))
        scores = {"CTC head": head, "Whisper's decoder": decoder}
        rows.append(DecoderRow(row.shown, scores, found["insertions"]["rate"]))
    return rows, about


def rows_of_page(rows: Sequence[DecoderRow]) -> list[str]:
    """A table: a row an encoder, a column a reader, and the words that the decoder adds."""
    cells = [
        [row.title, *(scored(score) for score in row.scores.values()), percent(row.insertions)]
        for row in rows
    ]
    return grid(["encoder", *(f"WER, {name}" for name in _READERS), "of it, added words"], cells)


def decoder_figure(rows: Sequence[DecoderRow]) -> Drawing:
    """Both word error rates of each encoder on a logarithmic axis, with intervals."""
    numbers: list[tuple[str | int | float | None, ...]] = []
    with canvas(5.6, 3.2) as (figure, axes):
        for place, row in enumerate(rows):
            for shift, (reader, score) in zip((-0.12, 0.12), row.scores.items(), strict=True):
                colour, marker = _READERS[reader]
                low, high = (100 * bound for bound in score.speaker or score.iid or (score.value,) * 2)
                named = {"label": reader} if place == 0 else {}
                axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.1)
                axes.plot(
                    [100 * score.value], [place + shift], color=colour, marker=marker, markersize=6,
                    linestyle="none", **named,
                )  # fmt: skip
                numbers.append((row.title, reader, score.value, low / 100, high / 100))
        axes.set_xscale("log")
        ticks = (5, 10, 20, 50, 100, 200, 500, 1000)
        axes.set_xticks(ticks, list(map(str, ticks)))
        axes.minorticks_off()
        axes.axvline(100, color=GRID, linewidth=1.2)
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("WER in % (left is better)")
        axes.grid(axis="x", color=GRID)
        legend_below(figure, axes, 2)
        svg = to_svg(figure)
    words = "; ".join(
        f"{row.title}: "
        + ", ".join(
            f"{reader} {percent(score.value)} {interval(score.speaker or score.iid)}"
            for reader, score in row.scores.items()
        )
        for row in rows
    )
    return Drawing(
        name="decoder",
        title="Whisper's decoder over merged encoders",
        alt=f"Dot plot of WER on a logarithmic axis. {words}.",
        caption="Bars: 95 % intervals by resampling speakers. Above 100 there are more errors than words.",
        svg=svg,
        header=("encoder", "reader", "wer", "low", "high"),
        rows=tuple(numbers),
    )
