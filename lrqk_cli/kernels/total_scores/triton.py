"""The same in two launches: the log-sum-exp of each query's logits, then the sums of their softmax.

A program takes a span of tokens of a set, and up to 64 queries, fewer for ranks above 128. No logit is
stored, so both launches compute all of them, from codes as tensor cores take them and queries in two parts
(see ``score_tokens``). Bytes at 8 sets, N 128, r 64 in 4 bits, 64K tokens: the index four times, from the L2
cache but for the first (16 MiB), and the sums of each group of queries (4·sets·n, 2 MiB each).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.buffers import Projected
from lrqk_cli.kernels.primitives import code_dimensions, exponential, load_codes, soft_cap
from lrqk_cli.kernels.score_tokens.triton import load_query_parts
from lrqk_cli.kernels.total_scores import reference
from lrqk_cli.memory.activations import SCORE_SPAN, score_side
from lrqk_cli.memory.scratch import blocks_of, code_width


@triton.jit
def _span_of(
    query_codes,
    offset,
    codes,
    context,
    queries,
    scaling,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
):
    """Return the program's first query, the codes of its set, and its queries; see ``load_query_parts``."""
    row_set = tl.program_id(2).to(tl.int64)
    BYTES: tl.constexpr = RANK // 2 if codes.dtype.element_ty == tl.uint8 else RANK
    codes += row_set * context * BYTES
    first = tl.program_id(1) * ROWS
    query = row_set * queries + first
    dim = code_dimensions(codes, RANK, RANK_PAD)
    members = tl.minimum(queries - first, ROWS)
    place = query_codes + query * RANK
    high, low, unit, centre = load_query_parts(
        place, offset + query, codes, dim, members, scaling, ROWS, RANK
    )
    return query, members, codes, high, low, unit, centre


@triton.jit
def _logits(
    codes,
    token,
    tokens,
    high,
    low,
    unit,
    centre,
    cap,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """Return the predicted logits ``[token, query]``; tokens beyond the last repeat it."""
    tile = load_codes(codes, tl.minimum(token, tokens - 1), RANK, RANK_PAD)
    rest = tl.dot(tile, low.to(tile.dtype), input_precision="tf32") * (unit * (1.0 / 2048.0))[None, :]
    logit = tl.dot(tile, high.to(tile.dtype), input_precision="tf32") * unit[None, :]
    logit += rest + centre[None, :]
    return soft_cap(logit, cap) if SOFTCAP else logit


@triton.jit(do_not_specialize=["tokens", "queries", "spans"])
def _sum_masses(
    query_codes,
    offset,
    codes,
    lse,
    context,
    tokens,
    queries,
    spans,
    scaling,
    cap,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    query, members, codes, high, low, unit, centre = _span_of(
        query_codes, offset, codes, context, queries, scaling, ROWS, RANK, RANK_PAD
    )
    span = tl.program_id(0)
    # Each place of a tile has its own largest logit: to share it would take threads a step for each tile.
    peak = tl.full([BLOCK, ROWS], -1e30, tl.float32)
    mass = tl.zeros([BLOCK, ROWS], tl.float32)
    for start in range(span * SPAN, tl.minimum(span * SPAN + SPAN, tokens), BLOCK):
        token = start + tl.arange(0, BLOCK)
        logit = _logits(codes, token, tokens, high, low, unit, centre, cap, RANK, RANK_PAD, SOFTCAP)
        logit = tl.where((token < tokens)[:, None], logit, float("-inf"))
        higher = tl.maximum(peak, logit)
        mass = mass * exponential(peak - higher) + exponential(logit - higher)
        peak = higher
    top = tl.max(peak, 0)
    total = top + tl.log(tl.sum(mass * exponential(peak - top[None, :]), 0))
    member = tl.arange(0, ROWS)
    tl.store(lse + (query + member) * spans + span, total, mask=member < members)


@triton.jit(do_not_specialize=["tokens", "queries"])
def _sum_shares(
    query_codes,
    offset,
    codes,
    lse,
    out,
    context,
    tokens,
    queries,
    scaling,
    cap,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    query, members, codes, high, low, unit, centre = _span_of(
        query_codes, offset, codes, context, queries, scaling, ROWS, RANK, RANK_PAD
    )
    member = tl.arange(0, ROWS)
    # Infinity gives padded queries a share of zero.
    total = tl.load(lse + query + member, mask=member < members, other=float("inf"))
    out += (tl.program_id(1) * tl.num_programs(2) + tl.program_id(2)).to(tl.int64) * tokens
    first = tl.program_id(0) * SPAN
    for start in range(first, tl.minimum(first + SPAN, tokens), BLOCK):
        token = start + tl.arange(0, BLOCK)
        logit = _logits(codes, token, tokens, high, low, unit, centre, cap, RANK, RANK_PAD, SOFTCAP)
        tl.store(out + token, tl.sum(exponential(logit - total[None, :]), 1), mask=token < tokens)


def total_scores(
    projected: Projected, codes: Tensor, length: int, *, scaling: float, softcap: float | None = None
) -> Tensor:
    """See the reference; ranks whose tiles are too large for shared memory are left to it."""
    sets, queries, rank = projected.codes.shape
    side = score_side(rank, is_floating=codes.is_floating_point())
    if not side:
        return reference.total_scores(projected, codes, length, scaling=scaling, softcap=softcap)
    spans, groups = blocks_of(length, SCORE_SPAN), blocks_of(queries, side)
    inputs = projected.codes.float().contiguous(), projected.offset.float().contiguous(), codes
    tile = {"ROWS": side, "RANK": rank, "RANK_PAD": code_width(rank), "SPAN": SCORE_SPAN, "BLOCK": side}
    options = {**tile, "SOFTCAP": softcap is not None, "num_warps": 4}
    lse = torch.empty(sets, queries, spans, device=codes.device)
    grid, cap = (spans, groups, sets), softcap or 1.0
    _sum_masses[grid](*inputs, lse, codes.shape[1], length, queries, spans, scaling, cap, **options)
    lse = lse.logsumexp(2)
    parts = torch.empty(groups, sets, length, device=codes.device)
    _sum_shares[grid](*inputs, lse, parts, codes.shape[1], length, queries, scaling, cap, **options)
    return parts[0] if groups == 1 else parts.sum(0)
