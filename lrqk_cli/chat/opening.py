"""Opens a conversation: finds the model, plans its settings and loads it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from lrqk_cli.chat.chat_model import OpenChat
from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.chat.fitting import check_entries
from lrqk_cli.chat.keeping import CacheChoice, kept_documents
from lrqk_cli.chat.protocols import ChatFormat, DocumentLike, OpeningView
from lrqk_cli.chat.session import Session
from lrqk_cli.config import GenerationConfig, WeightChoice
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.memory.budget import Budget, find_budget
from lrqk_cli.memory.plan import Plan
from lrqk_cli.memory.planner import CONTEXT_STEP
from lrqk_cli.memory.reserve import context_of, reserve
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models import files, loading
from lrqk_cli.models.describe import describe_source
from lrqk_cli.models.devices import choose_device
from lrqk_cli.models.loading import ModelSource
from lrqk_cli.models.placement import Placement, find_placement, limit_vram
from lrqk_cli.models.prompt import ChatPrompt, Detokenizer
from lrqk_cli.models.threads import use_threads

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens reserved for an answer without ``--max-new-tokens``, and for its reasoning without a limit.
_ANSWER_TOKENS = 4096
_REASONING_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The model to open, its device, and its limits of memory and context.

    Attributes:
        name: an alias, a Hugging Face id, a folder or a .gguf file.
        device, dtype: None lets the loader choose.
        offload_weights: if the device cannot hold the model, keep experts in CPU memory, or spread it over
            both memories.
        context: tokens to reserve; None reserves what the text needs, see ``open_session``.
        vram, ram: bytes to use at most; None means all free memory.
        wanted: fields of ``LrqkConfig`` that the user set; the planner chooses the others.
        threads: CPU threads to compute with; None takes torch's choice.
        weights: the form of the weights.
        cache: whether to store documents that are read.
    """

    name: str
    device: str | None
    dtype: str | None
    offload_weights: bool
    context: int | None
    vram: int | None = None
    ram: int | None = None
    wanted: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    weights: WeightChoice = "auto"
    cache: CacheChoice = field(default_factory=CacheChoice)


@dataclass(frozen=True, slots=True)
class OpenSession(OpenChat):
    """A conversation with a model that this process has loaded.

    Attributes:
        tokenizer: the model's.
        source_id: what identifies the files that were loaded, see ``fingerprint.source_id``.
    """

    session: Session
    plan: Plan
    threads: int
    tokenizer: PreTrainedTokenizerBase = field(kw_only=True)
    source_id: str | None = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Prospect:
    """A supported model whose tokenizer is loaded and whose settings fit into memory.

    Attributes:
        placement: its device and budget.
        prompt: its chat format.
        needed: tokens of the text, the questions and their answers.
        plan: settings and context.
        least_context: tokens to which the context may shrink where memory runs out; None for none fewer.
    """

    source: ModelSource
    placement: Placement
    tokenizer: PreTrainedTokenizerBase
    prompt: ChatPrompt
    needed: int
    plan: Plan
    least_context: int | None


def look_up(
    request: ModelRequest,
    texts: Sequence[str],
    system: str | None,
    generation: GenerationConfig,
    view: OpeningView,
    questions: Sequence[str] | None = None,
    said: Sequence[str] = (),
    in_use: MemoryUse | None = None,
) -> Prospect:
    """Find a model and choose its settings, without loading its weights; see ``open_session``.

    Args:
        texts: those of the documents.
        in_use: memory of the loaded model that this one replaces.
    """
    with view.pulling(request.name) as report:
        source = loading.resolve(request.name)
        if source.kind == "hub-gguf":
            source = files.fetched(source, report, _room(request, in_use))
        # Before the tokenizer is fetched: a model that cannot fit is refused first.
        placement = _find_placement(request, source, in_use)
        tokenizer = loading.load_tokenizer(source, report)
    if placement.spec.packed is not None and (kinds := files.unpacked_types(source)):
        view.note(f"Weights of the types {', '.join(kinds)} are unpacked into 16 bits: no kernel reads them.")
    if files.has_other_parts(source):
        view.note("Only the language model of this checkpoint is loaded: lrqk reads no pictures.")
    if not tokenizer.chat_template:
        view.note("This model has no chat template: it is shown lines of 'User:' and 'Assistant:' instead.")
    prompt = ChatPrompt(tokenizer, system, thinks=generation.thinks)
    needed = needed_tokens(prompt, texts, questions, generation, said)
    plan = _choose(request, placement, needed, grows=questions is None)
    least = min(context_of(needed), plan.context) if request.context is None else None
    return Prospect(source, placement, tokenizer, prompt, needed, plan, least)


@contextmanager
def open_session(
    request: ModelRequest,
    documents: Sequence[DocumentLike],
    system: str | None,
    generation: GenerationConfig,
    view: OpeningView,
    questions: Sequence[str] | None = None,
    said: Sequence[str] = (),
) -> Iterator[OpenSession]:
    """Load a model and begin a conversation with it; the model is released at the end.

    The planner chooses settings by the free memory. Without ``request.context`` the context holds documents,
    ``questions`` and their answers; with ``questions`` None it also takes the memory that is left, up to the
    model's limit. ``said`` are earlier questions and answers, which the context has to hold too.

    Raises:
        ContextLengthError: the documents leave no room for an answer.
        UsageError: the model's limit is below the requested context, or there are no threads.
        ModelError: the model cannot be fetched or loaded, or is not supported.
        OutOfMemoryError: it does not fit; if the plan shows that, nothing has been fetched or loaded.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        found = look_up(request, texts_of(documents), system, generation, view, questions, said)
        if found.needed > found.plan.context and not said:
            _check_documents(found, documents, generation)
        threads = use_threads(request.threads)
        plan, placement, tokenizer = found.plan, found.placement, found.tokenizer
        view.planned(plan)
        stack.enter_context(limit_vram(placement.device, request.vram and plan.budget.vram))
        with view.pulling(request.name, "Loading") as report:
            from lrqk_cli.chat.starting import start_engine
            from lrqk_cli.models.fingerprint import model_parts, source_id, tokenizer_id, weight_stamps
            from lrqk_cli.models.recurrence_kernels import lacks_kernels

            stamps, files_id = weight_stamps(found.source), source_id(found.source)
            loaded = loading.load(
                found.source,
                placement.device,
                placement.dtype,
                offload_weights=placement.weight_share is not None,
                form=plan.form,
                experts_on_host=plan.has_experts_on_host,
                max_device_bytes=placement.weight_share,
                tokenizer=tokenizer,
                on_progress=report,
            )
            started, plan = start_engine(loaded, plan, placement, request.wanted, view, found.least_context)
            engine = stack.enter_context(started)
        if lacks_kernels(loaded.model):
            view.note("Recurrent layers of this model are faster after: pip install 'lrqk[recurrence]'")
        parts = partial(model_parts, stamps, loaded, plan.form)
        kept = kept_documents(request.cache, engine, found.source.name, parts, view)
        session = Session(
            engine,
            found.prompt,
            documents,
            generation,
            stop_ids=loaded.stop_ids,
            trained_context=loaded.spec.trained_context,
            max_context=loaded.spec.max_context,
            new_stream=lambda goes_on: Detokenizer(tokenizer, goes_on=goes_on),
            keeper=stack.enter_context(kept),
        )
        seconds, identify = time.perf_counter() - began, cache(partial(tokenizer_id, tokenizer))
        opened = partial(OpenSession, tokenizer=tokenizer, source_id=files_id)
        yield opened(session, request.name, plan, seconds, threads, identify)


def _check_documents(
    found: Prospect, documents: Sequence[DocumentLike], generation: GenerationConfig
) -> None:
    """Refuse documents that leave no room for an answer, as the session would once the model is loaded."""
    conversation = Conversation(found.prompt)
    entries = [conversation.add_document(document) for document in documents]
    room, limit = generation.max_new_tokens or 1, found.placement.spec.max_context
    check_entries(conversation.length_with(""), room, found.plan.context, limit, entries)


def texts_of(documents: Sequence[DocumentLike]) -> list[str]:
    """Return the texts of all sections of the documents."""
    return [section.text for document in documents for section in document.sections()]


def _room(request: ModelRequest, in_use: MemoryUse | None) -> int | None:
    """Return the most bytes that the weights may take, before the model's shape is known."""
    if request.offload_weights:
        return None
    budget = find_budget(choose_device(request.device), request.vram, request.ram)
    if in_use is not None:
        budget = _with_freed(budget, request, in_use)
    return budget.ram if budget.vram is None else budget.vram


def _find_placement(request: ModelRequest, source: ModelSource, in_use: MemoryUse | None) -> Placement:
    """Return the model's placement; raise where no settings fit."""
    described = describe_source(source)
    limits = request.vram, request.ram
    placement = find_placement(
        described,
        request.device,
        request.dtype,
        *limits,
        weights=request.weights,
        may_offload=request.offload_weights,
    )
    if in_use is not None:
        placement = replace(placement, budget=_with_freed(placement.budget, request, in_use))
    reserved_context(request.context, placement.spec)
    least = request.context or min(CONTEXT_STEP, placement.spec.max_context)
    try:
        placement.plan(least, request.wanted)
    except OutOfMemoryError:
        # Only plain weights can be spread over CPU memory.
        if not request.offload_weights or request.weights in ("q8", "q4"):
            raise
        placement = placement.with_spread_weights()
        placement.plan(least, request.wanted)
    return placement


def _with_freed(budget: Budget, request: ModelRequest, in_use: MemoryUse) -> Budget:
    """Return the budget after the loaded model has been released."""
    on_host, on_device = in_use.on_host, 0 if in_use.device == "cpu" else in_use.device_bytes
    vram, ram = budget
    if vram is not None:
        vram = min(vram + on_device, request.vram or vram + on_device)
    return Budget(vram, min(ram + on_host, request.ram or ram + on_host))


def _choose(request: ModelRequest, placement: Placement, needed: int, *, grows: bool) -> Plan:
    if request.context is not None:
        return placement.plan(request.context, request.wanted)
    spec, dtype = placement.spec, placement.dtype_name
    try:
        return reserve(spec, dtype, needed, placement.budget, request.wanted, grows=grows)
    except OutOfMemoryError:
        longest = placement.longest_context(min(needed, spec.max_context), request.wanted)
        raise OutOfMemoryError(
            f"Text and answer need {needed:,} tokens, and memory holds {longest:,} of them at most.",
            "Choose fewer pages with `pages`, a lower `max_new_tokens`, or a smaller model.",
        ) from None


def needed_tokens(
    prompt: ChatFormat,
    texts: Sequence[str],
    questions: Sequence[str] | None,
    generation: GenerationConfig,
    said: Sequence[str] = (),
) -> int:
    """Return the tokens of a conversation with these questions, or with one question not known yet.

    Args:
        texts: those of the documents; ``said``: earlier questions, each with its answer.
    """
    asked = [""] if questions is None else questions
    text = sum(len(prompt.text(part)) for part in (*texts, *said, *asked))
    text += len(said) // 2 * (len(prompt.between()) + len(prompt.answered()))
    turn = len(prompt.between()) + len(prompt.closing()) + (generation.max_new_tokens or _ANSWER_TOKENS)
    # Only the last answer has its reasoning beside it.
    marks = prompt.reasoning
    reasoning = (generation.think or _REASONING_TOKENS) if marks is not None and marks.are_expected else 0
    return len(prompt.opening()) + text + len(asked) * turn + reasoning


def reserved_context(asked: int | None, spec: ModelSpec) -> int:
    """The context to reserve, in tokens: ``asked``, else the model's limit.

    Raises:
        UsageError: ``asked`` is above the model's limit.
    """
    if asked is not None and asked > spec.max_context:
        raise UsageError(
            f"`context` {asked:,} is more than the {spec.max_context:,} tokens that {spec.name} allows.",
            f"Leave `context` out for the model's limit, or choose at most {spec.max_context}.",
        )
    return asked or spec.max_context
