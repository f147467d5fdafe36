"""A prepared corpus as lhotse Shar: its audio in a few tars, for corpora of too many recordings for files.

The folder is a prepared corpus too. Its recordings are places in the tars, which `voxstrata.audio` reads.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
from lhotse import MonoCut
from lhotse.shar.utils import to_shar_placeholder
from lhotse.shar.writers import AudioTarWriter, JsonlShardWriter
from lhotse.utils import fastcopy
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE, load_audio
from voxstrata.corpora.clip import is_plain_id
from voxstrata.corpora.prepared import CORPUS_FILE, CUTS_FILE, PreparedCorpus
from voxstrata.documents import read_json_object
from voxstrata.errors import CorpusError
from voxstrata.runs import sha256_of, write_json, written_whole

SHAR_FOLDER = "shar"


def write_shar(
    corpus: PreparedCorpus,
    out: Path,
    *,
    shard_clips: int = 1000,
    progress: Callable[[int], None] | None = None,
) -> PreparedCorpus:
    """Writes `OUT/shar/` (lhotse Shar: `cuts.*.jsonl.gz`, `recording.*.tar`), and OUT as a prepared corpus.

    Audio is FLAC of 16 bits at 16 kHz, `audio.leveled`, which is what training hears of any recording.

    Args:
        corpus: read clip by clip.
        out: new or empty folder.
        shard_clips: clips in a tar.
        progress: receives the number of clips written.

    Raises:
        CorpusError: if the folder is not empty or cannot be written.
        AudioError: if a recording cannot be decoded.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CorpusError(f"{out} is not an empty folder; choose another one for the tars")
    with written_whole(out, error=CorpusError) as work:
        (work / SHAR_FOLDER).mkdir(parents=True)
        counts = _write_shards(corpus, work / SHAR_FOLDER, shard_clips, progress)
        _write_rows(corpus, work, counts)
        about = read_json_object(corpus.folder / CORPUS_FILE, error=CorpusError)
        write_json(work / CORPUS_FILE, about | {"cuts_sha256": sha256_of(work / CUTS_FILE)})
    return PreparedCorpus.load(out)


def _write_shards(
    corpus: PreparedCorpus, folder: Path, shard_clips: int, progress: Callable[[int], None] | None
) -> list[int]:
    """Writes the tars; gives the samples of each clip."""
    counts = []
    with (
        JsonlShardWriter(f"{folder}/cuts.%06d.jsonl.gz", shard_size=shard_clips) as rows,
        AudioTarWriter(f"{folder}/recording.%06d.tar", shard_size=shard_clips, format="flac") as audio,
    ):
        for count, cut in enumerate(corpus.stream(), start=1):
            cut, samples = _packed(cut)
            counts.append(len(samples))
            placeholder = to_shar_placeholder(cut.recording, cut)
            member = member_name(cut.id)
            audio.write(member, samples[None], SAMPLE_RATE, manifest=placeholder)
            # lhotse holds the name in the tar against the id.
            rows.write(fastcopy(cut, id=member, recording=placeholder))
            if progress is not None:
                progress(count)
    return counts


def _packed(cut: MonoCut) -> tuple[MonoCut, NDArray[np.float32]]:
    """A clip as it stands in a tar, and its samples [N]: of a stretch of a recording, that stretch alone."""
    path, whole = Path(cut.recording.sources[0].source), cut.recording
    if _is_whole(cut):
        return cut, load_audio(path)
    samples = load_audio(path, offset_s=cut.start, duration_s=cut.duration)
    alone = fastcopy(whole, num_samples=len(samples), duration=len(samples) / SAMPLE_RATE)
    return fastcopy(cut, start=0.0, duration=alone.duration, recording=alone), samples


def _is_whole(cut: MonoCut) -> bool:
    whole: bool = cut.start == 0 and cut.num_samples == cut.recording.num_samples
    return whole


def member_name(clip: str) -> str:
    """The name in a tar of a clip with this id, which lies below any folder in which the tar is unpacked.

    An id that `prepare` takes stays as it is; parts of others are escaped as in addresses (RFC 3986).

    >>> member_name("calls/0001"), member_name("/calls/../0001")
    ('calls/0001', '%00/calls/%2E%2E/0001')
    """
    if is_plain_id(clip):
        return clip
    return "/".join(
        quote(part, safe=" ", errors="surrogatepass").replace(".", "%2E") if not is_plain_id(part) else part
        for part in (part or "\0" for part in clip.split("/"))
    )


def _write_rows(corpus: PreparedCorpus, folder: Path, counts: Iterable[int]) -> None:
    """The prepared corpus's own cuts, whose recordings are places in the tars, relative to the folder."""
    places = _places(folder)
    with gzip.open(folder / CUTS_FILE, "wt", encoding="utf-8", compresslevel=6) as file:
        for cut, place, count in zip(corpus.stream(), places, counts, strict=True):
            row = cut.to_dict()
            row["recording"]["sources"][0]["source"] = place
            if not _is_whole(cut):
                seconds = count / SAMPLE_RATE
                row["recording"] |= {"num_samples": count, "duration": seconds}
                row |= {"start": 0.0, "duration": seconds}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _places(folder: Path) -> Iterator[str]:
    """Where each FLAC stream lies: "shar/recording.000000.tar#OFFSET:BYTES.flac", in order."""
    for tar in sorted((folder / SHAR_FOLDER).glob("recording.*.tar")):
        with tarfile.open(tar, "r:") as members:
            for member in members:
                if member.name.endswith(".flac"):
                    yield f"{SHAR_FOLDER}/{tar.name}#{member.offset_data}:{member.size}.flac"
