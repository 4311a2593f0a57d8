"""The requests of the OpenAI protocol, as far as this server knows them.

A field that would not act is refused; fields that only label a request may be sent. Settings of an answer
have the bounds of ``GenerationConfig``, so that a server refuses nothing that a chat takes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# With a limit a text is also checked for characters that UTF-8 does not have.
_Text = Annotated[str, Field(max_length=1 << 26)]
_Prompt = Annotated[str, Field(min_length=1, max_length=1 << 26)]
# A literal would be a truth value too.
_One = Annotated[int, Field(ge=1, le=1)]
_Zero = Annotated[float, Field(ge=0, le=0)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Request):
    """A text within a message."""

    type: Literal["text"]
    text: _Text


class FileReference(_Request):
    """A document: an uploaded one, or its content as a data URL or in base64."""

    file_id: _Text | None = None
    file_data: str | None = None
    filename: _Text | None = None


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
    name: _Text | None = None
    refusal: None = None
    reasoning_content: _Text | None = None


class StreamOptions(_Request):
    """What a stream contains."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextForm(_Request):
    """An answer of any form."""

    type: Literal["text"]


class ObjectForm(_Request):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class NamedSchema(_Request):
    """A JSON schema; answers obey it whether ``strict`` is set or not."""

    name: Annotated[str, Field(max_length=64)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: _Text | None = None
    strict: bool | None = None


class SchemaForm(_Request):
    """An answer that a JSON schema describes."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


_Form = Annotated[TextForm | ObjectForm | SchemaForm, Field(discriminator="type")]


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

    model: _Text
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: _Text | Annotated[list[_Text], Field(max_length=16)] | None = None
    n: _One | None = None
    frequency_penalty: _Zero | None = None
    presence_penalty: _Zero | None = None
    user: _Text | None = None
    lrqk: Extension = Extension()


class ChatRequest(SampledRequest):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    response_format: _Form | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    safety_identifier: _Text | None = None
    metadata: dict[_Text, _Text] | None = None
    store: Literal[False] | None = None


class TextRequest(SampledRequest):
    """The body of ``/v1/completions``."""

    prompt: _Prompt | Annotated[list[_Prompt], Field(min_length=1, max_length=1)]
    best_of: _One | None = None
    echo: Literal[False] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: None = None
