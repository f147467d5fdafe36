"""`voxstrata compare-merges`: merge methods beside each other on two experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from voxstrata.experiments.merge_methods.plan import Request
    from voxstrata.experiments.merge_methods.table import MethodRow

HEADS = {
    "experts": "Read by the experts' own heads",
    "fitted": "Read by heads that were fitted to each merge",
}
#: Columns of the table: name of a score -> title.
TITLES = {"uar": "UAR", "wer": "WER, CTC head", "wer_decoder": "WER, decoder"}


EXPERTS = typer.Option(
    ..., "--emotion-expert", help="A finished run for emotions; repeat it for runs of several folds."
)
WORDS_EXPERT = typer.Option(..., "--words-expert", help="A finished run with a CTC head, of the same base.")
LEARNED = typer.Option(
    None, "--learned", help="A run of adaltm that learned both tasks, one for each expert's fold."
)
TRANSCRIBER = typer.Option(
    None, "--transcriber", help="A whole Whisper whose decoder transcribes from the merges, too."
)
DECODER_FOLDS = typer.Option(
    None, "--decoder-fold", min=1, help="Fold of which it does so; may be repeated. Default: all."
)
DECODER_CLIPS = typer.Option(
    None, "--decoder-clips", min=1, metavar="N", help="It transcribes at most N clips. Default: all."
)
HEAD_FOLDS = typer.Option(
    None, "--heads-fold", min=1, help="Fold of which it does so; may be repeated. Default: all."
)
OVER = typer.Option(
    None, "--over", help="The row that others are compared with. Default: learned, else halves."
)
ARCHIVE = typer.Option(
    None, "--archive", help="File (.tar.xz) for the answers that the tables are computed from."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("compare-merges")(compare_merges)


def compare_merges(
    out: Path = typer.Argument(..., help="Folder for the answers; one that was begun goes on."),
    emotion_experts: list[str] = EXPERTS,
    words_expert: str = WORDS_EXPERT,
    emotions: str = typer.Option(..., "--emotions", help="Prepared corpus of emotions."),
    words: str = typer.Option(..., "--words", help="Prepared corpus of words."),
    learned: list[str] | None = LEARNED,
    methods: list[str] | None = typer.Option(
        None, "--method", help="A merge method; may be repeated. Default: all."
    ),
    transcriber: str | None = TRANSCRIBER,
    decoder_folds: list[int] | None = DECODER_FOLDS,
    decoder_clips: int | None = DECODER_CLIPS,
    fit_heads: bool = typer.Option(False, "--fit-heads", help="Also fit both heads to each merge."),
    head_folds: list[int] | None = HEAD_FOLDS,
    epochs: int = typer.Option(16, "--epochs", min=1, help="Of heads that are fitted."),
    over: str | None = OVER,
    normalizer: str = typer.Option("basic", "--normalizer", help="Of transcripts, as in evaluate."),
    archive: Path | None = ARCHIVE,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Compare merge methods on two experts: which merge keeps both skills?

    Every method is tried with four settings. With experts of several folds, a fold's setting is the one that
    keeps most of both skills on the other folds; with one expert, on its dev clips. The encoder is never
    trained: the experts' own heads read it, and with --fit-heads also heads that are fitted to each merge.
    """
    from voxstrata.experiments.merge_methods.plan import Request

    request = Request(
        emotion_experts=tuple(emotion_experts),
        words_expert=words_expert,
        learned=tuple(learned or ()),
        emotions=emotions,
        words=words,
        methods=tuple(methods or ()),
        transcriber=transcriber,
        decoder_folds=tuple(decoder_folds or ()),
        decoder_clips=decoder_clips,
        fit_heads=fit_heads,
        head_folds=tuple(head_folds or ()),
        normalizer=normalizer,
    )
    tables, stated = _compared(request, out, epochs, over, archive)
    if as_json:
        typer.echo(json.dumps(stated, indent=2, ensure_ascii=False))
        return
    for heads, found in tables.items():
        typer.echo(f"{HEADS[heads]}:\n{text(found)}\n")
    typer.echo(f"figures and answers: {out}")


def _compared(
    request: Request, out: Path, epochs: int, over: str | None, archive: Path | None
) -> tuple[dict[str, list[MethodRow]], dict[str, Any]]:
    """Asks all merges, and writes answers, tables and figures. The tables, also for JSON."""
    from voxstrata.cli.progress import bar
    from voxstrata.experiments.merge_methods.comparison import make_comparison
    from voxstrata.experiments.merge_methods.plan import planned
    from voxstrata.experiments.merge_methods.table import table_of, write_archive
    from voxstrata.reporting.merge_methods import methods_figure
    from voxstrata.runs import folder_lock, write_json

    comparison, folds, about = planned(request, out)
    with folder_lock(out):
        comparison.write(about)
        with bar("merges") as (_, advance):
            make_comparison(comparison, folds, epochs=epochs, advance=advance)
        tables = {"experts": table_of(comparison, over)}
        if comparison.head_folds:
            tables["fitted"] = table_of(comparison, over, fitted=True)
        rows = {heads: [row.as_dict() for row in found] for heads, found in tables.items()}
        write_json(out / "methods.json", {**about, "rows": rows})
        for heads, found in rows.items():
            methods_figure(found, heads).save(out)
        if archive is not None:
            write_archive(comparison, archive)
    return tables, {**about, "rows": rows}


def text(rows: list[MethodRow]) -> str:
    """Rows of scores in percent with 95 % intervals by speaker, those that keep most of both skills first."""
    names = [name for name in TITLES if any(name in row.scores for row in rows)]
    over = next(row.name for row in rows if not row.over)
    columns = [["merge", *(row.name for row in rows)], ["kept", *(f"{100 * row.kept:.1f}" for row in rows)]]
    for name in names:
        columns.append([TITLES[name], *(_score(row, name) for row in rows)])
        columns.append([f"less {over}", *(_difference(row, name) for row in rows)])
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True))
        for line in zip(*columns, strict=True)
    ]
    return "\n".join(
        [
            *(line.rstrip() for line in lines),
            "",
            "percent [95 %, by resampling speakers]; kept: the lesser of UAR and 1 - WER, in percent of the "
            "expert's, mean over folds",
        ]
    )


def _score(row: MethodRow, name: str) -> str:
    metric = row.scores.get(name)
    if metric is None:
        return "-"
    low, high = metric.speaker or metric.iid
    return f"{100 * metric.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _difference(row: MethodRow, name: str) -> str:
    found = row.differences.get(name)
    if found is None:
        return "-"
    low, high = found.interval
    return f"{100 * found.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
