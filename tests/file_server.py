"""An HTTP server on this machine, in the place of a corpus's owner: ranges, breaks, faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Files by their paths.

    Attributes:
        files: path -> content.
        asked: path and header `Range` of each request, in order.
        breaks: after so many bytes of its answers the connection is cut, one number an answer.
        answers: status codes of the next answers, before anything is sent.
        ranges: whether it knows ranges.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.breaks: list[int] = []
        self.answers: list[int] = []
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        content = server.files.get(self.path.partition("?")[0])
        if server.answers or content is None:
            self.send_error(server.answers.pop(0) if server.answers else 404)
            return
        start, whole = 0, len(content)
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= whole:
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(whole - start))
        self.end_headers()
        sent = content[start:]
        if server.breaks:
            sent = sent[: server.breaks.pop(0)]
            self.close_connection = True
        self.wfile.write(sent)


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A server that runs in a thread until the end of the block."""
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
