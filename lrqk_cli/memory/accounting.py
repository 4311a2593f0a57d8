"""Shapes and bytes of everything whose size follows from a model, its settings and the context.

The attention layers allocate the shapes given here, so an estimate and what is allocated cannot differ.
Imports no torch: element types are named as in ``torch.dtype`` without its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from lrqk_cli.config import LrqkConfig, ModelSpec

ITEM_BYTES: Mapping[str, int] = {
    "bool": 1,
    "int8": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "int64": 8,
}


@dataclass(frozen=True, slots=True)
class TensorShape:
    """A tensor to be: its shape and the name of its element type."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def row_store(spec: ModelSpec, context: int, dtype: str) -> TensorShape:
    """Return the KV store of one full layer: ``[KV, context, 2, d]``, K and V of a token side by side."""
    return TensorShape((spec.num_kv_heads, context, 2, spec.head_dim), dtype)


def ring(spec: ModelSpec, size: int, dtype: str) -> TensorShape:
    """Return the newest ``size`` rows of one layer: ``[KV, size, 2, d]``."""
    return TensorShape((spec.num_kv_heads, size, 2, spec.head_dim), dtype)


def hot_slots(settings: LrqkConfig, context: int) -> int:
    """Return C, the hot rows of a KV head: never more than the context has beside the recent window."""
    return min(settings.hot, max(1, context - settings.recent))


def hot_rows(spec: ModelSpec, settings: LrqkConfig, context: int, dtype: str) -> TensorShape:
    """Return recent window and hot set of one layer, in one buffer: ``[KV, recent + C, 2, d]``."""
    return ring(spec, settings.recent + hot_slots(settings, context), dtype)


def slot_tokens(spec: ModelSpec, settings: LrqkConfig, context: int) -> TensorShape:
    """Return which token each hot slot holds: ``[KV, C]``."""
    return TensorShape((spec.num_kv_heads, hot_slots(settings, context)), "int64")


def resident_mask(spec: ModelSpec, context: int) -> TensorShape:
    """Return which tokens are in the hot set: ``[KV, context]``."""
    return TensorShape((spec.num_kv_heads, context), "bool")


def index_rank(spec: ModelSpec, settings: LrqkConfig) -> int:
    """Return r: no more than the head size, where the index would be the keys themselves."""
    return min(settings.rank, spec.head_dim)


def index_codes(spec: ModelSpec, settings: LrqkConfig, context: int) -> TensorShape:
    """Return the low-rank index of one layer: ``[KV, context, r]``."""
    rank = index_rank(spec, settings)
    return TensorShape((spec.num_kv_heads, context, rank), "int8" if settings.index_bits == 8 else "bfloat16")


def index_scale(spec: ModelSpec, settings: LrqkConfig) -> TensorShape:
    """Return the scale of each index dimension of one layer: ``[KV, 1, r]``."""
    return TensorShape((spec.num_kv_heads, 1, index_rank(spec, settings)), "float32")


def gram(spec: ModelSpec) -> TensorShape:
    """Return one Gram matrix of one layer: ``[KV, d, d]``."""
    return TensorShape((spec.num_kv_heads, spec.head_dim, spec.head_dim), "float32")


def head_vector(spec: ModelSpec, dtype: str = "float32") -> TensorShape:
    """Return one vector a KV head, such as the mean key or a sum of values: ``[KV, d]``."""
    return TensorShape((spec.num_kv_heads, spec.head_dim), dtype)


def factor(spec: ModelSpec, settings: LrqkConfig) -> TensorShape:
    """Return one factor (W_Q or W_K) of one layer: ``[KV, d, r]``."""
    return TensorShape((spec.num_kv_heads, spec.head_dim, index_rank(spec, settings)), "float32")


@dataclass(frozen=True, slots=True)
class KvBytes:
    """Bytes that the cache takes, by kind; host and device apart.

    Attributes:
        host_kv: rows of all tokens in host memory (0 for ``dense``).
        device_kv: rows of all tokens on the device (``dense`` only).
        index: codes and scales.
        hot: resident rows and the recent window.
        bookkeeping: slot tables, Gram matrices and factors.
        sliding: the windows of sliding-window layers.
        full_attention: what full attention would hold on the device.
    """

    host_kv: int
    device_kv: int
    index: int
    hot: int
    bookkeeping: int
    sliding: int
    full_attention: int

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return self.device_kv + self.index + self.hot + self.bookkeeping + self.sliding


def kv_bytes(spec: ModelSpec, settings: LrqkConfig, context: int, dtype: str) -> KvBytes:
    """Return the bytes of the cache for ``context`` tokens with rows of element type ``dtype``."""
    full = spec.num_full_layers
    rows = full * row_store(spec, context, dtype).nbytes
    sliding = 0
    if spec.sliding_window:
        sliding = (spec.num_layers - full) * ring(spec, spec.sliding_window, dtype).nbytes
    lrqk = settings.attention == "lrqk"
    index = index_codes(spec, settings, context).nbytes + index_scale(spec, settings).nbytes
    bookkeeping = sum(shape.nbytes for shape in _bookkeeping(spec, settings, context))
    return KvBytes(
        host_kv=0 if settings.attention == "dense" else rows,
        device_kv=rows if settings.attention == "dense" else 0,
        index=full * index if lrqk else 0,
        hot=full * hot_rows(spec, settings, context, dtype).nbytes if lrqk else 0,
        bookkeeping=full * bookkeeping if lrqk else 0,
        sliding=sliding,
        full_attention=rows + sliding,
    )


def _bookkeeping(spec: ModelSpec, settings: LrqkConfig, context: int) -> Iterator[TensorShape]:
    yield slot_tokens(spec, settings, context)
    yield resident_mask(spec, context)
    yield from (gram(spec), gram(spec))
    yield from (factor(spec, settings), factor(spec, settings))
    # The sum of keys, their shift and their mean; the sums of all and of the resident values.
    yield from (head_vector(spec), head_vector(spec), head_vector(spec))
    yield from (head_vector(spec, "float64"), head_vector(spec, "float64"))


def weight_bytes(spec: ModelSpec, dtype: str) -> int:
    """Return the bytes of the model's parameters."""
    return spec.num_parameters * ITEM_BYTES[dtype]
