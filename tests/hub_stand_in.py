"""A server with as much of the hub's HTTP API as an upload asks for; it keeps what it is sent."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Repositories by their names, each with its files.

    Attributes:
        files: repository -> file -> content.
        private: repository -> whether it is.
        token: the only one that may write.
    """

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        repo = self.path.partition("?")[0].removeprefix("/api/models/")
        files = self.server.files.get(repo)
        if files is None:
            self._answer({"error": "there is none"}, 404)
            return
        siblings = [{"rfilename": name} for name in files]
        self._answer({"id": repo, "private": self.server.private[repo], "siblings": siblings})

    def do_PUT(self) -> None:
        self.server.large[self.path.rsplit("/", 1)[1]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            self._modes(json.loads(body))
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._places(json.loads(body))
        else:
            self._commit(self.path.split("/commit/")[0].removeprefix("/api/models/"), body)

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        url = f"{self.server.endpoint}/{repo}"
        there = repo in self.server.files
        if not there:
            self.server.files[repo] = {}
            # Versions of the client ask in different words.
            self.server.private[repo] = asked.get("visibility") == "private" or asked.get("private") is True
        self._answer({"url": url, "error": "it is there"} if there else {"url": url}, 409 if there else 200)

    def _modes(self, asked: dict[str, Any]) -> None:
        names = [file["path"] for file in asked["files"]]
        modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
        files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
        self._answer({"files": files})

    def _places(self, asked: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.endpoint}/large/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, body: bytes) -> None:
        files = self.server.files[repo]
        for row in map(json.loads, body.splitlines()):
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        oid = "0" * 40
        url = f"{self.server.endpoint}/{repo}/commit/{oid}"
        self._answer({"success": True, "commitUrl": url, "commitOid": oid})


@contextmanager
def hub(token: str = "letmein") -> Iterator[Hub]:
    """A server that runs inside the block."""
    server = Hub(token)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
