"""The same in one launch of ``sets · (N + S + 1)`` programs: per query, per token, and one for the ring.

Bytes: both maps once (2·sets·d·r·4; the query map again for each query, from the L2 cache), and a few rows.
At 8 sets, d 128, r 32 that is 256 KiB, so the launch is bound by latency, not by bytes. Therefore a program
starts all its loads before it sums across threads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.append_token.triton_rows import append_pending, append_row, store_row
from lrqk_cli.kernels.buffers import Drafts, IndexMaps, Projected, Residents, StoredRows
from lrqk_cli.kernels.codes import largest_code
from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.primitives import rounded_code
from lrqk_cli.kernels.quantise_rows.triton import quantise_rows

# Elements of a map that a program loads at once.
_TILE = 4096


@triton.jit
def _project(
    vector,
    mean,
    matrix,
    columns,
    CENTRE: tl.constexpr,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    COLUMNS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return the terms of ``vector · matrix`` (with ``CENTRE``, of ``(vector - mean) · matrix``).

    Also returns the terms of ``vector · mean``. The caller sums both along their first dimension.
    """
    dim = tl.arange(0, COLUMNS_PAD)
    terms = tl.zeros([CHUNK, COLUMNS_PAD], tl.float32)
    offset = tl.zeros([CHUNK], tl.float32)
    for start in tl.static_range(0, WIDTH, CHUNK):
        place = start + tl.arange(0, CHUNK)
        inside = place < WIDTH
        part = tl.load(vector + place, mask=inside, other=0.0).to(tl.float32)
        centre = tl.load(mean + place, mask=inside, other=0.0)
        weights = tl.load(
            matrix + place[:, None] * RANK + dim[None, :],
            mask=inside[:, None] & (dim < columns)[None, :],
            other=0.0,
        )
        offset += part * centre
        if CENTRE:
            part -= centre
        terms += part[:, None] * weights
    return terms, offset


@triton.jit
def _quantise(terms, scale, TOP: tl.constexpr):
    """Sum the terms to a code in float32."""
    return rounded_code(tl.div_rn(tl.sum(terms, 0), scale), TOP)


@triton.jit
def _store_code(
    codes,
    key,
    mean,
    matrix,
    scale,
    TOP: tl.constexpr,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Store the code of a key; in a packed index, a byte holds one dimension of either half."""
    if codes.dtype.element_ty == tl.uint8:
        HALF: tl.constexpr = RANK // 2
        dim = tl.arange(0, RANK_PAD // 2)
        inside = dim < HALF
        low, _ = _project(key, mean, matrix, HALF, True, WIDTH, RANK, RANK_PAD // 2, CHUNK)
        high, _ = _project(key, mean, matrix + HALF, HALF, True, WIDTH, RANK, RANK_PAD // 2, CHUNK)
        low_scale = tl.load(scale + dim, mask=inside, other=1.0)
        high_scale = tl.load(scale + HALF + dim, mask=inside, other=1.0)
        low_code = _quantise(low, low_scale, TOP).to(tl.int32) + 8
        high_code = _quantise(high, high_scale, TOP).to(tl.int32) + 8
        tl.store(codes + dim, (low_code | (high_code << 4)).to(tl.uint8), mask=inside)
    else:
        dim = tl.arange(0, RANK_PAD)
        terms, _ = _project(key, mean, matrix, RANK, True, WIDTH, RANK, RANK_PAD, CHUNK)
        code = _quantise(terms, tl.load(scale + dim, mask=dim < RANK, other=1.0), TOP)
        tl.store(codes + dim, code.to(codes.dtype.element_ty), mask=dim < RANK)


@triton.jit
def _append(
    query,
    key,
    value,
    query_map,
    key_map,
    mean,
    scale,
    codes,
    store,
    rows,
    slot_token,
    resident,
    length,
    draft_rows,
    pending,
    query_codes,
    offset,
    share,
    context,
    hot,
    QUERIES: tl.constexpr,
    TOKENS: tl.constexpr,
    DRAFTS: tl.constexpr,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
    TOP: tl.constexpr,
    STORES: tl.constexpr,
):
    await_launch_before()
    member = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    mean += row_set // share * WIDTH
    if member < QUERIES:
        place = row_set * QUERIES + member
        matrix = query_map + row_set * (WIDTH * RANK)
        terms, products = _project(
            query + place * WIDTH, mean, matrix, RANK, False, WIDTH, RANK, RANK_PAD, CHUNK
        )
        dim = tl.arange(0, RANK_PAD)
        tl.store(query_codes + place * RANK + dim, tl.sum(terms, 0), mask=dim < RANK)
        tl.store(offset + place, tl.sum(products, 0))
        return
    position = tl.load(length)
    head = row_set // share
    # fmt: off
    if member < QUERIES + TOKENS:
        number = member - QUERIES
        position += number
        BYTES: tl.constexpr = RANK // 2 if codes.dtype.element_ty == tl.uint8 else RANK
        place = (head * TOKENS + number) * WIDTH
        if STORES & (row_set % share == 0):
            host = store + (head * context + position) * (2 * WIDTH)
            store_row(key + place, value + place, host, WIDTH, WIDTH_PAD)
        _store_code(
            codes + (row_set * context + position) * BYTES, key + place, mean,
            key_map + row_set * (WIDTH * RANK), scale + row_set * RANK, TOP, WIDTH, RANK, RANK_PAD, CHUNK,
        )
    else:
        rows += row_set * (RECENT + hot) * (2 * WIDTH)
        slot_token += row_set * hot
        resident += row_set * context
        if DRAFTS > 0:
            accepted = tl.load(pending)
            append_pending(
                draft_rows + head * (DRAFTS * 2 * WIDTH), rows, slot_token, resident, position - accepted,
                accepted, hot, RECENT, WIDTH, WIDTH_PAD,
            )
        place = head * (TOKENS * WIDTH)
        append_row(
            key + place, value + place, rows, slot_token, resident, position, hot, RECENT, WIDTH, WIDTH_PAD
        )
    # fmt: on


def append_token(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    maps: IndexMaps,
    codes: Tensor,
    store: StoredRows,
    residents: Residents,
    length: Tensor,
    out: Projected,
    drafts: Drafts | None = None,
) -> tuple[Tensor, Tensor]:
    """See the reference; ``store`` is in host memory that the GPU can write.

    Rows with scales take a second launch. K and V are contiguous.
    """
    sets, queries, width = query.shape
    if store.scales is not None:
        key, value = quantise_rows(key, value, store, position=length)
    rank = out.codes.shape[2]
    rank_pad = triton.next_power_of_2(rank)
    heads, tokens, _ = key.shape
    _append[(queries + tokens + 1, sets)](
        query,
        key,
        value,
        maps.query,
        maps.key,
        maps.mean,
        maps.scale,
        codes,
        store.rows,
        residents.rows,
        residents.slot_token,
        residents.resident.view(torch.uint8),
        length,
        key if drafts is None else drafts.rows,
        length if drafts is None else drafts.pending,
        out.codes,
        out.offset,
        sets // heads,
        codes.shape[1],
        residents.hot,
        QUERIES=queries,
        TOKENS=tokens,
        DRAFTS=0 if drafts is None else drafts.rows.shape[1],
        RECENT=residents.recent,
        WIDTH=width,
        WIDTH_PAD=triton.next_power_of_2(width),
        RANK=rank,
        RANK_PAD=rank_pad,
        CHUNK=max(16, min(_TILE // rank_pad, triton.next_power_of_2(width))),
        TOP=largest_code(codes.dtype) or 0,
        STORES=store.scales is None,
        num_warps=4,
        **DEPENDENT,
    )
    return key, value
