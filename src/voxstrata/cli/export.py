"""`voxstrata export`: a trained run's model as a folder to keep or to pass on."""

from __future__ import annotations

from pathlib import Path

import typer

DTYPES = ("float32", "float16", "bfloat16")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("export")(export)


def export(
    run: str = typer.Argument(..., help="A run or model folder, or a packaged name."),
    out: Path = typer.Argument(..., help="Folder to write; must not exist."),
    dtype: str = typer.Option(
        "float32", "--dtype", help="Of the stored weights: float32, float16, bfloat16."
    ),
) -> None:
    """Write a run's encoder (and its head, where it has one) to a folder of its own.

    The encoder is a plain transformers folder; with a head it lies in OUT/encoder.
    """
    import shutil

    import torch

    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.errors import VoxstrataError
    from voxstrata.experiments.leaks.training_clips import list_of
    from voxstrata.runs import TRAINING_CLIPS, written_whole
    from voxstrata.systems.model_folder import find_model, load_model, save_model

    if dtype not in DTYPES:
        raise VoxstrataError(f"--dtype is {dtype!r}; allowed are {', '.join(DTYPES)}")
    if out.exists():
        raise VoxstrataError(f"{out} is there already; give a folder that is not")
    precision = getattr(torch, dtype)
    found = find_model(run)
    encoder = load_backbone(run) if found is None else None
    model = None if found is None else load_model(found)
    listed = list_of(run)
    with written_whole(out) as partial:
        if model is not None:
            save_model(model, partial, dtype=precision)
        elif encoder is not None:
            encoder.save(partial, dtype=precision)
        if listed is not None:
            shutil.copyfile(listed, partial / TRAINING_CLIPS)
    typer.echo(out)
