"""The first launch of ``attend_residents``: attention within one split of the rows."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import soft_cap


@triton.jit
def _sum_masses(
    logits,
    slot_token,
    masses,
    slots,
    inside,
    bucket,
    splits,
    QUERIES: tl.constexpr,
    QUERIES_PAD: tl.constexpr,
):
    """Store the mass that the index predicts for some hot rows; the pointers are the set's own."""
    member = tl.arange(0, QUERIES_PAD)
    token = tl.load(slot_token + slots, mask=inside, other=0)
    predicted = tl.load(
        logits + member[:, None] * bucket + token[None, :],
        mask=(member < QUERIES)[:, None] & inside[None, :],
        other=float("-inf"),
    )
    peak = tl.max(predicted, 1)
    base = tl.where(peak == float("-inf"), 0.0, peak)
    mass = tl.sum(tl.exp(predicted - base[:, None]), 1)
    tl.store(masses + member * (2 * splits), peak, mask=member < QUERIES)
    tl.store(masses + member * (2 * splits) + splits, mass, mask=member < QUERIES)


@triton.jit
def attend_split(
    query,
    rows,
    slot_token,
    length,
    scores,
    split_output,
    split_lse,
    split_values,
    split_masses,
    out_logits,
    bucket,
    hot,
    splits,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    MASS_PAD: tl.constexpr,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TAIL: tl.constexpr,
    LOGITS: tl.constexpr,
):
    """Attend to the rows of one split; the padding of the queries carries one that weighs all rows alike.

    Its output, not normalised, is the sum of V over the split.
    """
    split = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    count = tl.load(length) + 1
    candidates = tl.maximum(count - RECENT, 0)
    used = (tl.minimum(count, RECENT) + tl.minimum(candidates, hot)).to(tl.int32)
    first = split * SPLIT
    if first >= used:
        return
    if TAIL and candidates > hot:
        slots = first - RECENT + tl.arange(0, SPLIT)
        _sum_masses(
            scores + row_set * QUERIES * bucket,
            slot_token + row_set * hot,
            split_masses + row_set * QUERIES * 2 * splits + split,
            slots,
            (slots >= 0) & (slots < hot),
            bucket,
            splits,
            QUERIES,
            MASS_PAD,
        )
    member = tl.arange(0, 16)
    asks = (member < QUERIES)[:, None]
    sums = (member == QUERIES)[:, None]
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
        logit = tl.where(sums, 0.0, logit)
        logit = tl.where(inside[None, :], logit, float("-inf"))
        higher = tl.maximum(peak, tl.max(logit, 1))
        fade = tl.exp(peak - higher)
        weight = tl.exp(logit - higher[:, None])
        total = total * fade + tl.sum(weight, 1)
        output = tl.dot(weight.to(value.dtype), value, output * fade[:, None], input_precision="ieee")
        peak = higher
    place = (row_set * splits + split) * WIDTH + dim
    tl.store(split_values + place + member[:, None] * 0, output, mask=sums & (dim < WIDTH))
    place = ((row_set * splits + split) * QUERIES + member[:, None]) * WIDTH + dim
    tl.store(split_output + place, output / total[:, None], mask=asks & (dim < WIDTH))
    tl.store(
        split_lse + (row_set * QUERIES + member) * splits + split,
        peak + tl.log(total),
        mask=member < QUERIES,
    )
