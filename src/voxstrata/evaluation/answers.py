"""What one task of a predictions file holds: references beside answers, and what is to count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from voxstrata.errors import PredictionsError, counted
from voxstrata.labels import DIMENSIONS, differing_in_case
from voxstrata.predictions import Prediction, sum_to_one

Task = Literal["emotion", "transcript"]

#: How a clip without an answer counts: as a wrong answer (nothing recognised), or not at all.
ERRORS = ("wrong", "leave-out")

#: With fewer speakers than this an interval by speaker says little.
FEW_SPEAKERS = 10

#: With fewer there is no verdict: of two speakers there are three resamples, whatever the clips say.
FEWEST_SPEAKERS = 5


@dataclass(frozen=True)
class Answers:
    """Clips of one task that have a reference.

    Args:
        ids: of the clips, `[N]`; all following run beside it.
        speakers: None where a row names none.
        references: true emotion or words.
        answers: None where the system gave no answer.
    """

    ids: tuple[str, ...]
    speakers: tuple[str | None, ...]
    references: tuple[str, ...]
    answers: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Ids of the clips without an answer."""
        return tuple(clip for clip, answer in zip(self.ids, self.answers, strict=True) if answer is None)

    @property
    def known_speakers(self) -> tuple[str, ...] | None:
        """A speaker for each clip, or None where any clip names none."""
        named = tuple(speaker for speaker in self.speakers if speaker is not None)
        return named if len(named) == len(self.speakers) else None

    def without(self, ids: Sequence[str]) -> Answers:
        """The same without some clips."""
        dropped = set(ids)
        keep = [i for i, clip in enumerate(self.ids) if clip not in dropped]
        return Answers(
            ids=tuple(self.ids[i] for i in keep),
            speakers=tuple(self.speakers[i] for i in keep),
            references=tuple(self.references[i] for i in keep),
            answers=tuple(self.answers[i] for i in keep),
        )


def answers_to(task: Task, predictions: Sequence[Prediction]) -> Answers | None:
    """Collects a task's clips.

    Returns:
        Every row with a reference; None where no row has both a reference and an answer,
        which means that this system was not asked.
    """
    rows = [p for p in predictions if _reference(p, task) is not None]
    found = Answers(
        ids=tuple(p.id for p in rows),
        speakers=tuple(p.speaker for p in rows),
        references=tuple(_reference(p, task) or "" for p in rows),
        answers=tuple(_answer(p, task) for p in rows),
    )
    return None if len(found.unanswered) == len(found) else found


def class_answers(predictions: Sequence[Prediction]) -> dict[str, Answers]:
    """The clips of each further class task, by its field; fields without an answer are left out."""
    fields = sorted({field for p in predictions for field in (p.reference_classes or {})})
    found = {field: _of_field(field, predictions) for field in fields}
    return {field: task for field, task in found.items() if len(task.unanswered) < len(task)}


def _of_field(field: str, predictions: Sequence[Prediction]) -> Answers:
    rows = [p for p in predictions if field in (p.reference_classes or {})]
    told = [{} if p.error is not None else (p.classes or {}).get(field, {}) for p in rows]
    return Answers(
        ids=tuple(p.id for p in rows),
        speakers=tuple(p.speaker for p in rows),
        references=tuple((p.reference_classes or {})[field] for p in rows),
        # Of equal shares the first name in the alphabet: no score hangs on the order of keys.
        answers=tuple(max(sorted(shares), key=shares.__getitem__) if shares else None for shares in told),
    )


def check_errors(errors: str, predictions: Sequence[Prediction], name: str = "the predictions") -> None:
    """Checks that clips without an answer can be counted in the way asked for.

    Raises:
        PredictionsError: if the way is unknown, or a failed row is to count as wrong but has no reference.
    """
    if errors not in ERRORS:
        raise PredictionsError(f"unknown way to count errors {errors!r}; choose one of {', '.join(ERRORS)}")
    if errors != "wrong":
        return
    lost = [
        p.id
        for p in predictions
        if p.error is not None
        and p.reference_emotion is None
        and p.reference_transcript is None
        and not p.reference_classes
        and all(getattr(p, f"reference_{name}") is None for name in DIMENSIONS)
    ]
    if lost:
        raise PredictionsError(
            f"{name}: {len(lost)} rows hold an error and no reference ({first_few(lost)}), so they cannot "
            "count as wrong; add their references, or leave such rows out (errors: leave-out)"
        )


def check_shares(predictions: Sequence[Prediction], name: str = "the predictions") -> None:
    """Checks that the probabilities of every answer are those of all classes.

    Raises:
        PredictionsError: naming the first clip, and its field, whose probabilities do not sum to 1.
    """
    for row in predictions:
        told = {"probabilities": row.probabilities or {}}
        told |= {f"classes of {field}": shares for field, shares in (row.classes or {}).items()}
        for field, shares in told.items():
            if shares and not sum_to_one(shares):
                raise PredictionsError(
                    f"{name}: clip {row.id!r}: its {field} sum to {sum(shares.values()):.4g}; probabilities "
                    "of all classes sum to 1 (two decimals are enough); give all, or leave the field out"
                )


def notes_on_classes(predictions: Sequence[Prediction]) -> list[str]:
    """Plain warnings where answers contradict their probabilities, or classes differ only in capitals.

    Equal probabilities contradict no answer. An answer may be right all the same: chosen by a threshold or
    for another prior; so it is scored as it stands.

    Args:
        predictions: rows of one system.
    """
    odd = [row for row in predictions if _contradicts(row)]
    notes = []
    if odd:
        first, shares = odd[0], odd[0].probabilities or {}
        best = max(sorted(shares), key=shares.__getitem__)
        notes.append(
            f"{len(odd)} of {len(predictions)} rows answer another emotion than the most probable one (clip "
            f"{first.id!r}: {first.emotion!r} with {shares.get(first.emotion or '', 0):.4g}, {best!r} with "
            f"{shares[best]:.4g}); the answer is scored: mend the file unless a threshold or prior chose it"
        )
    for field, names in _class_names(predictions).items():
        alike = [" and ".join(map(repr, group)) for group in differing_in_case(names)]
        if alike:
            notes.append(
                f"{field}: {', '.join(alike)} differ only in capitals or spaces and count as different "
                "classes; write them alike"
            )
    return notes


def notes_on_support(
    tasks: Mapping[str, Answers], predictions: Sequence[Prediction], labels: Sequence[str] | None = None
) -> list[str]:
    """Plain warnings where the references lack classes: averages over classes leave those out.

    That is what scikit-learn's `balanced_accuracy_score` does, and its macro averages over the labels of the
    references alone: an answer that no reference has is wrong, and no class of its own.

    Args:
        tasks: those whose answers are classes, by name.
        predictions: rows of one system.
        labels: of emotions, where some are given.
    """
    known = _class_names(predictions)
    known["emotion"] = sorted({*known["emotion"], *(labels or ())})
    notes = []
    for field, found in tasks.items():
        there = sorted(set(found.references))
        strange = [answer for answer in found.answers if answer is not None and answer not in there]
        if absent := [one for one in known[field] if one not in there]:
            wrong = f"; {counted(len(strange), 'answer')} of them counted as wrong" if strange else ""
            notes.append(
                f"{field}: no reference is {first_few(absent)}: UAR, precision and F1 are means over the "
                f"other {counted(len(there), 'class', 'classes')}{wrong}"
            )
        elif len(there) == 1:
            notes.append(f"{field}: all references are {there[0]!r}; add clips of other classes")
    return notes


def _contradicts(row: Prediction) -> bool:
    if row.error is not None or row.emotion is None or not row.probabilities:
        return False
    return row.probabilities.get(row.emotion, 0.0) < max(row.probabilities.values())


def _class_names(predictions: Sequence[Prediction]) -> dict[str, list[str]]:
    """Field -> the names of classes in its references, answers and probabilities, in alphabetical order."""
    found: dict[str, set[str]] = {"emotion": set()}
    for row in predictions:
        told = (row.emotion, row.reference_emotion, *(row.probabilities or ()))
        found["emotion"].update(name for name in told if name is not None)
        for field, shares in (row.classes or {}).items():
            found.setdefault(field, set()).update(shares)
        for field, label in (row.reference_classes or {}).items():
            found.setdefault(field, set()).add(label)
    return {field: sorted(names) for field, names in found.items()}


def notes_on(task: Task, predictions: Sequence[Prediction]) -> list[str]:
    """Plain statements about rows of a task that cannot be scored."""
    answered = [p for p in predictions if _answer(p, task) is not None]
    referenced = sum(_reference(p, task) is not None for p in predictions)
    open_ended = [p.id for p in answered if _reference(p, task) is None]
    if not answered and referenced:
        return [f"{task} is not scored: {referenced} rows hold a reference, none an answer"]
    if open_ended:
        ids = first_few(open_ended)
        return [f"{len(open_ended)} rows answer {task} without a reference and are not scored: {ids}"]
    return []


def notes_on_speakers(tasks: Mapping[str, Sequence[str | None]]) -> list[str]:
    """Plain warnings where resampling by speaker is impossible or says little.

    Args:
        tasks: task -> the speaker of each of its clips; where tasks differ, the warning names them.
    """
    notes: dict[str, list[str]] = {}
    for task, speakers in tasks.items():
        for note in _notes_on(speakers):
            notes.setdefault(note, []).append(task)
    return [note if len(told) == len(tasks) else f"{', '.join(told)}: {note}" for note, told in notes.items()]


def _notes_on(speakers: Sequence[str | None]) -> list[str]:
    known = {speaker for speaker in speakers if speaker is not None}
    unnamed = sum(speaker is None for speaker in speakers)
    if not known:
        return ["no row names a speaker: resampled by clip only, which is too narrow where speakers recur"]
    if unnamed:
        return [f"{unnamed} of {len(speakers)} clips name no speaker: resampled by clip only"]
    if len(known) == 1:
        return ["one speaker only: resampled by clip; other speakers may differ"]
    if len(known) < FEW_SPEAKERS:
        return [f"only {len(known)} speakers: an interval by speaker is rough, and more likely too narrow"]
    return []


def pooled(files: Mapping[str, Sequence[Prediction]]) -> list[Prediction]:
    """The rows of several files, such as the test folds of one corpus, as one.

    Equal speaker names in two files are one speaker.

    Args:
        files: name -> rows.

    Raises:
        PredictionsError: if an id stands in two files.
    """
    seen: dict[str, str] = {}
    for name, rows in files.items():
        for row in rows:
            if row.id in seen:
                raise PredictionsError(
                    f"clip {row.id!r} stands in {seen[row.id]} and in {name}; pool files that share no clip"
                )
            seen[row.id] = name
    return [row for rows in files.values() for row in rows]


def first_few(names: Sequence[str], count: int = 3) -> str:
    """The first names, and that there are more."""
    return ", ".join(map(repr, names[:count])) + (", ..." if len(names) > count else "")


def _reference(row: Prediction, task: Task) -> str | None:
    return row.reference_emotion if task == "emotion" else row.reference_transcript


def _answer(row: Prediction, task: Task) -> str | None:
    if row.error is not None:
        return None
    return row.emotion if task == "emotion" else row.transcript
