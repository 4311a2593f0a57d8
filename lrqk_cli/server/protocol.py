"""The requests and answers of the OpenAI protocol, as far as this server knows them.

A field that would not act is refused; fields that only label a request may be sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Text = Annotated[str, Field(max_length=1 << 26)]
_Prompt = Annotated[str, Field(min_length=1, max_length=1 << 26)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Request):
    """A text within a message."""

    type: Literal["text"]
    text: _Text


class FileReference(_Request):
    """A document: an uploaded one, or its content as a data URL or in base64."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class FilePart(_Request):
    """A document within a message."""

    type: Literal["file"]
    file: FileReference


class DocumentSection(_Request):
    """A piece of a document's text, on one page or on none."""

    text: _Text
    page: int | None = None


class DocumentPart(_Request):
    """A document that the client has read: the text of its sections as it is to stand in the prompt."""

    type: Literal["document"]
    title: Annotated[str, Field(max_length=1 << 12)]
    sections: Annotated[list[DocumentSection], Field(max_length=1_000_000)]


_Part = Annotated[TextPart | FilePart | DocumentPart, Field(discriminator="type")]


class Message(_Request):
    """A message of a conversation; the reasoning of an earlier answer is left out, as templates do."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | list[_Part] | None = None
    name: str | None = None
    refusal: None = None
    reasoning_content: _Text | None = None


class StreamOptions(_Request):
    """What a stream contains."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ResponseFormat(_Request):
    """The form of the answer."""

    type: Literal["text"]


class Extension(_Request):
    """What only this server knows.

    Attributes:
        sources: the answer comes with the pages that it rests on.
        progress: while the prompt is read, a stream has chunks that say how much of it.
    """

    sources: bool = False
    progress: bool = False


class SampledRequest(_Request):
    """What all requests for text have in common."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=False)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 30)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, strict=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    user: str | None = None
    lrqk: Extension = Extension()


class ChatRequest(SampledRequest):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None


class TextRequest(SampledRequest):
    """The body of ``/v1/completions``."""

    prompt: _Prompt | Annotated[list[_Prompt], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None


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
    logprobs: None = None
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
    logprobs: None = None
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
    logprobs: None = None
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
