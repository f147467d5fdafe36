"""What a batch needs to know of each clip, from lhotse cuts; those without it are counted, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.batches.batch import Reference
from voxstrata.errors import CorpusError, LabelError
from voxstrata.labels import LabelSet
from voxstrata.vocabulary import Vocabulary

#: Reasons for which a clip is left out of a source.
NO_EMOTION = "no emotion"
NO_VOTE = "no vote in the label set"
NO_TRANSCRIPT = "no transcript"


@dataclass(frozen=True)
class BatchClip:
    """One clip, ready to be decoded and collated.

    Args:
        reference: what goes through to the predictions file.
        path: the audio file.
        offset_s: where the clip starts in its file.
        duration_s: its length, as the manifest tells it.
        whole: the clip is its whole file.
        emotion_target: C class shares that sum to 1; None without a label set.
        tokens: transcript tokens; None without a vocabulary.
    """

    reference: Reference
    path: Path
    offset_s: float
    duration_s: float
    whole: bool
    emotion_target: tuple[float, ...] | None = None
    tokens: tuple[int, ...] | None = None


def select_clips(
    cuts: Iterable[Any], *, labels: LabelSet | None, targets: str, vocabulary: Vocabulary | None
) -> tuple[list[BatchClip], dict[str, int]]:
    """The clips that have what the tasks need, in the cuts' order, and how many lack what.

    Args:
        cuts: lhotse cuts with at most one supervision each.
        labels: label set of the emotion task; None without that task.
        targets: "consensus" (one class a clip) or "votes" (shares over the label set).
        vocabulary: characters of the transcript task; None without that task.

    Raises:
        LabelError: if a consensus label is outside the label set, or a transcript outside the vocabulary.
        CorpusError: if an id occurs twice, or no clip has what is needed.
    """
    clips: dict[str, BatchClip] = {}
    left_out: Counter[str] = Counter()
    for cut in cuts:
        if cut.id in clips:
            raise CorpusError(
                f"clip id {cut.id!r} occurs twice; ids must be unique, prepare the corpus again"
            )
        supervision = cut.supervisions[0] if cut.supervisions else None
        known = (supervision.custom or {}) if supervision else {}
        target, lack = None, None
        if labels is not None:
            target, lack = _emotion_target(cut.id, known, labels, targets)
        text = supervision.text if supervision else None
        if lack is None and vocabulary is not None and not text:
            lack = NO_TRANSCRIPT
        if lack is not None:
            left_out[lack] += 1
            continue
        tokens = _tokens(cut.id, text, vocabulary) if vocabulary is not None and text else None
        clips[cut.id] = _batch_clip(cut, supervision, known, target, tokens)
    if not clips:
        reasons = (
            ", ".join(f"{count} with {reason}" for reason, count in left_out.items()) or "no clips given"
        )
        raise CorpusError(f"no clip is left for a batch ({reasons}); check split, label set and transcripts")
    return list(clips.values()), dict(left_out)


def _emotion_target(
    clip: str, known: Mapping[str, Any], labels: LabelSet, targets: str
) -> tuple[tuple[float, ...] | None, str | None]:
    """The target, or why there is none."""
    if targets == "votes":
        votes = known.get("votes") or {}
        shares = [float(votes.get(name, 0.0)) for name in labels]
        total = sum(shares)
        return (tuple(share / total for share in shares), None) if total > 0 else (None, NO_VOTE)
    emotion = known.get("emotion")
    if emotion is None:
        return None, NO_EMOTION
    if emotion not in labels:
        raise LabelError(
            f"clip {clip!r} has emotion {emotion!r}; the label set has {', '.join(labels)}; "
            "choose a label set that holds it, or map the label when the corpus is prepared"
        )
    return tuple(float(name == emotion) for name in labels), None


def _tokens(clip: str, text: str, vocabulary: Vocabulary) -> tuple[int, ...]:
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
) -> BatchClip:
    path = Path(cut.recording.sources[0].source)
    return BatchClip(
        reference=Reference(
            id=cut.id,
            path=str(path),
            speaker=supervision.speaker if supervision else None,
            emotion=known.get("emotion"),
            transcript=supervision.text if supervision else None,
        ),
        path=path,
        offset_s=cut.start,
        duration_s=cut.duration,
        whole=cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-3,
        emotion_target=target,
        tokens=tokens,
    )
