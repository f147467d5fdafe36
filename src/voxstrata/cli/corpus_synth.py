"""`voxstrata corpus synth`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.corpora.synthetic.generate import SyntheticCorpus
    from voxstrata.corpora.synthetic.plan import SynthesisOptions

_Number = TypeVar("_Number", int, float)

#: The read corpora of --read: folder -> prosody, vocabulary.
READ_DESIGNS = {
    "emotional-same": ("emotional", "everyday"),
    "emotional-other": ("emotional", "bookish"),
    "neutral-same": ("neutral", "everyday"),
    "neutral-other": ("neutral", "bookish"),
}


PROSODY_STRENGTH = typer.Option(0.5, help="How much the prosody depends on the emotion: 0 (not at all) to 1.")
LEXICAL_STRENGTH = typer.Option(0.5, help="How much the words depend on the emotion: 0 (not at all) to 1.")
CLARITY = typer.Option(
    "natural",
    help="natural, or clear: short sentences and plain voices that speech recognisers can transcribe.",
)
READ = typer.Option(
    False,
    "--read",
    help="Also four corpora of read speech without labels: OUT/read/{emotional,neutral}-{same,other}.",
)


def register(corpus_app: typer.Typer) -> None:
    """Adds `synth` to the group `corpus`."""
    corpus_app.command("synth")(synthesize)


def synthesize(
    out: Path = typer.Argument(help="New or empty folder; an interrupted start is resumed."),
    clips: int | None = typer.Option(None, min=1, help="Number of clips. Default: 3000."),
    minutes: float | None = typer.Option(None, help="Minutes of speech, instead of --clips."),
    shares: str = typer.Option("0.7,0.1,0.2", help="Shares of train, dev, test."),
    voices: str = typer.Option("40,10,20", help="Voices of train, dev, test."),
    seed: int = typer.Option(0, help="Random seed."),
    lexical_strength: float = LEXICAL_STRENGTH,
    prosody_strength: float = PROSODY_STRENGTH,
    clarity: str = CLARITY,
    labelled: float = typer.Option(
        0.2, help="Share of the training clips with an emotion label; dev and test have all."
    ),
    raters: int = typer.Option(5, help="Simulated annotators per labelled clip."),
    read: bool = READ,
    unlabelled: bool = typer.Option(
        False, "--unlabelled", help="Only speech for pre-training: all vocabularies, no emotion labels."
    ),
    jobs: int | None = typer.Option(None, min=1, help="Worker processes. Default: one per processor."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Synthesise emotional speech with espeak-ng and prepare it; needs the extra `synth`.

    Voices, accents and sentences are disjoint between the splits, for every seed; emotion words are shared.
    The label is the intended emotion; votes of simulated annotators are kept too. Printed is the UAR of three
    oracles: from the words alone, from the prosody alone, and from both.
    The same options and espeak-ng version give the same bytes, whatever --jobs is.
    """
    from voxstrata.corpora.synthetic.plan import SynthesisOptions
    from voxstrata.errors import CorpusError

    if clips is not None and minutes is not None:
        raise CorpusError("--clips and --minutes were both given; give one")
    if read and unlabelled:
        raise CorpusError("--read and --unlabelled were both given; give one")
    options = SynthesisOptions(
        clips=_split_counts(clips, minutes, shares, clarity),
        voices=_three("--voices", voices, int),
        seed=seed,
        lexical_strength=lexical_strength,
        prosody_strength=prosody_strength,
        labelled=labelled,
        raters=raters,
        read=unlabelled,
        vocabulary="any" if unlabelled else "everyday",
        clarity=clarity,
    )
    plans = {out: options}
    if read:
        for name, (prosody, vocabulary) in READ_DESIGNS.items():
            plans[out / "read" / name] = replace(options, read=True, prosody=prosody, vocabulary=vocabulary)
    made = _write(plans, jobs)
    if as_json:
        rows = {str(corpus.folder): corpus.as_dict() for corpus in made}
        typer.echo(json.dumps(rows, indent=2))
    for corpus in made:
        for line in _counts_text(corpus).splitlines():
            tell(line, "")


def _write(plans: dict[Path, SynthesisOptions], jobs: int | None) -> list[SyntheticCorpus]:
    from rich.console import Console
    from rich.progress import Progress

    from voxstrata.corpora.prepare import prepare
    from voxstrata.corpora.synthetic.generate import estimate, generate
    from voxstrata.labels import EMOTIONS

    minutes, size = map(sum, zip(*(estimate(options) for options in plans.values()), strict=True))
    total = sum(sum(options.clips) for options in plans.values())
    tell(f"about {minutes:.0f} minutes in {total} clips, {size / 1e6:.0f} MB", "")
    made: list[SyntheticCorpus] = []
    console = Console(stderr=True)
    # Where there is no terminal, it would leave an empty line.
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        speaking = bar.add_task("speaking", total=total)
        checking = bar.add_task("checking", total=total)
        before = 0

        def spoken(done: int) -> None:
            bar.update(speaking, completed=before + done)

        def checked(done: int, _: int) -> None:
            bar.update(checking, completed=before + done)

        for folder, options in plans.items():
            made.append(generate(folder, options, jobs=jobs, progress=spoken))
            prepare("synthetic", folder, folder, labels=EMOTIONS, progress=checked)
            before += sum(options.clips)
    return made


def _split_counts(
    clips: int | None, minutes: float | None, shares: str, clarity: str = "natural"
) -> tuple[int, int, int]:
    from voxstrata.corpora.synthetic.plan import CLIP_S
    from voxstrata.errors import CorpusError

    parts = _three("--shares", shares, float)
    if not all(0 <= part <= 1e6 for part in parts) or not sum(parts):
        raise CorpusError(f"--shares must be from 0 to 1,000,000 and not all 0; found {shares}")
    if minutes is not None and not 0 < minutes <= 1e6:
        raise CorpusError(f"--minutes must be more than 0 and at most 1,000,000; found {minutes:g}")
    # SynthesisOptions says which clarities there are; any length will do until then.
    clip_s = CLIP_S.get(clarity, CLIP_S["natural"])
    total = clips or (3000 if minutes is None else max(1, round(60 * minutes / clip_s)))
    to_train, to_dev = (round(total * sum(parts[:end]) / sum(parts)) for end in (1, 2))
    return to_train, to_dev - to_train, total - to_dev


def _three(option: str, text: str, kind: type[_Number]) -> tuple[_Number, _Number, _Number]:
    from voxstrata.documents import as_number
    from voxstrata.errors import CorpusError

    numbers = [as_number(part) for part in text.split(",")]
    if len(numbers) != 3 or not all(abs(number) < 1e9 and number == kind(number) for number in numbers):
        raise CorpusError(f"{option} takes three numbers for train,dev,test; found {text!r}")
    train, dev, test = map(kind, numbers)
    return train, dev, test


def _counts_text(corpus: SyntheticCorpus) -> str:
    lines = [f"{corpus.folder}", f"{'split':<8}{'clips':>8}{'labelled':>10}{'voices':>8}{'minutes':>9}"]
    for split, clips in corpus.clips.items():
        lines.append(
            f"{split:<8}{clips:>8}{corpus.labelled[split]:>10}{corpus.voices[split]:>8}"
            f"{corpus.seconds[split] / 60:>9.1f}"
        )
    if corpus.oracles is not None:
        lines.append(
            f"oracle UAR (chance .125): words {corpus.oracles.words:.3f}, "
            f"prosody {corpus.oracles.prosody:.3f}, both {corpus.oracles.both:.3f}"
        )
    return "\n".join(lines)
