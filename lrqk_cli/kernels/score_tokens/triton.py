"""The same in one launch: one program per span of tokens of a set, and up to eight of its queries.

The kernel is attention over codes, in tiles of up to 64 tokens with a running maximum. Tokens are the rows of
its tensor-core products, and their columns are queries in two parts, which keep 22 bits of a query (see
``primitives``). A program is one warp: several warps would share a tile, and exchange parts of it through
shared memory. 4-bit codes need none of it, see ``triton_tiles``.

Bytes at 8 sets, N 4, r 64 in 4 bits, 64K tokens: the index once (sets·n·r/2, 16 MiB; once more from the L1
cache) and the logits once (4·sets·N·n, 8 MiB; they stay in the L2 cache for the later launches). Spans of 384
tokens make 1,368 programs and 1.3 MiB of code sums (4·sets·N·r·n/384); spans of 128 would make 4 MiB, which
one program per query would have to sum later.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.buffers import Projected, TokenScores
from lrqk_cli.kernels.primitives import (
    code_dimensions,
    code_width,
    load_codes,
    opaque,
    soft_cap,
    true_codes,
)
from lrqk_cli.kernels.score_tokens.triton_tiles import (
    load_pairs,
    load_words,
    pair_dimensions,
    tile_of_pairs,
    tile_of_words,
    word_dimensions,
)
from lrqk_cli.memory.scratch import blocks_of

# The most tokens of a tile, and the most bytes of its codes as operands; larger tiles spill registers.
_TILE_TOKENS, _TILE_BYTES = 64, 8192
# The most queries of a program: the sums of more would not fit its registers.
_QUERIES = 8
_LOG2_E = tl.constexpr(1.4426950408889634)
# Queries that a tile has room for at least: before 3.5, Triton refuses products with fewer than 16 columns.
_FEWEST_ROWS = 4 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 5) else 8


@triton.jit
def _two_parts(numbers):
    """Split numbers within [-2, 2] into two of float16, of which the second counts a 2,048th."""
    rounded = numbers.to(tl.float16)
    return rounded, ((numbers - rounded.to(tl.float32)) * 2048.0).to(tl.float16)


@triton.jit
def _interleave(high, low, LENGTH: tl.constexpr, ROWS: tl.constexpr):
    """Return the columns of two tiles in turns, so that a thread has both parts of a number."""
    return opaque(tl.reshape(tl.join(high, low), [LENGTH, 2 * ROWS]))


@triton.jit
def _load_queries(query_codes, dim, members, ROWS: tl.constexpr, RANK: tl.constexpr, RANK_PAD: tl.constexpr):
    """Return queries' codes by their units, the units, and the sum of each query's codes."""
    member = tl.arange(0, ROWS)[None, :]
    mask = (member < members) & (dim < RANK)[:, None]
    query = tl.load(query_codes + member * RANK + dim[:, None], mask=mask, other=0.0)
    # The largest power of two up to the largest magnitude; dividing by it is exact.
    unit = tl.max(tl.abs(query), 0).to(tl.int32, bitcast=True) & 0x7F800000
    unit = tl.where(unit > 0, unit, 0x3F800000).to(tl.float32, bitcast=True)
    high, low = _two_parts(query / unit[None, :])
    kept = high.to(tl.float32) + low.to(tl.float32) * (1.0 / 2048.0)
    parts = _interleave(high.to(tl.float32), low.to(tl.float32), RANK_PAD, ROWS)
    return parts, unit, tl.sum(kept, 0) * unit


@triton.jit
def _apart(tile, LENGTH: tl.constexpr, ROWS: tl.constexpr):
    """Return the tiles of ``_interleave``."""
    return tl.split(tl.reshape(tile, [LENGTH, ROWS, 2]))


@triton.jit
def _load_outside(resident, token, start, candidates):
    """Return 1 for candidates from ``start`` on that are not resident, and 0 for all other tokens."""
    held = tl.load(resident + token, mask=token < candidates, other=1)
    return tl.where((held == 0) & (token >= start), 1.0, 0.0)


@triton.jit
def _score(
    query_codes,
    offset,
    codes,
    resident,
    length,
    logits,
    masses,
    code_sums,
    context,
    columns,
    spans,
    recent,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
    INTEGERS: tl.constexpr,
    WORDS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SUMS: tl.constexpr,
):
    span = tl.program_id(1)
    row_set = tl.program_id(2).to(tl.int64)
    first = span.to(tl.int64) * SPAN
    count = tl.load(length) + 1
    if first >= count:
        return
    # Within the span, 32-bit numbers suffice.
    tokens = tl.minimum(count - first, SPAN).to(tl.int32)
    candidates = tl.minimum(count - recent - first, SPAN).to(tl.int32)
    BYTES: tl.constexpr = RANK // 2 if codes.dtype.element_ty == tl.uint8 else RANK
    codes += (row_set * context + first) * BYTES
    resident += row_set * context + first
    query = row_set * QUERIES + tl.program_id(0) * PART
    members = tl.minimum(QUERIES - tl.program_id(0) * PART, PART)
    if WORDS:
        dim = word_dimensions(RANK)
        sum_dim = pair_dimensions(RANK)
    else:
        dim = code_dimensions(codes, RANK, RANK_PAD)
        sum_dim = dim
    parts, unit, total = _load_queries(query_codes + query * RANK, dim, members, ROWS, RANK, RANK_PAD)
    if INTEGERS:
        parts = parts.to(tl.float16)
    member = tl.arange(0, ROWS)
    query_mask = member < members
    unit = true_codes(unit, 0.0, codes) * scaling
    centre = tl.load(offset + query + member, mask=query_mask, other=0.0)
    centre = (centre + true_codes(tl.zeros_like(total), total, codes)) * scaling
    logits += (query + member[None, :]) * columns + first
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    # Sum over tokens only at the end: a sum across threads costs more than the products of a tile.
    mass = tl.zeros([BLOCK, ROWS], tl.float32)
    candidate_mass = tl.zeros([BLOCK, ROWS], tl.float32)
    code_sum = tl.zeros([RANK_PAD, 2 * ROWS], tl.float32)
    # The last tile is the last tokens, some of them once more, so that all tiles are whole. Codes of the span
    # before take the place of those that a shorter last span lacks.
    last = tl.maximum(tokens - BLOCK, -tl.minimum(first, BLOCK)).to(tl.int32)
    place = tl.minimum(last, 0)
    outside = _load_outside(resident, place + tl.arange(0, BLOCK), 0, candidates)
    if WORDS:
        words = load_words(codes + place.to(tl.int64) * BYTES, BLOCK, RANK)
    for start in range(0, SPAN, BLOCK):
        place = tl.minimum(start, last)
        token = place + tl.arange(0, BLOCK)
        barred = opaque(tl.where((token >= start) & (token < tokens), 0.0, float("-inf")))
        counts = opaque(outside)
        # Load one tile ahead.
        ahead = tl.minimum(start + BLOCK, last)
        outside = _load_outside(resident, ahead + tl.arange(0, BLOCK), start + BLOCK, candidates)
        if WORDS:
            tile = tile_of_words(words, BLOCK, RANK)
            first_words, second_words = load_pairs(codes + place.to(tl.int64) * BYTES, BLOCK, RANK)
            words = load_words(codes + ahead.to(tl.int64) * BYTES, BLOCK, RANK)
        else:
            tile = load_codes(codes, tl.minimum(token, tokens - 1), RANK, RANK_PAD)
        high, low = _apart(tl.dot(tile, parts, input_precision="tf32"), BLOCK, ROWS)
        logit = high * unit[None, :] + (low * (unit * (1.0 / 2048.0))[None, :] + centre[None, :])
        if SOFTCAP:
            logit = soft_cap(logit, cap)
        tl.store(logits + token[:, None], logit, mask=query_mask[None, :] & (token < tokens)[:, None])
        logit += barred[:, None]
        # The first tile of a span has at least one token, so this is finite.
        higher = tl.maximum(peak, tl.max(logit, 0))
        # Powers of two are an instruction, exponentials four.
        fade = tl.exp2((peak - higher) * _LOG2_E)
        weight = tl.exp2(logit * _LOG2_E - (higher * _LOG2_E)[None, :])
        counted = weight * counts[:, None]
        mass = mass * fade[None, :] + weight
        candidate_mass = candidate_mass * fade[None, :] + counted
        if SUMS:
            rounded, rest = _two_parts(counted)
            weights = _interleave(rounded, rest, BLOCK, ROWS)
            turned = tile_of_pairs(first_words, second_words, BLOCK, RANK) if WORDS else tl.trans(tile)
            # Add to the sum outside of the product: tensor cores would cut more bits beside it than float32.
            product = tl.dot(turned, weights.to(tile.dtype), input_precision="tf32")
            code_sum = code_sum * tl.reshape(tl.join(fade, fade), [2 * ROWS])[None, :] + product
        peak = higher
    summary = masses + (query + member) * (3 * spans) + span
    total_candidate_mass = tl.sum(candidate_mass, 0)
    tl.store(summary, peak, mask=query_mask)
    tl.store(summary + spans, tl.sum(mass, 0), mask=query_mask)
    tl.store(summary + 2 * spans, total_candidate_mass, mask=query_mask)
    if SUMS:
        high, low = _apart(code_sum, RANK_PAD, ROWS)
        result = true_codes(high + low * (1.0 / 2048.0), total_candidate_mass[None, :], codes)
        target = code_sums + ((query + member[None, :]) * spans + span) * RANK + sum_dim[:, None]
        tl.store(target, result, mask=query_mask[None, :] & (sum_dim < RANK)[:, None])


def score_tokens(
    projected: Projected,
    codes: Tensor,
    resident: Tensor,
    length: Tensor,
    out: TokenScores,
    *,
    recent: int,
    scaling: float,
    softcap: float | None = None,
) -> None:
    """See the reference; of floating codes, tensor cores use 11 bits (TF32)."""
    sets, queries, rank = projected.codes.shape
    spans = out.masses.shape[3]
    rank_pad = code_width(rank)
    parts = blocks_of(queries, _QUERIES)
    part = blocks_of(queries, parts)
    row_bytes = rank_pad * (4 if codes.is_floating_point() else 2)
    _score[(parts, spans, sets)](
        projected.codes,
        projected.offset,
        codes,
        resident.view(torch.uint8),
        length,
        out.logits,
        out.masses,
        out.masses if out.code_sums is None else out.code_sums,
        codes.shape[1],
        out.logits.shape[2],
        spans,
        recent,
        scaling,
        softcap or 1.0,
        QUERIES=queries,
        PART=part,
        ROWS=max(_FEWEST_ROWS, triton.next_power_of_2(part)),
        RANK=rank,
        RANK_PAD=rank_pad,
        SPAN=out.span,
        BLOCK=max(16, min(_TILE_TOKENS, _TILE_BYTES // row_bytes)),
        INTEGERS=not codes.is_floating_point(),
        WORDS=codes.dtype == torch.uint8 and rank == rank_pad and rank >= 32,
        SOFTCAP=softcap is not None,
        SUMS=out.code_sums is not None,
        num_warps=1,
        num_stages=1,
    )
