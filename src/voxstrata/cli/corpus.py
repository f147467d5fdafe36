"""`voxstrata corpus list|download|prepare|synth|shar`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli import corpus_download, corpus_synth
from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.corpora.faults import Fault
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.corpora.summary import CorpusSummary

_LINE_WIDTH = 110

#: A corpus with more speakers is reported in one line: nobody reads two thousand counts.
_MOST_SPEAKERS = 100


TRIM_SILENCE = typer.Option(
    False,
    "--trim-silence",
    help="Cut silence (35 dB under the loudest 25 ms) at both ends, but 0.1 s; files are not changed.",
)
FOLDS = typer.Option(
    None,
    metavar="by-speaker N",
    help="Divide the speakers into N folds with about as many clips each; the same every time.",
)
LABELS = typer.Option(
    None,
    help="Allowed emotions, a,b,c, in the order of a model's outputs. Default:"
    " the corpus's own; for `table` all that occur.",
)
MAPS = typer.Option(
    None,
    "--map",
    metavar="NAME|OLD=NEW",
    help="Map emotions, by a named map or one by one; may be repeated, applied in order.",
)


def register(app: typer.Typer) -> None:
    """Adds the group `corpus` with its commands."""
    group = typer.Typer(help="List, download, prepare and synthesise corpora.", no_args_is_help=True)
    group.command("list")(list_corpora)
    corpus_download.register(group)
    group.command("prepare")(prepare_corpus)
    corpus_synth.register(group)
    group.command("shar")(shar)
    app.add_typer(group, name="corpus")


def list_corpora(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Print the corpora that can be prepared."""
    from voxstrata.corpora.readers import READERS

    if as_json:
        rows = [
            {
                "name": r.name,
                "description": r.description,
                "labels": r.labels,
                "folds": len(r.folds),
                "options": {option.name: option.values for option in r.options},
            }
            for r in READERS.values()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for reader in READERS.values():
        typer.echo(f"{reader.name:<12} {reader.description}")


def prepare_corpus(
    name: str = typer.Argument(help="Corpus, as `voxstrata corpus list` names it."),
    folder: Path = typer.Argument(metavar="DIR", help="Its unpacked folder; for `table`, the table."),
    out: Path = typer.Argument(help="Folder for the prepared corpus."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out clips with faults; exit code 3."),
    labels: str | None = LABELS,
    option: list[str] | None = typer.Option(
        None, metavar="NAME=VALUE", help="An option of the corpus's reader; may be repeated."
    ),
    maps: list[str] | None = MAPS,
    folds: tuple[str, int] | None = FOLDS,
    trim_silence: bool = TRIM_SILENCE,
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Check every clip of a corpus, print its counts and write it as lhotse cuts.

    Faults are missing, undecodable, empty, silent or too short audio, git-lfs stubs, stretches beyond a
    file, unknown labels or splits, duplicate ids or audio, and a speaker in two splits. All are printed
    at once, and nothing is written if there is one. --skip-bad leaves faulty clips out, but accepts no
    speaker in two splits.

    What was left out or mapped is printed below the counts and kept in corpus.json.
    """
    from voxstrata.cli.progress import bar
    from voxstrata.corpora.faults import FaultyCorpusError
    from voxstrata.corpora.options import parse_options
    from voxstrata.corpora.prepare import prepare
    from voxstrata.errors import CorpusError

    names = [label.strip() for label in labels.split(",")] if labels is not None else None
    before = _held(out)
    try:
        with bar("clips") as (_, advance):
            prepared = prepare(
                name,
                folder,
                out,
                skip_bad=skip_bad,
                labels=names,
                options=parse_options(option or []),
                maps=maps or (),
                folds=_fold_count(folds),
                trim_silence=trim_silence,
                progress=lambda done, total: advance(done, total, "decoding"),
            )
    except FaultyCorpusError as error:
        _print_faults(error.faults, as_json)
        raise CorpusError(error.counts) from error
    if as_json:
        typer.echo(json.dumps(_as_dict(prepared), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join([_counts_text(prepared.summary), *_notes_lines(prepared)]))
    for line in _left_out(prepared.left_out):
        tell(line, "left out")
    tell(_outcome(before, prepared), "")
    if prepared.left_out:
        raise typer.Exit(3)


def _held(folder: Path) -> tuple[str, bytes, bytes] | None:
    """Fingerprint and files of a corpus that lies in a folder already; None without one."""
    from voxstrata.corpora.prepared import CORPUS_FILE, CUTS_FILE, PreparedCorpus
    from voxstrata.errors import VoxstrataError

    try:
        fingerprint = PreparedCorpus.load(folder).fingerprint
        return fingerprint, (folder / CORPUS_FILE).read_bytes(), (folder / CUTS_FILE).read_bytes()
    except (VoxstrataError, OSError):
        return None


def _outcome(before: tuple[str, bytes, bytes] | None, prepared: PreparedCorpus) -> str:
    """The last line: what has become of the folder."""
    name, folder = prepared.name, prepared.folder
    if before is None:
        return f"{name} is prepared in {folder}"
    if before == _held(folder):
        return f"{name} was prepared in {folder} already, and nothing has changed"
    if before[0] == prepared.fingerprint:
        return f"{name} is prepared in {folder} again, with the same clips and labels; notes or paths changed"
    return f"{name} is prepared in {folder} anew: another corpus lay there, with other clips or labels"


def _fold_count(folds: tuple[str, int] | None) -> int | None:
    from voxstrata.errors import CorpusError

    if folds is None:
        return None
    if folds[0] != "by-speaker":
        raise CorpusError(f"folds are made by-speaker, as in --folds by-speaker 5; found {folds[0]!r}")
    return folds[1]


def _print_faults(faults: tuple[Fault, ...], as_json: bool) -> None:
    if as_json:
        rows = [{"kind": fault.kind, "id": fault.id, "detail": fault.detail} for fault in faults]
        typer.echo(json.dumps({"faults": rows}, indent=2, ensure_ascii=False))
        return
    from voxstrata.corpora.faults import gathered

    for line in gathered(faults):
        tell(line, "")


def _left_out(lines: Sequence[str]) -> list[str]:
    """What was left out, equal faults together; each of the lines is KIND: CLIP: DETAIL."""
    from voxstrata.corpora.faults import Fault, gathered

    parts = (line.partition(": ") for line in lines)
    return gathered(Fault(kind, *rest.partition(": ")[::2]) for kind, _, rest in parts)


def _as_dict(prepared: PreparedCorpus) -> dict[str, object]:
    return {
        "name": prepared.name,
        "folder": str(prepared.folder),
        "labels": prepared.labels,
        "folds": prepared.folds,
        "fingerprint": prepared.fingerprint,
        "summary": prepared.summary.as_dict(),
        "left_out": prepared.left_out,
        "options": prepared.options,
        "maps": prepared.maps,
        "notes": prepared.notes,
    }


def _notes_lines(prepared: PreparedCorpus) -> list[str]:
    options = " ".join(f"{name}={value}" for name, value in prepared.options.items())
    lines = [*([f"options: {options}"] if options else []), *prepared.notes]
    return ["", *lines] if lines else []


def _counts_text(summary: CorpusSummary) -> str:
    """Small tables: splits, classes by split, speakers."""
    lines = [f"{'split':<12}{'clips':>8}{'minutes':>10}{'speakers':>10}{'emotions':>10}{'texts':>8}"]
    for name, counts in summary.splits.items():
        lines.append(
            f"{name:<12}{counts.clips:>8}{counts.duration_min:>10.1f}{counts.speakers:>10}"
            f"{counts.with_emotion:>10}{counts.with_text:>8}"
        )
    if set(summary.emotions) - {"-"}:
        lines += ["", *_emotion_lines(summary)]
    lines += ["", *_speaker_lines(summary)]
    return "\n".join(lines)


def _speaker_lines(summary: CorpusSummary) -> list[str]:
    """Clips of each speaker, or of so many speakers only how unequal they are."""
    if len(summary.speakers) > _MOST_SPEAKERS:
        known = sorted(clips for speaker, clips in summary.speakers.items() if speaker != "-")
        unknown = summary.speakers.get("-", 0)
        return [
            f"{len(known)} speakers: {known[0]} to {known[-1]} clips each, median {known[len(known) // 2]}"
            + (f"; {unknown} clips of unknown speakers" if unknown else "")
        ]
    entries = [f"{speaker} {clips}" for speaker, clips in summary.speakers.items()]
    column = max(map(len, entries)) + 2
    per_line = max(1, _LINE_WIDTH // column)
    lines = ["clips per speaker"]
    for start in range(0, len(entries), per_line):
        lines.append("".join(f"{entry:<{column}}" for entry in entries[start : start + per_line]).rstrip())
    return lines


def _emotion_lines(summary: CorpusSummary) -> list[str]:
    splits = [name for name in summary.splits if name != "all"]
    width = max([12, *(len(name) + 2 for name in summary.emotions)])
    lines = [f"{'emotion':<{width}}" + "".join(f"{name:>8}" for name in [*splits, "all"])]
    for name, by_split in summary.emotions.items():
        numbers = [*(by_split[split] for split in splits), sum(by_split.values())]
        lines.append(f"{name:<{width}}" + "".join(f"{number:>8}" for number in numbers))
    return lines


def shar(
    prepared: Path = typer.Argument(help="A prepared corpus."),
    out: Path = typer.Argument(help="New or empty folder; becomes a prepared corpus with all its audio."),
    shard_clips: int = typer.Option(1000, "--shard-clips", min=1, help="Clips per tar."),
) -> None:
    """Pack a prepared corpus and its audio into tars (lhotse Shar), to copy and to train from.

    Recipes name OUT as any prepared corpus; it has the same fingerprint. OUT/shar is lhotse Shar. Audio
    becomes FLAC of 16 bits at 16 kHz, mono, which is what training uses in any case.
    """
    from voxstrata.cli.progress import bar
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.corpora.shar import write_shar

    corpus = PreparedCorpus.load(prepared)
    total = corpus.summary.splits["all"].clips
    with bar("clips") as (_, advance):
        packed = write_shar(
            corpus, out, shard_clips=shard_clips, progress=lambda done: advance(done, total, corpus.name)
        )
    typer.echo(packed.folder)
