"""Plain HTTP: OpenAI's route for transcriptions, with emotions; health; the page's uploads."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.datastructures import UploadFile

from voxstrata.errors import VoxstrataError
from voxstrata.inference.recognition import Recognition
from voxstrata.serving.answers import Answers, status_of
from voxstrata.serving.formats import FORMATS, GRANULARITIES, TIMED, as_json, as_text, require_one_of, verbose
from voxstrata.serving.uploads import NamedFile, Uploads, form_of, name_of


def add_routes(app: FastAPI, answers: Answers, uploads: Uploads, model: str, language: str | None) -> None:
    """Adds the routes to a server, before the page.

    Args:
        app: the server.
        answers: that answer.
        uploads: of the page.
        model: its name.
        language: of the words, where it is fixed.
    """

    async def health() -> dict[str, Any]:
        """Whether the server answers, and how many recordings wait."""
        return {"status": "ok", "model": model, "waiting": answers.waiting}

    async def models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "voxstrata"}]}

    async def transcriptions(request: Request) -> Response:
        """Words, emotions and times of a recording."""
        with answers.place():
            async with form_of(request, answers.limits) as form:
                return await _transcription(answers, form, language)

    async def upload(request: Request) -> JSONResponse:
        """An upload of the page, in a folder of its own: two with the same content do not share a file."""
        with answers.place():
            async with form_of(request, answers.limits) as form:
                file = _file(form, "files")
                path = await asyncio.to_thread(uploads.keep, file.file, file.filename or "")
                return JSONResponse([str(path)])

    app.add_api_route("/health", health, methods=["GET"], response_model=None)
    app.add_api_route("/v1/models", models, methods=["GET"], response_model=None)
    app.add_api_route("/v1/audio/transcriptions", transcriptions, methods=["POST"], response_model=None)
    app.add_api_route("/gradio_api/upload", upload, methods=["POST"], response_model=None)
    app.add_exception_handler(VoxstrataError, _refused)


async def _transcription(answers: Answers, form: Any, language: str | None) -> Response:
    """The answer to a form.

    Raises:
        VoxstrataError: if a field has another value than are allowed, or the recording has no answer.
    """
    file = _file(form, "file")
    kind = require_one_of("response_format", str(form.get("response_format", "json")), FORMATS)
    wanted = [str(value) for value in form.getlist("timestamp_granularities[]")]
    for value in wanted:
        require_one_of("timestamp_granularities[]", value, GRANULARITIES)
    if str(form.get("stream", "false")).lower() not in ("false", "0", ""):
        raise VoxstrataError("stream is not offered; leave it out, and the answer comes whole")
    recording: Any = NamedFile(name_of(file.filename), file.file)
    found: Recognition = await asyncio.wrap_future(answers.recognition(recording, timeline=kind in TIMED))
    if kind == "verbose_json":
        return JSONResponse(verbose(found, language, words="word" in wanted))
    if kind == "json":
        return JSONResponse(as_json(found))
    return PlainTextResponse(as_text(found, kind))


def _file(form: Any, field: str) -> UploadFile:
    """The upload in a form.

    Raises:
        VoxstrataError: if there is none.
    """
    file = form.get(field)
    if not isinstance(file, UploadFile):
        raise VoxstrataError(f"the form has no recording; send it as `{field}` (multipart/form-data)")
    return file


async def _refused(request: Request, fault: Exception) -> JSONResponse:
    """A fault in one sentence, in the form of OpenAI's errors."""
    status = status_of(fault)
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": str(fault), "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, {"Retry-After": "30"} if status == 503 else None)
