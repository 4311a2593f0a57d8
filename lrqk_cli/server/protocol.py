"""The answers of the OpenAI protocol, as far as this server knows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class PromptDetails(BaseModel):
    """The tokens of a prompt that were not read for this answer."""

    cached_tokens: int


class CompletionDetails(BaseModel):
    """The tokens of what was generated that are no answer."""

    reasoning_tokens: int


class Usage(BaseModel):
    """The tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class SourceEntry(BaseModel):
    """A page that an answer rests on; see ``lrqk chat --sources``.

    Attributes:
        number: of the document, counted from 0 through the whole conversation.
    """

    document: str
    number: int
    page: int | None
    share: float
    passage: str
    by_ocr: bool


class Counters(BaseModel):
    """The decode steps of an answer; see ``StepStats``."""

    steps: int
    rows_wanted: int
    rows_fetched: int
    bytes_fetched: int
    row_sets: int
    seconds: float
    drafts_offered: int
    drafts_accepted: int


class PromptProgress(BaseModel):
    """How many tokens of the prompt have been read, of those that are not there already."""

    read: int
    total: int


class QueueProgress(BaseModel):
    """How many requests at most are answered before this one."""

    ahead: int


class Details(BaseModel):
    """What only this server knows of an answer.

    Attributes:
        prefill_s, ttft_s: seconds until the prompt was read, and to the first token.
        miss_rate: the share of demanded rows that were not on the device; None without LRQK.
        device_bytes, host_kv_bytes: memory in use.
        sources, heat: the pages, and for each document how the attention spreads over its parts, see
            ``Strip``; None if they were not asked for.
    """

    prefill_s: float
    ttft_s: float | None
    decode_tokens_per_s: float
    miss_rate: float | None
    device_bytes: int
    host_kv_bytes: int
    counters: Counters
    sources: list[SourceEntry] | None
    heat: list[list[float]] | None


FinishReason = Literal["stop", "length"]


class LogprobEntry(BaseModel):
    """A token with the natural logarithm of its probability; ``bytes`` may be a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenEntry(LogprobEntry):
    """A token of an answer, and the likeliest tokens in its place."""

    top_logprobs: list[LogprobEntry]


class ChatLogprobs(BaseModel):
    """The tokens of an answer, or of a part of it."""

    content: list[ChosenEntry]
    refusal: None = None


class TextLogprobs(BaseModel):
    """The tokens of a text or of a part of it; ``text_offset`` is in characters from the text's beginning."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AssistantMessage(BaseModel):
    """The answer, and what the model thought before it."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | None = None
    refusal: None = None


class Choice(BaseModel):
    """The answer, and why it ended."""

    index: Literal[0] = 0
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """The answer of ``/v1/chat/completions`` without ``stream``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    lrqk: Details


class TextChoice(BaseModel):
    """How the model goes on with a text, or a part of it, and why it ended; None while it goes on."""

    index: Literal[0] = 0
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None


class TextCompletion(BaseModel):
    """The answer of ``/v1/completions``, or a part of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
    lrqk: Details | PromptProgress | QueueProgress | None = None


class Delta(BaseModel):
    """What is new in an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None


class ChunkChoice(BaseModel):
    """What is new, or why the answer ended."""

    index: Literal[0] = 0
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    """A part of the stream of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    lrqk: Details | PromptProgress | QueueProgress | None = None


class Failure(BaseModel):
    """A failure: a plain sentence and a hint in ``message``."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class FailureBody(BaseModel):
    """The body of every answer that is a failure."""

    error: Failure
