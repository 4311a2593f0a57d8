"""Operations of both kinds of splits on a block of rows: exact attention, and sums predicted by the index."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import add_codes, load_codes, soft_cap, store_code_sums


@triton.jit
def nothing_weighed(ROWS: tl.constexpr, RANK_PAD: tl.constexpr):
    """Return the initial largest logit, mass and code sum: those of no rows."""
    code_sum = tl.zeros([2 * ROWS, RANK_PAD], tl.float32)
    return tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32), code_sum


@triton.jit
def nothing_attended(TILE: tl.constexpr, WIDTH_PAD: tl.constexpr):
    """Return the initial largest logit, sum of weights and weighted sum: those of no rows."""
    output = tl.zeros([TILE, WIDTH_PAD], tl.float32)
    return tl.full([TILE], float("-inf"), tl.float32), tl.zeros([TILE], tl.float32), output


@triton.jit
def weigh_rows_by_codes(
    logits,
    codes,
    token,
    inside,
    sign,
    bucket,
    peak,
    mass,
    code_sum,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Add the rows' predicted weights and weighted codes, times ``sign``; pointers are the set's own.

    Args:
        token: the token of each row; it must exist also for rows that are not ``inside``.
    """
    member = tl.arange(0, ROWS)[:, None]
    logit = tl.load(
        logits + member * bucket + token[None, :],
        mask=(member < QUERIES) & inside[None, :],
        other=float("-inf"),
    )
    tile = load_codes(codes, token, RANK, RANK_PAD)
    higher = tl.maximum(peak, tl.max(logit, 1))
    # If there is no row so far, subtracting minus infinity from itself would give NaN.
    base = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp(peak - base)
    weight = tl.exp(logit - base[:, None]) * sign
    mass = mass * fade + tl.sum(weight, 1)
    return higher, mass, add_codes(weight, fade, code_sum, tile, ROWS, COUNT)


@triton.jit
def store_weighed(
    masses,
    code_sums,
    codes,
    entry,
    entries,
    peak,
    mass,
    code_sum,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
):
    """Store the sums of ``weigh_rows_by_codes`` as one of the entries; pointers are the set's own."""
    member = tl.arange(0, ROWS)
    query_mask = member < QUERIES
    tl.store(masses + member * (2 * entries) + entry, peak, mask=query_mask)
    tl.store(masses + member * (2 * entries) + entries + entry, mass, mask=query_mask)
    target = code_sums + entry * RANK
    store_code_sums(target, entries * RANK, code_sum, mass, codes, QUERIES, ROWS, RANK, RANK_PAD)


@triton.jit
def attend_rows(
    queries,
    key,
    value,
    counts,
    scaling,
    cap,
    peak,
    total,
    output,
    SOFTCAP: tl.constexpr,
):
    """Update largest logit, sum of weights and weighted sum with rows ``[n, WIDTH_PAD]`` that ``counts``."""
    logit = tl.dot(queries, tl.trans(key), input_precision="ieee") * scaling
    if SOFTCAP:
        logit = soft_cap(logit, cap)
    logit = tl.where(counts[None, :], logit, float("-inf"))
    higher = tl.maximum(peak, tl.max(logit, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp(peak - base)
    weight = tl.exp(logit - base[:, None])
    total = total * fade + tl.sum(weight, 1)
    output = tl.dot(weight.to(value.dtype), value, output * fade[:, None], input_precision="ieee")
    return higher, total, output


@triton.jit
def store_attended(
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
    """Store output and log-sum-exp of the rows of ``attend_rows``; of no rows, zeros and minus infinity."""
    member = tl.arange(0, total.shape[0])
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    sure = tl.maximum(total, 1e-37)
    place = split_output + (split * QUERIES + member[:, None]) * WIDTH + dim
    tl.store(place, output / sure[:, None], mask=(member < QUERIES)[:, None] & (dim < WIDTH))
    lse = tl.where(total > 0.0, peak + tl.log(sure), float("-inf"))
    tl.store(split_lse + member * splits + split, lse, mask=member < QUERIES)
