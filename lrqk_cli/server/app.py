"""The routes of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from lrqk_cli import __version__
from lrqk_cli.errors import LrqkError, UsageError
from lrqk_cli.server import listings
from lrqk_cli.server.answers import Completion, Reception
from lrqk_cli.server.failures import UnknownModelError, response_of
from lrqk_cli.server.guards import BodyLimit, KeyGuard, PageGuard
from lrqk_cli.server.jobs import chat_completion, text_completion
from lrqk_cli.server.metrics import Metrics
from lrqk_cli.server.preparing import Preparations
from lrqk_cli.server.protocol import ChatCompletion, FailureBody, TextCompletion
from lrqk_cli.server.requests import ChatRequest, SampledRequest, TextRequest
from lrqk_cli.server.service import Service
from lrqk_cli.server.uploads import NotStoredError, UploadedFile
from lrqk_cli.server.validation import invalid_field

_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": FailureBody} for status in (400, 401, 403, 404, 409, 413, 429, 500, 503)
}
# Seconds between two looks whether a client is still there.
_WATCH_S = 0.2
# What some servers answer a client that has gone, which nobody reads.
_GONE = 499
_STREAM = {"content": {"text/event-stream": {}}, "description": "The answer, or its stream"}


async def _owner(request: Request) -> str:
    owner: str = request.state.owner
    return owner


_Owner = Annotated[str, Depends(_owner)]
_Result = TypeVar("_Result")


def create_app(service: Service) -> FastAPI:
    """Return the server's application."""
    metrics, preparations = Metrics(service.worker), Preparations()
    # FastAPI's pages of documentation would load scripts from the network.
    app = FastAPI(title="lrqk", version=__version__, responses=_FAILURES, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, limit=service.max_body)
    app.add_middleware(KeyGuard, keys=service.keys, token=service.token)
    app.add_middleware(PageGuard, is_local=service.is_local)
    _add_failures(app)

    @app.get("/health", operation_id="health")
    async def health() -> listings.Health:
        """Say that requests are answered."""
        if not service.worker.is_alive:
            raise LrqkError("The engine has ended.", "Start the server again.")
        return listings.Health(waiting=len(service.worker.queue))

    @app.get("/metrics", operation_id="metrics", response_class=Response)
    async def metrics_text() -> Response:
        """Return counters in Prometheus' form."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", operation_id="list_models")
    async def models() -> listings.ModelList:
        """List the model."""
        return listings.ModelList(data=[_entry_of_model(service)])

    @app.get("/v1/models/{model:path}", operation_id="get_model")
    async def one_model(model: str) -> listings.ModelEntry:
        """Describe the model."""
        _check_model(service, model)
        return _entry_of_model(service)

    @app.post(
        "/v1/chat/completions", operation_id="chat", response_model=ChatCompletion, responses={200: _STREAM}
    )
    async def chat(body: ChatRequest, request: Request, by: _Owner) -> Response:
        """Answer the last message of a conversation."""
        _check_model(service, body.model)
        prepare = partial(chat_completion, service, metrics, body, by, Reception())
        completion = await preparations.run(by, prepare)
        return await _answered(service, request, body, completion)

    @app.post(
        "/v1/completions", operation_id="complete", response_model=TextCompletion, responses={200: _STREAM}
    )
    async def complete(body: TextRequest, request: Request, by: _Owner) -> Response:
        """Go on with a text, without a chat format."""
        _check_model(service, body.model)
        prepare = partial(text_completion, service, metrics, body, by, Reception())
        completion = await preparations.run(by, prepare)
        return await _answered(service, request, body, completion)

    _add_files(app, service)
    return app


def _add_files(app: FastAPI, service: Service) -> None:
    # Apart from those of questions, which do not wait for long documents of the same key.
    preparations = Preparations()

    @app.post("/v1/files", operation_id="upload_file")
    async def upload(
        file: Annotated[UploadFile, File()],
        by: _Owner,
        purpose: Annotated[str, Form(max_length=64)] = "user_data",
    ) -> listings.FileEntry:
        """Read a document, to be referred to in messages."""

        def read() -> UploadedFile:
            return service.files.add(by, file.filename or "", file.file.read(), purpose)

        return _entry_of_file(await preparations.run(by, read))

    @app.get("/v1/files", operation_id="list_files")
    async def files(by: _Owner) -> listings.FileList:
        """List the documents of this key."""
        return listings.FileList(data=[_entry_of_file(each) for each in service.files.list(by)])

    @app.get("/v1/files/{file_id}", operation_id="get_file")
    async def one_file(file_id: str, by: _Owner) -> listings.FileEntry:
        """Describe a document."""
        return _entry_of_file(service.files.get(by, file_id))

    @app.delete("/v1/files/{file_id}", operation_id="delete_file")
    async def delete(file_id: str, by: _Owner) -> listings.FileDeleted:
        """Forget a document."""
        return listings.FileDeleted(id=service.files.remove(by, file_id).id)


def _add_failures(app: FastAPI) -> None:
    @app.exception_handler(LrqkError)
    async def failed(_: Request, error: LrqkError) -> JSONResponse:
        return response_of(error)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> JSONResponse:
        # The server's log has the traceback.
        return response_of(LrqkError("The server failed.", "Its log has more; please report it."))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        place, fault = invalid_field(error)
        wrong = UsageError(
            f"{place or 'The body'}: {fault}.", "This server takes what its /openapi.json says."
        )
        return response_of(wrong, param=place or None)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, OSError):
            # Of the body that was to be kept on the disk of this side; the framework calls it the client's.
            return response_of(NotStoredError(error.__cause__))
        detail = error.detail
        failure = detail if isinstance(detail, LrqkError) else UsageError(f"{detail.rstrip('.')}.")
        return response_of(failure, status=error.status_code, headers=error.headers)


def _check_model(service: Service, name: str) -> None:
    if name != service.model:
        raise UnknownModelError(
            f"There is no model '{name[:80]}' here.", f"This server has '{service.model}' only."
        )


async def _answered(
    service: Service, request: Request, body: SampledRequest, completion: Completion
) -> Response:
    """Let a completion wait for its turn, and return its answer, or its stream once that has begun.

    So a stream that fails before its first event has the status of the failure.
    """
    service.worker.submit(completion.job)
    if not body.stream:
        answer = await _unless_gone(request, completion.whole())
        return Response(status_code=_GONE) if answer is None else JSONResponse(answer.model_dump())
    includes_usage = body.stream_options is not None and body.stream_options.include_usage
    stream = completion.stream(includes_usage=includes_usage, shows_progress=body.lrqk.progress)
    first = await _unless_gone(request, anext(stream))
    if first is None:
        return Response(status_code=_GONE)
    return StreamingResponse(
        _resumed(first, stream), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _unless_gone(request: Request, wanted: Coroutine[Any, Any, _Result]) -> _Result | None:
    """Return what a completion gives; cancel it and return None if the client leaves meanwhile."""
    waiting = asyncio.ensure_future(wanted)
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=_WATCH_S)
            if not waiting.done() and await request.is_disconnected():
                return None
        return waiting.result()
    finally:
        waiting.cancel()


async def _resumed(first: str, rest: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    async with aclosing(rest):
        yield first
        async for part in rest:
            yield part


def _entry_of_model(service: Service) -> listings.ModelEntry:
    return listings.ModelEntry(
        id=service.model,
        created=service.began,
        context_length=service.context,
        reasons=service.worker.reasons,
    )


def _entry_of_file(file: UploadedFile) -> listings.FileEntry:
    return listings.FileEntry(
        id=file.id,
        bytes=file.size,
        created_at=file.created,
        filename=file.name,
        purpose=file.purpose,
        pages=len(file.document.pages) if file.document.paginated else 0,
        warnings=list(file.document.warnings),
    )
