"""Prepares the corpora that a table names, once each."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from voxstrata.corpora.options import chosen_options
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.corpora.readers import READERS
from voxstrata.corpora.synthetic.generate import generate
from voxstrata.corpora.synthetic.plan import SynthesisOptions
from voxstrata.errors import CorpusError, RecipeError
from voxstrata.experiments.tables.references import content_key
from voxstrata.experiments.tables.table import CorpusSpec, Scale
from voxstrata.labels import EMOTIONS

#: Called with what is done, clips done and clips in all.
Counted = Callable[[str, int, int], None]

#: How a prepared corpus says, in its notes, that silence was trimmed.
TRIMMED = "silence at both ends trimmed"


def given_corpora(scale: Scale, texts: Iterable[str]) -> dict[str, PreparedCorpus]:
    """Corpora of a scale that are prepared already, each held against its specification.

    Args:
        scale: that names the corpora.
        texts: NAME=FOLDER, with a name of the scale.

    Raises:
        RecipeError: if a text has another form, or the scale prepares no corpus of that name.
        CorpusError: if a folder holds no prepared corpus, or one that was prepared in another way.
    """
    given: dict[str, PreparedCorpus] = {}
    readable = [name for name, spec in scale.corpora.items() if spec.synth is None]
    for text in texts:
        name, separator, folder = map(str.strip, text.partition("="))
        if not (name and separator and folder):
            raise RecipeError(f"--corpus has the form NAME=FOLDER; found {text!r}")
        if name not in readable:
            spoken = " (synthetic corpora are spoken anew)" if name in scale.corpora else ""
            there = ", ".join(readable) or "none that is read"
            raise RecipeError(f"--corpus {name}: this scale's corpora are {there}{spoken}")
        if name in given:
            raise RecipeError(f"--corpus {name} is given twice; give it once")
        corpus = PreparedCorpus.load(Path(folder))
        if differences := list(_differences(corpus, scale.corpora[name])):
            how = _command(name, scale.corpora[name], "FOLDER", folder)
            raise CorpusError(
                f"{folder} is not prepared as corpus {name} of this table: {'; '.join(differences)}; "
                f"give another, or prepare it anew: {how}"
            )
        given[name] = corpus
    return given


def _differences(corpus: PreparedCorpus, spec: CorpusSpec) -> Iterator[str]:
    """In what a prepared corpus is not as specified: what it is, and what is wanted."""
    if corpus.name != spec.reader:
        yield f"its reader is {corpus.name}, here {spec.reader}"
        return
    reader = READERS[corpus.name]
    # What an older version did not write down has the reader's default.
    found, wanted = (
        chosen_options(reader.name, reader.options, one) for one in (corpus.options, spec.options)
    )
    yield from (
        f"{option}={found[option]}, here {option}={value}"
        for option, value in wanted.items()
        if found[option] != value
    )
    if corpus.maps != spec.maps:
        yield f"its label maps are {_named(corpus.maps)}, here {_named(spec.maps)}"
    if corpus.left_out and not spec.skip_bad:
        yield "clips with faults were left out, here none may be"
    if any(note.startswith(TRIMMED) for note in corpus.notes) != spec.trim_silence:
        yield f"its silence is {'kept' if spec.trim_silence else 'trimmed'}, here it is not"


def _named(maps: Iterable[str]) -> str:
    return ", ".join(maps) or "none"


def prepare_corpus(
    name: str, spec: CorpusSpec, out: Path, data: Path | None, counted: Counted
) -> PreparedCorpus:
    """A prepared corpus under `out/NAME-KEY`; one that is there already is used as it is.

    Args:
        name: of the corpus in its table.
        spec: where it comes from.
        out: parent of the folders of prepared corpora.
        data: root of the corpora's folders; None where none was given.
        counted: receives progress.

    Raises:
        CorpusError: if it needs a data root and none was given, or its folder is missing or faulty.
        RecipeError: if the specification does not hold.
    """
    folder = corpus_folder(name, spec, out, data)
    if (folder / "corpus.json").is_file():
        return PreparedCorpus.load(folder)
    if spec.synth is not None:
        options = synthesis_options(name, spec.synth)
        total = sum(options.clips)
        generate(folder, options, progress=lambda done: counted(f"speaking {name}", done, total))
        return prepare("synthetic", folder, folder, labels=EMOTIONS)
    return prepare(
        _required(name, spec.reader),
        corpus_source(name, spec, data),
        folder,
        skip_bad=spec.skip_bad,
        options=spec.options,
        maps=spec.maps,
        trim_silence=spec.trim_silence,
        progress=lambda done, total: counted(f"preparing {name}", done, total),
    )


def corpus_folder(name: str, spec: CorpusSpec, out: Path, data: Path | None) -> Path:
    """Where a prepared corpus lies; its name follows from the specification and the data root."""
    place = str(data.resolve()) if data is not None and spec.folder is not None else None
    return out / f"{name}-{content_key([spec.model_dump(), place])}"


def how_to_prepare(name: str, spec: CorpusSpec, out: Path, data: Path | None) -> str:
    """The command that prepares a corpus that is not there yet.

    Raises:
        CorpusError: if it needs a data root and none was given, or its folder is missing.
        RecipeError: if the specification does not hold.
    """
    return _command(name, spec, corpus_source(name, spec, data), corpus_folder(name, spec, out, data))


def _command(name: str, spec: CorpusSpec, source: str | Path, folder: str | Path) -> str:
    options = [f"--option {shlex.quote(f'{key}={value}')}" for key, value in spec.options.items()]
    maps = [f"--map {shlex.quote(str(label_map))}" for label_map in spec.maps]
    words = [
        *("voxstrata corpus prepare", _required(name, spec.reader)),
        *(shlex.quote(str(source)), shlex.quote(str(folder)), *options, *maps),
        *(["--skip-bad"] if spec.skip_bad else []),
        *(["--trim-silence"] if spec.trim_silence else []),
    ]
    return " ".join(words)


def synthesis_options(name: str, values: dict[str, Any]) -> SynthesisOptions:
    """Options of a synthetic corpus from a table's values.

    Raises:
        RecipeError: for a key that synthesis does not know.
    """
    known = set(SynthesisOptions.__dataclass_fields__)
    if unknown := sorted(set(values) - known):
        raise RecipeError(
            f"corpus {name}: synth has no {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    lists_as_tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return SynthesisOptions(**lists_as_tuples)


def _required(name: str, reader: str | None) -> str:
    if reader is None:
        raise RecipeError(f"corpus {name}: give reader and folder, or synth")
    return reader


def corpus_source(name: str, spec: CorpusSpec, data: Path | None) -> Path:
    """The folder that a reader reads.

    Raises:
        CorpusError: if it needs a data root and none was given, or it is not there.
        RecipeError: if the specification names none.
    """
    if spec.folder is None:
        raise RecipeError(f"corpus {name}: give the folder that reader {spec.reader} reads")
    if data is None:
        raise CorpusError(
            f"corpus {name} lies in {spec.folder!r} under a data root: give --data DIR or set VOXSTRATA_DATA"
        )
    if not (data / spec.folder).is_dir():
        raise CorpusError(f"corpus {name}: {data / spec.folder} is not there; --data names its parent folder")
    return data / spec.folder
