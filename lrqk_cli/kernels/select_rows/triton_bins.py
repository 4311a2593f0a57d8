"""The first launch of ``select_rows``: compute bins of scores, and their histogram."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.buffers import LOWEST_SCORE
from lrqk_cli.kernels.primitives import exponential

_LOWEST = tl.constexpr(LOWEST_SCORE)


@triton.jit
def _log_masses(
    masses, mass_blocks, blocks, QUERIES: tl.constexpr, QUERIES_PAD: tl.constexpr, CHUNK: tl.constexpr
):
    """Return the log-sum-exp over all tokens for each query of a set; zero for a padded query."""
    member = tl.arange(0, QUERIES_PAD)
    query_mask = member < QUERIES
    peak = tl.full([QUERIES_PAD], float("-inf"), tl.float32)
    mass = tl.zeros([QUERIES_PAD], tl.float32)
    start = 0
    while start < mass_blocks:
        place = start + tl.arange(0, CHUNK)[None, :]
        inside = query_mask[:, None] & (place < mass_blocks)
        place += member[:, None] * (3 * blocks)
        peaks = tl.load(masses + place, mask=inside, other=float("-inf"))
        parts = tl.load(masses + blocks + place, mask=inside, other=0.0)
        higher = tl.maximum(peak, tl.max(peaks, 1))
        base = tl.where(query_mask, higher, 0.0)
        mass = mass * exponential(peak - base) + tl.sum(parts * exponential(peaks - base[:, None]), 1)
        peak = higher
        start += CHUNK
    return tl.where(query_mask, peak + tl.log(tl.where(query_mask, mass, 1.0)), 0.0)


@triton.jit
def count_bins(histogram, key, inside, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """Add the keys that are ``inside`` to a histogram in memory."""
    # Keys crowd in few bins, so counting them in the program first leaves few atomic additions.
    bins = tl.arange(0, BINS)
    counted = tl.histogram(tl.where(inside, key, 0), BINS)
    # Padding was counted in bin 0.
    counted -= tl.where(bins == 0, BLOCK - tl.sum(inside.to(tl.int32), 0), 0)
    tl.atomic_add(histogram + bins, counted, mask=counted > 0, sem="relaxed")


@triton.jit
def _bin(logits, log_mass, SUM: tl.constexpr, BINS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the bins of tokens' scores, by the bits of these."""
    share = exponential(logits - log_mass[:, None])
    score = tl.sum(share, 0) if SUM else tl.max(share, 0)
    lowest = tl.full([], _LOWEST, tl.float32).to(tl.int32, bitcast=True)
    above = tl.maximum(score.to(tl.int32, bitcast=True) - lowest, 0)
    return tl.minimum(above // WIDTH, BINS - 1)


@triton.jit
def bin_tokens(
    logits,
    masses,
    length,
    token_bin,
    histogram,
    columns,
    blocks,
    hot,
    recent,
    sink_tokens,
    QUERIES: tl.constexpr,
    QUERIES_PAD: tl.constexpr,
    SUM: tl.constexpr,
    BINS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute and count the bins of a block of candidates."""
    block = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    tokens = tl.load(length) + 1
    candidates = tokens - recent
    if (candidates <= hot) | (block.to(tl.int64) * BLOCK >= candidates):
        return
    logits += row_set * QUERIES * columns
    masses += row_set * QUERIES * 3 * blocks
    histogram += row_set * 2 * BINS
    used = tl.cdiv(tokens, SPAN).to(tl.int32)
    token = block * BLOCK + tl.arange(0, BLOCK)
    inside = token < candidates
    # Load the logits before the masses, because the sum of the masses waits for all threads.
    member = tl.arange(0, QUERIES_PAD)[:, None]
    token_mask = (member < QUERIES) & inside[None, :]
    part = tl.load(logits + member * columns + token[None, :], mask=token_mask, other=float("-inf"))
    log_mass = _log_masses(masses, used, blocks, QUERIES, QUERIES_PAD, CHUNK)
    key = tl.where(token < sink_tokens, BINS - 1, _bin(part, log_mass, SUM, BINS, WIDTH))
    tl.store(token_bin + row_set * columns + token, key.to(tl.int16), mask=inside)
    if block == 0:
        # The next launch counts the slots.
        tl.store(histogram + BINS + tl.arange(0, BINS), 0)
    count_bins(histogram, key, inside, BINS, BLOCK)
