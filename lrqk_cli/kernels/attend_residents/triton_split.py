"""The first launch of ``attend_residents``: attention within one split of the rows."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import add_codes, load_codes, soft_cap, store_code_sums


@triton.jit
def _weigh_hot(
    logits,
    codes,
    slot_token,
    masses,
    code_sums,
    first,
    hot,
    bucket,
    splits,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    HALF_PAD: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the mass and the code sum that the index predicts for hot rows; pointers are the set's own."""
    member = tl.arange(0, ROWS)
    asks = member < QUERIES
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    low_sum = tl.zeros([2 * ROWS, HALF_PAD], tl.float32)
    high_sum = tl.zeros([2 * ROWS, HALF_PAD], tl.float32)
    for start in range(0, SPLIT, BLOCK):
        slot = first + start + tl.arange(0, BLOCK)
        inside = (slot >= 0) & (slot < hot)
        token = tl.load(slot_token + slot, mask=inside, other=0)
        logit = tl.load(
            logits + member[:, None] * bucket + token[None, :],
            mask=asks[:, None] & inside[None, :],
            other=float("-inf"),
        )
        low, high = load_codes(codes, token, inside, RANK, HALF_PAD)
        higher = tl.maximum(peak, tl.max(logit, 1))
        # Where there is no hot row so far, minus infinity must not be taken from itself.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        fade = tl.exp(peak - base)
        weight = tl.exp(logit - base[:, None])
        mass = mass * fade + tl.sum(weight, 1)
        low_sum, high_sum = add_codes(weight, fade, low_sum, high_sum, low, high, ROWS, BLOCK)
        peak = higher
    tl.store(masses + member * (2 * splits), peak, mask=asks)
    tl.store(masses + member * (2 * splits) + splits, mass, mask=asks)
    store_code_sums(code_sums, splits * RANK, low_sum, high_sum, QUERIES, ROWS, RANK, HALF_PAD)


@triton.jit
def _add_rows(logit, value, peak, total, output):
    """Return largest logit, sum of weights and weighted sum, with a block of rows added (online softmax)."""
    higher = tl.maximum(peak, tl.max(logit, 1))
    fade = tl.exp(peak - higher)
    weight = tl.exp(logit - higher[:, None])
    total = total * fade + tl.sum(weight, 1)
    output = tl.dot(weight.to(value.dtype), value, output * fade[:, None], input_precision="ieee")
    return higher, total, output


@triton.jit
def attend_split(
    query,
    rows,
    slot_token,
    length,
    scores,
    codes,
    split_output,
    split_lse,
    split_masses,
    split_code_sums,
    out_logits,
    context,
    bucket,
    hot,
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
    SOFTCAP: tl.constexpr,
    TAIL: tl.constexpr,
    LOGITS: tl.constexpr,
):
    """Attend to the rows of one split, all queries of the set in a tile of 16."""
    split = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    count = tl.load(length) + 1
    candidates = tl.maximum(count - RECENT, 0)
    used = (tl.minimum(count, RECENT) + tl.minimum(candidates, hot)).to(tl.int32)
    first = split * SPLIT
    if first >= used:
        return
    if TAIL and candidates > hot:
        BYTES: tl.constexpr = (RANK + 1) // 2 if codes.dtype.element_ty == tl.uint8 else RANK
        query_place = row_set * QUERIES
        _weigh_hot(
            scores + query_place * bucket,
            codes + row_set * context * BYTES,
            slot_token + row_set * hot,
            split_masses + query_place * (2 * splits) + split,
            split_code_sums + (query_place * splits + split) * RANK,
            first - RECENT,
            hot,
            bucket,
            splits,
            QUERIES,
            ROWS,
            RANK,
            HALF_PAD,
            SPLIT,
            CODE_BLOCK,
        )
    member = tl.arange(0, 16)
    asks = (member < QUERIES)[:, None]
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    queries = tl.load(
        query + (row_set * QUERIES + member[:, None]) * WIDTH + dim, mask=asks & (dim < WIDTH), other=0.0
    )
    source = rows + (row_set * (RECENT + hot) + first) * (2 * WIDTH)
    peak = tl.full([16], float("-inf"), tl.float32)
    total = tl.zeros([16], tl.float32)
    output = tl.zeros([16, WIDTH_PAD], tl.float32)
    for start in range(0, SPLIT, BLOCK):
        row = start + tl.arange(0, BLOCK)
        inside = first + row < used
        place = source + row[:, None] * (2 * WIDTH) + dim
        whole = inside[:, None] & (dim < WIDTH)
        key = tl.load(place, mask=whole, other=0.0)
        value = tl.load(place + WIDTH, mask=whole, other=0.0)
        logit = tl.dot(queries, tl.trans(key), input_precision="ieee") * scaling
        if SOFTCAP:
            logit = soft_cap(logit, cap)
        if LOGITS:
            target = out_logits + (row_set * QUERIES + member[:, None]) * (RECENT + hot) + first
            tl.store(target + row[None, :], logit, mask=asks & inside[None, :])
        logit = tl.where(inside[None, :], logit, float("-inf"))
        peak, total, output = _add_rows(logit, value, peak, total, output)
    place = ((row_set * splits + split) * QUERIES + member[:, None]) * WIDTH + dim
    tl.store(split_output + place, output / total[:, None], mask=asks & (dim < WIDTH))
    lse_place = (row_set * QUERIES + member) * splits + split
    tl.store(split_lse + lse_place, peak + tl.log(total), mask=member < QUERIES)
