"""`voxstrata probe`: what each layer of an encoder knows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import one_line, tell

if TYPE_CHECKING:
    from voxstrata.analysis.result import ProbeStudy, TargetScores

#: Measure in JSON -> name in print.
TITLES = {"uar": "UAR %", "accuracy": "accuracy %", "r2": "R2"}


TARGETS = typer.Option(
    None,
    "--target",
    help="emotion, speaker, phonemes, pitch, energy, or a column such as gender; may be repeated. "
    "Default: all of these that the corpus has.",
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("probe")(probe)


def probe(
    model: str = typer.Argument(
        ..., help="Encoder: packaged name, checkpoint, run folder or Hub id. It is not trained."
    ),
    corpus: Path = typer.Option(..., "--corpus", help="A prepared corpus."),
    targets: list[str] | None = TARGETS,
    fold: int | None = typer.Option(
        None, "--fold", min=1, help="Fold of the corpus. Default: its own splits."
    ),
    train: str = typer.Option("train", "--train", help="Split to train the probes on."),
    test: str = typer.Option("test", "--test", help="Split to test them on."),
    max_clips: int | None = typer.Option(
        None, "--max-clips", min=2, help="Most clips per split, chosen by seed. Default: all."
    ),
    max_frames: int = typer.Option(
        10_000, "--max-frames", min=100, help="Most frames to train on; dev and test have half as many."
    ),
    resamples: int = typer.Option(
        1000, "--resamples", min=2, max=1_000_000, help="Bootstrap samples of the intervals."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Random seed."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure by linear probes what each layer of an encoder represents.

    Layer 0 is the front end's projected features. Classes: logistic regression on a clip's mean frame, UAR.
    Phonemes: logistic regression on frames, accuracy. Pitch (log2 Hz) and energy: ridge regression, R2.
    """
    from voxstrata.analysis.study import study
    from voxstrata.analysis.targets import ProbeOptions, plan_probes
    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.backbone.fingerprint import fingerprint
    from voxstrata.cli.progress import bar
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.experiments.provenance import provenance
    from voxstrata.inference.path import fastest_device

    options = ProbeOptions(tuple(targets or ()), train, test, fold, max_clips, max_frames, resamples, seed)
    prepared = PreparedCorpus.load(corpus)
    plan = plan_probes(prepared, options)
    encoder = load_backbone(model)
    identity = fingerprint(encoder.weights())
    encoder.to(fastest_device())
    with bar("done") as (_, advance):
        found = study(encoder, prepared, plan, advance)
    for note in found.notes:
        tell(note, "note")
    if as_json:
        about = provenance(
            seed=seed, fingerprints={str(corpus): prepared.fingerprint}, parents={"encoder": model}
        )
        stated = {"encoder": {"name": model, "fingerprint": identity, "layers": encoder.num_layers}}
        whole = {**stated, "settings": asdict(options), **found.as_dict(), "provenance": about}
        typer.echo(json.dumps(whole, indent=2))
    typer.echo(one_line(f"{model} on {prepared.name}" + (f", fold {fold}" if fold else "")), err=as_json)
    typer.echo(text(found), err=as_json)


def text(found: ProbeStudy) -> str:
    """Layers as rows, targets as columns; the best layer of each is marked."""
    layers = [str(layer) for layer in range(len(found.targets[0].scores.layers))]
    columns = [["layer", "", *layers, "chance", "train", "test"]]
    for target in found.targets:
        columns.append([target.name, TITLES[target.scores.measure], *_cells(target)])
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]
    legend = "*: the best layer; [95 %, by resampling speakers]; train, test: clips or frames"
    return "\n".join([*lines, "", legend])


def _cells(target: TargetScores) -> list[str]:
    scores = target.scores

    def shown(value: float) -> str:
        return f"{value:.3f}" if scores.measure == "r2" else f"{100 * value:.1f}"

    cells = []
    for layer, score in enumerate(scores.layers):
        bounds = "" if score.interval is None else " [{}, {}]".format(*map(shown, score.interval))
        cells.append(f"{shown(score.value)}{bounds}{'*' if layer == scores.best else ' '}")
    examples = (str(target.examples[part]) for part in ("train", "test"))
    return [*cells, *(f"{cell} " for cell in (shown(scores.chance), *examples))]
