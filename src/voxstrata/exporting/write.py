"""An export from start to end: read, put into a class of transformers, written, checked, described."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.export_folder import CARD, COEFFICIENTS, export_folder
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.experiments.leaks.training_clips import copy_list, list_of
from voxstrata.exporting.card import Facts, card, coefficient_sets, figures
from voxstrata.exporting.clips import clips_for
from voxstrata.exporting.ctc import ctc_model
from voxstrata.exporting.emotion import emotion_model
from voxstrata.exporting.encoder import encoder_model, encoder_of
from voxstrata.exporting.exact import take_experts_at_one
from voxstrata.exporting.lineage import lineage_of, read_provenance
from voxstrata.exporting.loading import NO_HEAD
from voxstrata.exporting.onnx_file import require_onnx, write_onnx
from voxstrata.exporting.plain_model import FORMS, PlainModel
from voxstrata.exporting.source import Source, read_source, require_elsewhere
from voxstrata.exporting.verification import verify
from voxstrata.exporting.whisper import whisper_model
from voxstrata.merging.run_base import base_of_run
from voxstrata.methods.model_description import read_about
from voxstrata.methods.model_folder import find_model, save_model
from voxstrata.methods.transcribers.published_whisper import find_transcriber
from voxstrata.reporting.coefficients import Coefficients
from voxstrata.reporting.contents import read_scores
from voxstrata.runs import TRAINING_CLIPS, RunFolder, require_free

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """How something is exported.

    Args:
        form: one of `FORMS`; None for encoder and head as voxstrata reads them.
        dtype: of the stored weights.
        decoder: a whole Whisper for form "whisper"; None for that of the run's base.
        overwrite: the folder may hold something.
        onnx: write model.onnx beside it.
        int8: and model.int8.onnx, with weights in 8 bits.
    """

    form: str | None = None
    dtype: torch.dtype = torch.float32
    decoder: str | None = None
    overwrite: bool = False
    onnx: bool = False
    int8: bool = False


def export(name: str, out: Path, wanted: Wanted, *, notify: Notify) -> None:
    """Writes an export; with a form of transformers only once transformers alone answers as the source does.

    Args:
        name: a run or model folder, a packaged name, or any encoder.
        out: the folder to write.
        wanted: how.
        notify: receives lines for the user.

    Raises:
        VoxstrataError: if it cannot be exported so; then nothing was written.
    """
    folder = find_model(name)
    require_elsewhere(name, folder, out)
    require_free(out, overwrite=wanted.overwrite)
    if wanted.onnx or wanted.int8:
        require_onnx(wanted.form)
    source = read_source(name)
    coefficients = coefficient_sets((source.folder or Path(name)) / COEFFICIENTS)
    _take_experts(source, coefficients)
    plain = None if wanted.form is None else _plain_model(source, wanted)
    left_out = list(source.left_out if plain is None else _left_out(source, plain))
    with export_folder(out, overwrite=wanted.overwrite) as partial:
        checked: list[str] = []
        if plain is None:
            _save(source, partial, wanted)
        else:
            plain.write(partial, dtype=wanted.dtype)
            clips = clips_for(source.run, shortest=plain.shortest, longest=plain.longest)
            checked = verify(plain, partial, clips, dtype=wanted.dtype).lines()
            if wanted.onnx or wanted.int8:
                checked += write_onnx(plain, partial, clips, dtype=wanted.dtype, int8=wanted.int8)
        facts = replace(
            _facts(source, wanted, plain),
            name=out.resolve().name,
            coefficients=coefficients,
            left_out=left_out,
            checked=checked,
        )
        _describe(source, partial, facts)
    for line in (*source.notes, *checked, *(plain.notes if plain is not None else ())):
        notify(line)
    for line in facts.lineage.warnings():
        notify(f"warning: {line}")
    if left_out:
        notify(f"left out: {'; '.join(left_out)}")
    notify(_what_it_is(source, out, wanted.form))


def _plain_model(source: Source, wanted: Wanted) -> PlainModel:
    """The source in a class of transformers."""
    if wanted.form == "encoder":
        return encoder_model(source.any_encoder)
    if wanted.form == "whisper":
        return whisper_model(source.any_encoder, wanted.decoder or _base(source))
    if source.model is None:
        raise VoxstrataError(
            f"{source.name} is an encoder without a head of voxstrata, which --as {wanted.form} writes; give "
            "a trained run or a model folder, or --as encoder"
        )
    return emotion_model(source.model) if wanted.form == "emotion" else ctc_model(source.model)


def _base(source: Source) -> str:
    """The base of a run, whose decoder is taken; for an encoder alone itself."""
    if source.folder is None:
        return source.name
    run = RunFolder(source.run)
    base = base_of_run(run)
    place = None if base is None else find_transcriber(run.path / base) or find_transcriber(base)
    if place is None:
        asked = source.name if base is None else f"the base {base}"
        raise CheckpointError(
            f"{asked} holds no whole Whisper, whose decoder --as whisper needs; name one with --decoder: a "
            "folder of transformers with its tokenizer, or a downloaded hub id"
        )
    return str(place)


def _left_out(source: Source, plain: PlainModel) -> list[str]:
    """What of the source is not in an export of a form."""
    found = list(plain.left_out)
    if plain.form in ("encoder", "whisper") and source.model is not None:
        found += encoder_of(source.model)[1]
    if plain.form == "whisper":
        # The decoder itself is in the export.
        return [*found, *(line for line in source.left_out if "decoder" not in line)]
    return [*found, *source.left_out]


def _save(source: Source, partial: Path, wanted: Wanted) -> None:
    """Writes encoder and head as voxstrata reads them."""
    if source.model is not None:
        save_model(source.model, partial, dtype=wanted.dtype)
    elif source.encoder is not None:
        source.encoder.save(partial, dtype=wanted.dtype)


def _take_experts(source: Source, coefficients: Mapping[str, Coefficients]) -> None:
    """A merge at coefficient 1 is the expert itself."""
    parents = read_provenance(RunFolder(source.run).provenance).get("parents")
    if "" not in coefficients or not isinstance(parents, dict) or source.model is None:
        return
    if isinstance(source.model.encoder, SpeechEncoder):
        places = {name: source.run / str(place) for name, place in parents.items()}
        experts = {name: place if place.exists() else str(parents[name]) for name, place in places.items()}
        take_experts_at_one(source.model.encoder, coefficients[""], experts)


def _facts(source: Source, wanted: Wanted, plain: PlainModel | None) -> Facts:
    """What the card is written from, as far as the source has it."""
    first = source.first_encoder
    return Facts(
        name=source.name,
        source=source.name,
        form=wanted.form,
        about=None if source.folder is None else read_about(source.folder),
        model_type=first.model.config.model_type,
        longest_s=first.longest / SAMPLE_RATE,
        lineage=lineage_of(source.name, source.folder, wanted.decoder),
        scores=read_scores(RunFolder(source.run).metrics),
        notes=() if plain is None else plain.notes,
    )


def _describe(source: Source, partial: Path, facts: Facts) -> None:
    """Writes what lies beside the weights: coefficients and their figures, training clips, the card."""
    coefficients = (source.folder or Path(source.name)) / COEFFICIENTS
    if coefficients.is_file():
        shutil.copyfile(coefficients, partial / COEFFICIENTS)
    for name, figure in figures(facts.coefficients).items():
        (partial / name).write_text(figure.svg, encoding="utf-8")
    if (listed := list_of(source.name)) is not None:
        copy_list(listed, partial / TRAINING_CLIPS)
    (partial / CARD).write_text(card(facts), encoding="utf-8")


def _what_it_is(source: Source, out: Path, form: str | None) -> str:
    if form is not None and form != "encoder":
        return f"{out} is {FORMS[form]}: pipeline() opens it"
    own_head = form is None and source.folder is not None
    beside = "; its own head lies beside it, for voxstrata" if own_head else ""
    return f"{out / 'encoder' if own_head else out} is {NO_HEAD}{beside}"
