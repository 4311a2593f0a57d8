"""The same in one launch: one program per 64 to 256 rows of a set, all queries of the set in a tile of 16.

Reads the keys of all residents again (16 MiB at 8 sets, C 8,192, d 128 in 16 bits), so that the attention
kernel stays unchanged, and 8 bytes per hot slot; adds 4 bytes per row atomically. Rows of one set belong to
different tokens, so only different sets add to the same token. Their order may change the last bits.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.buffers import Residents
from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.primitives import soft_cap
from lrqk_cli.memory.scratch import blocks_of

# Elements of K per program.
_TILE = 16384


@triton.jit
def _weigh_block(
    query,
    rows,
    slot_token,
    lse,
    length,
    out,
    recent,
    hot,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    await_launch_before()
    row_set = tl.program_id(1).to(tl.int64)
    newest = tl.load(length)
    candidates = tl.maximum(newest + 1 - recent, 0)
    used = tl.minimum(newest + 1, recent) + tl.minimum(candidates, hot)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < used
    member = tl.arange(0, 16)
    query_mask = member < QUERIES
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    place = query + (row_set * QUERIES + member[:, None]) * WIDTH + dim
    queries = tl.load(place, mask=query_mask[:, None] & (dim < WIDTH), other=0.0)
    place = rows + (row_set * (recent + hot) + row[:, None]) * (2 * WIDTH) + dim
    key = tl.load(place, mask=inside[:, None] & (dim < WIDTH), other=0.0)
    logit = tl.dot(queries, tl.trans(key), input_precision="ieee") * scaling
    if SOFTCAP:
        logit = soft_cap(logit, cap)
    # Infinity gives padded queries a weight of zero.
    total = tl.load(lse + row_set * QUERIES + member, mask=query_mask, other=float("inf"))
    weight = tl.sum(tl.exp(logit - total[:, None]), 0)
    slot = row - recent
    chosen = tl.load(slot_token + row_set * hot + slot, mask=inside & (slot >= 0), other=0)
    token = tl.where(slot >= 0, chosen, newest - (newest - row) % recent)
    tl.atomic_add(out + token, weight, mask=inside, sem="relaxed")


def weigh_tokens(
    query: Tensor,
    residents: Residents,
    lse: Tensor,
    length: Tensor,
    out: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
) -> None:
    """See the reference; at most 16 queries per set."""
    sets, queries, width = query.shape
    width_pad = max(16, triton.next_power_of_2(width))
    block = max(64, min(256, _TILE // width_pad))
    _weigh_block[(blocks_of(residents.rows.shape[1], block), sets)](
        query,
        residents.rows,
        residents.slot_token,
        lse,
        length,
        out,
        residents.recent,
        residents.hot,
        scaling,
        softcap or 1.0,
        QUERIES=queries,
        WIDTH=width,
        WIDTH_PAD=width_pad,
        BLOCK=block,
        SOFTCAP=softcap is not None,
        num_warps=4,
        **DEPENDENT,
    )
