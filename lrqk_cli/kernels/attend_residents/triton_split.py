"""The first launch of ``attend_residents``: attention within one split of the rows."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import add_codes, load_codes, soft_cap, store_code_sums
from lrqk_cli.kernels.replace_rows.triton import replace_some


@triton.jit
def _weigh(
    logits,
    codes,
    token,
    inside,
    bucket,
    peak,
    mass,
    low_sum,
    high_sum,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    HALF_PAD: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Add to mass and code sum what the index predicts for hot rows; pointers are the set's own."""
    member = tl.arange(0, ROWS)[:, None]
    logit = tl.load(
        logits + member * bucket + token[None, :],
        mask=(member < QUERIES) & inside[None, :],
        other=float("-inf"),
    )
    low, high = load_codes(codes, token, inside, RANK, HALF_PAD)
    higher = tl.maximum(peak, tl.max(logit, 1))
    # Where there is no hot row so far, minus infinity must not be taken from itself.
    base = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp(peak - base)
    weight = tl.exp(logit - base[:, None])
    mass = mass * fade + tl.sum(weight, 1)
    low_sum, high_sum = add_codes(weight, fade, low_sum, high_sum, low, high, ROWS, COUNT)
    return higher, mass, low_sum, high_sum


@triton.jit
def _store_weighed(
    masses,
    code_sums,
    split,
    splits,
    peak,
    mass,
    low_sum,
    high_sum,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    HALF_PAD: tl.constexpr,
):
    """Store what ``_weigh`` has added up; pointers are the set's own."""
    member = tl.arange(0, ROWS)
    asks = member < QUERIES
    tl.store(masses + member * (2 * splits) + split, peak, mask=asks)
    tl.store(masses + member * (2 * splits) + splits + split, mass, mask=asks)
    store_code_sums(code_sums + split * RANK, splits * RANK, low_sum, high_sum, QUERIES, ROWS, RANK, HALF_PAD)


@triton.jit
def _attend(
    queries,
    rows,
    row,
    inside,
    counts,
    out_logits,
    stride,
    scaling,
    cap,
    peak,
    total,
    output,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    SOFTCAP: tl.constexpr,
    LOGITS: tl.constexpr,
):
    """Add rows to largest logit, sum of weights and weighted sum; pointers are the set's own.

    Args:
        row, inside: which rows there are, from that of ``rows`` on; counts: which of them take part.
    """
    member = tl.arange(0, 16)[:, None]
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    place = rows + row[:, None] * (2 * WIDTH) + dim
    whole = inside[:, None] & (dim < WIDTH)
    key = tl.load(place, mask=whole, other=0.0)
    value = tl.load(place + WIDTH, mask=whole, other=0.0)
    logit = tl.dot(queries, tl.trans(key), input_precision="ieee") * scaling
    if SOFTCAP:
        logit = soft_cap(logit, cap)
    if LOGITS:
        target = out_logits + member * stride + row[None, :]
        tl.store(target, logit, mask=(member < QUERIES) & counts[None, :])
    logit = tl.where(counts[None, :], logit, float("-inf"))
    higher = tl.maximum(peak, tl.max(logit, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp(peak - base)
    weight = tl.exp(logit - base[:, None])
    total = total * fade + tl.sum(weight, 1)
    output = tl.dot(weight.to(value.dtype), value, output * fade[:, None], input_precision="ieee")
    return higher, total, output


@triton.jit
def _store_attended(
    split_output,
    split_lse,
    split,
    splits,
    peak,
    total,
    output,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
):
    """Store what ``_attend`` has added up: without rows, zero at minus infinity."""
    member = tl.arange(0, 16)
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    sure = tl.maximum(total, 1e-37)
    place = split_output + (split * QUERIES + member[:, None]) * WIDTH + dim
    tl.store(place, output / sure[:, None], mask=(member < QUERIES)[:, None] & (dim < WIDTH))
    lse = tl.where(total > 0.0, peak + tl.log(sure), float("-inf"))
    tl.store(split_lse + member * splits + split, lse, mask=member < QUERIES)


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
    resident,
    split_output,
    split_lse,
    split_masses,
    split_code_sums,
    out_logits,
    context,
    bucket,
    hot,
    share,
    splits,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    HALF_PAD: tl.constexpr,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
    CODE_BLOCK: tl.constexpr,
    FETCHES: tl.constexpr,
    FETCH_ROWS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TAIL: tl.constexpr,
    LOGITS: tl.constexpr,
):
    """Attend to the rows of one split, all queries of the set in a tile of 16.

    The first ``FETCHES`` splits are rows on their way: a program brings them into their slots and attends to
    them. The others leave out the slots that these take.
    """
    split = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    count = tl.load(length) + 1
    candidates = tl.maximum(count - RECENT, 0)
    used = (tl.minimum(count, RECENT) + tl.minimum(candidates, hot)).to(tl.int32)
    first = (split - FETCHES) * SPLIT
    if first >= used:
        return
    query += row_set * QUERIES * WIDTH
    rows += row_set * (RECENT + hot) * (2 * WIDTH)
    slot_token += row_set * hot
    leaving += row_set * hot
    split_output += row_set * splits * QUERIES * WIDTH
    split_lse += row_set * QUERIES * splits
    out_logits += row_set * QUERIES * (RECENT + hot)
    if TAIL:
        BYTES: tl.constexpr = (RANK + 1) // 2 if codes.dtype.element_ty == tl.uint8 else RANK
        scores += row_set * QUERIES * bucket
        codes += row_set * context * BYTES
        split_masses += row_set * QUERIES * (2 * splits)
        split_code_sums += row_set * QUERIES * splits * RANK
    member = tl.arange(0, 16)[:, None]
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    queries = tl.load(query + member * WIDTH + dim, mask=(member < QUERIES) & (dim < WIDTH), other=0.0)
    peak = tl.full([16], float("-inf"), tl.float32)
    total = tl.zeros([16], tl.float32)
    output = tl.zeros([16, WIDTH_PAD], tl.float32)
    hot_peak = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    low_sum = tl.zeros([2 * ROWS, HALF_PAD], tl.float32)
    high_sum = tl.zeros([2 * ROWS, HALF_PAD], tl.float32)
    if FETCHES > 0 and split < FETCHES:
        planned = tl.load(plan_count + row_set)
        start = split * FETCH_ROWS
        while start < planned:
            entry = start + tl.arange(0, FETCH_ROWS)
            inside = entry < planned
            token, slot = replace_some(
                store + row_set // share * context * (2 * WIDTH),
                plan_token + row_set * hot,
                plan_slot + row_set * hot,
                rows + RECENT * (2 * WIDTH),
                slot_token,
                resident + row_set * context,
                entry,
                inside,
                2 * WIDTH,
                2 * WIDTH_PAD,
            )
            # The rows are read back where other threads have written them.
            tl.debug_barrier()
            peak, total, output = _attend(
                queries,
                rows + RECENT * (2 * WIDTH),
                slot,
                inside,
                inside,
                out_logits + RECENT,
                RECENT + hot,
                scaling,
                cap,
                peak,
                total,
                output,
                QUERIES,
                WIDTH,
                WIDTH_PAD,
                SOFTCAP,
                LOGITS,
            )
            if TAIL:
                hot_peak, mass, low_sum, high_sum = _weigh(
                    scores,
                    codes,
                    token,
                    inside,
                    bucket,
                    hot_peak,
                    mass,
                    low_sum,
                    high_sum,
                    QUERIES,
                    ROWS,
                    RANK,
                    HALF_PAD,
                    FETCH_ROWS,
                )
            start += FETCHES * FETCH_ROWS
    if split >= FETCHES:
        if TAIL and candidates > hot:
            for begin in range(0, SPLIT, CODE_BLOCK):
                slot = first - RECENT + begin + tl.arange(0, CODE_BLOCK)
                inside = (slot >= 0) & (slot < hot)
                if FETCHES > 0:
                    inside &= tl.load(leaving + slot, mask=inside, other=1) == 0
                token = tl.load(slot_token + slot, mask=inside, other=0)
                hot_peak, mass, low_sum, high_sum = _weigh(
                    scores,
                    codes,
                    token,
                    inside,
                    bucket,
                    hot_peak,
                    mass,
                    low_sum,
                    high_sum,
                    QUERIES,
                    ROWS,
                    RANK,
                    HALF_PAD,
                    CODE_BLOCK,
                )
        for begin in range(0, SPLIT, BLOCK):
            row = begin + tl.arange(0, BLOCK)
            inside = first + row < used
            counts = inside
            if FETCHES > 0:
                slot = first + row - RECENT
                counts &= tl.load(leaving + slot, mask=inside & (slot >= 0), other=0) == 0
            peak, total, output = _attend(
                queries,
                rows + first.to(tl.int64) * (2 * WIDTH),
                row,
                inside,
                counts,
                out_logits + first,
                RECENT + hot,
                scaling,
                cap,
                peak,
                total,
                output,
                QUERIES,
                WIDTH,
                WIDTH_PAD,
                SOFTCAP,
                LOGITS,
            )
    _store_attended(split_output, split_lse, split, splits, peak, total, output, QUERIES, WIDTH, WIDTH_PAD)
    if TAIL and candidates > hot:
        _store_weighed(
            split_masses,
            split_code_sums,
            split,
            splits,
            hot_peak,
            mass,
            low_sum,
            high_sum,
            QUERIES,
            ROWS,
            RANK,
            HALF_PAD,
        )
