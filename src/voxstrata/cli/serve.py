"""`voxstrata serve`: a page and a plain HTTP route for a model."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from voxstrata.cli.lines import tell
from voxstrata.cli.predict import LANGUAGE, MODEL, TRANSCRIBER, WORDS, model_or_best

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = typer.Option("127.0.0.1", "--host", help="Address to listen on; 0.0.0.0 for all of this machine.")
PORT = typer.Option(7860, "--port", min=0, max=65535, help="Port to listen on; 0: any free one.")
SHARE = typer.Option(
    False, "--share", help="Also a public address, through gradio's servers. Anyone who has it can use it."
)
MEGABYTES = typer.Option(50.0, "--max-mb", min=0.001, help="Size of an upload, at most, in megabytes.")
MINUTES = typer.Option(10.0, "--max-minutes", min=0.01, help="Length of a recording, at most, in minutes.")
WAITING = typer.Option(256, "--max-waiting", min=1, help="Recordings that may wait at a time, at most.")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("serve")(serve)


def serve(
    model: str | None = MODEL,
    transcriber: Path | None = TRANSCRIBER,
    language: str | None = LANGUAGE,
    words: str | None = WORDS,
    host: str = HOST,
    port: int = PORT,
    share: bool = SHARE,
    max_mb: float = MEGABYTES,
    max_minutes: float = MINUTES,
    max_waiting: int = WAITING,
) -> None:
    """Open a page that answers recordings, and an HTTP route that OpenAI's clients can call.

    The page takes a microphone or an upload, and shows words and emotions over the waveform. It listens on
    this machine alone, unless --host names another address. Uploads are deleted after the answer. Needs the
    extra `page`.
    """
    from voxstrata.serving.require import require_page

    require_page()
    from voxstrata.inference.recognizer import Recognizer
    from voxstrata.serving.answers import Limits
    from voxstrata.serving.server import application, run

    port = free_port(host, port)
    source = model_or_best(model, transcriber is not None)
    recognizer = Recognizer.load(source, transcriber=transcriber, language=language, words=words)
    for note in recognizer.notes:
        tell(note)
    limits = Limits(max_mb, max_minutes, max_waiting)
    app = application(recognizer, source, limits=limits, language=language)
    if not is_loopback(host):
        tell(f"{host} can be reached from other machines: whoever reaches it can use it", label="warning")
    typer.echo(f"http://{shown_host(host)}:{port}")
    if share:
        from voxstrata.serving.sharing import public_address

        tell("the address below is public: whoever has it can use this page", label="warning")
        typer.echo(public_address(host, port))
    run(app, host, port)


def free_port(host: str, port: int) -> int:
    """The port, if it can be listened on; for 0 a free one.

    Raises:
        VoxstrataError: if it cannot.
    """
    from voxstrata.errors import VoxstrataError

    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            with socket.socket(family, kind, protocol) as test:
                test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                test.bind(address)
                found: int = test.getsockname()[1]
                return found
    except OSError as fault:
        raise VoxstrataError(
            f"cannot listen on {host}:{port}: {fault.strerror}; give another --port (0: any free one), or "
            "another --host"
        ) from None
    raise VoxstrataError(f"{host} is no address of this machine; give another --host")


def _addresses(host: str, port: int) -> Iterator[Any]:
    yield from socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "192.168.0.7")]
    [True, True, True, False, False, False]
    """
    import ipaddress

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown_host(host: str) -> str:
    """An address as it stands in a link.

    >>> shown_host("127.0.0.1"), shown_host("::1"), shown_host("0.0.0.0")
    ('127.0.0.1', '[::1]', '127.0.0.1')
    """
    named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{named}]" if ":" in named else named
