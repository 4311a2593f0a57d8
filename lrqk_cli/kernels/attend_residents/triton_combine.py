"""The second launch of ``attend_residents``: merge the splits, then add tail and sinks.

There is one program per query, so few threads run, and dependent loads determine the time. Therefore sums
across threads come late, after all loads that do not depend on them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.dependent_launch import await_launch_before
from lrqk_cli.kernels.fixed_point.triton import store_fixed
from lrqk_cli.kernels.primitives import soft_cap


@triton.jit
def _tail(
    split_masses,
    split_code_sums,
    slope,
    intercept,
    first_entry,
    exists,
    ENTRIES: tl.constexpr,
    ENTRIES_PAD: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    RANK: tl.constexpr,
    RANK_CHUNK: tl.constexpr,
):
    """Return mean value and log-mass of the non-resident candidates, if any ``exists``.

    The last entry is their sum before this step's fetches, those from ``first_entry`` on are its corrections.
    Pointers are the query's own.
    """
    column = tl.arange(0, WIDTH_PAD)
    entry = tl.arange(0, ENTRIES_PAD)
    inside = (entry >= first_entry) & (entry < ENTRIES) & exists
    peaks = tl.load(split_masses + entry, mask=inside, other=float("-inf"))
    masses = tl.load(split_masses + ENTRIES + entry, mask=inside, other=0.0)
    value = tl.load(intercept + column, mask=(column < WIDTH) & exists, other=0.0)
    # Without a tail, subtracting minus infinity from itself would give NaN.
    peak = tl.where(exists, tl.max(peaks, 0), 0.0)
    weight = tl.exp(peaks - peak)
    masses *= weight
    mass = tl.sum(masses, 0)
    # The corrected mass may be only rounding errors, or negative: then there is no tail.
    is_there = mass > 1e-7 * tl.sum(tl.where(entry == ENTRIES - 1, masses, 0.0), 0)
    mass = tl.where(is_there, mass, 1.0)
    for first in tl.static_range(0, RANK, RANK_CHUNK):
        dim = first + tl.arange(0, RANK_CHUNK)
        place = split_code_sums + entry[:, None] * RANK + dim[None, :]
        codes = tl.load(place, mask=inside[:, None] & (dim < RANK)[None, :], other=0.0)
        weights = tl.load(
            slope + dim[:, None] * WIDTH + column[None, :],
            mask=(dim < RANK)[:, None] & (column < WIDTH)[None, :] & exists,
            other=0.0,
        )
        code = tl.sum(weight[:, None] * codes, 0)
        value += tl.sum((code / mass)[:, None] * weights, 0)
    return value, tl.where(is_there, peak + tl.log(mass), float("-inf"))


@triton.jit
def _add_tail(output, lse, mean, tail_lse):
    """Return output and log-sum-exp with the tail added."""
    # The residents' share of the total mass is the sigmoid of the log-masses' difference.
    kept = 1.0 / (1.0 + tl.exp(tl.minimum(tail_lse - lse, 80.0)))
    # Fused whatever comes before, so that a step with drafts rounds like one without.
    return tl.fma(output, kept, mean * (1.0 - kept)), lse - tl.log(tl.maximum(kept, 1e-37))


@triton.jit
def _merge(
    split_output,
    split_lse,
    first_split,
    used_splits,
    stride,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    SPLITS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return output and log-sum-exp of the used splits; the pointers are the query's own."""
    dim = tl.arange(0, WIDTH_PAD)
    every = tl.arange(0, SPLITS_PAD)
    used = (every >= first_split) & (every < used_splits)
    lse = tl.load(split_lse + every, mask=used, other=float("-inf"))
    # The step's own token is resident, so at least one split has rows.
    peak = tl.max(lse, 0)
    terms = tl.zeros([CHUNK, WIDTH_PAD], tl.float32)
    start = first_split
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
    slope,
    intercept,
    sinks,
    plan_count,
    length,
    out,
    out_lse,
    fixed,
    hot,
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
    FETCH_ROWS: tl.constexpr,
    MERGE_CHUNK: tl.constexpr,
    RANK_CHUNK: tl.constexpr,
    SPLITS_PAD: tl.constexpr,
    ENTRIES_PAD: tl.constexpr,
    TAIL: tl.constexpr,
    SINKS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """Merge the splits of one query by their log-sum-exps; then add drafts and tail, then apply the sinks."""
    await_launch_before()
    row_set = tl.program_id(1).to(tl.int64)
    query = row_set * QUERIES + tl.program_id(0)
    count = tl.load(length) + 1
    candidates = tl.maximum(count - RECENT, 0)
    used = tl.minimum(count, RECENT) + tl.minimum(candidates, hot)
    used_splits = FETCHES + tl.cdiv(used, SPLIT).to(tl.int32)
    first_split = 0
    if FETCHES > 0:
        planned = tl.minimum(tl.load(plan_count + row_set), FETCHES * FETCH_ROWS)
        first_split = FETCHES - tl.cdiv(planned, FETCH_ROWS)
    # fmt: off
    if TAIL:
        ENTRIES: tl.constexpr = FETCHES + 1
        mean, tail_lse = _tail(
            split_masses + query * (2 * ENTRIES), split_code_sums + query * ENTRIES * RANK,
            slope + row_set * (RANK * WIDTH), intercept + row_set * WIDTH, first_split, candidates > hot,
            ENTRIES, ENTRIES_PAD, WIDTH, WIDTH_PAD, RANK, RANK_CHUNK,
        )
    output, lse = _merge(
        split_output + (row_set * splits * QUERIES + tl.program_id(0)) * WIDTH, split_lse + query * splits,
        first_split, used_splits, QUERIES * WIDTH, WIDTH, WIDTH_PAD, SPLITS_PAD, MERGE_CHUNK,
    )
    tl.store(out_lse + query, lse)
    if DRAFTS > 0:
        output, lse = _add_drafts(
            output, lse, query_rows + query * WIDTH, drafts + row_set // share * (DRAFTS * 2 * WIDTH),
            tl.program_id(0) % (DRAFTS + 1), scaling, cap, WIDTH, WIDTH_PAD, DRAFTS, SOFTCAP,
        )
    # fmt: on
    if TAIL:
        output, lse = _add_tail(output, lse, mean, tail_lse)
    if SINKS:
        sink = tl.load(sinks + query).to(tl.float32)
        output = output / (1.0 + tl.exp(tl.minimum(sink - lse, 80.0)))
    _store_output(output, out, fixed, query, WIDTH, WIDTH_PAD, PLANES)
