"""Which models answer for a folder: its own, and the one that hears words beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError
from voxstrata.inference.published_classifier import (
    PublishedClassifier,
    find_classifier,
    load_classifier,
)
from voxstrata.merging.run_base import base_of_run
from voxstrata.methods.encoder_models import ClipModel, MultitaskModel, TranscriptionModel
from voxstrata.methods.model_description import WORDS
from voxstrata.methods.model_folder import Model, find_model, load_model, model_kind
from voxstrata.methods.transcribers.published_ctc import find_published, load_published
from voxstrata.methods.transcribers.published_whisper import find_transcriber, load_transcriber
from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber
from voxstrata.runs import RunFolder

AnyModel = Model | PublishedClassifier | WhisperTranscriber


def find_models(
    source: str | Path | None,
    *,
    transcriber: str | Path | None = None,
    language: str | None = None,
    words: str | None = None,
) -> tuple[list[AnyModel], list[str]]:
    """The models that answer, on the CPU, and what is to be said of them.

    A model without words of its own is joined by the ASR expert that its run merged, or by the decoder of the
    run's base where that is a whole Whisper. `"words": "merged"` in model.json has that decoder listen to the
    model's own encoder; "plain" is the default, and where it is written the decoder goes before an expert.

    Args:
        source: a run or model folder, or a published recogniser; None for a transcriber alone.
        transcriber: a whole Whisper whose words are taken in place of all others.
        language: see `methods.transcribers.whisper_decoder.WhisperTranscriber`.
        words: what Whisper's decoder listens to, "plain" or "merged"; None: as model.json says.

    Raises:
        CheckpointError: if a folder holds no model, or one whose words cannot be told.
    """
    if words not in (None, *WORDS):
        raise CheckpointError(f"words are {words!r}; allowed: {', '.join(WORDS)}")
    if transcriber is not None:
        own = [] if source is None else _own(source, None)[0]
        kept = [model for model in own if not isinstance(model, TranscriptionModel | WhisperTranscriber)]
        if words == "merged":
            if not own:
                raise CheckpointError("merged words are those of a model's encoder: name the model too")
            listener = load_transcriber(transcriber, _listened_to(own[0]), language=language)
            return [*kept, listener], []
        listener = load_transcriber(transcriber, language=language)
        for model in kept:
            _share(model, listener)
        return [*kept, listener], []
    if source is None:
        raise CheckpointError("no model was named; give a run or model folder, or a whole Whisper")
    models, notes = _own(source, language)
    found = find_model(source)
    if found is not None and isinstance(models[0], ClipModel) and not isinstance(models[0], MultitaskModel):
        added, notes = _words(found, models[0], language, words)
        models += added
    asked = [name for name, value in (("a language", language), ("plain or merged words", words)) if value]
    if asked and not any(isinstance(model, WhisperTranscriber) for model in models):
        raise CheckpointError(
            f"{' and '.join(asked)} can be told to Whisper's decoder, and no model here has one; leave that "
            "out, or name a whole Whisper as the transcriber"
        )
    return models, notes


def _own(source: str | Path, language: str | None) -> tuple[list[AnyModel], list[str]]:
    """The model of a folder, without what stands beside it."""
    if (found := find_model(source)) is not None:
        return [load_model(found)], []
    if (place := find_classifier(source)) is not None:
        classifier, notes = load_classifier(place)
        return [classifier], notes
    if (place := find_published(source)) is not None:
        model, notes = load_published(place)
        return [model], notes
    if find_transcriber(source) is not None:
        return [load_transcriber(source, language=language)], []
    raise CheckpointError(
        f"{source} holds no model: give a finished run (with model/ in it), a model folder, a transformers "
        "folder with a CTC head and its vocab.json, one of an audio classifier, or a whole Whisper with its "
        "tokenizer; `voxstrata demo` makes a run"
    )


def _words(
    found: Path, model: ClipModel, language: str | None, words: str | None
) -> tuple[list[AnyModel], list[str]]:
    """What hears words beside a model, and what is to be said where it is missing."""
    run = RunFolder(found.parent)
    told = words or _json(found / "model.json").get("words")
    if told not in (None, *WORDS):
        raise CheckpointError(
            f"{found / 'model.json'} has words {told!r}; this version knows {', '.join(WORDS)}"
        )
    notes: list[str] = []
    if told is None:
        expert, notes = _expert(run, _parents(run))
        if expert is not None:
            return [expert], notes
    base = base_of_run(run)
    try:
        place = None if base is None else find_transcriber(run.path / base) or find_transcriber(base)
        if place is not None:
            return [_decoder(place, model, told or "plain", language)], []
    except CheckpointError as fault:
        if language is not None or words is not None:
            raise
        return [], [*notes, f"no transcript from the base {base}: {fault}"]
    if told is not None:
        shown = "base of the run is not known" if base is None else f"base {base} is no whole Whisper here"
        notes.append(f"no transcript: the {shown}; name one as the transcriber")
    return [], notes


def _expert(run: RunFolder, parents: dict[str, str]) -> tuple[Model | None, list[str]]:
    """The first expert of a run that hears words; with what is missing, in words."""
    notes = []
    for name, parent in parents.items():
        place = find_model(run.path / parent) or find_model(parent)
        if place is not None:
            if model_kind(place) == "transcription":
                return load_model(place), []
            continue
        try:
            place = find_published(run.path / parent) or find_published(parent)
            if place is not None:
                return load_published(place)
            notes.append(
                f"no transcript from expert {name}: {parent} is not there any more, or has no CTC head"
            )
        except CheckpointError as fault:
            notes.append(f"no transcript from expert {name}: {fault}")
    return None, notes


def _parents(run: RunFolder) -> dict[str, str]:
    """The experts that a run built on, as its provenance tells.

    Raises:
        CheckpointError: if what it tells are no names.
    """
    parents = _json(run.provenance).get("parents", {})
    if not isinstance(parents, dict) or not all(isinstance(name, str) for name in parents.values()):
        raise CheckpointError(
            f"{run.provenance} has parents that are no names of folders; put it back, or give the model's "
            "folder alone"
        )
    return parents


def _decoder(place: Path, model: ClipModel, words: str, language: str | None) -> WhisperTranscriber:
    """The decoder of a whole Whisper over its own encoder, or over that of a model."""
    if words == "plain":
        transcriber = load_transcriber(place, language=language)
        _share(model, transcriber)
        return transcriber
    return load_transcriber(place, _listened_to(model), language=language)


def _listened_to(model: AnyModel) -> SpeechEncoder:
    """The encoder of a model for Whisper's decoder.

    Raises:
        CheckpointError: if the model has several.
    """
    if not isinstance(model.encoder, SpeechEncoder):
        raise CheckpointError(
            "words 'merged' are those of a model's one encoder, and this one has several; take 'plain'"
        )
    return _in_30_seconds(model.encoder)


def _in_30_seconds(encoder: SpeechEncoder) -> SpeechEncoder:
    """An encoder with window 30s: itself, or another way to run the same weights."""
    if encoder.window == "30s":
        return encoder
    return SpeechEncoder(
        encoder.model, normalize=encoder.normalize, final_norm=encoder.final_norm, window="30s"
    ).eval()


def _share(model: AnyModel, transcriber: WhisperTranscriber) -> None:
    """Lets a transcriber listen to a model's own encoder where that is the same as its own."""
    ours, theirs = model.encoder, transcriber.encoder
    if isinstance(ours, SpeechEncoder) and isinstance(theirs, SpeechEncoder) and _same(ours, theirs):
        transcriber.encoder = ours


def _same(one: SpeechEncoder, other: SpeechEncoder) -> bool:
    """Whether two encoders give the same states, but for the norm behind the last layer."""
    heads = [getattr(encoder.model.config, "encoder_attention_heads", None) for encoder in (one, other)]
    if (one.window, one.normalize, heads[0]) != (other.window, other.normalize, heads[1]):
        return False
    weights, others = one.weights(), other.weights()
    return weights.keys() == others.keys() and all(
        torch.equal(weight, others[name]) for name, weight in weights.items()
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file.

    Raises:
        CheckpointError: if the file holds something else.
    """
    if not path.is_file():
        return {}
    return read_json_object(path, error=CheckpointError, advice="put it back, or give model/ alone")
