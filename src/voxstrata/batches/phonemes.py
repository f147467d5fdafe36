"""Which phoneme is spoken when: from a corpus's column `phonemes` to tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from voxstrata.errors import CorpusError

#: Class of frames whose phoneme is not known.
UNKNOWN = -100

Spans = tuple[tuple[float, str], ...]


def read_phonemes(text: str) -> Spans:
    """Reads "start_s:symbol" pairs, in order of time.

    >>> read_phonemes("0.000:_ 0.100:h 0.150:aɪ")
    ((0.0, '_'), (0.1, 'h'), (0.15, 'aɪ'))

    Raises:
        CorpusError: if a pair is not of that form, or time runs back.
    """
    spans = []
    for pair in text.split():
        start, colon, symbol = pair.partition(":")
        try:
            spans.append((float(start), symbol))
        except ValueError:
            colon = ""
        if not colon or not symbol:
            raise CorpusError(f"phonemes are written as 'start_s:symbol'; found {pair!r}")
    if any(later < earlier for (earlier, _), (later, _) in pairwise(spans)):
        raise CorpusError(f"phonemes must stand in order of time; found {text[:60]!r}")
    return tuple(spans)


def phoneme_inventory(clips: Iterable[Spans], *, at_least: int = 100) -> tuple[str, ...]:
    """The symbols that occur `at_least` times, sorted; rarer ones count as unknown."""
    counts = Counter(symbol for spans in clips for _, symbol in spans)
    return tuple(sorted(symbol for symbol, count in counts.items() if count >= at_least))


def span_tensors(
    clips: Sequence[Spans], inventory: Sequence[str], shift_s: Sequence[float], tempo: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Starts in seconds [B, P] (infinite behind the end) and classes [B, P] of each clip's phonemes.

    Args:
        clips: B clips' phonemes; empty where not known.
        inventory: the classes.
        shift_s: B offsets of the parts that are used.
        tempo: B factors by which the parts are played faster.
    """
    index = {symbol: number for number, symbol in enumerate(inventory)}
    width = max(1, *map(len, clips))
    starts = torch.full((len(clips), width), torch.inf)
    classes = torch.full((len(clips), width), UNKNOWN)
    for row, spans in enumerate(clips):
        if spans:
            times = torch.tensor([start for start, _ in spans])
            starts[row, : len(spans)] = (times - shift_s[row]) / tempo[row]
            classes[row, : len(spans)] = torch.tensor([index.get(name, UNKNOWN) for _, name in spans])
    return starts, classes


def frame_phonemes(starts: Tensor, classes: Tensor, times_s: Tensor) -> Tensor:
    """The class spoken at each time: starts and classes [B, P], times [T] -> [B, T].

    >>> starts, classes = torch.tensor([[0.0, 0.1, 0.2]]), torch.tensor([[7, 8, 9]])
    >>> frame_phonemes(starts, classes, torch.tensor([0.05, 0.1, 0.5])).tolist()
    [[7, 8, 9]]
    """
    times = times_s.to(starts).expand(len(starts), -1).contiguous()
    place = torch.searchsorted(starts.contiguous(), times, right=True) - 1
    found = classes.gather(1, place.clamp_min(0))
    return torch.where(place >= 0, found, UNKNOWN)
