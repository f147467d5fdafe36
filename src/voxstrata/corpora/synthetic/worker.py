"""A worker process: reads chunks of renderings from stdin, writes FLAC files, tells lengths and phonemes.

Started by `crew.Crew`; one JSON object a line each way. espeak-ng is loaded here and nowhere else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from voxstrata.corpora.synthetic.espeak import version
from voxstrata.corpora.synthetic.rendering import SAMPLE_RATE, Rendering, encode, phoneme_text, render
from voxstrata.documents import parse_json
from voxstrata.errors import VoxstrataError
from voxstrata.runs import atomic_write


def main() -> None:
    """Answers requests until stdin ends: `{"version": true}` or `{"clips": [{"path", "rendering"}, ...]}`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    for line in sys.stdin:
        try:
            answer = _answer(parse_json(line, "a request"))
        except (VoxstrataError, OSError) as fault:
            answer = {"error": str(fault)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if "version" in request:
        return {"version": version()}
    return {"clips": [_clip(Path(row["path"]), row["rendering"]) for row in request["clips"]]}


def _clip(path: Path, row: dict[str, Any]) -> tuple[float, str]:
    """Writes a clip unless an interrupted start left it whole; its length in seconds, and its phonemes."""
    import soundfile

    if path.is_file():
        try:
            with soundfile.SoundFile(path) as file:
                return file.frames / file.samplerate, file.comment
        except soundfile.LibsndfileError:
            path.unlink()
    clip = render(Rendering.from_dict(row))
    atomic_write(path, encode(clip))
    return len(clip.samples) / SAMPLE_RATE, phoneme_text(clip.phonemes)


if __name__ == "__main__":
    main()
