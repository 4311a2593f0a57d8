"""The first launch of ``select_rows``: compute bins of scores, and their histogram."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.buffers import LOWEST_SCORE
from lrqk_cli.kernels.dependent_launch import await_launch_before
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
def histogram_of(key, inside, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """Return how many of the keys that are ``inside`` are in each bin."""
    counted = tl.histogram(tl.where(inside, key, 0), BINS)
    # Padding was counted in bin 0.
    return counted - tl.where(tl.arange(0, BINS) == 0, BLOCK - tl.sum(inside.to(tl.int32), 0), 0)


@triton.jit
def add_bins(histogram, counted, BINS: tl.constexpr):
    """Add counts to a histogram in memory."""
    tl.atomic_add(histogram + tl.arange(0, BINS), counted, mask=counted > 0, sem="relaxed")


@triton.jit
def _bin(logits, log_mass, SUM: tl.constexpr, BINS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the bins of tokens' scores, by the bits of these."""
    share = exponential(logits - log_mass[:, None])
    score = tl.sum(share, 0) if SUM else tl.max(share, 0)
    lowest = tl.full([], _LOWEST, tl.float32).to(tl.int32, bitcast=True)
    above = tl.maximum(score.to(tl.int32, bitcast=True) - lowest, 0)
    return tl.minimum(above // WIDTH, BINS - 1)


@triton.jit
def _bin_block(
    logits,
    log_mass,
    token_bin,
    first,
    candidates,
    sink_tokens,
    SUM: tl.constexpr,
    BINS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the bins of a block of candidates; return their histogram."""
    token = first + tl.arange(0, BLOCK)
    inside = token < candidates
    key = tl.where(token < sink_tokens, BINS - 1, _bin(logits, log_mass, SUM, BINS, WIDTH))
    tl.store(token_bin + token, key.to(tl.int16), mask=inside)
    return histogram_of(key, inside, BINS, BLOCK)


@triton.jit
def _load_logits(logits, first, candidates, columns, member, QUERIES: tl.constexpr, BLOCK: tl.constexpr):
    """Load the logits of a block of tokens for all queries of a set."""
    token = first + tl.arange(0, BLOCK)[None, :]
    mask = (member < QUERIES) & (token < candidates)
    return tl.load(logits + member * columns + token, mask=mask, other=float("-inf"))


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
    """Compute and count the bins of blocks of candidates, in turns with the other programs of the set."""
    await_launch_before()
    first = tl.program_id(0) * BLOCK
    row_set = tl.program_id(1).to(tl.int64)
    tokens = tl.load(length) + 1
    candidates = tokens - recent
    if (candidates <= hot) | (first >= candidates):
        return
    logits += row_set * QUERIES * columns
    masses += row_set * QUERIES * 3 * blocks
    histogram += row_set * 2 * BINS
    used = tl.cdiv(tokens, SPAN).to(tl.int32)
    member = tl.arange(0, QUERIES_PAD)[:, None]
    token_bin += row_set * columns
    # Load logits before the masses, because the sum of the masses waits for all threads.
    part = _load_logits(logits, first, candidates, columns, member, QUERIES, BLOCK)
    log_mass = _log_masses(masses, used, blocks, QUERIES, QUERIES_PAD, CHUNK)
    # Keys crowd in few bins, so counting them in the program first leaves few atomic additions.
    counted = _bin_block(part, log_mass, token_bin, first, candidates, sink_tokens, SUM, BINS, WIDTH, BLOCK)
    first += tl.num_programs(0) * BLOCK
    while first < candidates:
        part = _load_logits(logits, first, candidates, columns, member, QUERIES, BLOCK)
        counted += _bin_block(
            part, log_mass, token_bin, first, candidates, sink_tokens, SUM, BINS, WIDTH, BLOCK
        )
        first += tl.num_programs(0) * BLOCK
    if tl.program_id(0) == 0:
        # The next launch counts the slots.
        tl.store(histogram + BINS + tl.arange(0, BINS), 0)
    add_bins(histogram, counted, BINS)
