"""Bytes of temporary tensors: activations of a prefill segment, streamed rows, and ``finish_prefill``.

The functions return upper bounds. The constants are shared with the code that their comments name.
"""

from __future__ import annotations

from lrqk_cli.config import KvDtype, LrqkConfig
from lrqk_cli.memory import accounting
from lrqk_cli.memory.accounting import ITEM_BYTES, SCALE_TOKENS, TensorShape
from lrqk_cli.memory.scratch import blocks_of, code_width
from lrqk_cli.model_spec import ModelSpec

# Rows per transfer when the store is streamed, at least (``attention.host_store``).
STREAM_ROWS = 8192
# Numbers of a row with which torch's flash kernel attends on a GPU: multiples of the first up to the second.
_FLASH_STEP, _FLASH_WIDTH = 8, 256
# Logits that plain attention holds at a time, in float32: 64 MiB (``kernels.attend.reference``).
PLAIN_LOGITS = 1 << 24
# Tokens of a row set whose queries seed its hot set (``attention.lrqk_layer``); tokens that are indexed at a
# time, or whose logits exist at a time where no kernel scores (``kernels.total_scores``).
SEED_QUERIES, SCORE_CHUNK = 32, 8192
# Of the kernel that scores: tokens of a program; the sides of its tiles, and the most bytes of codes in one.
SCORE_SPAN, _SCORE_SIDES, _SCORE_BYTES = 1024, (16, 64), 16384
# Copies of a chunk's codes while an index is built: raw, scaled, rounded and clipped.
_INDEXING_COPIES = 4
# Copies of K and V of a block of tokens while they become codes without Triton.
_QUANTISING_COPIES = 4
# Packed weights that a segment unpacks at a time (``models.packed_layers``).
UNPACKED_AT_ONCE = 1 << 25
# Tensors that transformers' experts hold per token and expert, counted in 5.24: inner states without biases,
# inner states with biases and clamping, and hidden states of the results, which some weight in float32.
_EXPERT, _BIASED_EXPERT, _RESULTS = 5, 10, 7
# Vectors of ids and positions that a model keeps while it runs, counted in transformers 5.23.
_ID_VECTORS = 5
_FLOAT = ITEM_BYTES["float32"]


def stream_rows(segment: int = 0) -> int:
    """Return the rows of a chunk that is streamed for a segment, twice as many as the segment has.

    Each chunk costs an output and its share of a merge, which the segment's tokens determine. So a long
    segment has longer chunks, and a short one does not need their memory.
    """
    return min(max(STREAM_ROWS, 2 * segment), 2 * STREAM_ROWS)


def stream_buffers(
    spec: ModelSpec, rows: int, dtype: str, kv_dtype: KvDtype = "bf16", segment: int = 0
) -> tuple[TensorShape, ...]:
    """Return the buffers that receive at most ``rows`` stored rows of a layer, chunk by chunk.

    Rows in 8 bits take one more buffer, in which a chunk is read back.

    Args:
        segment: the longest that attends to them. A shorter one has shorter chunks, and may need a second
            buffer where this one does not.
    """
    if rows <= 0:
        return ()
    chunk = min(stream_rows(segment), rows)
    buffers = (accounting.row_store(spec, chunk, dtype, kv_dtype),) * min(2, -(-rows // STREAM_ROWS))
    return buffers if kv_dtype == "bf16" else (*buffers, accounting.row_store(spec, chunk, dtype))


def stream_bytes(spec: ModelSpec, config: LrqkConfig, rows: int, dtype: str, segment: int = 0) -> int:
    """Return the bytes of ``stream_buffers``; 0 for ``dense``, whose rows are on the device."""
    if config.attention == "dense" or not spec.num_full_layers:
        return 0
    return sum(shape.nbytes for shape in stream_buffers(spec, rows, dtype, config.kv_dtype, segment))


def segment_bytes(spec: ModelSpec, segment: int, dtype: str) -> int:
    """Return the bytes that a segment needs in every layer.

    These are embeddings, RoPE tables, ids and positions, and inputs that are made for all layers together.
    """
    numbers = spec.hidden_size + 2 * spec.head_dim + spec.per_layer_width
    return segment * (numbers * ITEM_BYTES[dtype] + _ID_VECTORS * ITEM_BYTES["int64"])


def per_layer_bytes(spec: ModelSpec, segment: int, dtype: str) -> int:
    """Return the bytes of making a segment's inputs for all layers together, beside these inputs.

    A projection of the embeddings is normalised in float32: its input, and squares or the output.
    """
    return segment * spec.per_layer_width * (ITEM_BYTES[dtype] + 2 * _FLOAT)


def flash_takes(width: int) -> bool:
    """Return whether torch's flash kernel attends on a GPU with heads of this size (``kernels.attend``)."""
    return width % _FLASH_STEP == 0 and width <= _FLASH_WIDTH


def attention_bytes(spec: ModelSpec, config: LrqkConfig, segment: int, earlier: int, dtype: str) -> int:
    """Return the bytes of one layer's attention for a segment, without streamed rows.

    Args:
        segment: tokens of the segment.
        earlier: tokens before it; if there are any, outputs are merged.
    """
    phases = [0]
    if "sliding" in spec.layer_kinds:
        own = spec.of_sliding
        phases.append(layer_bytes(own, config, segment, dtype) + _sliding_bytes(own, segment, dtype))
    if spec.num_full_layers:
        own_bytes = layer_bytes(spec, config, segment, dtype)
        phases.append(own_bytes + _full_bytes(spec, config, segment, earlier, dtype))
    return max(phases)


def _sliding_bytes(spec: ModelSpec, segment: int, dtype: str) -> int:
    """Return the bytes of attention in a window, but for those of any layer."""
    item, rows = ITEM_BYTES[dtype], segment + (spec.sliding_window or 0)
    queries = segment * spec.num_heads * spec.head_dim
    # RoPE as below; the rows of the window, and those with the segment's.
    joined = 2 * (rows + (spec.sliding_window or 0)) * spec.num_kv_heads * spec.head_dim * item
    return max(4 * queries * item, joined + _plain_bytes(spec, segment, rows))


def _full_bytes(spec: ModelSpec, config: LrqkConfig, segment: int, earlier: int, dtype: str) -> int:
    """Return the bytes of attention to all rows, but for those of any layer."""
    item = ITEM_BYTES[dtype]
    queries, keys = segment * spec.num_heads * spec.head_dim, segment * spec.num_kv_heads * spec.head_dim
    lse = 4 * segment * spec.num_heads * _FLOAT
    is_plain = spec.is_softcapped or not flash_takes(spec.head_dim)
    part = queries * (_FLOAT if is_plain else item)
    # RoPE holds a copy of the queries and three products.
    phases = [4 * queries * item]
    # Keys and values repeated for the group (on a CPU), the output, and the output in float32.
    phases.append(3 * queries * item + queries * _FLOAT)
    # Of rows that are streamed, the output of every other chunk waits for a merge.
    chunk = earlier if config.attention == "dense" else min(earlier, stream_rows(segment))
    before = queries * _FLOAT + (part if chunk < earlier else 0)
    if earlier:
        # The merged output, those of two chunks and of the segment, and (on a CPU) a copy of the queries.
        phases.append(queries * _FLOAT + 3 * part + queries * item)
        # The output so far, while a chunk of the earlier keys is indexed.
        phases.append(before + _indexing_bytes(spec, config, earlier))
    if is_plain:
        phases.append(_plain_bytes(spec, segment, segment))
        if earlier:
            phases.append(before + _plain_bytes(spec, segment, chunk))
    if config.kv_dtype != "bf16":
        phases.append(_QUANTISING_COPIES * 2 * keys * min(segment, SCALE_TOKENS) // segment * _FLOAT)
    if config.attention == "lrqk":
        # Where there is no Triton, Gram matrices are summed over float32: over the queries, of which a head's
        # are put together first, and then over shifted keys and values. All this beside the output.
        phases.append(2 * queries * _FLOAT + queries * item)
        phases.append(queries * _FLOAT + 3 * keys * _FLOAT)
    return lse + max(phases)


def layer_bytes(spec: ModelSpec, config: LrqkConfig, segment: int, dtype: str) -> int:
    """Return the bytes that a segment needs in the attention of any layer.

    These are the residual and its norm; queries, keys and values; and rows to be written to the store, or
    keys and values as they are read back, beside their codes. Latent attention has its queries twice: to meet
    compressed rows, and for keys of each head, which the model makes too.
    """
    queries, keys = segment * spec.num_heads * spec.head_dim, segment * spec.num_kv_heads * spec.head_dim
    codes = 0
    if config.kv_dtype != "bf16" and spec.num_full_layers:
        codes = accounting.row_store(spec, segment, dtype, config.kv_dtype).nbytes
    of_heads = segment * spec.expanded_width
    return ITEM_BYTES[dtype] * (2 * segment * spec.hidden_size + queries + 4 * keys + of_heads) + codes


def _plain_bytes(spec: ModelSpec, segment: int, rows: int) -> int:
    """Return the bytes of ``kernels.attend.reference`` for a segment that attends to ``rows`` rows."""
    keys = 2 * rows * spec.num_kv_heads * spec.head_dim
    # Of a block of queries, one at least: logits, masked logits, weights; itself, a copy, and its output.
    logits = min(max(PLAIN_LOGITS, spec.num_heads * rows), segment * spec.num_heads * rows)
    block = logits // rows * spec.head_dim
    output = segment * spec.num_heads * (spec.head_dim + 1)
    return (keys + 3 * logits + 3 * block + output) * _FLOAT


def mlp_bytes(spec: ModelSpec, segment: int, dtype: str) -> int:
    """Return the bytes of one layer's MLP for a segment: three hidden and three inner states per token.

    Packed weights add those that are unpacked at a time. Experts with plain weights are computed together,
    so the tensors of all experts of a token count.
    """
    item, hidden = ITEM_BYTES[dtype], spec.hidden_size
    unpacked = 0 if spec.packed is None else UNPACKED_AT_ONCE
    numbers = 3 * hidden + 3 * spec.intermediate_size
    if spec.mixture is not None and spec.packed is None:
        per_inner = _BIASED_EXPERT if spec.mixture.biased else _EXPERT
        each = max(_RESULTS * hidden, hidden + per_inner * spec.mixture.inner)
        numbers = max(numbers, 3 * hidden + spec.mixture.per_token * each)
    return segment * item * numbers + unpacked * item


def norm_bytes(spec: ModelSpec, segment: int, dtype: str) -> int:
    """Return the bytes of a segment's norm, computed in float32: input, squares and output."""
    return segment * spec.hidden_size * (2 * ITEM_BYTES[dtype] + 3 * _FLOAT)


def state_bytes(spec: ModelSpec, segment: int, dtype: str) -> int:
    """Return the bytes of a segment in a layer with a state: residual, norm, and its recurrence."""
    if spec.states is None:
        return 0
    item = ITEM_BYTES[dtype]
    return segment * (2 * spec.hidden_size * item + spec.states.token_bytes * item // ITEM_BYTES["bfloat16"])


def logits_bytes(spec: ModelSpec, config: LrqkConfig, dtype: str) -> int:
    """Return the bytes of the logits after each token of a step, as computed and in float32."""
    tokens = 1 + accounting.draft_tokens(spec, config)
    return tokens * spec.vocab_size * (ITEM_BYTES[dtype] + _FLOAT)


def finish_prefill_bytes(spec: ModelSpec, config: LrqkConfig, context: int) -> int:
    """Return the bytes of a layer's ``finish_prefill`` after ``context`` tokens, without streamed rows."""
    if config.attention != "lrqk" or not spec.num_full_layers:
        return 0
    sets, rank = accounting.row_sets(spec, config), accounting.index_rank(spec, config)
    queries = SEED_QUERIES * spec.num_heads if config.hot_policy == "sticky" else spec.num_heads
    # Logits of a chunk with their copies, and its codes in float32; scores of all tokens and their sorting.
    tokens = min(SCORE_CHUNK, context)
    copies = 4 if spec.is_softcapped else 3
    seeding = copies * queries * tokens * _FLOAT + 2 * sets * tokens * rank * _FLOAT
    if side := score_side(rank, is_floating=config.index_bits == 16):
        seeding = max(seeding, _score_bytes(sets, queries, context, side))
    seeding += sets * context * (3 * _FLOAT + 2 * ITEM_BYTES["int64"])
    return max(_indexing_bytes(spec, config, context), seeding)


def score_side(rank: int, *, is_floating: bool) -> int:
    """Return the queries, and the tokens, of a tile of ``kernels.total_scores``; 0 for the reference alone.

    Larger tiles would not fit in the shared memory of a program.

    Args:
        is_floating: codes are not integers, so a tile has them in float32 instead of float16.
    """
    shortest, longest = _SCORE_SIDES
    side = min(longest, _SCORE_BYTES // (code_width(rank) * (_FLOAT if is_floating else 2)))
    return side if side >= shortest else 0


def _score_bytes(sets: int, queries: int, context: int, side: int) -> int:
    """Return the bytes of the sums of ``kernels.total_scores``: of each group of queries, and of spans."""
    groups = sets * blocks_of(queries, sets * side)
    # Sums of the spans, and what their log-sum-exp takes.
    return (groups * context + 3 * queries * blocks_of(context, SCORE_SPAN)) * _FLOAT


def _indexing_bytes(spec: ModelSpec, config: LrqkConfig, rows: int) -> int:
    """Return the bytes of adding a chunk of ``rows`` rows to a layer's index."""
    if config.attention != "lrqk":
        return 0
    chunk = min(STREAM_ROWS, rows)
    codes = accounting.row_sets(spec, config) * accounting.index_rank(spec, config) * chunk
    # The keys in float32, as they are and centred.
    keys = 2 * chunk * spec.num_kv_heads * spec.head_dim
    return (keys + _INDEXING_COPIES * codes) * _FLOAT


def seed_bytes(spec: ModelSpec, config: LrqkConfig, dtype: str) -> int:
    """Return the bytes of the newest queries that the layers keep until their prefill is finished."""
    if config.attention != "lrqk":
        return 0
    return spec.num_full_layers * SEED_QUERIES * spec.num_heads * spec.head_dim * ITEM_BYTES[dtype]
