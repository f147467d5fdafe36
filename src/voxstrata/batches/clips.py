"""What a batch needs to know of each clip, from lhotse cuts; those without it are counted, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from voxstrata.batches.batch import Reference
from voxstrata.batches.clip_store import BatchClip as BatchClip
from voxstrata.batches.clip_store import ClipStore
from voxstrata.batches.clip_store import TextEncoder as TextEncoder
from voxstrata.batches.phonemes import read_phonemes
from voxstrata.corpora.clip import is_rating
from voxstrata.errors import CorpusError, LabelError
from voxstrata.labels import DIMENSIONS, LabelSet

#: The field of a clip that holds its emotion.
EMOTION = "emotion"
#: Reasons for which a clip is left out of a source; and "no FIELD" where its class is not known.
NO_EMOTION = f"no {EMOTION}"
NO_VOTE = "no vote in the label set"
NO_TRANSCRIPT = "no transcript"
NO_RATING = f"no rating of {', '.join(DIMENSIONS[:-1])} or {DIMENSIONS[-1]}"


def select_clips(
    cuts: Iterable[Any],
    *,
    labels: LabelSet | None,
    targets: str,
    vocabulary: TextEncoder | None,
    smoothing: float = 0.0,
    require: str = "all",
    field: str = EMOTION,
) -> tuple[ClipStore, dict[str, int]]:
    """The clips that have what the tasks need, in the cuts' order, and how many lack what.

    Args:
        cuts: lhotse cuts with at most one supervision each.
        labels: label set of the class task; None without that task.
        targets: "consensus" (one class a clip), "votes" (shares over the label set) or "dimensions" (ratings,
            no classes).
        vocabulary: writes transcripts as tokens; None without that task.
        smoothing: see `smoothed`.
        require: "all": what every task needs; "any": a class or words, and what a clip lacks is empty (shares
            that are all 0, no tokens).
        field: what of a clip holds its class: "emotion", or one of the corpus's extras.

    Raises:
        LabelError: if a label is outside the label set, or a transcript outside the vocabulary.
        CorpusError: if a rating is no number, an id occurs twice, or no clip has what is needed.
    """
    clips = ClipStore(vocabulary)
    left_out: Counter[str] = Counter()
    for cut in cuts:
        if cut.id in clips:
            raise CorpusError(
                f"clip id {cut.id!r} occurs twice; ids must be unique, prepare the corpus again"
            )
        supervision = cut.supervisions[0] if cut.supervisions else None
        known = (supervision.custom or {}) if supervision else {}
        target, lack = None, None
        ratings: dict[str, float] = {}
        if targets == "dimensions":
            ratings = _ratings(cut.id, known)
            lack = None if len(ratings) == len(DIMENSIONS) else NO_RATING
        elif labels is not None:
            target, lack = _class_target(cut.id, known, labels, targets, field)
            target = target and smoothed(target, smoothing)
        text = supervision.text if supervision else None
        wordless = NO_TRANSCRIPT if not text and (vocabulary is not None or require == "any") else None
        lacks = [reason for reason in (lack, wordless) if reason is not None]
        if lacks and (require == "all" or len(lacks) == 2):
            left_out[lacks[0] if require == "all" else " and ".join(lacks)] += 1
            continue
        if lack is not None and labels is not None:
            target = (0.0,) * len(labels)
        tokens = None if vocabulary is None else _tokens(cut.id, text or "", vocabulary)
        clips[cut.id] = _batch_clip(cut, supervision, known, target, tokens, ratings or None, field)
    if not clips:
        reasons = (
            ", ".join(f"{count} with {reason}" for reason, count in left_out.items()) or "no clips given"
        )
        raise CorpusError(f"no clip is left for a batch ({reasons}); check split, label set and transcripts")
    return clips, dict(left_out)


def smoothed(target: tuple[float, ...], share: float) -> tuple[float, ...]:
    """Label smoothing: (1 - s) y + s (1 - y) / (C - 1); the sum stays 1.

    EMO-SUPERB (Wu et al. 2024, arXiv 2402.13018) takes s = 0.05. A share of exactly 1 / C stays what it is,
    so that the counts behind class weights do not change.

    >>> smoothed((1.0, 0.0, 0.0), 0.1)
    (0.9, 0.05, 0.05)
    """
    return tuple((1 - share) * y + share * (1 - y) / (len(target) - 1) for y in target)


def _ratings(clip: str, known: Mapping[str, Any]) -> dict[str, float]:
    """The dimensions that the clip's corpus rates."""
    given = {name: known[name] for name in DIMENSIONS if known.get(name) not in (None, "")}
    if not all(map(is_rating, given.values())):
        raise CorpusError(
            f"clip {clip!r} has the ratings {given}; numbers are needed, prepare the corpus again"
        )
    return {name: float(value) for name, value in given.items()}


def _class_target(
    clip: str, known: Mapping[str, Any], labels: LabelSet, targets: str, field: str
) -> tuple[tuple[float, ...] | None, str | None]:
    """The target, or why there is none."""
    if targets == "votes":
        votes = known.get("votes") or {}
        shares = [float(votes.get(name, 0.0)) for name in labels]
        total = sum(shares)
        return (tuple(share / total for share in shares), None) if total > 0 else (None, NO_VOTE)
    label = known.get(field)
    if label in (None, ""):
        return None, f"no {field}"
    if label not in labels:
        raise LabelError(
            f"clip {clip!r} has {field} {label!r}; the label set has {', '.join(labels)}; "
            "choose a label set that holds it, or map the label when the corpus is prepared"
        )
    return tuple(float(name == label) for name in labels), None


def _tokens(clip: str, text: str, vocabulary: TextEncoder) -> tuple[int, ...]:
    try:
        return tuple(vocabulary.encode(text))
    except LabelError as fault:
        raise LabelError(f"clip {clip!r}: {fault}") from None


def _batch_clip(
    cut: Any,
    supervision: Any,
    known: Mapping[str, Any],
    target: tuple[float, ...] | None,
    tokens: tuple[int, ...] | None,
    ratings: dict[str, float] | None,
    field: str,
) -> BatchClip:
    path = Path(cut.recording.sources[0].source)
    of_emotions = field == EMOTION
    label = None if of_emotions else known.get(field)
    return BatchClip(
        reference=Reference(
            id=cut.id,
            path=str(path),
            speaker=supervision.speaker if supervision else None,
            emotion=known.get("emotion"),
            transcript=supervision.text if supervision else None,
            classes={field: str(label)} if label else None,
            ratings=ratings,
        ),
        path=path,
        offset_s=cut.start,
        duration_s=cut.duration,
        whole=cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-3,
        emotion_target=target if of_emotions else None,
        class_target=None if of_emotions else target,
        tokens=tokens,
        ratings=tuple(ratings[name] for name in DIMENSIONS) if ratings else None,
        phonemes=read_phonemes(known.get("phonemes") or ""),
    )
