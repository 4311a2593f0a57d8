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
from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.primitives import (
    TRITON_RELEASE,
    code_dimensions,
    exponential,
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
from lrqk_cli.memory.scratch import SCORE_TILE, blocks_of, code_width

# The most bytes of a tile's codes as operands; larger tiles spill registers.
_TILE_BYTES = 8192
# The most queries of a program: the sums of more take registers, so that fewer programs share the device.
_QUERIES = 8
# Queries that a tile has room for at least: before 3.5, Triton refuses products with fewer than 16 columns.
_FEWEST_ROWS = 4 if TRITON_RELEASE >= (3, 5) else 8


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
def load_query_parts(
    query_codes, offset, codes, dim, members, scaling, ROWS: tl.constexpr, RANK: tl.constexpr
):
    """Return queries' codes over their units, ``[dim, ROWS]`` in two parts, the units and centres.

    A logit is the product of a tile of codes with the parts, times the unit, plus the centre.
    """
    member = tl.arange(0, ROWS)
    mask = (member < members)[None, :] & (dim < RANK)[:, None]
    query = tl.load(query_codes + member[None, :] * RANK + dim[:, None], mask=mask, other=0.0)
    # The largest power of two up to the largest magnitude; dividing by it is exact.
    unit = tl.max(tl.abs(query), 0).to(tl.int32, bitcast=True) & 0x7F800000
    unit = tl.where(unit > 0, unit, 0x3F800000).to(tl.float32, bitcast=True)
    high, low = _two_parts(query / unit[None, :])
    total = tl.sum(high.to(tl.float32) + low.to(tl.float32) * (1.0 / 2048.0), 0) * unit
    centre = tl.load(offset + member, mask=member < members, other=0.0)
    centre = (centre + true_codes(tl.zeros_like(total), total, codes)) * scaling
    return high, low, true_codes(unit, 0.0, codes) * scaling, centre


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
def _logits(tile, parts, unit, centre, cap, BLOCK: tl.constexpr, ROWS: tl.constexpr, SOFTCAP: tl.constexpr):
    """Return the predicted logits ``[BLOCK, ROWS]`` of a tile of codes; see ``load_query_parts``."""
    high, low = _apart(tl.dot(tile, parts.to(tile.dtype), input_precision="tf32"), BLOCK, ROWS)
    logit = high * unit[None, :] + (low * (unit * (1.0 / 2048.0))[None, :] + centre[None, :])
    return soft_cap(logit, cap) if SOFTCAP else logit


@triton.jit
def _add_codes(code_sum, fade, turned, weight, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Return the code sums, in two parts in turns, with the weighted codes of a tile."""
    rounded, rest = _two_parts(weight)
    weights = _interleave(rounded, rest, BLOCK, ROWS)
    # Add to the sum outside of the product: tensor cores would cut more bits beside it than float32 does.
    product = tl.dot(turned, weights.to(turned.dtype), input_precision="tf32")
    return code_sum * tl.reshape(tl.join(fade, fade), [2 * ROWS])[None, :] + product


@triton.jit
def _weigh(logit, outside, peak, mass, candidate_mass):
    """Add a tile's tokens to the largest logits and the masses.

    Also return the weights of tokens that are ``outside`` the hot set, and the factor of earlier weights.
    """
    higher = tl.maximum(peak, tl.max(logit, 0))
    fade = exponential(peak - higher)
    weight = exponential(logit - higher[None, :])
    counted = weight * outside[:, None]
    candidate_mass = candidate_mass * fade[None, :] + counted
    return higher, mass * fade[None, :] + weight, candidate_mass, counted, fade


@triton.jit
def _store_sums(
    masses,
    code_sums,
    codes,
    span,
    spans,
    members,
    dim,
    peak,
    mass,
    candidate_mass,
    code_sum,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SUMS: tl.constexpr,
):
    """Store the sums of a span; the pointers are those of the first query."""
    member = tl.arange(0, ROWS)
    query_mask = member < members
    place = masses + member * (3 * spans) + span
    total_candidate_mass = tl.sum(candidate_mass, 0)
    tl.store(place, peak, mask=query_mask)
    tl.store(place + spans, tl.sum(mass, 0), mask=query_mask)
    tl.store(place + 2 * spans, total_candidate_mass, mask=query_mask)
    if SUMS:
        high, low = _apart(code_sum, RANK_PAD, ROWS)
        result = true_codes(high + low * (1.0 / 2048.0), total_candidate_mass[None, :], codes)
        target = code_sums + (member[None, :] * spans + span) * RANK + dim[:, None]
        tl.store(target, result, mask=query_mask[None, :] & (dim < RANK)[:, None])


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
    WORDS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SUMS: tl.constexpr,
):
    await_launch_before()
    span, row_set = tl.program_id(1), tl.program_id(2).to(tl.int64)
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
    dim = word_dimensions(RANK) if WORDS else code_dimensions(codes, RANK, RANK_PAD)
    high, low, unit, centre = load_query_parts(
        query_codes + query * RANK, offset + query, codes, dim, members, scaling, ROWS, RANK
    )
    parts = _interleave(high, low, RANK_PAD, ROWS)
    logits += (query + tl.arange(0, ROWS)[None, :]) * columns + first
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    # Sum over tokens only at the end: a sum across threads costs more than the products of a tile.
    mass = tl.zeros([BLOCK, ROWS], tl.float32)
    candidate_mass = tl.zeros([BLOCK, ROWS], tl.float32)
    code_sum = tl.zeros([RANK_PAD, 2 * ROWS], tl.float32)
    # The last tile is the last tokens, some of them once more, so that all tiles are whole. Codes of the span
    # before take the place of those that a shorter last span lacks.
    last = tl.maximum(tokens - BLOCK, -tl.minimum(first, BLOCK)).to(tl.int32)
    place = tl.minimum(last, 0)
    following = _load_outside(resident, place + tl.arange(0, BLOCK), 0, candidates)
    if WORDS:
        words = load_words(codes + place.to(tl.int64) * BYTES, BLOCK, RANK)
    for start in range(0, SPAN, BLOCK):
        place = tl.minimum(start, last)
        token = place + tl.arange(0, BLOCK)
        own = (token >= start) & (token < tokens)
        barred = opaque(tl.where(own, 0.0, float("-inf")))
        outside = opaque(following)
        # Load one tile ahead.
        ahead = tl.minimum(start + BLOCK, last)
        following = _load_outside(resident, ahead + tl.arange(0, BLOCK), start + BLOCK, candidates)
        if WORDS:
            tile = tile_of_words(words, BLOCK, RANK)
            first_words, second_words = load_pairs(codes + place.to(tl.int64) * BYTES, BLOCK, RANK)
            words = load_words(codes + ahead.to(tl.int64) * BYTES, BLOCK, RANK)
        else:
            tile = load_codes(codes, tl.minimum(token, tokens - 1), RANK, RANK_PAD)
        logit = _logits(tile, parts, unit, centre, cap, BLOCK, ROWS, SOFTCAP)
        tl.store(logits + token[:, None], logit, mask=own[:, None] & (tl.arange(0, ROWS) < members)[None, :])
        # The first tile has at least one token of the span, so the largest logit is finite.
        logit += barred[:, None]
        peak, mass, candidate_mass, weight, fade = _weigh(logit, outside, peak, mass, candidate_mass)
        if SUMS:
            turned = tile_of_pairs(first_words, second_words, BLOCK, RANK) if WORDS else tl.trans(tile)
            code_sum = _add_codes(code_sum, fade, turned, weight, BLOCK, ROWS)
    if WORDS:
        dim = pair_dimensions(RANK)
    _store_sums(
        masses + query * (3 * spans), code_sums + query * spans * RANK, codes, span, spans, members, dim,
        peak, mass, candidate_mass, code_sum, ROWS, RANK, RANK_PAD, SUMS,
    )  # fmt: skip


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
    block = max(16, min(SCORE_TILE, _TILE_BYTES // row_bytes))
    # Whole tiles of words are loaded, so there must be as many tokens.
    words = codes.dtype == torch.uint8 and rank == rank_pad and rank >= 32 and codes.shape[1] >= block
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
        BLOCK=block,
        WORDS=words,
        SOFTCAP=softcap is not None,
        SUMS=out.code_sums is not None,
        num_warps=1,
        num_stages=1,
        **DEPENDENT,
    )
