"""The same in one launch: a program for each span of up to 1,024 tokens of a set, all its queries together.

It is attention over codes, in tiles of up to 32 tokens a warp. Its products on tensor cores keep 22 bits of a
query (see ``primitives``), so up to eight queries cost no more than one. Every warp has a running maximum and
sums of its own (groups, in a batched product): what is added up over warps is added up once, and the weights
of a product are where the next one wants them, which halves the traffic with shared memory.

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
    code_dimensions,
    code_width,
    join_bits,
    load_codes,
    opaque,
    soft_cap,
    split_bits,
    store_code_sums,
    tile_rows,
    true_codes,
    twice,
    weight_parts,
)

# Logits of a tile for each warp; with more, registers spill.
_WARP_LOGITS = 256
_WARPS = 4


@triton.jit
def _load_queries(
    query_codes, codes, QUERIES: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, RANK_PAD: tl.constexpr
):
    """Return the codes of a set's queries in two parts ``[1, 2 · R, RANK_PAD]``, and of each query the unit,
    in both halves, and the sum."""
    member = (tl.arange(0, 2 * ROWS) % ROWS)[:, None]
    dim = code_dimensions(codes, RANK, RANK_PAD)[None, :]
    whole = (member < QUERIES) & (dim < RANK)
    query = tl.load(query_codes + member * RANK + dim, mask=whole, other=0.0)
    # The power of two below the largest, so that dividing by it costs no bits.
    unit = tl.max(tl.abs(query), 1).to(tl.int32, bitcast=True) & 0x7F800000
    unit = tl.where(unit > 0, unit, 0x3F800000).to(tl.float32, bitcast=True)
    parts = split_bits((query / unit[:, None])[None, :, :])
    return parts, unit, tl.reshape(tl.sum(join_bits(parts, unit), 2), [ROWS])


@triton.jit
def _load_residency(resident, token, candidates):
    """Return 0 for candidates that are not resident, and 1 for all other tokens."""
    return tl.load(resident + token, mask=token < candidates, other=1)


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
    RANK_PAD: tl.constexpr,
    SPAN: tl.constexpr,
    WARPS: tl.constexpr,
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
    # Within the span, numbers of 32 bits do.
    tokens = tl.minimum(count - first, SPAN).to(tl.int32)
    candidates = tl.minimum(count - recent - first, SPAN).to(tl.int32)
    BYTES: tl.constexpr = RANK // 2 if codes.dtype.element_ty == tl.uint8 else RANK
    codes += (row_set * context + first) * BYTES
    resident += row_set * context + first
    query = row_set * QUERIES
    parts, unit, total = _load_queries(query_codes + query * RANK, codes, QUERIES, ROWS, RANK, RANK_PAD)
    if codes.dtype.element_ty.primitive_bitwidth == 8:
        parts = opaque(parts.to(tl.float16))
    parts = tl.broadcast_to(parts, [WARPS, 2 * ROWS, RANK_PAD])
    member = tl.arange(0, ROWS)
    asks = member < QUERIES
    unit = true_codes(unit, 0.0, codes) * scaling
    centre = tl.load(offset + query + member, mask=asks, other=0.0)
    centre = (centre + true_codes(tl.zeros_like(total), total, codes)) * scaling
    logits += (query + member[None, :, None]) * bucket + first
    peak = tl.full([WARPS, ROWS], float("-inf"), tl.float32)
    # Summed over the tokens at last: across the threads, a sum costs more than a tile of products.
    mass = tl.zeros([WARPS, ROWS, BLOCK], tl.float32)
    candidate_mass = tl.zeros([WARPS, ROWS, BLOCK], tl.float32)
    code_sum = tl.zeros([WARPS, 2 * ROWS, RANK_PAD], tl.float32)
    STEP: tl.constexpr = WARPS * BLOCK
    held = _load_residency(resident, tl.arange(0, STEP), candidates)
    for start in range(0, SPAN, STEP):
        token = start + tl.arange(0, STEP)
        outside = tl.reshape((held == 0).to(tl.float32), [WARPS, 1, BLOCK])
        # A tile ahead, as Triton loads the codes.
        held = _load_residency(resident, token + STEP, candidates)
        tile = load_codes(codes, tl.minimum(token, tokens - 1), RANK, RANK_PAD)
        tile = tl.reshape(tile, [WARPS, BLOCK, RANK_PAD])
        token = tl.reshape(token, [WARPS, 1, BLOCK])
        inside = token < tokens
        product = tl.dot(parts, tl.trans(tile, 0, 2, 1), input_precision="tf32")
        logit = join_bits(product, unit) + centre[None, :, None]
        if SOFTCAP:
            logit = soft_cap(logit, cap)
        tl.store(logits + token, logit, mask=asks[None, :, None] & inside)
        logit = tl.where(inside, logit, float("-inf"))
        higher = tl.maximum(peak, tl.max(logit, 2))
        # A warp may have met no token yet, and none may be left for it.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        fade = tl.exp(peak - base)
        weight = tl.exp(logit - base[:, :, None])
        counted = weight * opaque(outside)
        mass = mass * fade[:, :, None] + weight
        candidate_mass = candidate_mass * fade[:, :, None] + counted
        if SUMS:
            # Apart from the sum so far, beside which tensor cores would cut more than a sum in float32 does.
            added = tl.dot(weight_parts(counted, tile), tile, input_precision="tf32")
            code_sum = code_sum * twice(fade[:, :, None]) + added
        peak = higher
    top = tl.max(peak, 0)
    fade = tl.exp(peak - top[None, :])
    summary = masses + (query + member) * (3 * spans) + span
    total_candidate_mass = tl.sum(tl.sum(candidate_mass, 2) * fade, 0)
    tl.store(summary, top, mask=asks)
    tl.store(summary + spans, tl.sum(tl.sum(mass, 2) * fade, 0), mask=asks)
    tl.store(summary + 2 * spans, total_candidate_mass, mask=asks)
    if SUMS:
        target = code_sums + (query * spans + span) * RANK
        whole = tl.sum(code_sum * twice(fade[:, :, None]), 0)[None, :, :]
        store_code_sums(target, spans * RANK, whole, total_candidate_mass, codes, QUERIES, RANK)


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
        RANK_PAD=code_width(rank),
        SPAN=out.span,
        WARPS=_WARPS,
        BLOCK=_WARP_LOGITS // rows,
        SOFTCAP=softcap is not None,
        SUMS=out.code_sums is not None,
        num_warps=_WARPS,
    )
