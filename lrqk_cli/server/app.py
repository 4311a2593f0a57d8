"""The routes of the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lrqk_cli import __version__
from lrqk_cli.config import GenerationConfig
from lrqk_cli.errors import LrqkError, UsageError
from lrqk_cli.server import listings
from lrqk_cli.server.answers import Completion, Continuation, Reception
from lrqk_cli.server.dialogue import Dialogue
from lrqk_cli.server.failures import UnknownModelError, response_of
from lrqk_cli.server.guards import BodyLimit, KeyGuard
from lrqk_cli.server.messages import dialogue_of
from lrqk_cli.server.metrics import Metrics
from lrqk_cli.server.protocol import (
    ChatCompletion,
    ChatRequest,
    FailureBody,
    SampledRequest,
    TextCompletion,
    TextRequest,
)
from lrqk_cli.server.uploads import UploadedFile, UploadedFiles
from lrqk_cli.server.worker import EngineWorker, Finished, Job, JobEvent

_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": FailureBody} for status in (400, 401, 404, 409, 413, 429, 500, 503)
}
# Seconds between two looks whether a client is still there.
_WATCH_S = 0.2
# Tokens of reasoning at most.
_EFFORTS = {"none": 0, "minimal": 256, "low": 1024, "medium": 4096, "high": None}
_STREAM = {"content": {"text/event-stream": {}}, "description": "The answer, or its stream"}


def _owner(request: Request) -> str:
    owner: str = request.state.owner
    return owner


_Owner = Annotated[str, Depends(_owner)]


@dataclass(frozen=True)
class Service:
    """What the routes serve.

    Attributes:
        model: its name for clients.
        context: tokens that it holds.
        generation: the settings that a request does not say.
        keys: the keys of clients; empty if nobody needs one.
        token: see ``KeyGuard``.
        max_body: bytes of a request.
        hosts: names by which clients may call the server; empty for any.
    """

    model: str
    context: int
    worker: EngineWorker
    files: UploadedFiles
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    keys: Sequence[str] = ()
    token: str = ""
    max_body: int = 256 << 20
    hosts: Sequence[str] = ()
    began: int = field(default_factory=lambda: int(time.time()))


def create_app(service: Service) -> FastAPI:
    """Return the server's application."""
    metrics = Metrics(service.worker)
    # FastAPI's pages of documentation would load scripts from the network.
    app = FastAPI(title="lrqk", version=__version__, responses=_FAILURES, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, limit=service.max_body)
    app.add_middleware(KeyGuard, keys=service.keys, token=service.token)
    if service.hosts:
        # A web page must not reach a server on this machine by a name of its own.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*service.hosts])
    _add_failures(app)

    @app.get("/health", operation_id="health")
    def health() -> listings.Health:
        """Say that requests are answered."""
        if not service.worker.is_alive:
            raise LrqkError("The engine has ended.", "Start the server again.")
        return listings.Health(waiting=len(service.worker.queue))

    @app.get("/metrics", operation_id="metrics", response_class=Response)
    def metrics_text() -> Response:
        """Return counters in Prometheus' form."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", operation_id="list_models")
    def models() -> listings.ModelList:
        """List the model."""
        return listings.ModelList(data=[_entry_of_model(service)])

    @app.get("/v1/models/{model:path}", operation_id="get_model")
    def one_model(model: str) -> listings.ModelEntry:
        """Describe the model."""
        _check_model(service, model)
        return _entry_of_model(service)

    @app.post(
        "/v1/chat/completions", operation_id="chat", response_model=ChatCompletion, responses={200: _STREAM}
    )
    async def chat(body: ChatRequest, request: Request, by: _Owner) -> Response:
        """Answer the last message of a conversation."""
        _check_model(service, body.model)
        completion = await run_in_threadpool(_completion, service, metrics, body, by, Reception())
        return await _answered(service, request, body, completion)

    @app.post(
        "/v1/completions", operation_id="complete", response_model=TextCompletion, responses={200: _STREAM}
    )
    async def complete(body: TextRequest, request: Request, by: _Owner) -> Response:
        """Go on with a text, without a chat format."""
        _check_model(service, body.model)
        text = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
        reception = Reception()
        job = _job(service, metrics, body, by, text, reception)
        return await _answered(service, request, body, Continuation(service.model, job, reception))

    _add_files(app, service)
    return app


def _add_files(app: FastAPI, service: Service) -> None:
    @app.post("/v1/files", operation_id="upload_file")
    def upload(
        file: Annotated[UploadFile, File()],
        by: _Owner,
        purpose: Annotated[str, Form(max_length=64)] = "user_data",
    ) -> listings.FileEntry:
        """Read a document, to be referred to in messages."""
        content = file.file.read()
        return _entry_of_file(service.files.add(by, file.filename or "", content, purpose))

    @app.get("/v1/files", operation_id="list_files")
    def files(by: _Owner) -> listings.FileList:
        """List the documents of this key."""
        return listings.FileList(data=[_entry_of_file(each) for each in service.files.list(by)])

    @app.get("/v1/files/{file_id}", operation_id="get_file")
    def one_file(file_id: str, by: _Owner) -> listings.FileEntry:
        """Describe a document."""
        return _entry_of_file(service.files.get(by, file_id))

    @app.delete("/v1/files/{file_id}", operation_id="delete_file")
    def delete(file_id: str, by: _Owner) -> listings.FileDeleted:
        """Forget a document."""
        return listings.FileDeleted(id=service.files.remove(by, file_id).id)


def _add_failures(app: FastAPI) -> None:
    @app.exception_handler(LrqkError)
    def failed(_: Request, error: LrqkError) -> JSONResponse:
        return response_of(error)

    @app.exception_handler(Exception)
    def unexpected(_: Request, __: Exception) -> JSONResponse:
        # The server's log has the traceback.
        return response_of(LrqkError("The server failed.", "Its log has more; please report it."))

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        wrong = UsageError(
            f"{place or 'The body'}: {first['msg']}.", "This server takes what its /openapi.json says."
        )
        return response_of(wrong, param=place or None)

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> JSONResponse:
        failure = error.detail if isinstance(error.detail, LrqkError) else UsageError(f"{error.detail}.")
        return response_of(failure, status=error.status_code, headers=error.headers)


def _check_model(service: Service, name: str) -> None:
    if name != service.model:
        raise UnknownModelError(
            f"There is no model '{name[:80]}' here.", f"This server has '{service.model}' only."
        )


def _completion(
    service: Service, metrics: Metrics, body: ChatRequest, owner: str, reception: Reception
) -> Completion:
    dialogue = dialogue_of(body.messages, service.files, owner)
    job = _job(service, metrics, body, owner, dialogue, reception)
    return Completion(service.model, job, reception)


def _job(
    service: Service,
    metrics: Metrics,
    body: SampledRequest,
    owner: str,
    asked: Dialogue | str,
    reception: Reception,
) -> Job:
    def emit(event: JobEvent) -> None:
        if isinstance(event, Finished):
            metrics.answered(event)
        elif isinstance(event, LrqkError):
            metrics.failed()
        reception.send(event)

    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    generation = _generation(service.generation, body)
    return Job(owner, asked, generation, emit, tuple(filter(None, stops)), body.lrqk.sources)


async def _answered(
    service: Service, request: Request, body: SampledRequest, completion: Completion
) -> Response:
    """Let a completion wait for its turn, and return its answer or its stream."""
    service.worker.submit(completion.job)
    if not body.stream:
        return await _unless_gone(request, completion)
    includes_usage = body.stream_options is not None and body.stream_options.include_usage
    stream = completion.stream(includes_usage=includes_usage, shows_progress=body.lrqk.progress)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _generation(default: GenerationConfig, body: SampledRequest) -> GenerationConfig:
    """Return the settings of a request; what it does not say is the server's.

    Raises:
        UsageError: two settings contradict each other.
    """
    chat = body if isinstance(body, ChatRequest) else None
    most = {body.max_tokens, chat and chat.max_completion_tokens} - {None}
    if len(most) > 1:
        raise UsageError("max_tokens and max_completion_tokens differ.", "Send one of them.")
    said: dict[str, Any] = {
        "max_new_tokens": next(iter(most), None),
        "temperature": body.temperature,
        "top_p": body.top_p,
        "sample_top_k": body.top_k,
        "repetition_penalty": body.repetition_penalty,
        "seed": body.seed,
    }
    said = {name: value for name, value in said.items() if value is not None}
    if chat is not None and chat.reasoning_effort is not None:
        said["think"] = _EFFORTS[chat.reasoning_effort]
    return replace(default, **said)


async def _unless_gone(request: Request, completion: Completion) -> Response:
    """Return the whole answer; cancel it if the client leaves meanwhile."""
    answer = asyncio.ensure_future(completion.whole())
    try:
        while not answer.done():
            await asyncio.wait({answer}, timeout=_WATCH_S)
            if await request.is_disconnected():
                completion.job.is_cancelled.set()
        return JSONResponse(answer.result().model_dump())
    finally:
        answer.cancel()


def _entry_of_model(service: Service) -> listings.ModelEntry:
    return listings.ModelEntry(id=service.model, created=service.began, context_length=service.context)


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
