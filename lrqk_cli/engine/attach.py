"""LRQK attention for any supported transformers model, also under ``model.generate``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.hook import attached
from lrqk_cli.config import LrqkConfig, require
from lrqk_cli.models.support import spec_from_config


@contextmanager
def attach(
    model: PreTrainedModel, config: LrqkConfig | None = None, *, context: int | None = None
) -> Iterator[LrqkCache]:
    """Let ``model`` use LRQK attention inside this context, and yield an empty cache for one sequence.

    Example:
        >>> with attach(model, LrqkConfig(hot=2048, top_k=512), context=16384) as cache:
        ...     output = model.generate(**inputs, cache=cache, max_new_tokens=64)

    A call with several tokens is an exact segment; a call with a single one is a decode step. There are no
    gradients: a backward pass raises. After a call that raised, ``reset()`` the cache or ``rewind()`` it: one
    layer may have got further than another. On leaving, the model is restored, and the cache can no longer be
    used.

    Args:
        model: a causal language model in evaluation mode, on one device.
        config: settings; the defaults if None.
        context: tokens to reserve; the model's limit if None.

    Raises:
        UnsupportedModelError: the model needs a feature that the engine does not implement.
        OutOfMemoryError: the KV rows do not fit in host memory.
        UsageError: ``context`` is below 1.
    """
    require(
        context is None or context > 0, "`context` must be at least 1.", "Leave it out for the model's limit."
    )
    spec = spec_from_config(model.config, type(model).__name__)
    with attached(model):
        cache = LrqkCache(
            spec, config or LrqkConfig(), context or spec.max_context, model.dtype, model.device
        )
        try:
            yield cache
        finally:
            cache.detach()
