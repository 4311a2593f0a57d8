"""Failures in the protocol's form."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from lrqk_cli.errors import (
    ContextLengthError,
    DocumentError,
    LrqkError,
    OutOfMemoryError,
    UsageError,
)
from lrqk_cli.naming import COMMAND_LINE, Surface
from lrqk_cli.server.protocol import Failure, FailureBody
from lrqk_cli.server.uploads import NoSuchFileError, NotStoredError, TooManyFilesError
from lrqk_cli.server.worker import BusyError, ClosingError


class UnauthorisedError(LrqkError):
    """The request has no valid key."""


class UnknownHostError(LrqkError):
    """The request calls the server by a name that is not of this machine."""


class ForeignPageError(LrqkError):
    """The request comes from a web page of another server."""


class BodyTooLargeError(LrqkError):
    """The body of a request is larger than allowed."""


class UnknownModelError(LrqkError):
    """The request names a model that is not served."""


# Failure -> status, type and code in the protocol.
_KINDS: dict[type[LrqkError], tuple[int, str, str | None]] = {
    ContextLengthError: (400, "invalid_request_error", "context_length_exceeded"),
    DocumentError: (400, "invalid_request_error", "unreadable_document"),
    UsageError: (400, "invalid_request_error", None),
    UnknownHostError: (400, "invalid_request_error", "unknown_host"),
    UnauthorisedError: (401, "invalid_request_error", "invalid_api_key"),
    ForeignPageError: (403, "invalid_request_error", "foreign_origin"),
    NoSuchFileError: (404, "invalid_request_error", "file_not_found"),
    UnknownModelError: (404, "invalid_request_error", "model_not_found"),
    BodyTooLargeError: (413, "invalid_request_error", "body_too_large"),
    TooManyFilesError: (409, "invalid_request_error", "too_many_files"),
    BusyError: (429, "rate_limit_error", "queue_full"),
    ClosingError: (503, "server_error", "closing"),
    NotStoredError: (503, "server_error", "not_stored"),
    OutOfMemoryError: (503, "server_error", "out_of_memory"),
}

# What a request may set has its field's name; a client sends the pages that it chooses.
_FOR_CLIENTS = Surface(
    {
        **COMMAND_LINE.names,
        "max_new_tokens": "max_tokens",
        "pages": "pages",
        "password": "",
        "prompt": "",
        "repetition_penalty": "repetition_penalty",
        "sample_top_k": "top_k",
        "seed": "seed",
        "temperature": "temperature",
        "think": "reasoning_effort",
        "top_p": "top_p",
    },
    note="Options are given when the server starts.",
)


def response_of(
    error: LrqkError,
    *,
    param: str | None = None,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the answer to a request that failed.

    Args:
        param: the field of the request that is wrong.
        status: the HTTP status; None for that of the kind of failure.
    """
    return JSONResponse(body_of(error, param).model_dump(), status or status_of(error), headers)


def status_of(error: LrqkError) -> int:
    """Return the HTTP status of a failure."""
    return _kind(error)[0]


def body_of(error: LrqkError, param: str | None = None) -> FailureBody:
    """Return the body of a failure."""
    _, kind, code = _kind(error)
    message = f"{_FOR_CLIENTS.message(error.message)} {_FOR_CLIENTS.hint(error.hint)}".strip()
    return FailureBody(error=Failure(message=message, type=kind, param=param, code=code))


def _kind(error: LrqkError) -> tuple[int, str, str | None]:
    return next(
        (kind for class_, kind in _KINDS.items() if isinstance(error, class_)), (500, "server_error", None)
    )
