"""Streamed prefill: the model reads a prompt once, in segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.hook import attention_modules
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.rotation import Rotation, growth
from lrqk_cli.attention.solving import solve_ahead
from lrqk_cli.engine.decode import forward
from lrqk_cli.errors import ContextLengthError, ModelError
from lrqk_cli.memory.estimate import CPU_SEGMENT, DEFAULT_SEGMENT
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.solver_pool import SolverPool

LEAST_SEGMENT = 128
"""The tokens of the shortest segment that is tried where memory has run out."""

# Factors are fitted ahead only if the text so far is this many times as long as the tokens to come.
_AHEAD = 3


def default_segment(device: torch.device) -> int:
    """Return the default segment length in tokens."""
    return CPU_SEGMENT if device.type == "cpu" else DEFAULT_SEGMENT


def run_segments(
    model: PreTrainedModel,
    cache: LrqkCache,
    tokens: Tensor,
    segment: int,
    *,
    finishes: bool = True,
    on_layer: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Append ``tokens`` ``[n]`` to the cache, exactly.

    Yields after each segment the number of tokens done, and the logits ``[vocab]`` after the newest one. The
    cache is consistent at every yield, so the iterator may be closed there. With ``finishes`` the last
    segment also prepares the cache for decode steps; otherwise the first decode step does.

    Args:
        on_layer: called within a segment, on a CPU only, with the tokens done in proportion to the layers.
    """
    total = tokens.shape[0]
    # Finding the rotation waits for the device, so do it before the device is busy.
    rotation = None
    needs_index = finishes and not cache.holds_all(cache.position.length + total)
    if needs_index and total > 2 * segment and cache.has_link:
        rotation = Rotation(model, cache.spec, attention_modules(model), (segment, 2 * segment))
    solving: SolverPool[Callable[[], None]] | None = None
    with ExitStack() as stack:
        for start in range(0, total, segment):
            stop = min(start + segment, total)
            is_last = stop == total
            # Solve while the last segment but one computes. If that is too early, the layers are solved for
            # as they attend in the last one: to wait for all of them before it would take longer.
            coming = total - start
            pays = segment < coming <= 2 * segment and cache.position.length >= _AHEAD * coming
            if rotation is not None and pays:
                expected = [
                    (layer, growth(rotation, number, coming, segment))
                    for number, layer in enumerate(cache.attention_layers)
                    if isinstance(layer, LrqkLayer)
                ]
                solving = solve_ahead(expected)
                if solving is not None:
                    stack.enter_context(solving)
            if is_last and solving is not None:
                for put_in_force in solving.results():
                    put_in_force()
                stack.close()
            if rotation is not None and 2 * segment < coming <= 3 * segment:
                cache.begin_segment()
            with cache.prefilling(ends=is_last and finishes):
                with telling(model, on_layer, start, stop):
                    logits = forward(model, cache, tokens[start:stop])
                if is_last and finishes:
                    cache.finish_prefill()
            yield stop, logits


@contextmanager
def telling(
    model: PreTrainedModel, on_layer: Callable[[int], None] | None, start: int, stop: int
) -> Iterator[None]:
    """Call ``on_layer`` after the attention of each layer, while the model reads ``start`` to ``stop``.

    A segment takes seconds on a CPU. On a GPU the calls return before the layers have run, so none is made.
    """
    if on_layer is None or model.device.type != "cpu":
        yield
        return
    modules = attention_modules(model)

    def hook(done: int) -> Callable[..., None]:
        return lambda *_: on_layer(done)

    handles = [
        module.register_forward_hook(hook(start + (stop - start) * number // (len(modules) + 1)))
        for number, module in enumerate(modules.values(), 1)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_room(length: int, context: int) -> None:
    """Raise if a context is full.

    Raises:
        ContextLengthError: it is.
    """
    if length >= context:
        raise ContextLengthError(
            f"The context of {context:,} tokens is full, so there is no room for an answer.",
            "Raise `context`, or ask about fewer pages.",
        )


def check_prompt(tokens: Sequence[int], earlier: int, context: int, spec: ModelSpec) -> None:
    """Raise if ``tokens`` cannot follow ``earlier`` ones.

    Raises:
        ContextLengthError: the context is too short.
        ModelError: a token is outside the vocabulary.
    """
    if earlier + len(tokens) > context:
        raise ContextLengthError(
            f"{len(tokens):,} tokens after {earlier:,} do not fit in a context of {context:,}.",
            "Raise `context`, or ask about fewer pages.",
        )
    if tokens and max(tokens) >= spec.vocab_size:
        # Looking such a token up on a GPU makes the GPU unusable for this process.
        raise ModelError(
            f"The tokenizer makes the token {max(tokens)}, and the model knows {spec.vocab_size}.",
            "Fetch the model again: its tokenizer and its weights do not belong together.",
        )
