"""What a server that cannot be reached, or refuses a request, means to a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrqk_cli.endpoint.protocol import read_json
from lrqk_cli.errors import ContextLengthError, LrqkError, ModelError, UsageError

# Characters of a server's own words that are shown.
_MOST_WORDS = 400
# Digits of the seconds in which one may ask again: those of a day have five.
_MOST_DIGITS = 5
# How servers name a prompt that is too long: OpenAI, lrqk and llama-cpp-python; llama-server.
_TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")
# vLLM and SGLang have no code for it.
_TOO_LONG_WORDS = ("context length", "context size", "context window")
# The kind of a failure that is the request's own, where it has no status because the stream had begun.
_INVALID = "invalid_request_error"
_SHORTEN = "Choose fewer pages with `pages`, or a server with a longer context."


class EndpointError(ModelError):
    """The server behind ``endpoint`` cannot be reached, refuses to answer, or fails."""


def refusal(status: int, body: str, headers: Mapping[str, str], url: str) -> LrqkError:
    """Return the failure that an answer with an error status means.

    Args:
        status: the HTTP status.
        body: of the answer, usually JSON.
        url: the endpoint, for the message.
    """
    plain = read_json(body)
    # A page of a proxy says nothing that helps.
    said, kinds = _read(plain) if isinstance(plain, dict) else ("", ())
    return _failure(status, said, kinds, url, headers.get("retry-after", ""))


def failure_in_stream(error: object, url: str) -> LrqkError:
    """Return the failure that a server reports within a stream, after it has begun."""
    said, kinds = _read({"error": error})
    status = error.get("code") if isinstance(error, dict) else None
    return _failure(status if isinstance(status, int) else None, said, kinds, url, "")


def unreachable(url: str, reason: str) -> EndpointError:
    """Return the failure of a connection that cannot be made; ``reason`` is a few words."""
    return EndpointError(
        f"Nothing can be asked at {url}: {reason}.", "Check the address, and whether the server runs."
    )


def broken(url: str) -> EndpointError:
    """Return the failure of a connection that ended before the answer."""
    return EndpointError(
        f"The connection to {url} broke before the answer ended.", "Ask again; look whether the server runs."
    )


def not_understood(url: str) -> EndpointError:
    """Return the failure of an answer that is none of the protocol."""
    return EndpointError(
        f"What answers at {url} does not speak the OpenAI protocol.",
        "Check the address; it often ends in /v1.",
    )


def _failure(status: int | None, said: str, kinds: tuple[str, ...], url: str, retry_after: str) -> LrqkError:
    # A failure without words of the server's own is named by its status.
    because = f": {said}" if said else f" with the status {status}." if status else "."
    if any(kind in _TOO_LONG for kind in kinds) or any(word in said.lower() for word in _TOO_LONG_WORDS):
        return ContextLengthError(f"The server at {url} refuses the text{because}", _SHORTEN)
    if status in (401, 403):
        return EndpointError(
            f"The server at {url} refuses the key.",
            "Set the variable LRQK_API_KEY or OPENAI_API_KEY to a valid one.",
        )
    if status == 404:
        return EndpointError(
            f"The server at {url} does not find what was asked for{because}",
            "Check `model`, and the address: it often ends in /v1.",
        )
    if status == 413:
        return ContextLengthError(f"The server at {url} takes no request of this size.", _SHORTEN)
    if status == 429:
        is_time = retry_after.isdecimal() and len(retry_after) <= _MOST_DIGITS
        when = f" in {retry_after} seconds" if is_time else " later"
        return EndpointError(f"The server at {url} has too much to do{because}", f"Ask again{when}.")
    if (status is not None and 400 <= status < 500) or _INVALID in kinds:
        return UsageError(f"The server at {url} refuses the request{because}", "Leave out what it names.")
    return EndpointError(f"The server at {url} failed{because}", "Ask again; the server's log may have more.")


def _read(plain: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the words of a failure, as one sentence, and its kinds."""
    error = plain.get("error", plain)
    if not isinstance(error, dict):
        error = {"message": error}
    words = error.get("message") or error.get("detail") or ""
    said = " ".join(words.split()) if isinstance(words, str) else ""
    if len(said) > _MOST_WORDS:
        said = f"{said[:_MOST_WORDS]} …"
    elif said and not said.endswith((".", "!", "?")):
        said += "."
    kinds = tuple(kind for kind in (error.get("code"), error.get("type")) if isinstance(kind, str))
    return said, kinds
