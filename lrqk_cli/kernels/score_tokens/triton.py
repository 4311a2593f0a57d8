"""The same in one launch: a program for each block of 256 tokens of a set, all its queries together.

Bytes: the index once (sets·n·r, 16 MiB at 8 sets, 64K tokens, r 32 int8) and the logits once (4·sets·N·n,
8 MiB at N 4; they stay in the L2 cache for the launches that follow). The products are float32 multiply-adds,
not tensor cores: a few queries make too few of them to matter, and the ranking keeps its precision.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.buffers import SCORE_BLOCK, Projected, TokenScores
from lrqk_cli.kernels.primitives import soft_cap


@triton.jit
def _score(
    query_codes,
    offset,
    codes,
    length,
    logits,
    masses,
    context,
    bucket,
    blocks,
    recent,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    block = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    start = block.to(tl.int64) * BLOCK
    count = tl.load(length) + 1
    if start >= count:
        return
    place = tl.arange(0, BLOCK)
    inside = start + place < count
    candidate = start + place < count - recent
    dim = tl.arange(0, RANK_PAD)
    code = tl.load(
        codes + (row_set * context + start) * RANK + place[:, None] * RANK + dim[None, :],
        mask=inside[:, None] & (dim < RANK)[None, :],
        other=0,
    ).to(tl.float32)
    for member in tl.static_range(QUERIES):
        query = row_set * QUERIES + member
        query_code = tl.load(query_codes + query * RANK + dim, mask=dim < RANK, other=0.0)
        logit = tl.sum(code * query_code[None, :], 1)
        logit = (logit + tl.load(offset + query)) * scaling
        if SOFTCAP:
            logit = soft_cap(logit, cap)
        tl.store(logits + query * bucket + start + place, logit, mask=inside)
        peak = tl.max(tl.where(inside, logit, float("-inf")), 0)
        mass = tl.where(inside, tl.exp(tl.minimum(logit - peak, 0.0)), 0.0)
        summary = masses + query * (3 * blocks) + block
        tl.store(summary, peak)
        tl.store(summary + blocks, tl.sum(mass, 0))
        tl.store(summary + 2 * blocks, tl.sum(tl.where(candidate, mass, 0.0), 0))


def score_tokens(
    projected: Projected,
    codes: Tensor,
    length: Tensor,
    out: TokenScores,
    *,
    recent: int,
    scaling: float,
    softcap: float | None = None,
) -> None:
    """See the reference."""
    sets, context, rank = codes.shape
    queries, bucket = out.logits.shape[1:]
    blocks = out.masses.shape[3]
    rank_pad = triton.next_power_of_2(rank)
    _score[(blocks, sets)](
        projected.codes,
        projected.offset,
        codes,
        length,
        out.logits,
        out.masses,
        context,
        bucket,
        blocks,
        recent,
        scaling,
        softcap or 1.0,
        QUERIES=queries,
        RANK=rank,
        RANK_PAD=rank_pad,
        BLOCK=SCORE_BLOCK,
        SOFTCAP=softcap is not None,
        # 64 codes a thread.
        num_warps=min(16, max(4, rank_pad // 8)),
    )
