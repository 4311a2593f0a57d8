"""Shapes and bytes of everything whose size follows from a model, its settings and the context.

The attention layers allocate the shapes given here, so the estimate equals the allocation.
A *row set* has one index and one hot set: those of a KV head, or of a query head under ``--grouping head``.
Imports no torch: element types are named as in ``torch.dtype`` without its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from lrqk_cli.config import KvDtype, LrqkConfig
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.units import format_bytes
from lrqk_cli.model_spec import ModelSpec, WeightBytes

ITEM_BYTES: Mapping[str, int] = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "int32": 4,
    "int64": 8,
}

# Tokens whose rows in 8 bits share the scales of the channels: keys drift, because their rotation depends on
# their position. With 512, the scales of head size 128 take 2 bytes a token and KV head; the index takes 33.
SCALE_TOKENS = 512

# Queries of a row set in a verify step, at most: two tiles of a tensor core.
_VERIFY_QUERIES = 32


def dtype_name(dtype: object) -> str:
    """Return the name of a ``torch.dtype`` without its prefix, as in ``ITEM_BYTES``."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class TensorShape:
    """The shape of a tensor to allocate, and the name of its element type."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def row_store(spec: ModelSpec, context: int, dtype: str, kv_dtype: KvDtype = "bf16") -> TensorShape:
    """Return the KV store of one full layer: ``[KV, context, parts, d]``, K and V of a token side by side.

    Rows in 8 bits are ``[KV, context, 2d + 4]``: the codes, and a scale of 2 bytes for K and for V.
    """
    if kv_dtype != "bf16":
        return TensorShape((spec.num_kv_heads, context, 2 * spec.head_dim + 4), "uint8")
    return TensorShape((spec.num_kv_heads, context, spec.row_parts, spec.head_dim), dtype)


def channel_scales(spec: ModelSpec, context: int) -> TensorShape:
    """Return centres and spreads of channels for one layer's rows in 8 bits: ``[KV, groups, 2, 2, d]``."""
    groups = -(-context // SCALE_TOKENS)
    return TensorShape((spec.num_kv_heads, groups, 2, 2, spec.head_dim), "bfloat16")


def ring(spec: ModelSpec, size: int, dtype: str) -> TensorShape:
    """Return the newest ``size`` rows of one layer: ``[KV, size, 2, d]``."""
    return TensorShape((spec.num_kv_heads, size, 2, spec.head_dim), dtype)


def row_sets(spec: ModelSpec, config: LrqkConfig) -> int:
    """Return the number of row sets of a layer: one per KV head, or one per query head."""
    return spec.num_kv_heads if config.grouping == "kv" else spec.num_heads


def draft_tokens(spec: ModelSpec, config: LrqkConfig) -> int:
    """Return the draft tokens of a verify step: ``lookup``, as far as a row set has room for queries.

    Only layers of which all have an index take drafts: the closed form changes nothing in a step, and a
    sticky hot set does not depend on the rows of drafts. A sliding window would lose rows to rejected drafts.
    """
    if (config.attention, config.solver, config.hot_policy) != ("lrqk", "joint", "sticky"):
        return 0
    if spec.num_full_layers < spec.num_layers or spec.states is not None or spec.is_latent:
        return 0
    group = spec.num_heads // row_sets(spec, config)
    return max(0, min(config.lookup, _VERIFY_QUERIES // group - 1))


def draft_rows(spec: ModelSpec, config: LrqkConfig, dtype: str) -> TensorShape:
    """Return the rows of a verify step's drafts of one layer: ``[KV, drafts, 2, d]``."""
    return TensorShape((spec.num_kv_heads, draft_tokens(spec, config), 2, spec.head_dim), dtype)


def hot_slots(config: LrqkConfig, context: int) -> int:
    """Return C, the hot rows of a row set: at most the rows of the context outside the recent window."""
    rows = config.hot if config.hot_policy == "sticky" else config.top_k
    return min(rows, max(1, context - config.recent))


def holds_all(spec: ModelSpec, config: LrqkConfig, context: int, length: int) -> bool:
    """Return whether a decode step after ``length`` tokens finds the rows of all layers resident.

    Such a step is full attention, and needs neither factors nor index. (The paper's solver adapts its factors
    in every step, so it cannot begin late.) The step may be a verify step, whose drafts are accepted.
    """
    if (config.attention, config.solver) != ("lrqk", "joint"):
        return False
    rows = config.recent + hot_slots(config, context)
    return context <= rows or length + draft_tokens(spec, config) < rows


def hot_rows(spec: ModelSpec, config: LrqkConfig, context: int, dtype: str) -> TensorShape:
    """Return the buffer of one layer for recent window and hot set: ``[sets, recent + C, parts, d]``."""
    rows = config.recent + hot_slots(config, context)
    return TensorShape((row_sets(spec, config), rows, spec.row_parts, spec.head_dim), dtype)


def slot_tokens(spec: ModelSpec, config: LrqkConfig, context: int) -> TensorShape:
    """Return the table of the token in each hot slot: ``[sets, C]``."""
    return TensorShape((row_sets(spec, config), hot_slots(config, context)), "int64")


def resident_mask(spec: ModelSpec, config: LrqkConfig, context: int) -> TensorShape:
    """Return the mask of the tokens in the hot set: ``[sets, context]``."""
    return TensorShape((row_sets(spec, config), context), "bool")


def index_rank(spec: ModelSpec, config: LrqkConfig) -> int:
    """Return r: at most the head size, at which the index is as wide as the keys."""
    return min(config.rank, spec.head_dim)


def index_codes(spec: ModelSpec, config: LrqkConfig, context: int) -> TensorShape:
    """Return the low-rank index of one layer: ``[sets, context, r]``, or packed ``[sets, context, r/2]``."""
    sets, rank = row_sets(spec, config), index_rank(spec, config)
    if config.index_bits == 4:
        return TensorShape((sets, context, rank // 2), "uint8")
    return TensorShape((sets, context, rank), "int8" if config.index_bits == 8 else "bfloat16")


def index_scale(spec: ModelSpec, config: LrqkConfig) -> TensorShape:
    """Return the scale of each index dimension of one layer: ``[sets, 1, r]``."""
    return TensorShape((row_sets(spec, config), 1, index_rank(spec, config)), "float32")


def query_gram(spec: ModelSpec, config: LrqkConfig) -> TensorShape:
    """Return the Gram matrix of the queries of one layer: ``[sets, d, d]``."""
    return TensorShape((row_sets(spec, config), spec.head_dim, spec.head_dim), "float32")


def key_gram(spec: ModelSpec) -> TensorShape:
    """Return the Gram matrix of the keys, or of keys and values, of one layer: ``[KV, d, d]``."""
    return TensorShape((spec.num_kv_heads, spec.head_dim, spec.head_dim), "float32")


def head_vector(spec: ModelSpec) -> TensorShape:
    """Return one vector per KV head, such as the mean key or a sum of values: ``[KV, d]``."""
    return TensorShape((spec.num_kv_heads, spec.head_dim), "float32")


def set_vector(spec: ModelSpec, config: LrqkConfig) -> TensorShape:
    """Return one vector per row set, such as a sum over its resident rows: ``[sets, d]``."""
    return TensorShape((row_sets(spec, config), spec.head_dim), "float32")


def factor(spec: ModelSpec, config: LrqkConfig) -> TensorShape:
    """Return one layer's map of queries, or of keys, to the low-rank space: ``[sets, d, r]``."""
    return TensorShape((row_sets(spec, config), spec.head_dim, index_rank(spec, config)), "float32")


def basis(spec: ModelSpec, config: LrqkConfig) -> TensorShape:
    """Return one basis of the paper's method (B_Q or B_K) of one layer: ``[sets, r, d]``."""
    return TensorShape((row_sets(spec, config), index_rank(spec, config), spec.head_dim), "float32")


def value_slope(spec: ModelSpec, config: LrqkConfig) -> TensorShape:
    """Return the map from codes to values of one layer: ``[sets, r, d]``."""
    return basis(spec, config)


@dataclass(frozen=True, slots=True)
class KvBytes:
    """Bytes of the cache by kind, host and device separately.

    Attributes:
        host_kv: rows of all tokens in host memory (0 for ``dense``).
        device_kv: rows of all tokens on the device (``dense`` only).
        index: codes and scales.
        hot: resident rows and the recent window.
        bookkeeping: slot tables, Gram matrices, factors, rows of drafts, and scales of rows in 8 bits.
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
        return self.read + self.bookkeeping

    @property
    def read(self) -> int:
        """Bytes on the device that a decode step reads."""
        return self.device_kv + self.index + self.hot + self.sliding


def state_bytes(spec: ModelSpec, dtype: str) -> int:
    """Return the bytes of all layers' states, for a model whose numbers are of type ``dtype``."""
    size = spec.states
    return 0 if size is None else size.own * ITEM_BYTES[dtype] + size.float32 * ITEM_BYTES["float32"]


def kv_bytes(spec: ModelSpec, config: LrqkConfig, context: int, dtype: str) -> KvBytes:
    """Return the bytes of the cache for ``context`` tokens with rows of element type ``dtype``."""
    full = spec.num_full_layers
    rows = spec.num_row_layers * row_store(spec, context, dtype).nbytes
    stored = spec.num_row_layers * row_store(spec, context, dtype, config.kv_dtype).nbytes
    scales = 0 if config.kv_dtype == "bf16" else spec.num_row_layers * channel_scales(spec, context).nbytes
    sliding = 0
    if spec.sliding_window:
        sliding = spec.layer_kinds.count("sliding") * ring(spec.of_sliding, spec.sliding_window, dtype).nbytes
    lrqk = config.attention == "lrqk"
    index = index_codes(spec, config, context).nbytes + index_scale(spec, config).nbytes
    bookkeeping = sum(shape.nbytes for shape in _bookkeeping(spec, config, context))
    bookkeeping += draft_rows(spec, config, dtype).nbytes
    return KvBytes(
        host_kv=0 if config.attention == "dense" else stored,
        device_kv=rows if config.attention == "dense" else 0,
        index=full * index if lrqk else 0,
        hot=full * hot_rows(spec, config, context, dtype).nbytes if lrqk else 0,
        bookkeeping=scales + (full * bookkeeping if lrqk else 0),
        sliding=sliding,
        full_attention=rows + sliding,
    )


def _bookkeeping(spec: ModelSpec, config: LrqkConfig, context: int) -> Iterator[TensorShape]:
    yield slot_tokens(spec, config, context)
    yield resident_mask(spec, config, context)
    yield from (query_gram(spec, config), key_gram(spec), key_gram(spec))
    yield from (factor(spec, config), factor(spec, config))
    # The sums of keys and of values, and the shift of the keys.
    yield from (head_vector(spec), head_vector(spec), head_vector(spec))
    if config.tail != "none":
        yield from (value_slope(spec, config), set_vector(spec, config))
    if config.solver == "joint":
        yield head_vector(spec)  # the mean key
    else:
        yield from (basis(spec, config), basis(spec, config))
        # The sums of the magnitudes of queries and keys.
        yield from (set_vector(spec, config), head_vector(spec))


def weight_bytes(spec: ModelSpec, dtype: str) -> int:
    """Return the bytes of the model's parameters on the device."""
    if spec.packed is not None:
        return spec.packed.total - spec.packed.on_host + _widened(spec.packed, dtype)
    return spec.num_parameters * ITEM_BYTES[dtype]


def host_weight_bytes(spec: ModelSpec) -> int:
    """Return the bytes of the model's parameters that stay in host memory."""
    return 0 if spec.packed is None else spec.packed.on_host


def weight_bytes_read(spec: ModelSpec, dtype: str) -> int | None:
    """Return the bytes of weights on the device that a decode step reads; None if they are unknown."""
    if spec.num_parameters_read is None:
        return None
    if spec.packed is not None:
        return spec.packed.read - spec.packed.read_on_host + _widened(spec.packed, dtype)
    return spec.num_parameters_read * ITEM_BYTES[dtype]


def _widened(packed: WeightBytes, dtype: str) -> int:
    """Return the bytes of the unpacked numbers beyond 16 bits each."""
    return packed.plain * (ITEM_BYTES[dtype] - 2) // 2


def check_weights_fit(spec: ModelSpec, dtype: str, device: str, room: int, hint: str) -> None:
    """Raise if the weights of a model need more than ``room``, the bytes that a device has for them.

    Raises:
        OutOfMemoryError: the message names the model and both sizes; the hint is ``hint``.
    """
    needed = weight_bytes(spec, dtype)
    if needed > room:
        raise OutOfMemoryError(
            f"The weights of '{spec.name}' need {format_bytes(needed)} in {dtype}, "
            f"and {device} has {format_bytes(room)} for them.",
            hint,
        )
