"""300,000 clips in two tasks: what a row costs in memory. As a script, this file is what is measured."""

from __future__ import annotations

import gc
import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

ROWS = {"asr": 200_000, "ser": 100_000}
TEXT = "it was the best of times it was the worst of times it was the age of wisdom "
EMOTIONS = ("anger", "neutral", "sadness")
STEPS = 60
#: Bytes a row at most, of a whole run and while it trains; id, speaker, text and classes are 0.2 kB of them.
#: Measured: 850 to 880 at the peak, which is when the list of training clips is written, and 570 to 620
#: while training, when 330 are in use: the rest is memory that Python and the C library hold for later.
#: Without dev and test clips to compare. Recipes with one task first hold all clips as objects: more.
PEAK_BOUND, TRAINING_BOUND = 1000, 700


def write_manifest(folder: Path, name: str, rows: int, recording: Path) -> None:
    """A prepared corpus whose clips all lie in one recording; its lengths vary in the manifest only."""
    from voxstrata.corpora.clip import Clip
    from voxstrata.corpora.prepared import write_prepared
    from voxstrata.corpora.summary import summarize

    clip = Clip(f"{name}-ID", recording, "speaker", "train", emotion="EMOTION", text="TEXT")
    write_prepared(
        folder,
        name,
        [clip],
        [(48_000, "0" * 64)],
        labels=(),
        folds=(),
        summary=summarize([clip], [48_000], []),
    )
    with gzip.open(folder / "cuts.jsonl.gz", "rt") as file:
        row = (
            file.read()
            .replace(f'"num_samples": {48_000}', '"num_samples": SAMPLES')
            .replace("3.0", "SECONDS")
        )
    with gzip.open(folder / "cuts.jsonl.gz", "wt", compresslevel=1) as file:
        for i in range(rows):
            samples = 16_000 + 160 * (i * 7919 % 1400)
            text = (TEXT * 2)[i % 40 : i % 40 + 90].strip()
            values = {"ID": f"{i:07d}", "EMOTION": EMOTIONS[i % 3], "TEXT": text}
            values |= {"SAMPLES": str(samples), "SECONDS": str(samples / 16_000)}
            line = row
            for key, value in values.items():
                line = line.replace(key, value)
            file.write(line)
    about = json.loads((folder / "corpus.json").read_text())
    about["cuts_sha256"] = hashlib.sha256((folder / "cuts.jsonl.gz").read_bytes()).hexdigest()
    for counts in about["summary"]["splits"].values():
        counts["clips"] = rows
    (folder / "corpus.json").write_text(json.dumps(about))


def train(folder: Path, corpora: dict[str, str], name: str) -> list[int]:
    """Trains on a corpus a task for some steps; the resident bytes after each of them."""
    from voxstrata.experiments.run import execute
    from voxstrata.recipes.reading import validate
    from voxstrata.runs import RunFolder

    labels = {"asr": None, "ser": EMOTIONS}
    tiny = {"layers": 1, "size": 16, "heads": 2, "feed_forward": 16}
    recipe = {
        "system": "harmonifuse",
        "tasks": {
            task: {"corpora": [{"path": str(folder / made)}], "labels": labels[task]}
            for task, made in corpora.items()
        },
        "base": "wavlm-tiny",
        "lm": tiny,
        "data": {"batch_size": 4},
        "cache_gb": 0,
        "training": {"steps": STEPS},
    }
    resident: list[int] = []
    execute(
        validate(recipe, name),
        RunFolder(folder / "runs" / name),
        progress=lambda done: resident.append(psutil.Process().memory_info().rss),
    )
    return resident


def measure(folder: Path) -> None:
    """Prints how far the resident memory rose at its peak and while training, and the clips listed."""
    from voxstrata.runs import RunFolder

    # A first small run has everything imported and started.
    train(folder, {"asr": "small", "ser": "small"}, "small")
    gc.collect()
    before = psutil.Process().memory_info().rss
    resident = train(folder, {name: name for name in ROWS}, "large")
    # Not getrusage: that counts what this process was before it became this program.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
    # The list goes on with the clips of wavlm-tiny, which have other ids.
    with gzip.open(RunFolder(folder / "runs" / "large").training_clips, "rt") as file:
        rows = sum(line.startswith(tuple(f'["{name}-' for name in ROWS)) for line in file)
    print(rows, len(resident), peak - before, max(resident) - before)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux tells it")
def test_300000_rows_need_little_memory_each(tmp_path: Path) -> None:
    recording = tmp_path / "a.wav"
    soundfile.write(recording, np.random.default_rng(0).normal(scale=0.1, size=1600), 16_000)
    for name, rows in {**ROWS, "small": 200}.items():
        write_manifest(tmp_path / name, name, rows, recording)
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    rows, steps, peak, training = map(int, done.stdout.split())
    print(f"{peak / rows:.0f} bytes a row at the peak, {training / rows:.0f} while training")
    assert (rows, steps) == (300_000, STEPS)
    assert peak / rows < PEAK_BOUND
    assert training / rows < TRAINING_BOUND


if __name__ == "__main__":
    measure(Path(sys.argv[1]))
