"""From names and settings to a conversation that can begin."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrqk_cli.chat.protocols import DocumentLike, PromptFormat
from lrqk_cli.chat.rendering import View, plan_line, settings_label
from lrqk_cli.chat.session import Session
from lrqk_cli.config import GenerationConfig, LrqkConfig, ModelSpec
from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.memory.planner import CONTEXT_STEP, Plan
from lrqk_cli.memory.reserve import reserve
from lrqk_cli.models.placement import Placement, find_placement, held_to

if TYPE_CHECKING:
    from lrqk_cli.models.loading import ModelSource

# Tokens that are kept for an answer whose length nobody has limited.
_ANSWER_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Which model, where, and how much memory and context.

    Attributes:
        name: an alias, a Hugging Face id, a folder or a .gguf file.
        device, dtype: None lets the loader choose.
        offload_weights: spread a model that the device cannot hold over CPU memory.
        context: tokens to reserve; None means what the text needs, see ``open_session``.
        vram, ram: bytes to use at most; None means what is free.
        wanted: fields of ``LrqkConfig`` that were asked for; the others follow from the memory.
        threads: of the CPU to compute with; None means what there is.
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


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A conversation that can begin.

    Attributes:
        model: what the user called the model.
        settings: those in force.
        plan: why they are.
        load_s: seconds that getting and loading the model took.
        threads: of the CPU that compute.
    """

    session: Session
    model: str
    settings: LrqkConfig
    plan: Plan
    load_s: float
    threads: int


@contextmanager
def open_session(
    request: ModelRequest,
    documents: Sequence[DocumentLike],
    system: str | None,
    generation: GenerationConfig,
    view: View,
    questions: Sequence[str] | None = None,
) -> Iterator[OpenSession]:
    """Get and load a model and begin a conversation with it; the model is given back at the end.

    Settings follow from the memory that is free. A request without a context gets what documents,
    ``questions`` and their answers need; where the questions are not known, also what memory is left, up to
    the model's limit.

    Raises:
        UsageError: the model's limit is below the requested context, or there are no threads.
        ModelError: the model cannot be had, loaded or supported.
        OutOfMemoryError: it does not fit; where this is known before, nothing has been fetched or loaded.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        with view.pulling(request.name) as report:
            # Within the bar, because importing torch takes seconds.
            from lrqk_cli.models import loading
            from lrqk_cli.models.prompt import ChatPrompt, Detokenizer
            from lrqk_cli.models.threads import use_threads

            threads = use_threads(request.threads)
            source = loading.resolve(request.name)
            placement = _find_placement(request, source)
            tokenizer = loading.load_tokenizer(source, report)
        prompt = ChatPrompt(tokenizer, system)
        needed = _needed_tokens(prompt, documents, questions, generation)
        plan = _choose(request, placement, needed, grows=questions is None)
        view.attention = settings_label(plan.settings)
        view.note(plan_line(plan))
        stack.enter_context(held_to(placement.device, request.vram and plan.budget.vram))
        with view.pulling(request.name, "Loading") as report:
            loaded = loading.load(
                source,
                placement.device,
                placement.dtype,
                offload_weights=request.offload_weights,
                max_device_bytes=placement.weight_share,
                tokenizer=tokenizer,
                on_progress=report,
            )
            from lrqk_cli.engine.generate import Engine

            engine = stack.enter_context(Engine(loaded.model, loaded.spec, plan.settings, plan.context))
        session = Session(
            engine,
            prompt,
            documents,
            generation,
            stop_ids=loaded.stop_ids,
            trained_context=loaded.spec.trained_context,
            max_context=loaded.spec.max_context,
            new_stream=lambda: Detokenizer(tokenizer),
        )
        yield OpenSession(session, request.name, engine.settings, plan, time.perf_counter() - began, threads)


def _find_placement(request: ModelRequest, source: ModelSource) -> Placement:
    """Return the model's place, in which something fits."""
    from lrqk_cli.models.describe import describe_source

    described = describe_source(source)
    placement = find_placement(described, request.device, request.dtype, request.vram, request.ram)
    reserved_context(request.context, placement.spec)
    least = request.context or min(CONTEXT_STEP, placement.spec.max_context)
    try:
        placement.plan(least, request.wanted)
    except OutOfMemoryError:
        if not request.offload_weights:
            raise
        placement = placement.with_spread_weights()
        placement.plan(least, request.wanted)
    return placement


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
            "Choose fewer pages with --pages, a lower --max-new-tokens, or a smaller model.",
        ) from None


def _needed_tokens(
    prompt: PromptFormat,
    documents: Sequence[DocumentLike],
    questions: Sequence[str] | None,
    generation: GenerationConfig,
) -> int:
    """Return the tokens of a conversation with these questions, or with one that is not known yet."""
    asked = [""] if questions is None else questions
    texts = [section.text for document in documents for section in document.sections()]
    text = sum(len(prompt.text(part)) for part in (*texts, *asked))
    turn = len(prompt.between()) + len(prompt.closing()) + (generation.max_new_tokens or _ANSWER_TOKENS)
    return len(prompt.opening()) + text + len(asked) * turn


def reserved_context(asked: int | None, spec: ModelSpec) -> int:
    """The context to reserve, in tokens: what was asked for, else the model's limit.

    Raises:
        UsageError: the model allows less than was asked for.
    """
    if asked is not None and asked > spec.max_context:
        raise UsageError(
            f"--ctx {asked:,} is more than the {spec.max_context:,} tokens that {spec.name} allows.",
            f"Leave --ctx out for the model's limit, or choose at most {spec.max_context}.",
        )
    return asked or spec.max_context
