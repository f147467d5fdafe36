"""The nine kinds of inputs: case N of a kind is a function of N alone, with the command that reads it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz import mutations, seeds
from fuzz.answers import finite, one_object, packed, prediction_rows, prepared, scores
from fuzz.judge import LIMIT_S, Check, Outcome, judged


@dataclass(frozen=True)
class Case:
    """A command over a mutated input.

    Args:
        arguments: of the command.
        check: of its answer.
        unwritten: relative to the work folder, what must not be there after exit code 2.
    """

    arguments: tuple[str, ...]
    check: Check
    unwritten: tuple[str, ...] = ()


def run_case(kind: str, number: int, given: Path, work: Path, *, limit_s: float = LIMIT_S) -> Outcome:
    """Makes a case in an empty folder, runs and judges it.

    Args:
        kind: one of `KINDS`.
        number: of the case.
        given: folder with `seeds.make`.
        work: folder that is made anew.
        limit_s: seconds after which it hangs.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    case = KINDS[kind](given, work, Random(f"{kind}:{number}"))
    unwritten = [work / name for name in case.unwritten]
    return judged(case.arguments, work, check=case.check, unwritten=unwritten, limit_s=limit_s)


def warm_up(kind: str, given: Path, work: Path) -> None:
    """Lets the commands of a kind import what they need, which is no part of a case's time."""
    for number in range(3):
        run_case(kind, number, given, work, limit_s=300)


def _recordings(given: Path, work: Path, rng: Random) -> Case:
    name = rng.choice(sorted(seeds.RECORDINGS))
    # Most of the same kind.
    other = name if rng.random() < 0.7 else rng.choice(sorted(seeds.RECORDINGS))
    one, behind = ((given / "recordings" / file).read_bytes() for file in (name, other))
    content = mutations.recording_mutated(one, rng, behind)
    # Named by another format now and then: content decides.
    suffix = Path(rng.choice(sorted(seeds.RECORDINGS))).suffix if rng.random() < 0.1 else Path(name).suffix
    (work / f"r{suffix}").write_bytes(content)
    model = given / "models" / ("emotion", "multitask")[rng.random() < 0.3]
    return Case(("predict", f"r{suffix}", "--model", str(model), "--json"), prediction_rows)


def _tables(given: Path, work: Path, rng: Random) -> Case:
    _linked(given / "tables", work / "tables")
    suffix = rng.choice(("csv", "tsv", "jsonl", "jsonl"))
    content = (given / "tables" / f"t.{suffix}").read_bytes()
    if suffix == "jsonl":
        content = mutations.lines_mutated(content, rng)
    else:
        content = mutations.cells_mutated(content, rng, b"," if suffix == "csv" else b"\t")
    _put(work / "tables" / f"t.{suffix}", content)
    more = rng.choice(((), (), ("--skip-bad",), ("--trim-silence",), ("--folds", "by-speaker", "3")))
    arguments = ("corpus", "prepare", "table", f"tables/t.{suffix}", "out", "--json", *more)
    return Case(arguments, lambda code, out: prepared(code, out, work / "out"), ("out",))


def _predictions(given: Path, work: Path, rng: Random) -> Case:
    file = given / "predictions" / rng.choice(("p.jsonl", "e.jsonl"))
    (work / "p.jsonl").write_bytes(mutations.lines_mutated(file.read_bytes(), rng))
    errors = rng.choice(("wrong", "leave-out"))
    first = ("compare", str(file)) if rng.random() < 0.3 else ("evaluate",)
    return Case((*first, "p.jsonl", "--json", "--resamples", "20", "--errors", errors), scores)


def _recipes(given: Path, work: Path, rng: Random) -> Case:
    for name, place in (("base", "base"), ("expert", "checkpoints/folder"), ("corpus", "corpus")):
        (work / name).symlink_to(given / place)
    name = rng.choice(sorted(path.stem for path in (given / "recipes").glob("*.yaml")))
    content = mutations.yaml_mutated((given / "recipes" / f"{name}.yaml").read_bytes(), rng)
    (work / "r.yaml").write_bytes(content)
    return Case(("train", "r.yaml", "--dry-run", "--json", "--out", "out"), one_object, ("out",))


def _plans(given: Path, work: Path, rng: Random) -> Case:
    for name in ("base", "corpus"):
        (work / name).symlink_to(given / name)
    (work / "t.yaml").write_bytes(mutations.yaml_mutated((given / "plan.yaml").read_bytes(), rng))
    more = rng.choice(((), (), ("--only", "merged"), ("--seed", "1")))
    arguments = ("reproduce", "t.yaml", "--scale", "small", "--dry-run", "--json", "--out", "out")
    return Case((*arguments, "--corpus", "speech=corpus", *more), one_object, ("out",))


def _corpora(given: Path, work: Path, rng: Random) -> Case:
    _linked(given / "corpus", work / "corpus")
    act = rng.random()
    about, cuts = work / "corpus" / "corpus.json", work / "corpus" / "cuts.jsonl.gz"
    if act < 0.35:
        _put(about, mutations.json_mutated(about.read_bytes(), rng))
    elif act < 0.45:
        tar = next((work / "corpus" / "shar").glob("recording.*.tar"))
        _put(tar, mutations.bytes_mutated(tar.read_bytes(), rng, header=4096))
    else:
        _put(cuts, mutations.gzip_mutated(cuts.read_bytes(), rng))
        if rng.random() < 0.9:
            told = json.loads(about.read_bytes()) | {
                "cuts_sha256": hashlib.sha256(cuts.read_bytes()).hexdigest()
            }
            _put(about, json.dumps(told).encode())
    if rng.random() < 0.5:
        fold = rng.choice(((), (), ("--split", "train")))
        arguments = ("predict", "corpus", "--model", str(given / "models" / "multitask"), "--json", *fold)
        return Case(arguments, prediction_rows)
    if rng.random() < 0.5:
        return Case(
            ("corpus", "shar", "corpus", "out"), lambda code, out: packed(code, work / "out"), ("out",)
        )
    (work / "base").symlink_to(given / "base")
    (work / "r.yaml").write_bytes((given / "recipes" / "finetune.yaml").read_bytes())
    return Case(("train", "r.yaml", "--dry-run", "--json", "--out", "out"), one_object, ("out",))


def _checkpoints(given: Path, work: Path, rng: Random) -> Case:
    _linked(given / "checkpoints", work / "checkpoints")
    name = rng.choice(("x.pt", "x.safetensors", "folder", "folder"))
    if name == "folder":
        _mutated_in(work / "checkpoints" / name, rng)
    else:
        file = work / "checkpoints" / name
        change = mutations.bytes_mutated if name == "x.pt" else mutations.safetensors_mutated
        _put(file, change(file.read_bytes(), rng))
    act = rng.random()
    if act < 0.3:
        return Case(
            ("export", f"checkpoints/{name}", "out"), lambda code, out: finite(code, work / "out"), ("out",)
        )
    base = ("--base", str(given / "base")) if act < 0.7 else ()
    return Case(("inspect", f"checkpoints/{name}", "--json", *base), one_object)


def _models(given: Path, work: Path, rng: Random) -> Case:
    name = rng.choice(seeds.MODELS)
    _linked(given / "models" / name, work / "model")
    _mutated_in(work / "model", rng)
    if rng.random() < 0.3:
        return Case(("export", "model", "out"), lambda code, out: finite(code, work / "out"), ("out",))
    recording = str(given / "recordings" / "pcm.wav")
    return Case(("predict", recording, "--model", "model", "--json"), prediction_rows)


def _whispers(given: Path, work: Path, rng: Random) -> Case:
    _linked(given / "whisper", work / "whisper")
    _mutated_in(work / "whisper", rng)
    act = rng.random()
    if act < 0.2:
        return Case(("export", "whisper", "out"), lambda code, out: finite(code, work / "out"), ("out",))
    if act < 0.4:
        return Case(("inspect", "whisper", "--json"), one_object)
    recording = str(given / "recordings" / "pcm.wav")
    return Case(("predict", recording, "--model", "whisper", "--json"), prediction_rows)


#: Name of a kind -> what makes a case of it: given seeds, an empty folder and a random generator.
KINDS: Mapping[str, Callable[[Path, Path, Random], Case]] = {
    "recordings": _recordings,
    "tables": _tables,
    "predictions": _predictions,
    "recipes": _recipes,
    "plans": _plans,
    "corpora": _corpora,
    "checkpoints": _checkpoints,
    "models": _models,
    "whispers": _whispers,
}


def _linked(source: Path, target: Path) -> None:
    """A copy of a folder whose files are links to the given ones, until `_put` replaces them."""
    shutil.copytree(source, target, copy_function=os.symlink)


def _put(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _mutated_in(folder: Path, rng: Random) -> None:
    """One file of a folder mutated, in its format; now and then it is gone."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = rng.choice(files)
    if rng.random() < 0.05:
        file.unlink()
        return
    change = mutations.json_mutated if file.suffix == ".json" else mutations.safetensors_mutated
    _put(file, change(file.read_bytes(), rng))
    about = folder / "model.json"
    if file.suffix == ".safetensors" and about.is_file() and rng.random() < 0.9:
        # Else the hash of the weights is all that is ever held against them.
        told = json.loads(about.read_bytes())
        told["weights"][file.relative_to(folder).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
        _put(about, json.dumps(told).encode())
