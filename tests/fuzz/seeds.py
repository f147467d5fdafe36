"""Small valid inputs of each kind, made anew in a folder: the same bytes on every machine, up to encoders."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from tiny_whisper import save_whisper

SAMPLE_RATE = 16_000
EMOTIONS = ("anger", "neutral", "sadness")
#: Name of a recording -> format and subtype of soundfile, sample rate, channels.
RECORDINGS = {
    "pcm.wav": ("WAV", "PCM_16", 16_000, 1),
    "float.wav": ("WAV", "FLOAT", 44_100, 2),
    "wide.wav": ("WAVEX", "PCM_24", 48_000, 2),
    "law.wav": ("WAV", "ULAW", 8_000, 1),
    "ms.wav": ("WAV", "MS_ADPCM", 16_000, 1),
    "rf64.wav": ("RF64", "PCM_16", 16_000, 1),
    "x.flac": ("FLAC", "PCM_16", 16_000, 1),
    "x.ogg": ("OGG", "VORBIS", 16_000, 1),
    "x.opus": ("OGG", "OPUS", 48_000, 1),
    "x.mp3": ("MP3", "MPEG_LAYER_III", 16_000, 1),
    "x.aiff": ("AIFF", "PCM_16", 16_000, 1),
    "x.au": ("AU", "PCM_16", 16_000, 1),
    "x.caf": ("CAF", "PCM_16", 16_000, 1),
}
_RATED = ("arousal", "reference_arousal", "classes", "reference_classes")
#: Kinds of models that are saved.
MODELS = ("emotion", "dimensions", "transcription", "multitask", "per-task", "harmonifuse")


def make(folder: Path) -> None:
    """Writes the seeds of all kinds below a folder, which must not be there."""
    folder.mkdir(parents=True)
    (folder / "recordings").mkdir()
    for number, (name, (form, subtype, rate, channels)) in enumerate(RECORDINGS.items()):
        sound = np.repeat(_voice(number, int(0.35 * rate))[:, None], channels, 1)
        soundfile.write(folder / "recordings" / name, sound, rate, format=form, subtype=subtype)
    _predictions(folder)
    _tables(folder / "tables")
    _models(folder)
    _whisper(folder / "whisper")
    _corpus(folder)
    _recipes(folder / "recipes")
    _plan(folder / "plan.yaml")


def _voice(seed: int, samples: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wave = 0.02 * rng.normal(size=samples)
    wave[:: int(rng.integers(60, 160))] += 0.5
    return wave.astype(np.float32)


def _predictions(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for clip in range(12):
        shares = rng.dirichlet(np.ones(3))
        shares = dict(zip(EMOTIONS, (*shares[:2].round(4), 1 - shares[:2].round(4).sum()), strict=True))
        rows.append(
            {
                "id": f"c/{clip}",
                "path": f"{clip}.wav",
                "speaker": f"s{clip % 4}",
                "emotion": max(shares, key=shares.__getitem__),
                "probabilities": {name: float(share) for name, share in shares.items()},
                "reference_emotion": EMOTIONS[clip % 3],
                "transcript": ("say the word back", "ba", "")[clip % 3],
                "reference_transcript": ("say the word bag", "ba ab", "a")[clip % 3],
                "arousal": float(rng.uniform(1, 7)),
                "reference_arousal": float(rng.uniform(1, 7)),
                "classes": {"gender": {"female": 0.25, "male": 0.75}},
                "reference_classes": {"gender": ("female", "male")[clip % 2]},
            }
        )
    (folder / "predictions").mkdir()
    _write_lines(folder / "predictions" / "p.jsonl", rows)
    # Of words and emotions alone, and one without an answer.
    fewer = [{name: value for name, value in row.items() if name not in _RATED} for row in rows]
    lost = {"id": "c/12", "reference_emotion": "anger", "error": "cannot be read", "note": "narrow band"}
    _write_lines(folder / "predictions" / "e.jsonl", [*fewer, lost])


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _tables(folder: Path) -> None:
    folder.mkdir()
    rows = []
    for clip, split in enumerate(("train", "train", "train", "dev", "dev", "test", "test", "train")):
        soundfile.write(folder / f"{clip}.wav", _voice(50 + clip, 4800 + 400 * (clip % 3)), SAMPLE_RATE)
        rows.append(
            {
                "path": f"{clip}.wav",
                "id": f"clip-{clip}",
                "emotion": EMOTIONS[clip % 3],
                "votes:anger": str(clip % 2),
                "text": ("ab ba", "ba", "a b")[clip % 3],
                "speaker": f"{split}{clip % 2}",
                "split": split,
                "start": "0" if clip == 7 else "",
                "end": "0.2" if clip == 7 else "",
                "arousal": str(1 + clip % 5),
            }
        )
    for suffix, separator in (("csv", ","), ("tsv", "\t")):
        with (folder / f"t.{suffix}").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter=separator, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
    numbers = [
        {name: value for name, value in row.items() if value and ":" not in name}
        | {"votes": {row["emotion"]: 2, "other": 1}, "arousal": float(row["arousal"])}
        for row in rows
    ]
    _write_lines(folder / "t.jsonl", numbers)


def _models(folder: Path) -> None:
    from voxstrata.backbone.encoder import build_backbone
    from voxstrata.config.head import HeadOptions
    from voxstrata.heads.ctc import CTCHead
    from voxstrata.labels import LabelSet
    from voxstrata.methods.encoder_models import (
        DimensionModel,
        EmotionModel,
        MultitaskModel,
        TranscriptionModel,
    )
    from voxstrata.methods.model_folder import save_model
    from voxstrata.methods.pretraining.tiny_encoder import start_front_end, tiny_config
    from voxstrata.vocabulary import Vocabulary

    def encoder(seed: int):
        sizes = {"hidden_size": 16, "layers": 2, "attention_heads": 2, "feed_forward": 32}
        made = build_backbone(tiny_config(**sizes, channels=16, position_kernel=8), seed=seed)
        start_front_end(made)
        return made

    labels, words, width = LabelSet(EMOTIONS), Vocabulary(("a", "b")), HeadOptions(width=8)
    base = encoder(0)
    base.save(folder / "base")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in base.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    (folder / "checkpoints").mkdir()
    base.save(folder / "checkpoints" / "folder")
    torch.save(base.weights(), folder / "checkpoints" / "x.pt")
    shutil.copy(
        folder / "checkpoints" / "folder" / "model.safetensors", folder / "checkpoints" / "x.safetensors"
    )
    # Beside weights alone.
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(folder / "base" / name, folder / "checkpoints" / name)
    for name in MODELS:
        torch.manual_seed(0)
        one = encoder(0)
        model = {
            "emotion": lambda one=one: EmotionModel(one, labels, width),
            "dimensions": lambda one=one: DimensionModel(one, width),
            "transcription": lambda one=one: TranscriptionModel(one, CTCHead(16, words)),
            "multitask": lambda one=one: MultitaskModel(one, labels, CTCHead(16, words), width),
            "per-task": lambda: _merged_per_task(folder, labels, CTCHead(16, words), width),
            "harmonifuse": lambda one=one: _harmonifuse(one, labels, words),
        }[name]()
        save_model(model, folder / "models" / name)


def _merged_per_task(folder: Path, labels: Any, words: Any, options: Any) -> Any:
    """Emotions and words over two merges of one base."""
    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.methods.adaltm.joint import JointModel
    from voxstrata.methods.adaltm.merged import MergedBackbone
    from voxstrata.methods.adaltm.task_vector import TaskVector

    base = load_backbone(folder / "base")
    vectors = {
        name: TaskVector.between(base, folder / "checkpoints" / file)
        for name, file in (("asr", "folder"), ("ser", "x.safetensors"))
    }
    emotions = MergedBackbone(base, vectors)
    return JointModel(emotions, labels, words, options, emotions.twin())


def _harmonifuse(encoder: Any, labels: Any, words: Any) -> Any:
    from voxstrata.heads.task import Task
    from voxstrata.methods.harmonifuse.lm.pretrained import build_lm
    from voxstrata.methods.harmonifuse.options import (
        ConnectorOptions,
        HarmoniFuseOptions,
        LayerFusionOptions,
        LMOptions,
    )
    from voxstrata.methods.harmonifuse.system import HarmoniFuse

    options = HarmoniFuseOptions(
        lm=LMOptions(layers=1, size=16, heads=2, feed_forward=32),
        layer_fusion=LayerFusionOptions(width=8),
        connector=ConnectorOptions(width=16),
    )
    lm, tokenizer = build_lm(options, words, seed=0)
    return HarmoniFuse(encoder, lm, tokenizer, (Task("asr"), Task("ser", labels)), options)


def _whisper(folder: Path) -> None:
    """A whole Whisper of two seconds, as transformers writes it."""
    save_whisper(folder, d_model=16, decoder_layers=1)


def _corpus(folder: Path) -> None:
    """A prepared corpus in tars, whose files are named relative to it."""
    from voxstrata.corpora.prepare import prepare
    from voxstrata.corpora.shar import write_shar

    plain = prepare("table", folder / "tables" / "t.jsonl", folder / "plain")
    write_shar(plain, folder / "corpus")
    shutil.rmtree(folder / "plain")


def _plan(path: Path) -> None:
    """A table of runs; `base` and `corpus` are names of what lies beside it."""
    emotions = {"width": 8}
    runs = {
        "words": {"recipe": "finetune-asr"},
        "emotions": {"recipe": "finetune-ser", "set": {"head": emotions}},
        "merged": {"recipe": "adaltm", "set": {"vectors": {"asr": "$run.words", "ser": "$run.emotions"}}},
        "both": {"recipe": "multitask", "grid": {"asr_weight": [0.1, 1.0], "rates.encoder": [1e-4, 1e-3]}},
    }
    small = {
        "note": "seeds",
        "corpora": {
            "speech": {"reader": "table", "folder": "tables", "maps": [], "skip_bad": True},
            "spoken": {"synth": {"clips": [8, 4, 4], "voices": [2, 1, 1], "seed": 1}},
        },
        "axes": {"seed": [0, 1]},
        "set": {
            "all": {
                "base": "base",
                "data": {"corpora": [{"path": "$corpus.speech"}], "batch_size": 2},
                "training": {"epochs": 1, "warmup_steps": 1},
            },
            "adaltm": {"head": emotions},
        },
        "runs": {"merged": {"init": 0.4}},
        "rows": ["merged", "emotions", "both"],
        "grids": {"both": {"asr_weight": [0.2]}},
    }
    rows = [
        {"run": "merged", "title": "merged", "paper": {"uar": 50.0}, "normalizer": "spelled"},
        {"run": "emotions", "title": "emotions alone", "normalizer": "spelled"},
        {"run": "both", "title": "both", "choose": "wer"},
    ]
    table = {
        "title": "seeds",
        "columns": ["uar", "wer", "accuracy_gender"],
        "runs": runs,
        "rows": rows,
        "contrasts": [{"run": "merged", "over": "emotions"}],
        "scales": {"small": small},
    }
    path.write_text(yaml.safe_dump(table, sort_keys=False))


def _recipes(folder: Path) -> None:
    """One a method; `base`, `model` and `corpus` are names of what lies beside the recipe."""
    data = {"corpora": [{"path": "corpus"}], "batch_size": 2}
    training = {"epochs": 1, "schedule": "linear", "warmup_steps": 1, "clip_norm": 1.0}
    shared = {"base": "base", "data": data, "training": training, "seed": 3}
    rates = {"encoder": 1e-5, "head": 1e-4, "layer_weights": 1e-3}
    recipes = {
        "finetune": {"system": "finetune", "task": "ser", "head": {"width": 8}, "rates": rates},
        "words": {"system": "finetune", "task": "asr"},
        "adaltm": {"system": "adaltm", "vectors": {"ser": "expert"}, "granularity": "layer", "init": 0.5},
        "multitask": {"system": "multitask", "asr_weight": 0.1, "selected_by": "joint", "vectors": {}},
        "harmonifuse": {
            "system": "harmonifuse",
            "tasks": {"asr": {}, "ser": {"weight": 1.0}},
            "lm": {"layers": 1, "size": 16, "heads": 2, "feed_forward": 32},
            "connector": {"stack": 5, "width": 16},
            "layer_fusion": {"width": 8},
        },
    }
    folder.mkdir()
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**recipe, **shared}, sort_keys=False))
