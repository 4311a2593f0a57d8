"""Makes jobs of requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lrqk_cli.config import GenerationConfig
from lrqk_cli.errors import LrqkError, UsageError
from lrqk_cli.server.answers import Completion, Continuation, Reception
from lrqk_cli.server.dialogue import Dialogue
from lrqk_cli.server.messages import dialogue_of
from lrqk_cli.server.metrics import Metrics
from lrqk_cli.server.requests import ChatRequest, ObjectForm, SampledRequest, SchemaForm, TextRequest
from lrqk_cli.server.service import Service
from lrqk_cli.server.vocabulary import GrammarConstraint
from lrqk_cli.server.worker import Finished, Job, JobEvent

# Tokens of reasoning at most.
_EFFORTS = {"none": 0, "minimal": 256, "low": 1024, "medium": 4096, "high": None}


def chat_completion(
    service: Service, metrics: Metrics, body: ChatRequest, owner: str, reception: Reception
) -> Completion:
    """Return the answer to a conversation, which does not wait for its turn yet.

    Raises:
        UsageError: a field has no meaning, or two contradict each other.
        NoSuchFileError: a message refers to a file that its owner does not have.
        DocumentError: the content of a document cannot be read.
    """
    if body.top_logprobs is not None and not body.logprobs:
        raise UsageError("top_logprobs needs logprobs.", "Set logprobs to true.")
    top = (body.top_logprobs or 0) if body.logprobs else None
    dialogue = dialogue_of(body.messages, service.files, owner)
    constraint = _constraint(service, body)
    job = _job(service, metrics, body, owner, dialogue, reception, constraint, top)
    return Completion(service.model, service.worker, job, reception, service.vocabulary)


def text_completion(
    service: Service, metrics: Metrics, body: TextRequest, owner: str, reception: Reception
) -> Continuation:
    """Return the continuation of a text, which does not wait for its turn yet.

    Raises:
        UsageError: a field has no meaning.
    """
    text = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    job = _job(service, metrics, body, owner, text, reception, None, body.logprobs)
    return Continuation(service.model, service.worker, job, reception, service.vocabulary)


def _constraint(service: Service, body: ChatRequest) -> GrammarConstraint | None:
    form = body.response_format
    if isinstance(form, SchemaForm):
        return service.vocabulary.constraint(form.json_schema.schema_)
    return service.vocabulary.constraint({"type": "object"}) if isinstance(form, ObjectForm) else None


def _job(
    service: Service,
    metrics: Metrics,
    body: SampledRequest,
    owner: str,
    asked: Dialogue | str,
    reception: Reception,
    constraint: GrammarConstraint | None,
    top_logprobs: int | None,
) -> Job:
    def emit(event: JobEvent) -> None:
        if isinstance(event, Finished):
            metrics.answered(event)
        elif isinstance(event, LrqkError):
            metrics.failed()
        reception.send(event)

    if top_logprobs is not None:
        service.vocabulary.check()
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Job(
        owner,
        asked,
        _generation(service.generation, body),
        emit,
        tuple(filter(None, stops)),
        body.lrqk.sources,
        constraint,
        top_logprobs,
    )


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
