"""The last clips of the page, in memory, for its slider: few, short, and not for long."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from voxstrata.errors import AudioError
from voxstrata.inference.recognition import Recognition

#: So many clips of at most 30 s: 32 MB.
MOST = 32
#: Seconds until a clip is forgotten.
KEPT_S = 600.0


class Clips:
    """Samples of the last clips and their answers, by a key that nobody can guess."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, NDArray[np.int16], Recognition]] = OrderedDict()
        self._lock = Lock()

    def keep(self, clip: NDArray[np.float32], found: Recognition) -> str:
        """Keeps a clip, and forgets the oldest ones.

        Args:
            clip: [N] mono at 16 kHz; none are kept of a long recording, whose key is "".
            found: the answer.
        """
        if not len(clip):
            return ""
        key = uuid.uuid4().hex
        samples = np.round(np.clip(clip, -1, 1) * 32767).astype(np.int16)
        with self._lock:
            self._kept[key] = (time.monotonic(), samples, found)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        self.forget(time.monotonic() - KEPT_S)
        return key

    def of(self, key: str) -> tuple[NDArray[np.float32], Recognition]:
        """A clip and its answer.

        Raises:
            AudioError: if it is not kept.
        """
        self.forget(time.monotonic() - KEPT_S)
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            raise AudioError(
                "the clip is not kept (clips up to 30 s are, for ten minutes); upload it once more, then "
                "move the slider"
            )
        return found[1].astype(np.float32) / np.float32(32767), found[2]

    def forget(self, before: float) -> None:
        """Forgets clips that were kept before a time of the monotonic clock."""
        with self._lock:
            for key in [key for key, (at, _, _) in self._kept.items() if at < before]:
                del self._kept[key]
