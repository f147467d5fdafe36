"""The model card of an export: what it is, how it is loaded, what it is built on, its scores and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from voxstrata.backbone.export_folder import CARD_MARK, COEFFICIENTS
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError
from voxstrata.exporting.lineage import Ancestor, Lineage
from voxstrata.exporting.loading import loading
from voxstrata.labels import DIMENSIONS, is_one_line
from voxstrata.methods.registry import model_kinds
from voxstrata.reporting.coefficients import Coefficients
from voxstrata.reporting.drawing import Drawing
from voxstrata.reporting.figures import coefficient_figure
from voxstrata.reporting.scores import Score, SplitScores
from voxstrata.reporting.wording import counted, interval, metric_title, percent

#: `--as` -> the hub's name of the task.
_PIPELINES = {
    "emotion": "audio-classification",
    "ctc": "automatic-speech-recognition",
    "whisper": "automatic-speech-recognition",
    "encoder": "feature-extraction",
}
_ABOUT = {
    "emotion": "An emotion classifier in a class of transformers.",
    "ctc": "A CTC recogniser in a class of transformers.",
    "whisper": "A whole Whisper: an encoder of this run, and a published decoder.",
    "encoder": "A speech encoder.",
}


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Args:
        name: of the export.
        source: what is exported, as it was named.
        form: one of `plain_model.FORMS`; None for encoder and head as voxstrata reads them.
        about: content of model.json of the source; None where it is an encoder alone.
        model_type: of the encoder, as transformers names it.
        longest_s: seconds of the longest clip.
        lineage: what it is built on.
        coefficients: of a merge, by what they are for: "" or "for words".
        scores: split -> scores of the run.
        left_out: what belongs to the source and is not in the export, in words.
        notes: what one should know who uses it.
        checked: what was found when it was opened and compared.
    """

    name: str
    source: str
    form: str | None
    about: Mapping[str, Any] | None
    model_type: str
    longest_s: float
    lineage: Lineage = field(default_factory=Lineage)
    coefficients: Mapping[str, Coefficients] = field(default_factory=dict)
    scores: Mapping[str, SplitScores] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()
    checked: Sequence[str] = ()


def card(facts: Facts) -> str:
    """The text of an export's README.md."""
    lines = [
        *_front(facts),
        *(CARD_MARK, "", f"# {_line(facts.name)}", "", f"{_what(facts)} Written by `voxstrata export`.", ""),
        *_origin(facts),
        *("", "## Loading", ""),
        *loading(facts.form, facts.about, facts.model_type),
        *_section("Built on", _parents(facts.lineage)),
        *_section("Coefficients", _coefficients(facts.coefficients)),
        *_section("Scores", _scores(facts.scores)),
        *_section("Data", _data(facts.lineage)),
        *_section("Checked", [f"- {_line(line)}." for line in facts.checked]),
        *_section("Limits", _limits(facts)),
        *_section("Licence", _licence(facts.lineage)),
    ]
    return "\n".join([*lines, ""])


def coefficient_sets(place: Path) -> dict[str, Coefficients]:
    """The coefficients in a file: what they are for -> coefficients; empty where there is no file.

    Raises:
        CheckpointError: if the file holds none.
    """
    if not place.is_file():
        return {}
    content = read_json_object(place, error=CheckpointError, advice="put it back")
    found = {}
    for key, what in (("coefficients", ""), ("coefficients_asr", "for words")):
        if key not in content:
            continue
        try:
            rows = tuple(tuple(float(value) for value in row) for row in content[key])
            names = tuple(str(name) for name in content["vectors"])
            if any(len(row) != len(names) for row in rows):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(
                f"{place} does not tell the coefficients of its vectors; put it back"
            ) from None
        if names and rows:
            found[what] = Coefficients(vectors=names, coefficients=rows)
    return found


def figures(sets: Mapping[str, Coefficients]) -> dict[str, Drawing]:
    """File name -> figure of each set of coefficients."""
    return {_figure_name(what): coefficient_figure(found) for what, found in sets.items()}


def _figure_name(what: str) -> str:
    return f"coefficients{what and '-' + what.split()[-1]}.svg"


def _front(facts: Facts) -> list[str]:
    """The hub's metadata: YAML between two lines of hyphens."""
    lines = ["---", "library_name: transformers", "tags: [voxstrata, speech]"]
    if facts.form is not None:
        lines.append(f"pipeline_tag: {_PIPELINES[facts.form]}")
    if ids := facts.lineage.hub_ids:
        lines += ["base_model:", *(f"- {name}" for name in ids)]
        lines.append(f"base_model_relation: {'merge' if facts.coefficients else 'finetune'}")
    if (licence := facts.lineage.licence) is not None and licence.replace("-", "").replace(".", "").isalnum():
        lines.append(f"license: {licence}")
    return [*lines, "---"]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    """A part of the card; nothing where there is nothing to tell."""
    return ["", f"## {title}", "", *lines] if lines else []


def _what(facts: Facts) -> str:
    if facts.form is not None:
        return _ABOUT[facts.form]
    if facts.about is None:
        return _ABOUT["encoder"]
    kind = model_kinds().get(str(facts.about.get("kind")))
    return f"A model of kind {_line(facts.about.get('kind'))}." if kind is None else kind.about


def _origin(facts: Facts) -> list[str]:
    found = [f"- **Exported from:** {_code(Path(facts.source).name or facts.source)}."]
    labels = (facts.about or {}).get("labels")
    if isinstance(labels, list) and facts.form in (None, "emotion"):
        found.append(f"- **Labels:** {', '.join(map(_line, labels))}.")
    if (facts.about or {}).get("kind") == "dimensions" and facts.form in (None, "emotion"):
        found.append(f"- **Outputs:** {', '.join(DIMENSIONS)}, on the scale of the training corpus.")
    if facts.left_out:
        found.append(f"- **Left out:** {_line('; '.join(facts.left_out))}.")
    return [*found, *(f"- **Note:** {_line(note)}." for note in facts.notes)]


def _parents(lineage: Lineage) -> list[str]:
    if not lineage.ancestors:
        return []
    rows = ["| role | model | revision | SHA-256 of its weights | licence |", "|---|---|---|---|---|"]
    for one in lineage.ancestors:
        hashes = ", ".join(f"{_code(name)} `{digest}`" for name, digest in one.weights.items())
        cells = (_line(one.role), _code(one.name), _line(one.revision or "–"), hashes or "not here")
        rows.append(f"| {' | '.join(cells)} | {_licence_of(one)} |")
    return rows


def _licence_of(one: Ancestor) -> str:
    if one.is_run:
        return "that of what it was trained from and on"
    return "not known" if one.licence is None else _line(one.licence)


def _coefficients(sets: Mapping[str, Coefficients]) -> list[str]:
    lines: list[str] = []
    for what, found in sets.items():
        columns = [found.column(name) for name in found.vectors]
        shown = ", ".join(
            f"{_line(name)} {fmean(column):.3f} ({min(column):.3f} to {max(column):.3f})"
            for name, column in zip(found.vectors, columns, strict=True)
        )
        of = f" {what}" if what else ""
        lines += [
            f"Merged{of}: base + sum of coefficient times task vector. Mean coefficient over layers (least "
            f"to largest): {shown}. All digits: `{COEFFICIENTS}`.",
            *("", f"![Coefficient of each task vector against the layer{of}.]({_figure_name(what)})", ""),
            "| layer | " + " | ".join(map(_line, found.vectors)) + " |",
            "|---" * (1 + len(found.vectors)) + "|",
            *(
                f"| {layer} | " + " | ".join(f"{value:.4g}" for value in row) + " |"
                for layer, row in enumerate(found.coefficients)
            ),
            "",
        ]
    return lines[:-1]


def _scores(scores: Mapping[str, SplitScores]) -> list[str]:
    rows = []
    for split, found in scores.items():
        for task, part in found.tasks.items():
            clips = counted(part.clips, part.speakers) or "–"
            for metric, score in part:
                if isinstance(score, Score):
                    name, value = metric_title(metric), percent(score.value)
                    intervals = f"{interval(score.speaker)} | {interval(score.iid)}"
                    rows.append(
                        f"| {_line(split)} | {_line(task)} | {name} | {value} | {intervals} | {clips} |"
                    )
    if not rows:
        return []
    head = "| split | task | metric, in % | value | 95 %, by speaker | 95 %, by clip | clips |"
    return ["Of the run, before the export.", "", head, "|---" * 7 + "|", *rows]


def _data(lineage: Lineage) -> list[str]:
    """Corpora that it, or what it is built on, was trained on."""
    if not lineage.corpora:
        return []
    rows = [
        f"| {_code(name)} | {'not known here' if licence is None else _line(licence)} |"
        for name, licence in lineage.corpora.items()
    ]
    return ["Trained on, also the runs that it is built on:", "", "| corpus | licence |", "|---|---|", *rows]


def _limits(facts: Facts) -> list[str]:
    lines = [
        f"- Input: one channel at 16 kHz, at most {facts.longest_s:.4g} s.",
        "- Other voices, languages, microphones and rooms than those of the data above were not tried.",
    ]
    if facts.form in (None, "emotion") and (facts.about or {}).get("kind") != "transcription":
        lines.append(
            "- An emotion is what annotators or actors of the training data called it. Every sound gets one, "
            "also silence; it is no ground for decisions about a person."
        )
    if facts.coefficients:
        lines.append("- A merge holds less of each expert than that expert itself; compare the scores above.")
    return lines


def _licence(lineage: Lineage) -> list[str]:
    known = {one.name: one.licence for one in lineage.ancestors if one.licence is not None}
    unknown = [one.name for one in lineage.ancestors if one.licence is None and not one.is_run]
    lines = [f"- {_code(name)} is under: {_line(licence)}." for name, licence in known.items()]
    lines += [f"- The licence of {_code(name)} is not known here: see its own card." for name in unknown]
    lines += [f"- **Warning:** {_line(line)}." for line in lineage.warnings()]
    return [
        *lines,
        *([""] if lines else []),
        "Corpora that it was trained on have licences of their own, some of them non-commercial; what that",
        "means for this model is for who trained it to settle, and to write here before passing it on.",
    ]


def _code(text: object) -> str:
    return f"`{_line(text)}`"


def _line(text: object) -> str:
    """A text in one line of a table."""
    shown = str(text)
    return (shown if is_one_line(shown) else ascii(shown)[1:-1]).replace("|", "\\|")
