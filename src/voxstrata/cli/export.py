"""`voxstrata export`: a trained run's model as a folder to keep or to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.methods.model_folder import Model

DTYPES = ("float32", "float16", "bfloat16")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("export")(export)


def export(
    run: str = typer.Argument(..., help="A run or model folder, or a packaged name."),
    out: Path = typer.Argument(..., help="Folder to write; new or empty."),
    dtype: str = typer.Option(
        "float32", "--dtype", help="Number format of the weights: float32, float16 or bfloat16."
    ),
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Write into a folder that is not empty; an older export in it is replaced."
        ),
    ] = False,
) -> None:
    """Write a run's encoder (and its head, where it has one) to a folder of its own.

    The encoder is a plain transformers folder for AutoModel; with a head it is OUT/encoder, and OUT is
    for `Recognizer.load`. A merged encoder is written as merged weights. OUT/README.md is the model
    card: base, experts, labels, what is left out, licences. The list of training clips is copied, so
    that leaks are found.
    """
    import shutil

    import torch

    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.backbone.export_folder import CARD, COEFFICIENTS, export_folder
    from voxstrata.errors import VoxstrataError
    from voxstrata.experiments.leaks.training_clips import copy_list, list_of
    from voxstrata.methods.model_card import NO_HEAD, card
    from voxstrata.methods.model_folder import find_model, save_model
    from voxstrata.runs import TRAINING_CLIPS, require_free

    if dtype not in DTYPES:
        raise VoxstrataError(f"--dtype is {dtype!r}; allowed are {', '.join(DTYPES)}")
    precision = getattr(torch, dtype)
    found = find_model(run)
    _require_elsewhere(run, found, out)
    require_free(out, overwrite=overwrite)
    encoder = load_backbone(run) if found is None else None
    model, left_out, notes = _loaded(run, found)
    text = card(run, out.resolve().name, model=found, left_out=left_out)
    listed = list_of(run)
    with export_folder(out, overwrite=overwrite) as partial:
        if model is not None:
            save_model(model, partial, dtype=precision)
        elif encoder is not None:
            encoder.save(partial, dtype=precision)
        if found is not None and (found / COEFFICIENTS).is_file():
            shutil.copyfile(found / COEFFICIENTS, partial / COEFFICIENTS)
        if listed is not None:
            copy_list(listed, partial / TRAINING_CLIPS)
        (partial / CARD).write_text(text, encoding="utf-8")
    for note in notes:
        tell(note)
    if left_out:
        tell(f"left out: {'; '.join(left_out)}")
    beside = "" if found is None else "; its own head lies beside it, for voxstrata"
    tell(f"{out if found is None else out / 'encoder'} is {NO_HEAD}{beside}")
    typer.echo(out)


def _loaded(run: str, found: Path | None) -> tuple[Model | None, list[str], list[str]]:
    """The model to write, if there is more than an encoder; what is not written with it; what else to say."""
    from voxstrata.backbone.layouts import describe_left_out
    from voxstrata.backbone.origin import find_origin
    from voxstrata.errors import CheckpointError
    from voxstrata.inference.models import find_models
    from voxstrata.methods.model_folder import load_model
    from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber

    if found is None:
        dropped = find_origin(run).checkpoint.left_out
        return None, [describe_left_out(dropped)] if dropped else [], []
    try:
        (model, *others), notes = find_models(run)
    except CheckpointError as fault:
        # The model itself must be whole; what stands beside it need not.
        return load_model(found), ["what writes the run's words"], [f"it cannot be read: {fault}"]
    assert not isinstance(model, WhisperTranscriber)
    kinds = [
        "Whisper's decoder of its base, which writes the run's words"
        if isinstance(other, WhisperTranscriber)
        else "the ASR expert with its CTC head, which writes the run's words"
        for other in others
    ]
    return model, kinds, notes


def _require_elsewhere(run: str, found: Path | None, out: Path) -> None:
    """Refuses to write over what is exported, or into it."""
    from voxstrata.errors import VoxstrataError

    place = out.resolve()
    sources = [Path(run), *([] if found is None else [found])]
    within = (found or Path(run)).resolve()
    if any(source.exists() and source.resolve().is_relative_to(place) for source in sources):
        raise VoxstrataError(f"{out} is, or holds, what is to be exported; give a folder elsewhere")
    if within.is_dir() and place.is_relative_to(within):
        raise VoxstrataError(f"{out} lies in what is to be exported; give a folder elsewhere")
