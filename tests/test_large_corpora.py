"""300,000 clips in two tasks: what a row costs in memory. As a script, this file is what is measured."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

ROWS = {"asr": 200_000, "ser": 100_000}
TEXT = "it was the best of times it was the worst of times it was the age of wisdom "
EMOTIONS = ("anger", "neutral", "sadness")
#: Bytes a row at most while all is planned and read; id, path, speaker and text are 0.2 kB of it.
BOUND = 700


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
    (folder / "corpus.json").write_text(json.dumps(about))


def measure(folder: Path) -> None:
    """Prints the rows of both tasks, and how far the resident memory rose at its peak."""
    from voxstrata.batches.source import BatchOptions, BatchSource
    from voxstrata.batches.task_schedule import TaskBatches
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.labels import LabelSet
    from voxstrata.vocabulary import Vocabulary

    options = {
        "asr": BatchOptions(vocabulary=Vocabulary.of([TEXT]), cache_bytes=2**20, task="asr"),
        "ser": BatchOptions(labels=LabelSet(EMOTIONS), cache_bytes=2**20, task="ser"),
    }
    # A first small source has everything imported and started.
    small = PreparedCorpus.load(folder / "small")
    list(BatchSource(small.stream("train"), options["asr"]).epoch(0))
    before = psutil.Process().memory_info().rss
    sources = {
        name: BatchSource(PreparedCorpus.load(folder / name).stream("train"), how)
        for name, how in options.items()
    }
    batches = TaskBatches(sources, seed=1)
    for epoch, skip in ((0, 0), (7, 5000)):
        tasks = {batch.task for batch in islice(batches.epoch(epoch, skip=skip), 60)}
    # Not getrusage: that counts what this process was before it became this program.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
    print(sum(map(len, sources.values())), len(tasks), peak - before)


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
    rows, tasks, rise = map(int, done.stdout.split())
    print(f"{rise / rows:.0f} bytes a row")
    assert (rows, tasks) == (300_000, 2)
    assert rise / rows < BOUND


if __name__ == "__main__":
    measure(Path(sys.argv[1]))
