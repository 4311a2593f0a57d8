"""The second launch of ``attend_residents``: the splits become one, and tail and sinks join."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import total_mass


@triton.jit
def _tail_lse(masses, split_masses, score_blocks, blocks, used_splits, splits, CHUNK: tl.constexpr):
    """Return the log-mass of the candidates that are not resident; the pointers are the query's own."""
    all_peak, all_mass = total_mass(masses, masses + 2 * blocks, score_blocks, CHUNK)
    hot_peak, hot_mass = total_mass(split_masses, split_masses + splits, used_splits, CHUNK)
    peak = tl.maximum(all_peak, hot_peak)
    mass = all_mass * tl.exp(all_peak - peak) - hot_mass * tl.exp(hot_peak - peak)
    # Rounding can leave less than nothing.
    return tl.where(mass > 0.0, peak + tl.log(tl.maximum(mass, 1e-37)), float("-inf"))


@triton.jit
def combine_splits(
    split_output,
    split_lse,
    split_values,
    split_masses,
    masses,
    value_sum,
    sinks,
    length,
    out,
    out_lse,
    share,
    hot,
    blocks,
    splits,
    QUERIES: tl.constexpr,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    SPLIT: tl.constexpr,
    CHUNK: tl.constexpr,
    MASS_CHUNK: tl.constexpr,
    SCORE_BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
    SINKS: tl.constexpr,
):
    """Merge the splits of one query by their log-sum-exps; then add the tail, then weigh the sinks."""
    row_set = tl.program_id(1).to(tl.int64)
    query = row_set * QUERIES + tl.program_id(0)
    count = tl.load(length) + 1
    candidates = tl.maximum(count - RECENT, 0)
    used = tl.minimum(count, RECENT) + tl.minimum(candidates, hot)
    used_splits = tl.cdiv(used, SPLIT).to(tl.int32)
    dim = tl.arange(0, WIDTH_PAD)
    inside = dim < WIDTH
    peak = float("-inf")
    total = 0.0
    output = tl.zeros([WIDTH_PAD], tl.float32)
    values = tl.zeros([WIDTH_PAD], tl.float64)
    start = 0
    while start < used_splits:
        split = start + tl.arange(0, CHUNK)
        there = split < used_splits
        whole = there[:, None] & inside[None, :]
        lse = tl.load(split_lse + query * splits + split, mask=there, other=float("-inf"))
        place = (row_set * splits + split)[:, None]
        part = tl.load(
            split_output + (place * QUERIES + tl.program_id(0)) * WIDTH + dim[None, :], mask=whole, other=0.0
        )
        higher = tl.maximum(peak, tl.max(lse, 0))
        fade = tl.exp(peak - higher)
        weight = tl.exp(lse - higher)
        total = total * fade + tl.sum(weight, 0)
        output = output * fade + tl.sum(weight[:, None] * part, 0)
        if TAIL:
            part = tl.load(split_values + place * WIDTH + dim[None, :], mask=whole, other=0.0)
            values += tl.sum(part.to(tl.float64), 0)
        peak = higher
        start += CHUNK
    output = output / total
    lse = peak + tl.log(total)
    tl.store(out_lse + query, lse)
    if TAIL and candidates > hot:
        tail_lse = _tail_lse(
            masses + query * (3 * blocks),
            split_masses + query * (2 * splits),
            tl.cdiv(count, SCORE_BLOCK).to(tl.int32),
            blocks,
            used_splits,
            splits,
            MASS_CHUNK,
        )
        everything = tl.load(value_sum + row_set // share * WIDTH + dim, mask=inside, other=0.0)
        mean = ((everything - values) / (candidates - hot).to(tl.float64)).to(tl.float32)
        # The residents' share of the whole mass is a sigmoid of the difference.
        kept = 1.0 / (1.0 + tl.exp(tl.minimum(tail_lse - lse, 80.0)))
        output = output * kept + mean * (1.0 - kept)
        lse = lse - tl.log(tl.maximum(kept, 1e-37))
    if SINKS:
        sink = tl.load(sinks + query).to(tl.float32)
        output = output / (1.0 + tl.exp(tl.minimum(sink - lse, 80.0)))
    tl.store(out + query * WIDTH + dim, output.to(out.dtype.element_ty), mask=inside)


@triton.jit
def weigh_rows(
    logits,
    lse,
    length,
    out,
    rows,
    recent,
    QUERIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum a block of rows' weights over the queries of their set."""
    row_set = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(length) + 1
    used = tl.minimum(count, recent) + tl.minimum(tl.maximum(count - recent, 0), rows - recent)
    weight = tl.zeros([BLOCK], tl.float32)
    for member in tl.static_range(QUERIES):
        query = row_set * QUERIES + member
        logit = tl.load(logits + query * rows + row, mask=row < used, other=float("-inf"))
        weight += tl.exp(logit - tl.load(lse + query))
    tl.store(out + row_set * rows + row, weight, mask=row < rows)
