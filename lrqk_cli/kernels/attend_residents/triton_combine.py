"""The second launch of ``attend_residents``: merge the splits, then add tail and sinks.

There is one program per query, so few threads run, and dependent loads determine the time. Therefore sums
across threads come late, after all loads that do not depend on them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.fixed_point.triton import store_fixed
from lrqk_cli.kernels.primitives import soft_cap


@triton.jit
def _load_masses(peaks, masses, count, COUNT_PAD: tl.constexpr):
    """Return ``count`` peaks x and masses, padded with minus infinity and zero."""
    place = tl.arange(0, COUNT_PAD)
    inside = place < count
    return tl.load(peaks + place, mask=inside, other=float("-inf")), tl.load(
        masses + place, mask=inside, other=0.0
    )


@triton.jit
def _sum_masses(peaks, masses):
    """Return the largest of peaks x, and ``Σ mass · exp(peak - x)``."""
    peak = tl.max(peaks, 0)
    # If all are empty, subtracting minus infinity from itself would give NaN.
    base = tl.where(peak == float("-inf"), 0.0, peak)
    return peak, tl.sum(masses * tl.exp(peaks - base), 0)


@triton.jit
def _sum_codes(
    code_sums,
    peaks,
    base,
    count,
    dim,
    inside,
    RANK: tl.constexpr,
    RANK_CHUNK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return terms whose sum over their rows is ``Σ exp(peak - base) · codes``, for some dimensions."""
    total = tl.zeros([CHUNK, RANK_CHUNK], tl.float32)
    start = 0
    # Not a ``for``: with numpy 2.4 and later, Triton's interpreter does not accept tensors as bounds.
    while start < count:
        place = start + tl.arange(0, CHUNK)
        span_mask = place < count
        weight = tl.exp(tl.load(peaks + place, mask=span_mask, other=float("-inf")) - base)
        part = tl.load(
            code_sums + place[:, None] * RANK + dim[None, :],
            mask=span_mask[:, None] & inside[None, :],
            other=0.0,
        )
        total += weight[:, None] * part
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
    FETCH_CHUNK: tl.constexpr,
    SPANS_PAD: tl.constexpr,
    FETCHES_PAD: tl.constexpr,
):
    """Return mean value and log-mass of the non-resident candidates; pointers are the query's own.

    Each sum is the one before this step's fetches plus the fetches' correction.
    """
    column = tl.arange(0, WIDTH_PAD)
    value = tl.load(intercept + column, mask=column < WIDTH, other=0.0)
    all_peaks, all_masses = _load_masses(masses, masses + 2 * spans, used_spans, SPANS_PAD)
    if FETCHES > 0:
        new_peaks, new_masses = _load_masses(split_masses, split_masses + FETCHES, FETCHES, FETCHES_PAD)
    all_peak, all_mass = _sum_masses(all_peaks, all_masses)
    peak = all_peak
    mass = all_mass
    if FETCHES > 0:
        new_peak, new_mass = _sum_masses(new_peaks, new_masses)
        peak = tl.maximum(all_peak, new_peak)
        all_mass *= tl.exp(all_peak - peak)
        mass = all_mass + new_mass * tl.exp(new_peak - peak)
    # The corrected mass may be only rounding errors, or negative: then there is no tail.
    is_there = mass > 1e-7 * all_mass
    mass = tl.where(is_there, mass, 1.0)
    for first in range(0, RANK, RANK_CHUNK):
        dim = first + tl.arange(0, RANK_CHUNK)
        inside = dim < RANK
        weights = tl.load(
            slope + dim[:, None] * WIDTH + column[None, :],
            mask=inside[:, None] & (column < WIDTH)[None, :],
            other=0.0,
        )
        terms = _sum_codes(code_sums, masses, peak, used_spans, dim, inside, RANK, RANK_CHUNK, CHUNK)
        if FETCHES > 0:
            new = _sum_codes(
                split_code_sums, split_masses, peak, FETCHES, dim, inside, RANK, RANK_CHUNK, FETCH_CHUNK
            )
            code = tl.sum(terms, 0) + tl.sum(new, 0)
        else:
            code = tl.sum(terms, 0)
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
    SPLITS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return output and log-sum-exp of all splits; the pointers are the query's own."""
    dim = tl.arange(0, WIDTH_PAD)
    every = tl.arange(0, SPLITS_PAD)
    lse = tl.load(split_lse + every, mask=every < used_splits, other=float("-inf"))
    # The step's own token is resident, so at least one split has rows.
    peak = tl.max(lse, 0)
    terms = tl.zeros([CHUNK, WIDTH_PAD], tl.float32)
    start = 0
    while start < used_splits:
        split = start + tl.arange(0, CHUNK)
        split_mask = split < used_splits
        weight = tl.exp(tl.load(split_lse + split, mask=split_mask, other=float("-inf")) - peak)
        part = tl.load(
            split_output + split[:, None] * stride + dim[None, :],
            mask=split_mask[:, None] & (dim < WIDTH)[None, :],
            other=0.0,
        )
        terms += weight[:, None] * part
        start += CHUNK
    total = tl.sum(tl.exp(lse - peak), 0)
    return tl.sum(terms, 0) / total, peak + tl.log(total)


@triton.jit
def _add_drafts(
    output,
    lse,
    query,
    drafts,
    seen,
    scaling,
    cap,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    DRAFTS: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """Return output and log-sum-exp with the first ``seen`` drafts added; pointers are the query's own."""
    dim = tl.arange(0, WIDTH_PAD)
    inside = dim < WIDTH
    own = tl.load(query + dim, mask=inside, other=0.0).to(tl.float32)
    for number in tl.static_range(0, DRAFTS):
        row = drafts + number * (2 * WIDTH) + dim
        logit = tl.sum(own * tl.load(row, mask=inside, other=0.0).to(tl.float32), 0) * scaling
        value = tl.load(row + WIDTH, mask=inside, other=0.0).to(tl.float32)
        if SOFTCAP:
            logit = soft_cap(logit, cap)
        # The token itself is resident, so the log-sum-exp is finite.
        added = tl.where(number < seen, 1.0 / (1.0 + tl.exp(tl.minimum(lse - logit, 80.0))), 0.0)
        output = tl.where(added > 0.0, output * (1.0 - added) + value * added, output)
        lse = lse - tl.log(tl.maximum(1.0 - added, 1e-37))
    return output, lse


@triton.jit
def _store_output(
    output,
    out,
    fixed,
    query,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    PLANES: tl.constexpr,
):
    """Store the output of a query; with ``PLANES``, in fixed point too. Pointers are of all queries."""
    dim = tl.arange(0, WIDTH_PAD)
    output = output.to(out.dtype.element_ty)
    tl.store(out + query * WIDTH + dim, output, mask=dim < WIDTH)
    if PLANES > 0:
        UNITS: tl.constexpr = WIDTH_PAD // 32
        units = tl.num_programs(0) * tl.num_programs(1) * (WIDTH // 32)
        own = tl.arange(0, UNITS)
        unit = tl.where(own < WIDTH // 32, query.to(tl.int32) * (WIDTH // 32) + own, units)
        store_fixed(tl.reshape(output.to(tl.float32), [UNITS, 32]), fixed, units, unit, PLANES, UNITS)


@triton.jit
def combine_splits(
    query_rows,
    drafts,
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
    fixed,
    hot,
    spans,
    splits,
    share,
    scaling,
    cap,
    QUERIES: tl.constexpr,
    DRAFTS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    RANK: tl.constexpr,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    SPLIT: tl.constexpr,
    FETCHES: tl.constexpr,
    SPAN: tl.constexpr,
    MERGE_CHUNK: tl.constexpr,
    CODE_CHUNK: tl.constexpr,
    FETCH_CHUNK: tl.constexpr,
    RANK_CHUNK: tl.constexpr,
    SPLITS_PAD: tl.constexpr,
    SPANS_PAD: tl.constexpr,
    FETCHES_PAD: tl.constexpr,
    TAIL: tl.constexpr,
    SINKS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """Merge the splits of one query by their log-sum-exps; then add drafts and tail, then apply the sinks."""
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
        SPLITS_PAD,
        MERGE_CHUNK,
    )
    tl.store(out_lse + query, lse)
    if DRAFTS > 0:
        output, lse = _add_drafts(
            output,
            lse,
            query_rows + query * WIDTH,
            drafts + row_set // share * (DRAFTS * 2 * WIDTH),
            tl.program_id(0) % (DRAFTS + 1),
            scaling,
            cap,
            WIDTH,
            WIDTH_PAD,
            DRAFTS,
            SOFTCAP,
        )
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
            FETCH_CHUNK,
            SPANS_PAD,
            FETCHES_PAD,
        )
        # The residents' share of the total mass is the sigmoid of the log-masses' difference.
        kept = 1.0 / (1.0 + tl.exp(tl.minimum(tail_lse - lse, 80.0)))
        output = output * kept + mean * (1.0 - kept)
        lse = lse - tl.log(tl.maximum(kept, 1e-37))
    if SINKS:
        sink = tl.load(sinks + query).to(tl.float32)
        output = output / (1.0 + tl.exp(tl.minimum(sink - lse, 80.0)))
    _store_output(output, out, fixed, query, WIDTH, WIDTH_PAD, PLANES)
