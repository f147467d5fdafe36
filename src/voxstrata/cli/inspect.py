"""`voxstrata inspect`."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("inspect")
    def inspect(
        checkpoint: str = typer.Argument(
            ..., help="Checkpoint file or folder, packaged name, hub id, or a saved task vector."
        ),
        base: str | None = typer.Option(
            None, "--base", help="Show what differs from this base: folder, run, packaged name or Hub id."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    ) -> None:
        """Show a checkpoint's layout and groups, and with --base what fine-tuning changed in each."""
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
                found |= _changes(TaskVector.between(encoder, checkpoint, allow_foreign=True), None)
                found["base"] = base
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else _text(found))


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
        "base_sha256": vector.base_fingerprint,
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
