"""The next item is made while the current one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

# Not a DataLoader: its workers run ahead of what was used, and a checkpoint counts what was used.
Item = TypeVar("Item")


@dataclass(frozen=True)
class _Fault:
    error: BaseException


_END = object()


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items in order, one made ahead in a background thread.

    An error in making an item is raised where that item would have come. When the consumer stops early
    (`break`, an exception, `close()`), the thread ends before control returns.
    """
    ready: queue.Queue[object] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def offer(item: object) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not offer(item):
                    return
            offer(_END)
        except BaseException as error:  # forwarded, whatever it is: the consumer must not wait for ever
            offer(_Fault(error))

    thread = threading.Thread(target=produce, name="next batch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Fault):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
