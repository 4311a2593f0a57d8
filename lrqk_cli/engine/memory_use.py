"""The memory of a model and its cache."""

from __future__ import annotations

from lrqk_cli.attention import layer_list
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.memory import probe


def memory_use(cache: LrqkCache, weight_bytes: int, budget_bytes: int) -> MemoryUse:
    """Return the bytes in use now.

    Args:
        weight_bytes, budget_bytes: see ``MemoryUse``.
    """
    layers = cache.attention_layers
    return MemoryUse(
        device=str(cache.device),
        device_bytes=probe.allocated_bytes(cache.device),
        peak_device_bytes=probe.peak_bytes(cache.device),
        weight_bytes=weight_bytes,
        host_kv_bytes=layer_list.host_kv_bytes(layers),
        index_bytes=layer_list.index_bytes(layers),
        hot_bytes=layer_list.hot_bytes(layers),
        budget_bytes=budget_bytes,
    )
