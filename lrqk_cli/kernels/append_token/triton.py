"""The same in one launch of ``sets · (N + 1)`` programs: one a query, and one for the token of each set.

Bytes: both maps once (2·sets·d·r·4; the query map again for each query, from the L2 cache), and a few rows.
At 8 sets, d 128, r 32 that is 256 KiB: the launch costs its latency, not its bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.buffers import IndexMaps, Projected, Residents

# Elements of a map that a program holds at once.
_TILE = 4096


@triton.jit
def _project(
    vector,
    mean,
    matrix,
    CENTRE: tl.constexpr,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return ``vector · matrix`` (of ``vector - mean`` where ``CENTRE``) and ``vector · mean``."""
    dim = tl.arange(0, RANK_PAD)
    code = tl.zeros([RANK_PAD], tl.float32)
    product = tl.zeros([CHUNK], tl.float32)
    for start in tl.static_range(0, WIDTH, CHUNK):
        place = start + tl.arange(0, CHUNK)
        inside = place < WIDTH
        part = tl.load(vector + place, mask=inside, other=0.0).to(tl.float32)
        centre = tl.load(mean + place, mask=inside, other=0.0)
        weights = tl.load(
            matrix + place[:, None] * RANK + dim[None, :],
            mask=inside[:, None] & (dim < RANK)[None, :],
            other=0.0,
        )
        product += part * centre
        if CENTRE:
            part -= centre
        code += tl.sum(part[:, None] * weights, 0)
    return code, tl.sum(product, 0)


@triton.jit
def _copy_rows(
    key,
    value,
    store,
    rows,
    slot_token,
    resident,
    value_sum,
    position,
    first_of_head,
    hot,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
):
    """Copy K and V to the ring, and what was there to a hot slot; pointers are the set's own."""
    dim = tl.arange(0, WIDTH_PAD)
    inside = dim < WIDTH
    ring = rows + (position % RECENT) * (2 * WIDTH)
    leaving = position - RECENT
    if (leaving >= 0) & (leaving < hot):
        slot = rows + (RECENT + leaving) * (2 * WIDTH)
        tl.store(slot + dim, tl.load(ring + dim, mask=inside), mask=inside)
        tl.store(slot + WIDTH + dim, tl.load(ring + WIDTH + dim, mask=inside), mask=inside)
        tl.store(slot_token + leaving, leaving)
        tl.store(resident + leaving, 1)
    new_key = tl.load(key + dim, mask=inside)
    new_value = tl.load(value + dim, mask=inside)
    # Another thread may hold what is overwritten here.
    tl.debug_barrier()
    tl.store(ring + dim, new_key, mask=inside)
    tl.store(ring + WIDTH + dim, new_value, mask=inside)
    if first_of_head:
        tl.store(store + dim, new_key, mask=inside)
        tl.store(store + WIDTH + dim, new_value, mask=inside)
        total = tl.load(value_sum + dim, mask=inside)
        tl.store(value_sum + dim, total + new_value.to(tl.float64), mask=inside)


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
    value_sum,
    length,
    query_codes,
    offset,
    share,
    mean_share,
    context,
    hot,
    QUERIES: tl.constexpr,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
    INT8: tl.constexpr,
):
    member = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    dim = tl.arange(0, RANK_PAD)
    inside = dim < RANK
    mean += row_set // mean_share * WIDTH
    if member < QUERIES:
        place = row_set * QUERIES + member
        matrix = query_map + row_set * (WIDTH * RANK)
        code, product = _project(query + place * WIDTH, mean, matrix, False, WIDTH, RANK, RANK_PAD, CHUNK)
        tl.store(query_codes + place * RANK + dim, code, mask=inside)
        tl.store(offset + place, product)
    else:
        position = tl.load(length)
        head = row_set // share
        matrix = key_map + row_set * (WIDTH * RANK)
        code, _ = _project(key + head * WIDTH, mean, matrix, True, WIDTH, RANK, RANK_PAD, CHUNK)
        code = tl.div_rn(code, tl.load(scale + row_set * RANK + dim, mask=inside, other=1.0))
        if INT8:
            # Adding 1.5·2^23 leaves no bits for a fraction: the sum rounds half to even.
            code = tl.minimum(tl.maximum(code, -127.0), 127.0)
            code = (code + 12582912.0) - 12582912.0
        code_place = (row_set * context + position) * RANK
        tl.store(codes + code_place + dim, code.to(codes.dtype.element_ty), mask=inside)
        _copy_rows(
            key + head * WIDTH,
            value + head * WIDTH,
            store + (head * context + position) * (2 * WIDTH),
            rows + row_set * (RECENT + hot) * (2 * WIDTH),
            slot_token + row_set * hot,
            resident + row_set * context,
            value_sum + head * WIDTH,
            position,
            row_set % share == 0,
            hot,
            RECENT,
            WIDTH,
            WIDTH_PAD,
        )


def append_token(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    maps: IndexMaps,
    codes: Tensor,
    store: Tensor,
    residents: Residents,
    value_sum: Tensor,
    length: Tensor,
    out: Projected,
) -> None:
    """See the reference; ``store`` is pinned host memory where the rest is on a GPU."""
    sets, queries, width = query.shape
    context, rank = codes.shape[1:]
    rank_pad = triton.next_power_of_2(rank)
    _append[(queries + 1, sets)](
        query,
        key,
        value,
        maps.query,
        maps.key,
        maps.mean,
        maps.scale,
        codes,
        store,
        residents.rows,
        residents.slot_token,
        residents.resident.view(torch.uint8),
        value_sum,
        length,
        out.codes,
        out.offset,
        sets // key.shape[0],
        sets // maps.mean.shape[0],
        context,
        residents.hot,
        QUERIES=queries,
        RECENT=residents.recent,
        WIDTH=width,
        WIDTH_PAD=triton.next_power_of_2(width),
        RANK=rank,
        RANK_PAD=rank_pad,
        CHUNK=max(16, min(_TILE // rank_pad, triton.next_power_of_2(width))),
        INT8=codes.dtype == torch.int8,
        num_warps=4,
    )
