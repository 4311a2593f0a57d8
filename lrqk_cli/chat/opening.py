"""From names and settings to a conversation that can begin."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrqk_cli.chat.rendering import View
from lrqk_cli.chat.session import DocumentLike, Session
from lrqk_cli.config import GenerationConfig, LrqkConfig, ModelSpec
from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    from lrqk_cli.models.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Which model, where, and how much context.

    Attributes:
        name: an alias, a Hugging Face id, a folder or a .gguf file.
        device, dtype: None lets the loader choose.
        offload_weights: spread a model that the device cannot hold over CPU memory.
        context: tokens to reserve; None means the model's limit.
    """

    name: str
    device: str | None
    dtype: str | None
    offload_weights: bool
    context: int | None


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A conversation that can begin.

    Attributes:
        model: what the user called the model.
        settings: those in force.
        load_s: seconds that getting and loading the model took.
    """

    session: Session
    model: str
    settings: LrqkConfig
    load_s: float


@contextmanager
def open_session(
    request: ModelRequest,
    documents: Sequence[DocumentLike],
    system: str | None,
    settings: LrqkConfig,
    generation: GenerationConfig,
    view: View,
) -> Iterator[OpenSession]:
    """Get and load a model and begin a conversation with it; the model is given back at the end.

    Raises:
        UsageError: the model's limit is below the requested context.
        ModelError: the model cannot be had, loaded or supported.
        OutOfMemoryError: it does not fit.
    """
    began = time.perf_counter()
    loaded = load_model(request.name, request.device, request.dtype, request.offload_weights, view)
    from lrqk_cli.engine.generate import Engine
    from lrqk_cli.models.prompt import ChatPrompt, Detokenizer

    context = reserved_context(request.context, loaded.spec)
    with Engine(loaded.model, loaded.spec, settings, context) as engine:
        session = Session(
            engine,
            ChatPrompt(loaded.tokenizer, system),
            documents,
            generation,
            stop_ids=loaded.stop_ids,
            trained_context=loaded.spec.trained_context,
            new_stream=lambda: Detokenizer(loaded.tokenizer),
        )
        yield OpenSession(session, request.name, engine.settings, time.perf_counter() - began)


def load_model(
    name: str, device: str | None, dtype: str | None, offload_weights: bool, view: View
) -> LoadedModel:
    """Get and load a model, with bars; arguments as in ``ModelRequest``.

    Raises:
        UsageError: there is no such device.
        ModelError: the model cannot be had, loaded or supported.
        OutOfMemoryError: its weights do not fit.
    """
    with view.pulling(name, "Loading") as report:
        # Within the bar, because importing torch takes seconds.
        from lrqk_cli.models import loading

        source = loading.resolve(name)
        place = loading.choose_device(device)
        number_format = loading.choose_dtype(dtype, place) if dtype else None
        return loading.load(source, place, number_format, offload_weights=offload_weights, on_progress=report)


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
