"""`voxstrata convert`: saved outputs of other systems as predictions files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.predictions import Prediction


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("convert")
    def convert(
        kind: str = typer.Argument(
            ..., metavar="KIND", help="Whose output it is: funasr, vox-profile or transformers."
        ),
        output: Path = typer.Argument(..., metavar="OUTPUT", help="What was saved: JSON or JSON lines."),
        out: Path = typer.Option(..., "--out", help="Predictions file to write."),
        references: Path | None = typer.Option(
            None,
            "--references",
            help="True labels and speakers: a table, a prepared corpus, or a predictions file of the same "
            "recordings. Rows take its ids.",
        ),
        split: str | None = typer.Option(None, "--split", help="Split of a prepared corpus. Default: test."),
    ) -> None:
        """Convert the saved output of FunASR, vox-profile or a transformers pipeline into a predictions file.

        With --references the file is ready for `voxstrata evaluate`, and for `compare` with answers to the
        same recordings. Other spellings of the eight emotions become ours.
        """
        from voxstrata.errors import PredictionsError
        from voxstrata.evaluation.converted import converted, with_references
        from voxstrata.predictions import write_predictions

        if split is not None and references is None:
            raise PredictionsError("--split is of a prepared corpus; name it with --references")
        rows = converted(kind, output.read_bytes(), str(output))
        if references is not None:
            known = _known(references, split)
            rows = with_references(rows, known)
            if missing := len(known) - len(rows):
                tell(f"{missing:,} of {len(known):,} recordings of {references} have no output")
        write_predictions(out, rows)
        typer.echo(f"{out}: {len(rows):,} rows")


def _known(place: Path, split: str | None) -> list[Prediction]:
    """What is known of the recordings of a table, a prepared corpus or a predictions file."""
    from voxstrata.corpora.own_table import read
    from voxstrata.corpora.prepared import CORPUS_FILE, PreparedCorpus
    from voxstrata.errors import PredictionsError
    from voxstrata.predictions import Prediction, read_predictions

    if (place / CORPUS_FILE).is_file():
        cuts = PreparedCorpus.load(place).stream(split or "test")
        told = ((cut, cut.supervisions[0]) for cut in cuts)
        return [
            Prediction(
                cut.id,
                str(cut.recording.sources[0].source),
                about.speaker,
                reference_emotion=(about.custom or {}).get("emotion") or None,
                reference_transcript=about.text or None,
            )
            for cut, about in told
        ]
    if split is not None:
        raise PredictionsError(f"--split is of a prepared corpus, and {place} is none; leave it out")
    if place.suffix.lower() == ".jsonl" and b'"reference_' in place.read_bytes()[: 1 << 16]:
        return read_predictions(place)
    return [
        Prediction(
            clip.id,
            str(clip.path),
            clip.speaker,
            reference_emotion=clip.emotion,
            reference_transcript=clip.text,
        )
        for clip in read(place)
    ]
