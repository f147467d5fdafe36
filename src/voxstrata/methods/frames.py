"""Clips against an encoder's frames, before training: one at least, and for CTC enough for the words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.encoder import longest_clip
from voxstrata.backbone.families.family import FrontEnd
from voxstrata.backbone.families.registry import family_of
from voxstrata.batches.clips import BatchClip
from voxstrata.batches.source import BatchSource
from voxstrata.errors import AudioError, CorpusError, RecipeError, counted
from voxstrata.losses import ctc_frames
from voxstrata.methods.sources import Sources
from voxstrata.methods.task_sources import AnySources

Notify = Callable[[str], None]

#: Reason for which a clip is left out where CTC learns.
TOO_MANY_WORDS = "transcript longer than the audio (more characters than the encoder has frames)"
#: Clips that are named; the others are counted.
_SHOWN = 3


@dataclass(frozen=True)
class ClipNeeds:
    """Fewest samples that a clip needs in a recipe's encoders, and the most that it may have.

    Args:
        front_ends: of each encoder.
        words: whether CTC writes the clips' tokens.
        longest: samples that every encoder takes; None where there is no limit.
    """

    front_ends: tuple[FrontEnd, ...]
    words: bool = False
    longest: int | None = None

    @classmethod
    def of(cls, configs: Iterable[PretrainedConfig], *, words: bool) -> ClipNeeds:
        """What clips need.

        Args:
            configs: of the encoders.
            words: whether CTC writes the clips' tokens.
        """
        configs = list(configs)
        found = dict.fromkeys(family_of(config).front_end(config) for config in configs)
        return cls(tuple(found), words, min(map(longest_clip, configs), default=None))

    def samples(self, frames: int) -> int:
        """Samples at 16 kHz that give these many frames in every encoder."""
        return max(front_end.samples(frames) for front_end in self.front_ends)

    def __call__(self, clip: BatchClip) -> int:
        """Samples that the clip needs."""
        return self.samples(max(1, ctc_frames(clip.tokens or ()) if self.words else 1))


def hold_against_frames(
    sources: AnySources, configs: Iterable[PretrainedConfig], notify: Notify, *, words: bool
) -> None:
    """Refuses clips without a frame, and leaves out of train and dev whose words CTC could not write.

    Augmentation then keeps what a clip needs. Clips that are only answered stay, whatever their words.

    Args:
        sources: of the recipe; changed.
        configs: of its encoders.
        notify: receives lines for the user.
        words: whether CTC writes the clips' tokens.

    Raises:
        AudioError: naming the clips that are too short for a frame.
        RecipeError: if `data.crop_s` is.
        CorpusError: if all clips of train or dev would be left out.
    """
    needs = ClipNeeds.of(configs, words=words)
    require_frames(sources, needs)
    for split, ids in too_many_words(sources, needs).items():
        _learned(sources)[split].leave_out(ids, TOO_MANY_WORDS)
        notify(told_left_out(split, ids))
    trained = [sources.train] if isinstance(sources, Sources) else sources.train.sources.values()
    for source in trained:
        source.keep_at_least(needs)
        source.keep_at_most(needs.longest)


def require_frames(sources: AnySources, needs: ClipNeeds) -> None:
    """Refuses a recipe with clips too short for one frame, or longer than an encoder takes.

    Raises:
        AudioError: naming the clips, by split.
        RecipeError: if `data.crop_s` makes them so.
    """
    least = needs.samples(1)
    found, long = [], []
    for split, source in _by_split(sources):
        crop_s = source.options.crop_s
        if crop_s is not None and source.samples_of(crop_s) < least:
            raise RecipeError(
                f"data.crop_s is {crop_s:g}, {source.samples_of(crop_s)} samples at 16 kHz; one frame of the "
                f"encoder takes {least}: give at least {least / SAMPLE_RATE:g} seconds"
            )
        if short := [f"{name} ({count} samples)" for name, count in source.shorter_than(least).items()]:
            found.append(f"{split}: {_first(short)}")
        if needs.longest is not None and (crop_s is None or source.samples_of(crop_s) > needs.longest):
            stated = source.longer_than(needs.longest).items()
            if over := [f"{name} ({count / SAMPLE_RATE:.1f} s)" for name, count in stated]:
                long.append(f"{split}: {_first(over)}")
    if long:
        assert needs.longest is not None
        raise AudioError(
            f"too long for the encoder: {'; '.join(long)}; it takes at most "
            f"{needs.longest / SAMPLE_RATE:.4g} s: cut these recordings, and prepare the corpus again"
        )
    if found:
        raise AudioError(
            f"too short for a frame of the encoder: {'; '.join(found)}; at least {least} samples at 16 kHz "
            "are needed: take these clips out of the corpus or lengthen them, and prepare it again"
        )


def too_many_words(sources: AnySources, needs: ClipNeeds) -> dict[str, list[str]]:
    """Of train and dev, the ids of clips with more to write than they have frames; splits without are absent.

    Of several tasks, by TASK/SPLIT.

    CTC needs a frame a token, and one more between two alike; with fewer the loss is infinite.

    Raises:
        CorpusError: if a split has no others.
    """
    if not needs.words:
        return {}
    found = {}
    for split, source in _learned(sources).items():
        if not (ids := source.lacking(needs)):
            continue
        if len(ids) == len(source):
            raise CorpusError(
                f"{split}: every clip has a {TOO_MANY_WORDS}, e.g. {ids[0]}; see whether transcripts and "
                "recordings belong together, and prepare the corpus again"
            )
        found[split] = ids
    return found


def _learned(sources: AnySources) -> dict[str, BatchSource]:
    """The sources of training and of the validation loss, by split; of several tasks by TASK/SPLIT."""
    if isinstance(sources, Sources):
        return {"train": sources.train} | ({} if sources.dev is None else {"dev": sources.dev})
    of_splits = {"train": sources.train.sources, "dev": {} if sources.dev is None else sources.dev.sources}
    return {f"{task}/{split}": source for split, found in of_splits.items() for task, source in found.items()}


def told_left_out(split: str, ids: Sequence[str]) -> str:
    """A line about clips of train or dev that `too_many_words` found."""
    where = "left out" if split.endswith("train") else "left out of the validation loss"
    return f"{split}: {counted(len(ids), 'clip')} {where}: {TOO_MANY_WORDS}, e.g. {', '.join(ids[:_SHOWN])}"


def _by_split(sources: AnySources) -> Iterator[tuple[str, BatchSource]]:
    """Each split's source once, or of several tasks each task's; dev as it is answered, if it is."""
    for split, batches in {"train": sources.train, "dev": sources.dev, **sources.evaluated}.items():
        if isinstance(batches, BatchSource):
            yield split, batches
        elif batches is not None:
            yield from ((f"{task}, {split}", source) for task, source in batches.sources.items())


def _first(shown: Sequence[str]) -> str:
    more = f" and {len(shown) - _SHOWN:,} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
