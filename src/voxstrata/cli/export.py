"""`voxstrata export`: a trained run's model as a folder to keep or to pass on."""

from __future__ import annotations

from pathlib import Path

import typer

from voxstrata.cli.lines import tell

FORMS = ("emotion", "ctc", "whisper", "encoder")
DTYPES = ("float32", "float16", "bfloat16")
FORM = typer.Option(
    None, "--as", help="Class of transformers: emotion, ctc, whisper or encoder. Default: for voxstrata."
)
DECODER = typer.Option(
    None,
    "--decoder",
    help="With --as whisper: the whole Whisper whose decoder is taken. Default: the run's base.",
)
DTYPE = typer.Option("float32", "--dtype", help="Number format of the weights: float32, float16 or bfloat16.")
ONNX = typer.Option(False, "--onnx", help="With --as emotion or ctc: also write model.onnx (extra onnx).")
INT8 = typer.Option(False, "--int8", help="With --onnx: also write model.int8.onnx, with weights in 8 bits.")
OVERWRITE = typer.Option(
    False, "--overwrite", help="Write into a folder that is not empty; an older export in it is replaced."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("export")(export)


def export(
    run: str = typer.Argument(..., help="A run or model folder, or a packaged name."),
    out: Path = typer.Argument(..., help="Folder to write; new or empty."),
    form: str | None = FORM,
    decoder: str | None = DECODER,
    dtype: str = DTYPE,
    onnx: bool = ONNX,
    int8: bool = INT8,
    overwrite: bool = OVERWRITE,
) -> None:
    """Write a run's model to a folder of its own, also for programs without voxstrata.

    With --as, transformers alone opens the folder: `pipeline("audio-classification")` for emotion,
    `pipeline("automatic-speech-recognition")` for ctc and whisper, `AutoModel` for encoder. The folder is
    written only if transformers, in a process without voxstrata, answers as the run does; the largest
    difference is printed. What transformers' class cannot compute is refused with the reason.

    Without --as, encoder and head are written for `Recognizer.load`; the encoder is a plain transformers
    folder. A merged encoder is written as merged weights.

    OUT/README.md is the model card. The list of training clips is copied, so that leaks are found.
    """
    from voxstrata.errors import VoxstrataError

    if dtype not in DTYPES:
        raise VoxstrataError(f"--dtype is {dtype!r}; allowed are {', '.join(DTYPES)}")
    if form is not None and form not in FORMS:
        raise VoxstrataError(f"--as is {form!r}; allowed are {', '.join(FORMS)}")
    if decoder is not None and form != "whisper":
        raise VoxstrataError("--decoder is of --as whisper only; leave it out, or export --as whisper")
    if int8 and not onnx:
        raise VoxstrataError("--int8 is of --onnx only; add --onnx, or leave it out")
    # After the options: they are refused at once, and this takes seconds.
    import torch

    from voxstrata.exporting.write import Wanted
    from voxstrata.exporting.write import export as write

    wanted = Wanted(form, getattr(torch, dtype), decoder, overwrite, onnx, int8)
    write(run, out, wanted, notify=tell)
    typer.echo(out)
