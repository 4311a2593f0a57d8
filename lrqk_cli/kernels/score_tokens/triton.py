"""The same in one launch: a program for each span of up to 1,024 tokens of a set, all its queries together.

It is attention over codes, in tiles of up to 128 tokens with a running maximum. Its products on tensor cores
keep 22 bits of a query (see ``primitives``), so up to eight queries cost no more than one.

Bytes at 8 sets, N 4, r 64 in 4 bits, 64K tokens: the index once (sets·n·r/2, 16 MiB) and the logits once
(4·sets·N·n, 8 MiB; they stay in the L2 cache for the launches that follow). Spans of 1,024 tokens make 512
programs, and the sums of codes 512 KiB (4·sets·N·r·n/1,024); spans of 128 would make 4 MiB of them, which one
program a query would have to add up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.buffers import Projected, TokenScores
from lrqk_cli.kernels.primitives import (
    add_codes,
    half_rank,
    join_bits,
    load_codes,
    soft_cap,
    split_bits,
    store_code_sums,
    tile_rows,
)

# Logits of a tile for each warp that works on it; with more, registers spill.
_WARP_LOGITS = 256


@triton.jit
def _load_queries(
    query_codes, QUERIES: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, HALF_PAD: tl.constexpr
):
    """Return both halves of the codes of a set's queries in two parts each, and the unit of each row."""
    HALF: tl.constexpr = (RANK + 1) // 2
    member = (tl.arange(0, 2 * ROWS) % ROWS)[:, None]
    dim = tl.arange(0, HALF_PAD)[None, :]
    place = query_codes + member * RANK + dim
    whole = (member < QUERIES) & (dim < HALF)
    low = tl.load(place, mask=whole, other=0.0)
    high = tl.load(place + HALF, mask=whole & (HALF + dim < RANK), other=0.0)
    largest = tl.maximum(tl.max(tl.abs(low), 1), tl.max(tl.abs(high), 1))
    # The power of two below, so that dividing by it costs no bits.
    unit = (largest.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    unit = tl.where(unit > 0.0, unit, 1.0)
    return split_bits(low / unit[:, None], ROWS), split_bits(high / unit[:, None], ROWS), unit


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
    bucket,
    spans,
    recent,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    HALF_PAD: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SUMS: tl.constexpr,
):
    span = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    first = span.to(tl.int64) * SPAN
    count = tl.load(length) + 1
    if first >= count:
        return
    BYTES: tl.constexpr = (RANK + 1) // 2 if codes.dtype.element_ty == tl.uint8 else RANK
    codes += (row_set * context + first) * BYTES
    resident += row_set * context + first
    query = row_set * QUERIES
    query_low, query_high, unit = _load_queries(query_codes + query * RANK, QUERIES, ROWS, RANK, HALF_PAD)
    member = tl.arange(0, ROWS)
    asks = member < QUERIES
    centre = tl.load(offset + query + member, mask=asks, other=0.0) * scaling
    unit *= scaling
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    candidate_mass = tl.zeros([ROWS], tl.float32)
    low_sum = tl.zeros([2 * ROWS, HALF_PAD], tl.float32)
    high_sum = tl.zeros([2 * ROWS, HALF_PAD], tl.float32)
    for start in range(0, SPAN, BLOCK):
        token = start + tl.arange(0, BLOCK)
        inside = first + token < count
        low, high = load_codes(codes, token, inside, RANK, HALF_PAD)
        product = tl.dot(query_low.to(low.dtype), tl.trans(low), input_precision="tf32")
        product = tl.dot(query_high.to(low.dtype), tl.trans(high), product, input_precision="tf32")
        logit = join_bits(product, unit, ROWS, BLOCK) + centre[:, None]
        if SOFTCAP:
            logit = soft_cap(logit, cap)
        target = logits + (query + member[:, None]) * bucket + first + token[None, :]
        tl.store(target, logit, mask=asks[:, None] & inside[None, :])
        logit = tl.where(inside[None, :], logit, float("-inf"))
        higher = tl.maximum(peak, tl.max(logit, 1))
        fade = tl.exp(peak - higher)
        weight = tl.exp(logit - higher[:, None])
        outside = first + token < count - recent
        outside &= tl.load(resident + token, mask=outside, other=1) == 0
        counted = tl.where(outside[None, :], weight, 0.0)
        mass = mass * fade + tl.sum(weight, 1)
        candidate_mass = candidate_mass * fade + tl.sum(counted, 1)
        if SUMS:
            low_sum, high_sum = add_codes(counted, fade, low_sum, high_sum, low, high, ROWS, BLOCK)
        peak = higher
    summary = masses + (query + member) * (3 * spans) + span
    tl.store(summary, peak, mask=asks)
    tl.store(summary + spans, mass, mask=asks)
    tl.store(summary + 2 * spans, candidate_mass, mask=asks)
    if SUMS:
        target = code_sums + (query * spans + span) * RANK
        store_code_sums(target, spans * RANK, low_sum, high_sum, QUERIES, ROWS, RANK, HALF_PAD)


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
    """See the reference; floating codes count with the 11 bits that tensor cores take of a float32."""
    sets, queries, rank = projected.codes.shape
    spans = out.masses.shape[3]
    half_pad = half_rank(rank)
    # Each warp adds up eight columns of codes; with more warps, some would repeat the others' work.
    warps = min(4, half_pad // 8)
    rows = tile_rows(queries)
    _score[(spans, sets)](
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
        ROWS=rows,
        RANK=rank,
        HALF_PAD=half_pad,
        SPAN=out.span,
        BLOCK=_WARP_LOGITS // rows * warps,
        SOFTCAP=softcap is not None,
        SUMS=out.code_sums is not None,
        num_warps=warps,
    )
