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
from lrqk_cli.kernels.attend_residents.triton_tail import sum_spans
from lrqk_cli.kernels.dependent_launch import await_launch_before
from lrqk_cli.kernels.replace_rows.triton import load_stored, take_slots


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
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    while first < planned:
        entry = first + tl.arange(0, COUNT)
        inside = entry < planned
        token = tl.load(plan_token + entry, mask=inside, other=0).to(tl.int64)
        slot = tl.load(plan_slot + entry, mask=inside, other=0).to(tl.int64)
        mask = inside[:, None] & (dim < WIDTH)
        key = load_stored(
            store, factors, channels, groups, head, context, token, inside, dim, mask, rows, 2 * WIDTH,
            FORMAT, SCALE_TOKENS,
        )
        value = load_stored(
            store, factors, channels, groups, head, context, token, inside, WIDTH + dim, mask, rows,
            2 * WIDTH, FORMAT, SCALE_TOKENS,
        )
        leaving = tl.load(slot_token + slot, mask=inside, other=0)
        # Weigh while the rows are on their way.
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
        place = rows + slot[:, None] * (2 * WIDTH) + dim
        tl.store(place, key, mask=mask)
        tl.store(place + WIDTH, value, mask=mask)
        take_slots(slot_token, resident, slot, token, leaving, inside)
        peak, total, output = attend_rows(
            queries, key, value, inside, scaling, cap, peak, total, output, SOFTCAP
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
    rows += first.to(tl.int64) * (2 * WIDTH)
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    peak, total, output = nothing_attended(queries.shape[0], WIDTH_PAD)
    for begin in range(0, SPLIT, BLOCK):
        row = begin + tl.arange(0, BLOCK)
        inside = first + row < used
        counts = inside
        if FETCHING:
            # A fetching program may be overwriting the row of a leaving slot.
            slot = first + row - RECENT
            counts &= tl.load(leaving + slot, mask=inside & (slot >= 0), other=0) == 0
        place = rows + row[:, None] * (2 * WIDTH) + dim
        mask = inside[:, None] & (dim < WIDTH)
        key = tl.load(place, mask=mask, other=0.0)
        value = tl.load(place + WIDTH, mask=mask, other=0.0)
        peak, total, output = attend_rows(
            queries, key, value, counts, scaling, cap, peak, total, output, SOFTCAP
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
    masses,
    code_sums,
    split_output,
    split_lse,
    split_masses,
    split_code_sums,
    context,
    bucket,
    spans,
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
    SPAN: tl.constexpr,
    SPANS_PAD: tl.constexpr,
    SPAN_CHUNK: tl.constexpr,
    CODE_CHUNK: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TAIL: tl.constexpr,
    FORMAT: tl.constexpr,
    SCALE_TOKENS: tl.constexpr,
):
    """Attend to the rows of one split, all queries of the set in a tile; or sum up a query's spans.

    The first ``FETCHES`` splits are the fetched rows, the last of them the first rows; those without a row
    write nothing. The other splits skip the slots that fetched rows take.
    """
    await_launch_before()
    split = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    count = tl.load(length) + 1
    candidates = tl.maximum(count - RECENT, 0)
    used = (tl.minimum(count, RECENT) + tl.minimum(candidates, hot)).to(tl.int32)
    # fmt: off
    ENTRIES: tl.constexpr = FETCHES + 1
    if TAIL and (split >= FETCHES) & (split < FETCHES + QUERIES):
        if candidates > hot:
            sum_spans(
                masses, code_sums, split_masses, split_code_sums, row_set * QUERIES + split - FETCHES, spans,
                tl.cdiv(count, SPAN).to(tl.int32), RANK, ENTRIES, SPANS_PAD, SPAN_CHUNK, CODE_CHUNK,
            )
        return
    if TAIL and split >= FETCHES:
        split -= QUERIES
    first = (split - FETCHES) * SPLIT
    planned = 0
    if FETCHES > 0 and split < FETCHES:
        first = split * FETCH_ROWS
        split = FETCHES - 1 - split
        planned = tl.load(plan_count + row_set)
        used = planned
    if first >= used:
        return
    BYTES: tl.constexpr = (RANK + 1) // 2 if codes.dtype.element_ty == tl.uint8 else RANK
    rows += row_set * (RECENT + hot) * (2 * WIDTH)
    member, dim = tl.arange(0, TILE)[:, None], tl.arange(0, WIDTH_PAD)[None, :]
    place = query + (row_set * QUERIES + member) * WIDTH + dim
    queries = tl.load(place, mask=(member < QUERIES) & (dim < WIDTH), other=0.0)
    peak, total, output = nothing_attended(TILE, WIDTH_PAD)
    if FETCHES > 0 and split < FETCHES:
        peak, total, output, peaks, mass, code_sum = _attend_fetched(
            queries, rows + RECENT * (2 * WIDTH), slot_token + row_set * hot,
            scores + row_set * QUERIES * bucket, codes + row_set * context * BYTES,
            plan_token + row_set * hot, plan_slot + row_set * hot,
            planned, store, factors, channels, groups, row_set // share, context,
            resident + row_set * context, bucket, first, scaling, cap, QUERIES, ROWS, RANK, RANK_PAD, WIDTH,
            WIDTH_PAD, FETCHES * FETCH_ROWS, FETCH_ROWS, SOFTCAP, TAIL, FORMAT, SCALE_TOKENS,
        )
        if TAIL:
            store_weighed(
                split_masses + row_set * QUERIES * (2 * ENTRIES),
                split_code_sums + row_set * QUERIES * ENTRIES * RANK, codes,
                split, ENTRIES, peaks, mass, code_sum, QUERIES, ROWS, RANK, RANK_PAD,
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
