"""`voxstrata predict`: emotions with probabilities and transcripts of recordings, on one time axis."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import typer

from voxstrata.cli.lines import tell
from voxstrata.cli.predict_input import DASH, sources_of
from voxstrata.cli.predict_output import FORMATS, SUBTITLES, Output, output_for

if TYPE_CHECKING:
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.inference.recognition import Recognition
    from voxstrata.inference.recognizer import Recognizer

LANGUAGE = typer.Option(
    None,
    "--language",
    help="Language of Whisper's transcripts, such as en. Default: detected in each clip.",
)
MODEL = typer.Option(
    None,
    "--model",
    help="A run, model folder or export, a published CTC model, a whole Whisper, or an audio classifier of "
    "transformers; also a Hub id of one that was downloaded. Default: the best model here.",
)
TRANSCRIBER = typer.Option(
    None, "--transcriber", help="A whole Whisper that transcribes: a folder, or a downloaded Hub id."
)
WORDS = typer.Option(
    None,
    "--words",
    help="Encoder of Whisper's decoder: its own (plain) or the model's (merged). Default: plain.",
)
TIMELINE = typer.Option(
    False,
    "--timeline",
    help="Answer in segments with times, however short a recording is. Above 30 s that is always so.",
)
CHANNELS = typer.Option(
    "mix", "--channels", help="Channels of a recording: their mean (mix), or an answer for each (split)."
)
TURNS = typer.Option(
    None,
    "--turns",
    help="Speaker turns: an RTTM file, or a folder with NAME.rttm of each recording. They are the segments.",
)
SPEECH = typer.Option(
    "auto",
    "--speech",
    help="How speech is found: energy, silero (extra vad), or auto: silero where it is installed.",
)
OUT = typer.Option(
    None,
    "--out",
    help="File for the answers; recordings that are in it are kept, so that the same command resumes. With "
    "--srt or --vtt a folder, for a file of each recording.",
)
FILES_FROM = typer.Option(
    None, "--files-from", help="A file with a path in each line; `-` for standard input."
)
PATHS = typer.Argument(
    None,
    metavar="PATH...",
    help="Recordings, folders of them, patterns, or prepared corpora; `-`: a recording on standard input.",
)
SPLIT = typer.Option(None, "--split", help="Split of prepared corpora. Default: test.")
FOLD = typer.Option(None, "--fold", help="Fold of prepared corpora. Default: their own splits.")
CSV = typer.Option(False, "--csv", help="A table: a row per recording, or per segment with --timeline.")
LIMIT = typer.Option(
    None, "--limit", min=1, help="At most N recordings of each folder or corpus, for a quick try."
)
UNSURE = typer.Option(
    None,
    "--unsure-below",
    min=0.0,
    max=1.0,
    metavar="P",
    help="Mark emotions with a probability below P as unsure; the label stays readable.",
)
PRIOR = typer.Option(
    None,
    "--prior",
    help="Answer for this class prior in place of the training's: uniform, name=share,... or a JSON file.",
)
INT8 = typer.Option(
    False, "--int8", help="Encoder in 8 bits on the CPU: faster; answers differ a little (see the docs)."
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("predict")(predict)


@dataclass(frozen=True)
class _Asked:
    """What is asked for.

    Args:
        split: of prepared corpora.
        fold: of prepared corpora.
        limit: at most so many of each folder or corpus.
        kind: one of `FORMATS`; None: lines for people.
        segments: how recordings are answered, see `Recognizer.recognitions`.
    """

    split: str | None
    fold: int | None
    limit: int | None
    kind: str | None
    segments: dict[str, Any]

    @property
    def timed(self) -> bool:
        """Whether all recordings are answered in segments."""
        asked = self.segments
        return asked["timeline"] or asked["channels"] == "split" or asked["turns"] is not None


def predict(
    paths: list[Path] = PATHS,
    model: str | None = MODEL,
    transcriber: Path | None = TRANSCRIBER,
    language: str | None = LANGUAGE,
    words: str | None = WORDS,
    timeline: bool = TIMELINE,
    channels: str = CHANNELS,
    turns: Path | None = TURNS,
    speech: str = SPEECH,
    unsure_below: float | None = UNSURE,
    prior: str | None = PRIOR,
    int8: bool = INT8,
    split: str | None = SPLIT,
    fold: int | None = FOLD,
    files_from: Path | None = FILES_FROM,
    limit: int | None = LIMIT,
    out: Path | None = OUT,
    as_json: bool = typer.Option(False, "--json", help="A predictions file: one JSON object per line."),
    as_csv: bool = CSV,
    as_srt: bool = typer.Option(False, "--srt", help="Subtitles (SubRip) with emotions and words."),
    as_vtt: bool = typer.Option(False, "--vtt", help="Subtitles (WebVTT) with emotions and words."),
    as_rttm: bool = typer.Option(False, "--rttm", help="Speaker turns (RTTM) with emotions."),
) -> None:
    """Predict emotion (with the probabilities of all classes) and words of recordings.

    A recording up to 30 s is one answer; a longer one is answered in segments with times, in bounded memory.
    Rows of prepared corpora have the references too, ready for `voxstrata evaluate`. A recording that fails
    is named, and the rest goes on (exit code 3). `note` marks silence, telephone speech, music and the like.
    """
    from voxstrata.inference.recognizer import Recognizer

    kind = _kind((as_json, as_csv, as_srt, as_vtt, as_rttm))
    always = timeline or kind in ("rttm", *SUBTITLES)
    segments = {"timeline": always, "channels": channels, "turns": turns, "speech": speech}
    asked = _Asked(split, fold, limit, kind, segments)
    sources = _checked(sources_of(paths or [], files_from), asked)
    named = [path for source in sources if isinstance(source, list) for path in source[:limit]]
    output = output_for(kind, out, timed=asked.timed, recordings=len(named))
    found = model_or_best(model, transcriber is not None)
    recognizer = Recognizer.load(
        found,
        transcriber=transcriber,
        language=language,
        words=words,
        unsure_below=unsure_below,
        prior=prior,
        int8=int8,
    )
    for note in recognizer.notes:
        tell(note)
    if output.place is not None:
        options = {"language": language, "words": words, "unsure-below": unsure_below, "prior": prior}
        output.require_same(_made_with(recognizer, found or transcriber, segments | options | {"int8": int8}))
    answering = _Answering(recognizer, output, asked)
    answering.run(sources, len(named), quiet=out is None and sys.stdout.isatty())
    answering.tell_speed()
    if answering.failed:
        tell(f"{answering.failed} of {answering.count} recordings failed")
        raise typer.Exit(3)


def _made_with(recognizer: Recognizer, named: object, options: Mapping[str, object]) -> dict[str, str]:
    """What a file of answers is made with: its models, and the options as they are typed."""
    from voxstrata.inference.identity import fingerprint_of

    told = {
        f"--{name}": "left out" if value in (None, False) else "given" if value is True else str(value)
        for name, value in options.items()
    }
    return {"model": fingerprint_of(recognizer.models), "named": str(named), **told}


def _kind(chosen: Sequence[bool]) -> str | None:
    """The format of the answers; None for lines to be read by people."""
    from voxstrata.errors import VoxstrataError

    kinds = [kind for kind, is_asked in zip(FORMATS, chosen, strict=True) if is_asked]
    if len(kinds) > 1:
        both = " and ".join(f"--{kind}" for kind in kinds)
        raise VoxstrataError(f"{both} were {'both' if len(kinds) == 2 else 'all'} given; choose one")
    return kinds[0] if kinds else None


def _checked(sources: list[PreparedCorpus | list[Path]], asked: _Asked) -> list[PreparedCorpus | list[Path]]:
    """The sources, if what is asked of them can be answered."""
    from voxstrata.errors import CorpusError

    corpora = [source for source in sources if not isinstance(source, list)]
    if not corpora and (asked.split, asked.fold) != (None, None):
        raise CorpusError("--split and --fold are of prepared corpora, and none was given; leave them out")
    if corpora and asked.timed:
        raise CorpusError(
            f"{corpora[0].folder} is a prepared corpus, whose clips are answered whole; leave out the "
            "options for segments, or give its recordings"
        )
    return sources


class _Answering:
    """Answers one source after the other, and counts.

    Args:
        recognizer: that answers.
        output: where the answers go.
        asked: what is asked for.
    """

    def __init__(self, recognizer: Recognizer, output: Output, asked: _Asked) -> None:
        self.recognizer, self.output, self.asked = recognizer, output, asked
        self.count, self.failed = 0, 0
        self.sound_s, self.began = 0.0, perf_counter()

    def tell_speed(self) -> None:
        """Says how long the recordings of this call took, the loading of the model left out."""
        if self.sound_s:
            took_s = perf_counter() - self.began
            tell(
                f"{self.sound_s:,.1f} s of sound in {took_s:,.1f} s: real-time factor "
                f"{took_s / self.sound_s:.3g}",
                "",
            )

    def run(self, sources: Sequence[PreparedCorpus | list[Path]], recordings: int, *, quiet: bool) -> None:
        """Answers all.

        Args:
            sources: corpora, and lists of recordings.
            recordings: how many there are outside of corpora.
            quiet: no progress, for the answers themselves stand on the terminal.
        """
        from voxstrata.cli.progress import bar

        every = [
            path for source in sources if isinstance(source, list) for path in source[: self.asked.limit]
        ]
        left = set(self.output.left(every))
        self.count, self.failed = len(self.output.done), self.output.failed
        with nullcontext((tell, _nothing)) if quiet else bar("recordings") as (notify, advance):
            self.notify, self.advance, self.total = notify, advance, self.count + len(left)
            self.output.write(row for source in sources for row in self._rows(source, left))

    def _rows(self, source: PreparedCorpus | list[Path], left: set[Path]) -> Iterator[Recognition]:
        rows = self._recordings(source, left) if isinstance(source, list) else self._corpus(source)
        for row in rows:
            self.count += 1
            self.failed += row.error is not None
            self.sound_s += row.duration_s or 0.0
            if row.error is not None and self.output.keeps_faults:
                self.notify(f"{row.row.path or row.row.id}: {row.error}")
            yield row

    def _recordings(self, source: list[Path], left: set[Path]) -> Iterator[Recognition]:
        paths = [path for path in source[: self.asked.limit] if path in left]
        done = self.count

        def within(seconds: float, total_s: float) -> None:
            place = paths[self.count - done]
            self.advance(self.count, self.total, f"{place.name}, {seconds:.0f} of {total_s:.0f} s")

        given = (sys.stdin.buffer if path == DASH else path for path in paths)
        found = self.recognizer.recognitions(given, progress=within, **self.asked.segments)
        for path, one in zip(paths, found, strict=True):
            if path == DASH:
                one = replace(one, row=replace(one.row, id="-", path="-"))
            yield one
            self.advance(self.count, self.total, path.name)

    def _corpus(self, corpus: PreparedCorpus) -> Iterator[Recognition]:
        from voxstrata.errors import CorpusError
        from voxstrata.inference.recognition import Recognition

        split, fold, limit = self.asked.split or "test", self.asked.fold, self.asked.limit
        done = self.output.done
        if done and self.asked.kind != "json":
            raise CorpusError(
                f"answers to the corpus {corpus.folder} can be resumed with --json alone; name another file"
            )
        if done and all(clip.id in done for clip in corpus.stream(split, fold)):
            return
        batches = self.recognizer.batches_of(corpus, split, fold, limit=limit, without=done)
        for reason, clips in batches.left_out.items():
            self.notify(f"{corpus.folder}: {clips} clips left out: {reason}")
        for row in self.recognizer.corpus_predictions(batches):
            yield Recognition((), None, (), row)
            self.advance(self.count, max(self.total, self.count), corpus.folder.name)


def _nothing(done: int, total: int, text: str) -> None:
    """Shows no progress."""


def model_or_best(given: str | None, transcribes: bool) -> str | None:
    """The model to ask; None where there is none, and a transcriber answers alone."""
    from voxstrata.errors import CheckpointError
    from voxstrata.inference.best_model import best_model

    if given is not None:
        return given
    try:
        found, which = best_model(Path("runs"))
    except CheckpointError as fault:
        if not transcribes:
            raise
        tell(f"no emotions, and no --model was given: {fault}")
        return None
    tell(f"model: {which}")
    return found
