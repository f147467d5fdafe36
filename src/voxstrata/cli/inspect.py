"""`voxstrata inspect`."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import typer

from voxstrata.errors import VoxstrataError


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("inspect")
    def inspect(
        checkpoints: list[str] = typer.Argument(
            ...,
            help="Checkpoint file or folder, packaged name, hub id, or a saved task vector. Of several, the "
            "first is the base of the others.",
        ),
        base: str | None = typer.Option(
            None, "--base", help="Show what differs from this base: folder, run, packaged name or Hub id."
        ),
        figure: Path | None = typer.Option(
            None,
            "--figure",
            help="Of several: draw them into this .svg file, with the numbers as .csv beside it.",
        ),
        ranks: str | None = typer.Option(
            None,
            "--ranks",
            metavar="R,R,...",
            help="Of a base and experts: what is lost per layer if task vectors keep so many directions of "
            "each matrix, such as 1,4,16,64.",
        ),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    ) -> None:
        """Show a checkpoint's layout and groups, and with --base what fine-tuning changed in each.

        Of several checkpoints, base first: norm, zero tensors and rank of what each expert changed per
        layer, and cosine and share of equal signs of each two. Tensors are read one by one. With --ranks
        what a compressed vector (`compress` of `adaltm`) loses, and its size.
        """
        if ranks is not None:
            _by_rank(checkpoints if base is None else [base, *checkpoints], ranks, figure, as_json)
            return
        if len(checkpoints) > 1:
            _several(checkpoints, base, figure, as_json)
            return
        if figure is not None:
            raise VoxstrataError("--figure draws several checkpoints; give the base first, then the experts")
        (checkpoint,) = checkpoints
        from voxstrata.methods.adaltm.task_vector import TaskVector, is_task_vector

        if Path(checkpoint).is_file() and is_task_vector(Path(checkpoint)):
            vector = TaskVector.load(Path(checkpoint))
            found: dict[str, Any] = {"path": checkpoint, "kind": "task vector", "source": vector.source}
            found |= _changes(vector, base)
        else:
            found = _layout(checkpoint)
            if base is not None:
                from voxstrata.backbone.encoder import load_backbone

                encoder = load_backbone(base)
                vector = TaskVector.between(encoder, checkpoint, allow_foreign=True)
                _warn(checkpoint, vector.kinship)
                found |= _changes(vector, None)
                found["base"] = base
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else _text(found))


def _several(checkpoints: list[str], base: str | None, figure: Path | None, as_json: bool) -> None:
    """Prints, and draws, what experts changed in their base."""
    from voxstrata.cli.progress import bar
    from voxstrata.merging.comparison import compare_vectors

    if figure is not None and figure.suffix.lower() != ".svg":
        raise VoxstrataError(f"--figure {figure} is no .svg file; give a name that ends in .svg")
    first, *experts = checkpoints if base is None else [base, *checkpoints]
    with bar("tensors") as (_, advance):
        found = compare_vectors(first, experts, progress=advance)
    for name, kinship in found.kinship.items():
        _warn(found.vectors[name], kinship)
    if figure is not None:
        from voxstrata.reporting.vectors import vectors_figure
        from voxstrata.runs import atomic_write

        drawing = vectors_figure(found)
        atomic_write(figure, drawing.svg)
        atomic_write(figure.with_suffix(".csv"), drawing.csv)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
        return
    headings, rows = found.table()
    _print_table(headings, rows)


def _warn(expert: str, kinship: float) -> None:
    """Warns of an expert that does not come from the base."""
    from voxstrata.backbone.kinship import unrelated
    from voxstrata.cli.lines import tell

    if (sentence := unrelated(expert, kinship)) is not None:
        tell(sentence, "warning")


def _print_table(headings: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for cells in (headings, *rows):
        typer.echo("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


def _by_rank(checkpoints: list[str], ranks: str, figure: Path | None, as_json: bool) -> None:
    """Prints what the vectors of experts lose at each rank."""
    from voxstrata.cli.progress import bar

    parts = [part.strip() for part in ranks.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10**6 for part in parts):
        raise VoxstrataError(f"--ranks {ranks!r} are no ranks; give whole numbers from 1, e.g. 1,4,16,64")
    if len(checkpoints) < 2:
        raise VoxstrataError("--ranks needs a base and an expert; give the base first, then the experts")
    if figure is not None:
        raise VoxstrataError("--figure draws vectors without --ranks; leave one of them out")
    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.methods.adaltm.rank_table import rank_table
    from voxstrata.methods.adaltm.task_vector import TaskVector

    base, *experts = checkpoints
    encoder = load_backbone(base)
    found = []
    for expert in experts:
        vector = TaskVector.between(encoder, expert, allow_foreign=True)
        _warn(expert, vector.kinship)
        with bar("tensors") as (_, advance):
            found.append(rank_table(vector, sorted({*map(int, parts)}), advance))
    if as_json:
        told = {"base": base, "vectors": [one.as_dict() for one in found]}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{one.source}: relative error of the task vector, per layer and rank")
        _print_table(*one.table())


def _layout(name: str) -> dict[str, Any]:
    from voxstrata.backbone.checkpoints import open_checkpoint
    from voxstrata.backbone.groups import layer_index
    from voxstrata.backbone.locate import locate

    checkpoint = open_checkpoint(locate(name))
    layers = checkpoint.num_layers
    sizes = {name: prod(shape) for name, shape in checkpoint.all_shapes().items()}
    members = {index: [name for name in sizes if layer_index(name) == index] for index in range(layers + 1)}
    groups = [
        {"group": index, "tensors": len(names), "parameters": sum(sizes[name] for name in names)}
        for index, names in members.items()
    ]
    return {
        "path": str(checkpoint.path),
        "kind": "checkpoint",
        "container": checkpoint.container.kind,
        "layout": checkpoint.layout,
        "prefix": checkpoint.prefix,
        "layers": layers,
        "tensors": len(sizes),
        "parameters": sum(sizes.values()),
        "left_out": dict(checkpoint.left_out),
        "lora": checkpoint.lora.describe() if checkpoint.lora else None,
        "groups": groups,
    }


def _changes(vector: Any, base: str | None) -> dict[str, Any]:
    """What a task vector holds; with a base, the vector must belong to it."""
    from voxstrata.backbone.groups import group_sizes
    from voxstrata.backbone.kinship import KINSHIP_THRESHOLD

    found: dict[str, Any] = {}
    if base is not None:
        from voxstrata.backbone.encoder import load_backbone

        vector.check(load_backbone(base))
        found["base"] = base
    sizes, names, norms = group_sizes(vector.deltas), vector.groups, vector.norms()
    return found | {
        "layers": len(names) - 1,
        "coverage": vector.coverage(),
        "correlation": vector.kinship,
        "comes_from_base": vector.kinship >= KINSHIP_THRESHOLD,
        "base_fingerprint": vector.base_fingerprint,
        "groups": [
            {
                "group": index,
                "tensors": len(names[index]),
                "parameters": sizes[index],
                "delta_norm": norms[index],
                "delta_rms": norms[index] / sizes[index] ** 0.5,
            }
            for index in range(len(names))
        ],
    }


def _text(found: dict[str, Any]) -> str:
    shown = {name: value for name, value in found.items() if name not in ("groups", "coverage")}
    if "left_out" in shown:
        from voxstrata.backbone.layouts import describe_left_out

        shown["left_out"] = describe_left_out(shown["left_out"])
    lines = [f"{name:<16} {_plain(value)}" for name, value in shown.items()]
    columns = list(found["groups"][0])
    lines += ["", "".join(f"{column:>14}" for column in columns)]
    lines += ["".join(f"{_plain(row[column]):>14}" for column in columns) for row in found["groups"]]
    if "coverage" in found:
        lines += ["", found["coverage"]]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(value) or "nothing"
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
