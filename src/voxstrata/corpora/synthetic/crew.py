"""Worker processes that render clips side by side, in the order of the plan, with flat memory."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from voxstrata.corpora.synthetic.rendering import Rendering
from voxstrata.documents import parse_json
from voxstrata.errors import VoxstrataError

#: Clips that a worker gets at a time.
CHUNK = 16


class Crew:
    """Workers, each a Python process with an espeak-ng of its own.

    Args:
        jobs: how many.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = max(1, jobs)
        self._processes: list[subprocess.Popen[str]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()

    def __enter__(self) -> Crew:
        command = [sys.executable, "-m", "voxstrata.corpora.synthetic.worker"]
        for _ in range(self.jobs):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
            self._processes.append(process)
            self._free.put(process)
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: object, trace: TracebackType | None) -> None:
        for process in self._processes:
            if kind is not None:
                process.kill()
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def version(self) -> str:
        """The version of espeak-ng."""
        return str(self._ask({"version": True})["version"])

    def spoken(self, clips: Iterable[tuple[Path, Rendering]]) -> Iterator[tuple[float, str]]:
        """Writes clips and yields their lengths in seconds and their phonemes, in the order given.

        Args:
            clips: file and content of each.

        Raises:
            VoxstrataError: if a worker cannot speak or write.
        """
        source = iter(clips)
        waiting: deque[Future[dict[str, Any]]] = deque()
        with ThreadPoolExecutor(self.jobs) as pool:
            while True:
                while len(waiting) < 2 * self.jobs and (chunk := list(islice(source, CHUNK))):
                    rows = [{"path": str(path), "rendering": clip.as_dict()} for path, clip in chunk]
                    waiting.append(pool.submit(self._ask, {"clips": rows}))
                if not waiting:
                    return
                yield from waiting.popleft().result()["clips"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._free.get()
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            self._free.put(process)
        if not line:
            raise VoxstrataError(
                f"a speech worker died (status {process.poll()}); start the same command again, it goes on, "
                "with fewer --jobs if memory is short"
            )
        # A worker that is killed may leave half a line.
        advice = "start the same command again, it goes on"
        answer: dict[str, Any] = parse_json(line, "the answer of a speech worker", advice=advice)
        if "error" in answer:
            raise VoxstrataError(f"a speech worker failed: {answer['error']}")
        return answer
