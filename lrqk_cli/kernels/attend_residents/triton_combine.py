"""The second launch of ``attend_residents``: the splits become one, and tail and sinks join."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import total_mass


@triton.jit
def _sum_codes(code_sums, peaks, base, count, dim, inside, RANK: tl.constexpr, CHUNK: tl.constexpr):
    """Return ``Σ exp(peak - base) · codes`` over ``count`` sums, for some dimensions."""
    total = tl.zeros_like(dim).to(tl.float32)
    start = 0
    while start < count:
        place = start + tl.arange(0, CHUNK)
        there = place < count
        weight = tl.exp(tl.load(peaks + place, mask=there, other=float("-inf")) - base)
        part = tl.load(
            code_sums + place[:, None] * RANK + dim[None, :], mask=there[:, None] & inside[None, :], other=0.0
        )
        total += tl.sum(weight[:, None] * part, 0)
        start += CHUNK
    return total


@triton.jit
def _tail(
    masses,
    code_sums,
    split_masses,
    split_code_sums,
    slope,
    intercept,
    used_spans,
    spans,
    FETCHES: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    RANK: tl.constexpr,
    RANK_CHUNK: tl.constexpr,
    CHUNK: tl.constexpr,
    MASS_CHUNK: tl.constexpr,
):
    """Return mean value and log-mass of the candidates that are not resident; pointers are the query's own.

    All sums are those before this step's fetches, and what these change.
    """
    all_peak, all_mass = total_mass(masses, masses + 2 * spans, used_spans, MASS_CHUNK)
    peak = all_peak
    mass = all_mass
    if FETCHES > 0:
        new_peak, new_mass = total_mass(split_masses, split_masses + FETCHES, FETCHES, MASS_CHUNK)
        peak = tl.maximum(all_peak, new_peak)
        all_mass *= tl.exp(all_peak - peak)
        mass = all_mass + new_mass * tl.exp(new_peak - peak)
    # What is left may be rounding, or less than nothing.
    is_there = mass > 1e-7 * all_mass
    mass = tl.where(is_there, mass, 1.0)
    column = tl.arange(0, WIDTH_PAD)
    value = tl.load(intercept + column, mask=column < WIDTH, other=0.0)
    for first in range(0, RANK, RANK_CHUNK):
        dim = first + tl.arange(0, RANK_CHUNK)
        inside = dim < RANK
        code = _sum_codes(code_sums, masses, peak, used_spans, dim, inside, RANK, CHUNK)
        if FETCHES > 0:
            code += _sum_codes(split_code_sums, split_masses, peak, FETCHES, dim, inside, RANK, CHUNK)
        weights = tl.load(
            slope + dim[:, None] * WIDTH + column[None, :],
            mask=inside[:, None] & (column < WIDTH)[None, :],
            other=0.0,
        )
        value += tl.sum((code / mass)[:, None] * weights, 0)
    return value, tl.where(is_there, peak + tl.log(mass), float("-inf"))


@triton.jit
def _merge(
    split_output,
    split_lse,
    used_splits,
    stride,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return output and log-sum-exp of all splits; the pointers are the query's own."""
    dim = tl.arange(0, WIDTH_PAD)
    peak = float("-inf")
    total = 0.0
    output = tl.zeros([WIDTH_PAD], tl.float32)
    start = 0
    while start < used_splits:
        split = start + tl.arange(0, CHUNK)
        there = split < used_splits
        lse = tl.load(split_lse + split, mask=there, other=float("-inf"))
        part = tl.load(
            split_output + split[:, None] * stride + dim[None, :],
            mask=(lse > float("-inf"))[:, None] & (dim < WIDTH)[None, :],
            other=0.0,
        )
        higher = tl.maximum(peak, tl.max(lse, 0))
        # Splits of fetched rows may all be empty.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        fade = tl.exp(peak - base)
        weight = tl.exp(lse - base)
        total = total * fade + tl.sum(weight, 0)
        output = output * fade + tl.sum(weight[:, None] * part, 0)
        peak = higher
        start += CHUNK
    return output / total, peak + tl.log(total)


@triton.jit
def combine_splits(
    split_output,
    split_lse,
    split_masses,
    split_code_sums,
    masses,
    code_sums,
    slope,
    intercept,
    sinks,
    length,
    out,
    out_lse,
    hot,
    spans,
    splits,
    QUERIES: tl.constexpr,
    RANK: tl.constexpr,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    SPLIT: tl.constexpr,
    FETCHES: tl.constexpr,
    SPAN: tl.constexpr,
    MERGE_CHUNK: tl.constexpr,
    MASS_CHUNK: tl.constexpr,
    CODE_CHUNK: tl.constexpr,
    RANK_CHUNK: tl.constexpr,
    TAIL: tl.constexpr,
    SINKS: tl.constexpr,
):
    """Merge the splits of one query by their log-sum-exps; then add the tail, then weigh the sinks."""
    row_set = tl.program_id(1).to(tl.int64)
    query = row_set * QUERIES + tl.program_id(0)
    count = tl.load(length) + 1
    candidates = tl.maximum(count - RECENT, 0)
    used = tl.minimum(count, RECENT) + tl.minimum(candidates, hot)
    used_splits = FETCHES + tl.cdiv(used, SPLIT).to(tl.int32)
    output, lse = _merge(
        split_output + (row_set * splits * QUERIES + tl.program_id(0)) * WIDTH,
        split_lse + query * splits,
        used_splits,
        QUERIES * WIDTH,
        WIDTH,
        WIDTH_PAD,
        MERGE_CHUNK,
    )
    tl.store(out_lse + query, lse)
    if TAIL and candidates > hot:
        mean, tail_lse = _tail(
            masses + query * (3 * spans),
            code_sums + query * spans * RANK,
            split_masses + query * (2 * FETCHES),
            split_code_sums + query * FETCHES * RANK,
            slope + row_set * (RANK * WIDTH),
            intercept + row_set * WIDTH,
            tl.cdiv(count, SPAN).to(tl.int32),
            spans,
            FETCHES,
            WIDTH,
            WIDTH_PAD,
            RANK,
            RANK_CHUNK,
            CODE_CHUNK,
            MASS_CHUNK,
        )
        # The residents' share of the whole mass is a sigmoid of the difference.
        kept = 1.0 / (1.0 + tl.exp(tl.minimum(tail_lse - lse, 80.0)))
        output = output * kept + mean * (1.0 - kept)
        lse = lse - tl.log(tl.maximum(kept, 1e-37))
    if SINKS:
        sink = tl.load(sinks + query).to(tl.float32)
        output = output / (1.0 + tl.exp(tl.minimum(sink - lse, 80.0)))
    dim = tl.arange(0, WIDTH_PAD)
    tl.store(out + query * WIDTH + dim, output.to(out.dtype.element_ty), mask=dim < WIDTH)
