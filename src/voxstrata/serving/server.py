"""The server: the page and the routes in one application, and what runs it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from voxstrata.errors import VoxstrataError
from voxstrata.inference.recognizer import Recognizer

# gradio reads them when it is imported: no usage statistics, no look for a newer version.
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")

import gradio
import uvicorn
from fastapi import FastAPI

from voxstrata.serving.about import about
from voxstrata.serving.answers import Answers, Limits
from voxstrata.serving.page import CSS, Page
from voxstrata.serving.rest import add_routes
from voxstrata.serving.scaled import Scaled
from voxstrata.serving.uploads import Uploads


def application(
    recognizer: Recognizer,
    source: str | Path | None,
    *,
    limits: Limits | None = None,
    language: str | None = None,
) -> FastAPI:
    """The page and the routes of a model.

    Args:
        recognizer: that answers.
        source: the run or model folder that it was loaded from; None: a transcriber alone.
        limits: what is taken; None for the defaults.
        language: of the words, where it is fixed.
    """
    limits = limits or Limits()
    folder = tempfile.TemporaryDirectory(prefix="voxstrata-uploads-")
    # Where gradio expects the files that a page is given.
    os.environ["GRADIO_TEMP_DIR"] = str(Path(folder.name).resolve())
    answers = Answers(recognizer, limits)
    uploads = Uploads(Path(folder.name).resolve(), limits)
    model = about(recognizer, source)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            answers.close()
            folder.cleanup()

    app = FastAPI(title="voxstrata", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    app.state.answers, app.state.uploads, app.state.folder = answers, uploads, folder
    add_routes(app, answers, uploads, model.name, language)
    page = Page(answers, uploads, model, _slider(recognizer, source))
    app.state.page = page
    gradio.mount_gradio_app(
        app,
        page.blocks(),
        path="/",
        css=CSS.read_text(encoding="utf-8"),
        theme=gradio.themes.Default(
            primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        max_file_size=limits.most_bytes,
    )
    return app


def _slider(recognizer: Recognizer, source: str | Path | None) -> Callable[[], Scaled] | None:
    """What makes the slider; None where the model's base is not here."""
    if source is None:
        return None
    try:
        made = Scaled.of(recognizer, source)
    except VoxstrataError:
        return None
    return lambda: made


def run(app: Any, host: str, port: int) -> None:
    """Serves until it is stopped.

    Args:
        app: see `application`.
        host: address to listen on.
        port: number of the port.
    """
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)
