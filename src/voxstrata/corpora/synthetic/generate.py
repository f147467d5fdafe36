"""Writes a synthetic corpus: audio, clips.jsonl and synthetic.json."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voxstrata.corpora.clip import SPLITS
from voxstrata.corpora.synthetic.crew import Crew
from voxstrata.corpora.synthetic.delivery import DIMENSIONS
from voxstrata.corpora.synthetic.espeak import require
from voxstrata.corpora.synthetic.lexicon import Lexicon, lexicon_files
from voxstrata.corpora.synthetic.oracle import Oracles, measure
from voxstrata.corpora.synthetic.plan import CLIP_S, SynthesisOptions, Utterance, utterances
from voxstrata.corpora.synthetic.rendering import Rendering, audio_path
from voxstrata.documents import read_json_object
from voxstrata.errors import CorpusError
from voxstrata.runs import atomic_write, sweep, write_json

#: Raised whenever the same options would give other samples or words.
SYNTHESIS_VERSION = 2
#: FLAC of this speech, 16 kHz, bytes a second.
BYTES_PER_SECOND = 20_000


#: What a folder tells of the speech in it.
MANIFEST = "synthetic.json"


@dataclass(frozen=True)
class SyntheticCorpus:
    """What was written.

    Args:
        folder: with audio/, clips.jsonl and synthetic.json.
        options: as given.
        espeak: version of espeak-ng.
        clips: split -> clips.
        labelled: split -> clips with an emotion.
        voices: split -> voices that occur.
        seconds: split -> length of the audio.
        oracles: None for read speech, which has no labels.
    """

    folder: Path
    options: SynthesisOptions
    espeak: str
    clips: dict[str, int]
    labelled: dict[str, int]
    voices: dict[str, int]
    seconds: dict[str, float]
    oracles: Oracles | None

    def as_dict(self) -> dict[str, Any]:
        """The content of synthetic.json."""
        return {
            **_identity(self.options, self.espeak),
            "complete": True,
            "clips": self.clips,
            "labelled": self.labelled,
            "voices": self.voices,
            "seconds": self.seconds,
            "oracles": None if self.oracles is None else asdict(self.oracles),
        }


def estimate(options: SynthesisOptions) -> tuple[float, int]:
    """Minutes of audio and bytes on disk that these options will about give."""
    seconds = sum(options.clips) * CLIP_S[options.clarity]
    return seconds / 60, int(seconds * BYTES_PER_SECOND)


def generate(
    folder: Path,
    options: SynthesisOptions,
    *,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SyntheticCorpus:
    """Speaks a corpus. The same options and espeak-ng version give the same bytes, whatever `jobs` is.

    A start that was interrupted goes on where it stood: clips that are there are kept.
    In clips.jsonl `emotion` is what the speaker intended, None where the corpus does not tell it; the column
    `intended` tells it for every clip, for oracles and analysis, never to be trained on. `phonemes` tells
    what espeak-ng says when: "start_s:symbol" with spaces between.

    Args:
        folder: new or empty, or one that an interrupted start with the same options left.
        options: of the corpus.
        jobs: worker processes; None is one for each processor.
        progress: called with the number of clips written so far.

    Raises:
        VoxstrataError: if the extra `synth` is not installed or a worker fails.
        CorpusError: if the folder holds something else or cannot be written, or the disk is too small.
    """
    require()
    lexicon = Lexicon.load()
    count: dict[str, Counter[str]] = {name: Counter() for name in ("clips", "labelled", "seconds")}
    voices: dict[str, set[str]] = {split: set() for split in SPLITS}
    rows: list[str] = []
    with Crew(jobs or os.cpu_count() or 1) as crew:
        espeak = crew.version()
        _claim(folder, options, espeak)
        work = ((audio_path(folder, c.id, c.split), Rendering.of(c)) for c in _plan(options, lexicon))
        spoken = zip(_plan(options, lexicon), crew.spoken(work), strict=True)
        for done, (clip, (duration_s, phonemes)) in enumerate(spoken, start=1):
            row = {**_row(folder, clip), "phonemes": phonemes}
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
            count["clips"][clip.split] += 1
            count["labelled"][clip.split] += clip.labelled
            count["seconds"][clip.split] += duration_s  # type: ignore[assignment]
            voices[clip.split].add(clip.voice.id)
            if progress is not None:
                progress(done)
    atomic_write(folder / "clips.jsonl", "".join(rows))
    corpus = SyntheticCorpus(
        folder=folder,
        options=options,
        espeak=espeak,
        clips=dict(count["clips"]),
        labelled=dict(count["labelled"]),
        voices={split: len(ids) for split, ids in voices.items() if ids},
        seconds={split: round(float(s), 3) for split, s in count["seconds"].items()},
        oracles=None if options.read else measure(options, lexicon),
    )
    write_json(folder / MANIFEST, corpus.as_dict())
    return corpus


def _plan(options: SynthesisOptions, lexicon: Lexicon) -> Iterator[Utterance]:
    for split in SPLITS:
        yield from utterances(options, split, lexicon)


def _row(folder: Path, clip: Utterance) -> dict[str, Any]:
    """A row of clips.jsonl; what a column does not tell is None or absent."""
    path = audio_path(folder, clip.id, clip.split).relative_to(folder)
    extras = {
        "template": str(clip.sentence.template),
        "sentence": hashlib.sha256(clip.sentence.carrier.encode()).hexdigest()[:12],
        "intended": clip.intended,
        "gender": clip.voice.gender,
        **{f"delivery_{name}": f"{value:.4f}" for name, value in zip(DIMENSIONS, clip.delivery, strict=True)},
    }
    if clip.sentence.lexical_emotion is not None:
        extras["lexical_emotion"] = clip.sentence.lexical_emotion
    return {
        "id": clip.id,
        "path": path.as_posix(),
        "emotion": clip.intended if clip.labelled else None,
        "votes": clip.votes,
        "transcript": clip.sentence.transcript,
        "speaker": clip.voice.id,
        "split": clip.split,
        **extras,
    }


def _identity(options: SynthesisOptions, espeak: str) -> dict[str, Any]:
    """All that decides the bytes, as JSON gives it back."""
    lexicon = b"".join(lexicon_files(options.clarity))
    identity = {
        "synthesis_version": SYNTHESIS_VERSION,
        "espeak": espeak,
        "lexicon": hashlib.sha256(lexicon).hexdigest(),
        "options": options.as_dict(),
    }
    return dict(json.loads(json.dumps(identity)))


def _claim(folder: Path, options: SynthesisOptions, espeak: str) -> None:
    """Makes the folder ours, or finds that it already is."""
    identity = _identity(options, espeak)
    marker = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        advice = "choose another folder"
        found = read_json_object(marker, error=CorpusError, advice=advice) if marker.is_file() else None
        occupied = found is None and any(folder.iterdir())
    except OSError as fault:
        raise CorpusError(f"cannot write to {folder}: {fault.strerror}; choose another folder") from None
    if occupied:
        raise CorpusError(
            f"{folder} is not empty and holds no synthetic corpus; choose a new or empty folder"
        )
    if found is not None and any(found.get(key) != value for key, value in identity.items()):
        raise CorpusError(f"{folder} holds a synthetic corpus made with other options; choose another folder")
    # Clips that workers were writing when they were killed.
    sweep(folder)
    _, needed = estimate(options)
    free = shutil.disk_usage(folder).free
    if found is None and needed > free:
        raise CorpusError(
            f"the corpus needs about {needed / 1e6:.0f} MB and {folder} has {free / 1e6:.0f} MB free; "
            "ask for fewer clips or choose another disk"
        )
    if found is None:
        write_json(marker, {**identity, "complete": False})
