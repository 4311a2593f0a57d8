"""What servers of the OpenAI protocol answer, as plain values; what is missing or odd counts as not said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

# Who owns the models of ``lrqk serve``.
_OWN = "lrqk"
# No count, and no time in seconds, is as large.
_TOO_LARGE = 2**53


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of a server.

    Attributes:
        context: the most tokens of its context; None if the server does not say.
        is_lrqk: ``lrqk serve`` serves it, which takes documents as such and tells more of its answers.
        reasons: whether it can reason; None if the server does not say.
    """

    name: str
    context: int | None
    is_lrqk: bool
    reasons: bool | None = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """The tokens of a request.

    Attributes:
        prompt: of the prompt; cached: those of them that were not read for this answer.
        completion: that were generated; reasoning: those of them that are no answer.
    """

    prompt: int
    cached: int
    completion: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a stream.

    Attributes:
        text, reasoning: what is new of the answer, and of the reasoning before it.
        end: why the answer ended, in the server's word; None while it goes on.
        usage: None until the server says.
        details: the field ``lrqk`` of ``lrqk serve``; empty without.
    """

    text: str
    reasoning: str
    end: str | None
    usage: TokenUsage | None
    details: Mapping[str, Any]


def read_json(text: str | bytes) -> object:
    """Read what a server says, None if it is no JSON; numbers that are not finite, or too large, are null."""
    try:
        return json.loads(
            text,
            parse_int=partial(_number, int),
            parse_float=partial(_number, float),
            parse_constant=lambda _: None,
        )
    except (ValueError, RecursionError):
        return None


def read_models(plain: object) -> list[ServedModel] | None:
    """Read the answer of ``/models``; None if it is no list of models."""
    entries = plain.get("data") if isinstance(plain, dict) else None
    if not isinstance(entries, list):
        return None
    return [
        ServedModel(entry["id"], _context(entry), entry.get("owned_by") == _OWN, _reasons(entry))
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    ]


def read_chunk(plain: Mapping[str, Any]) -> Chunk:
    """Read an event of a stream."""
    choice = _first(plain.get("choices"))
    delta = _object(choice, "delta")
    end = choice.get("finish_reason")
    # vLLM has renamed the field that DeepSeek began with.
    reasoning = _text(delta, "reasoning_content") or _text(delta, "reasoning")
    return Chunk(
        _text(delta, "content"),
        reasoning,
        end if isinstance(end, str) else None,
        _usage(_object(plain, "usage")),
        _object(plain, "lrqk"),
    )


def count_of(plain: Mapping[str, Any], name: str) -> int:
    """Return a number of things; 0 if it is not said."""
    value = plain.get(name)
    return value if type(value) is int and value >= 0 else 0


def seconds_of(plain: Mapping[str, Any], name: str) -> float | None:
    """Return a time in seconds; None if it is not said."""
    value = plain.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    return float(value)


def _number(kind: Callable[[str], float], digits: str) -> float | None:
    # Python refuses to read an integer of thousands of digits, but not a float.
    return kind(digits) if abs(float(digits)) < _TOO_LARGE else None


def _context(entry: Mapping[str, Any]) -> int | None:
    """Return the context of a model, as lrqk names it, vLLM and SGLang, or llama-server."""
    named = count_of(entry, "context_length") or count_of(entry, "max_model_len")
    return named or count_of(_object(entry, "meta"), "n_ctx") or None


def _reasons(entry: Mapping[str, Any]) -> bool | None:
    reasons = entry.get("reasons")
    return reasons if isinstance(reasons, bool) else None


def _usage(plain: Mapping[str, Any]) -> TokenUsage | None:
    if not count_of(plain, "prompt_tokens"):
        return None
    return TokenUsage(
        count_of(plain, "prompt_tokens"),
        count_of(_object(plain, "prompt_tokens_details"), "cached_tokens"),
        count_of(plain, "completion_tokens"),
        count_of(_object(plain, "completion_tokens_details"), "reasoning_tokens"),
    )


def _first(values: object) -> Mapping[str, Any]:
    return values[0] if isinstance(values, list) and values and isinstance(values[0], dict) else {}


def _object(plain: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = plain.get(name)
    return value if isinstance(value, dict) else {}


def _text(plain: Mapping[str, Any], name: str) -> str:
    value = plain.get(name)
    return value if isinstance(value, str) else ""
