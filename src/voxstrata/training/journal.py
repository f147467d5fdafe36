"""The journal in step with the checkpoints: rows of steps that are repeated must not stand in it twice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from voxstrata.errors import TrainingError
from voxstrata.runs import RunFolder


class Journal:
    """The journal of a run, with the length that a checkpoint remembers.

    Args:
        run: the run folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row.

        Raises:
            TrainingError: if the disk does not take it.
        """
        try:
            self.run.append(row)
        except OSError as fault:
            raise _refused(self.run, fault) from None

    def flushed_bytes(self) -> int:
        """The journal's length, after its content is on the disk.

        Raises:
            TrainingError: if the disk does not take it.
        """
        if not self.run.journal.is_file():
            return 0
        try:
            with self.run.journal.open("ab") as file:
                os.fsync(file.fileno())
                return file.tell()
        except OSError as fault:
            raise _refused(self.run, fault) from None

    def truncate(self, length: int) -> None:
        """Cuts off what was written after a checkpoint."""
        if self.run.journal.is_file() and self.run.journal.stat().st_size > length:
            os.truncate(self.run.journal, length)


def _refused(run: RunFolder, fault: OSError) -> TrainingError:
    return TrainingError(
        f"cannot write {run.journal}: {fault.strerror}; free space, then give the same command again"
    )
