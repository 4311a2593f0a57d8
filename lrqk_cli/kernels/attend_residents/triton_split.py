"""The first launch of ``attend_residents``: attention within one split of the rows."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.attend_residents.triton_rows import (
    attend_rows,
    nothing_attended,
    nothing_weighed,
    store_attended,
    store_weighed,
    weigh_rows_by_codes,
)
from lrqk_cli.kernels.replace_rows.triton import replace_some


@triton.jit
def _attend_fetched(
    queries,
    rows,
    slot_token,
    scores,
    codes,
    plan_token,
    plan_slot,
    planned,
    store,
    factors,
    channels,
    groups,
    head,
    context,
    resident,
    bucket,
    first,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    STEP: tl.constexpr,
    COUNT: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TAIL: tl.constexpr,
    FORMAT: tl.constexpr,
    SCALE_TOKENS: tl.constexpr,
):
    """Fetch planned rows from ``first`` on into their slots, a block every ``STEP``, and attend to them.

    Also sums the predicted contribution of the replaced rows minus that of the fetched rows.
    The pointers of the store are of all KV heads, all others the set's own; ``rows`` points to its first hot
    slot.
    """
    peak, total, output = nothing_attended(queries.shape[0], WIDTH_PAD)
    peaks, mass, code_sum = nothing_weighed(ROWS, RANK_PAD)
    # fmt: off
    while first < planned:
        entry = first + tl.arange(0, COUNT)
        inside = entry < planned
        slot, token, leaving = replace_some(
            store, factors, channels, groups, head, context, plan_token, plan_slot, rows, slot_token,
            resident, entry, inside, 2 * WIDTH, 2 * WIDTH_PAD, FORMAT, SCALE_TOKENS,
        )
        # Other threads wrote the rows that a thread reads back, so all writes must come first.
        tl.debug_barrier()
        peak, total, output = attend_rows(
            queries, rows, slot, inside, inside, scaling, cap, peak, total, output, WIDTH, WIDTH_PAD, SOFTCAP
        )
        if TAIL:
            # Fetched rows leave the tail, and replaced rows join it.
            peaks, mass, code_sum = weigh_rows_by_codes(
                scores, codes, token, inside, -1.0, bucket, peaks, mass, code_sum,
                QUERIES, ROWS, RANK, RANK_PAD, COUNT,
            )
            peaks, mass, code_sum = weigh_rows_by_codes(
                scores, codes, leaving, inside, 1.0, bucket, peaks, mass, code_sum,
                QUERIES, ROWS, RANK, RANK_PAD, COUNT,
            )
        first += STEP
    # fmt: on
    return peak, total, output, peaks, mass, code_sum


@triton.jit
def _attend_held(
    queries,
    rows,
    leaving,
    first,
    used,
    scaling,
    cap,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
    FETCHING: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """Attend to the rows of a split that stay; pointers are the set's own."""
    peak, total, output = nothing_attended(queries.shape[0], WIDTH_PAD)
    for begin in range(0, SPLIT, BLOCK):
        row = begin + tl.arange(0, BLOCK)
        inside = first + row < used
        counts = inside
        if FETCHING:
            # A fetching program may be overwriting the row of a leaving slot.
            slot = first + row - RECENT
            counts &= tl.load(leaving + slot, mask=inside & (slot >= 0), other=0) == 0
        peak, total, output = attend_rows(
            queries,
            rows + first.to(tl.int64) * (2 * WIDTH),
            row,
            inside,
            counts,
            scaling,
            cap,
            peak,
            total,
            output,
            WIDTH,
            WIDTH_PAD,
            SOFTCAP,
        )
    return peak, total, output


@triton.jit
def attend_split(
    query,
    rows,
    slot_token,
    length,
    scores,
    codes,
    plan_token,
    plan_slot,
    plan_count,
    leaving,
    store,
    factors,
    channels,
    groups,
    resident,
    split_output,
    split_lse,
    split_masses,
    split_code_sums,
    context,
    bucket,
    hot,
    share,
    splits,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
    FETCHES: tl.constexpr,
    FETCH_ROWS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TAIL: tl.constexpr,
    FORMAT: tl.constexpr,
    SCALE_TOKENS: tl.constexpr,
):
    """Attend to the rows of one split, all queries of the set in a tile.

    The first ``FETCHES`` splits are the fetched rows; the others skip the slots that fetched rows take.
    """
    split = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    count = tl.load(length) + 1
    candidates = tl.maximum(count - RECENT, 0)
    used = (tl.minimum(count, RECENT) + tl.minimum(candidates, hot)).to(tl.int32)
    first = (split - FETCHES) * SPLIT
    if first >= used:
        return
    STRIDE: tl.constexpr = 2 * WIDTH
    BYTES: tl.constexpr = (RANK + 1) // 2 if codes.dtype.element_ty == tl.uint8 else RANK
    rows += row_set * (RECENT + hot) * STRIDE
    member = tl.arange(0, TILE)[:, None]
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    place = query + (row_set * QUERIES + member) * WIDTH + dim
    queries = tl.load(place, mask=(member < QUERIES) & (dim < WIDTH), other=0.0)
    peak, total, output = nothing_attended(TILE, WIDTH_PAD)
    # fmt: off
    if FETCHES > 0 and split < FETCHES:
        peak, total, output, peaks, mass, code_sum = _attend_fetched(
            queries, rows + RECENT * STRIDE, slot_token + row_set * hot, scores + row_set * QUERIES * bucket,
            codes + row_set * context * BYTES, plan_token + row_set * hot, plan_slot + row_set * hot,
            tl.load(plan_count + row_set), store, factors, channels, groups, row_set // share, context,
            resident + row_set * context, bucket, split * FETCH_ROWS, scaling, cap, QUERIES, ROWS, RANK,
            RANK_PAD, WIDTH, WIDTH_PAD, FETCHES * FETCH_ROWS, FETCH_ROWS, SOFTCAP, TAIL, FORMAT,
            SCALE_TOKENS,
        )
        if TAIL:
            store_weighed(
                split_masses + row_set * QUERIES * (2 * FETCHES),
                split_code_sums + row_set * QUERIES * FETCHES * RANK, codes,
                split, FETCHES, peaks, mass, code_sum, QUERIES, ROWS, RANK, RANK_PAD,
            )
    if split >= FETCHES:
        peak, total, output = _attend_held(
            queries, rows, leaving + row_set * hot, first, used, scaling, cap, RECENT, WIDTH, WIDTH_PAD,
            SPLIT, BLOCK, FETCHES > 0, SOFTCAP,
        )
    store_attended(
        split_output + row_set * splits * QUERIES * WIDTH, split_lse + row_set * QUERIES * splits,
        split, splits, peak, total, output, QUERIES, WIDTH, WIDTH_PAD,
    )
    # fmt: on
