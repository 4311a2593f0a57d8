"""The same in one launch: one program per span of tokens of a set, with all queries of the set.

The kernel is attention over codes, in tiles of up to 64 tokens with a running maximum. Its tensor-core
products keep 22 bits of a query (see ``primitives``) and cost the same for one to eight queries. A program is
one warp: several warps would share a tile, and exchange parts of it through shared memory.

Bytes at 8 sets, N 4, r 64 in 4 bits, 64K tokens: the index once (sets·n·r/2, 16 MiB) and the logits once
(4·sets·N·n, 8 MiB; they stay in the L2 cache for the later launches). Spans of 384 tokens make 1,368 programs
and 1.3 MiB of code sums (4·sets·N·r·n/384); spans of 128 would make 4 MiB, which one program per query would
have to sum later.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.buffers import Projected, TokenScores
from lrqk_cli.kernels.primitives import (
    add_codes,
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
)

# Logits of a tile, and bytes of its codes as operands; larger tiles spill registers.
_TILE_LOGITS, _TILE_BYTES = 512, 8192
# Without a limit Triton uses 216 registers per thread, and eight programs fit on a multiprocessor. With this
# limit twelve fit, and no register spills: 3% of a step at 256K tokens on an H100.
_REGISTERS = 168


@triton.jit
def _load_queries(
    query_codes, codes, QUERIES: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, RANK_PAD: tl.constexpr
):
    """Return a set's query codes in two parts, the unit of each row, and the sum of each query's codes."""
    member = (tl.arange(0, 2 * ROWS) % ROWS)[:, None]
    dim = code_dimensions(codes, RANK, RANK_PAD)[None, :]
    mask = (member < QUERIES) & (dim < RANK)
    query = tl.load(query_codes + member * RANK + dim, mask=mask, other=0.0)
    # The largest power of two up to the largest magnitude; dividing by it is exact.
    unit = tl.max(tl.abs(query), 1).to(tl.int32, bitcast=True) & 0x7F800000
    unit = tl.where(unit > 0, unit, 0x3F800000).to(tl.float32, bitcast=True)
    parts = split_bits(query / unit[:, None], ROWS)
    return parts, unit, tl.sum(join_bits(parts, unit, ROWS, RANK_PAD), 1)


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
    columns,
    spans,
    recent,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
    INTEGERS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SUMS: tl.constexpr,
):
    span = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
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
    query = row_set * QUERIES
    parts, unit, total = _load_queries(query_codes + query * RANK, codes, QUERIES, ROWS, RANK, RANK_PAD)
    if INTEGERS:
        parts = opaque(parts.to(tl.float16))
    member = tl.arange(0, ROWS)
    query_mask = member < QUERIES
    unit = true_codes(unit, 0.0, codes) * scaling
    centre = tl.load(offset + query + member, mask=query_mask, other=0.0)
    centre = (centre + true_codes(tl.zeros_like(total), total, codes)) * scaling
    logits += (query + member[:, None]) * columns + first
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    # Sum over tokens only at the end: a sum across threads costs more than the products of a tile.
    mass = tl.zeros([ROWS, BLOCK], tl.float32)
    candidate_mass = tl.zeros([ROWS, BLOCK], tl.float32)
    code_sum = tl.zeros([2 * ROWS, RANK_PAD], tl.float32)
    held = _load_residency(resident, tl.arange(0, BLOCK), candidates)
    for start in range(0, SPAN, BLOCK):
        token = start + tl.arange(0, BLOCK)
        inside = token < tokens
        outside = held == 0
        # Load one tile ahead, as Triton does with the codes.
        held = _load_residency(resident, token + BLOCK, candidates)
        tile = load_codes(codes, tl.minimum(token, tokens - 1), RANK, RANK_PAD)
        product = tl.dot(parts, tl.trans(tile), input_precision="tf32")
        logit = join_bits(product, unit, ROWS, BLOCK) + centre[:, None]
        if SOFTCAP:
            logit = soft_cap(logit, cap)
        tl.store(logits + token[None, :], logit, mask=query_mask[:, None] & inside[None, :])
        logit = tl.where(inside[None, :], logit, float("-inf"))
        # The first tile of a span has at least one token, so this is finite.
        higher = tl.maximum(peak, tl.max(logit, 1))
        fade = tl.exp(peak - higher)
        weight = tl.exp(logit - higher[:, None])
        counted = weight * opaque(outside.to(tl.float32))[None, :]
        mass = mass * fade[:, None] + weight
        candidate_mass = candidate_mass * fade[:, None] + counted
        if SUMS:
            code_sum = add_codes(counted, fade, code_sum, tile, ROWS, BLOCK)
        peak = higher
    summary = masses + (query + member) * (3 * spans) + span
    total_candidate_mass = tl.sum(candidate_mass, 1)
    tl.store(summary, peak, mask=query_mask)
    tl.store(summary + spans, tl.sum(mass, 1), mask=query_mask)
    tl.store(summary + 2 * spans, total_candidate_mass, mask=query_mask)
    if SUMS:
        target = code_sums + (query * spans + span) * RANK
        store_code_sums(
            target, spans * RANK, code_sum, total_candidate_mass, codes, QUERIES, ROWS, RANK, RANK_PAD
        )


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
    rows = tile_rows(queries)
    row_bytes = rank_pad * (4 if codes.is_floating_point() else 2)
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
        RANK_PAD=rank_pad,
        SPAN=out.span,
        BLOCK=max(16, min(_TILE_LOGITS // rows, _TILE_BYTES // row_bytes)),
        INTEGERS=not codes.is_floating_point(),
        SOFTCAP=softcap is not None,
        SUMS=out.code_sums is not None,
        num_warps=1,
        maxnreg=_REGISTERS,
    )
