"""Bytes that the layers of a cache hold, which the program need not know apart."""

from __future__ import annotations

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.layers import FullLayer, SlidingLayer


def device_kv_bytes(cache: LrqkCache) -> int:
    """Return the bytes of the rows of all tokens kept on the device."""
    stores = [layer.store for layer in cache.layers if isinstance(layer, FullLayer)]
    return sum(store.rows.nbytes for store in stores if store.on_device and not store.is_borrowed)


def sliding_bytes(cache: LrqkCache) -> int:
    """Return the bytes of the windows of sliding-window layers."""
    return sum(layer.ring.rows.nbytes for layer in cache.layers if isinstance(layer, SlidingLayer))
