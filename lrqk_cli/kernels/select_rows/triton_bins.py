"""The first launch of ``select_rows``: compute bins of scores, and their histograms."""

from __future__ import annotations

import triton
import triton.language as tl


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
        mass = mass * tl.exp(peak - base) + tl.sum(parts * tl.exp(peaks - base[:, None]), 1)
        peak = higher
        start += CHUNK
    return tl.where(query_mask, peak + tl.log(tl.where(query_mask, mass, 1.0)), 0.0)


@triton.jit
def _load_logits(logits, token, inside, columns, QUERIES: tl.constexpr, QUERIES_PAD: tl.constexpr):
    """Return logits ``[QUERIES_PAD, tokens]`` of a set; minus infinity for padded queries and tokens."""
    member = tl.arange(0, QUERIES_PAD)[:, None]
    token_mask = (member < QUERIES) & inside[None, :]
    return tl.load(logits + member * columns + token[None, :], mask=token_mask, other=float("-inf"))


@triton.jit
def _bin(logits, log_mass, scale, SUM: tl.constexpr, BINS: tl.constexpr, LOWEST: tl.constexpr):
    """Return the bins of tokens' scores."""
    share = logits - log_mass[:, None]
    score = tl.log(tl.maximum(tl.sum(tl.exp(share), 0), 1e-30)) if SUM else tl.max(share, 0)
    return tl.minimum(tl.maximum((score - LOWEST) * scale, 0.0), BINS - 1.0).to(tl.int32)


@triton.jit
def bin_tokens(
    logits,
    masses,
    slot_token,
    length,
    token_bin,
    slot_bin,
    histogram,
    columns,
    blocks,
    token_blocks,
    hot,
    recent,
    sink_tokens,
    scale,
    QUERIES: tl.constexpr,
    QUERIES_PAD: tl.constexpr,
    SUM: tl.constexpr,
    BINS: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute and count the bins of a block of candidates, or of the tokens in a block of slots."""
    block = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    tokens = tl.load(length) + 1
    candidates = tokens - recent
    if (candidates <= hot) | ((block < token_blocks) & (block.to(tl.int64) * BLOCK >= candidates)):
        return
    logits += row_set * QUERIES * columns
    masses += row_set * QUERIES * 3 * blocks
    used = tl.cdiv(tokens, SPAN).to(tl.int32)
    histogram += row_set * 2 * BINS
    # Two similar paths: loads of consecutive tokens are wide, loads of gathered tokens cannot be. Both load
    # the logits before the masses, because the sum of the masses waits for all threads.
    if block < token_blocks:
        token = block * BLOCK + tl.arange(0, BLOCK)
        inside = token < candidates
        part = _load_logits(logits, token, inside, columns, QUERIES, QUERIES_PAD)
        log_mass = _log_masses(masses, used, blocks, QUERIES, QUERIES_PAD, CHUNK)
        key = tl.where(token < sink_tokens, BINS - 1, _bin(part, log_mass, scale, SUM, BINS, LOWEST))
        tl.store(token_bin + row_set * columns + token, key.to(tl.int16), mask=inside)
    else:
        slot = (block - token_blocks) * BLOCK + tl.arange(0, BLOCK)
        inside = slot < hot
        # Compute the score of the slot's token again: its bin may not be written yet by another program.
        held = tl.load(slot_token + row_set * hot + slot, mask=inside, other=0).to(tl.int32)
        part = _load_logits(logits, held, inside, columns, QUERIES, QUERIES_PAD)
        log_mass = _log_masses(masses, used, blocks, QUERIES, QUERIES_PAD, CHUNK)
        key = tl.where(held < sink_tokens, BINS - 1, _bin(part, log_mass, scale, SUM, BINS, LOWEST))
        tl.store(slot_bin + row_set * hot + slot, key.to(tl.int16), mask=inside)
        histogram += BINS
    # Tokens crowd in few bins, so counting them in the program first leaves few atomic additions.
    bins = tl.arange(0, BINS)
    counted = tl.histogram(tl.where(inside, key, 0), BINS)
    # Padding was counted in bin 0.
    counted -= tl.where(bins == 0, BLOCK - tl.sum(inside.to(tl.int32), 0), 0)
    tl.atomic_add(histogram + bins, counted, mask=counted > 0, sem="relaxed")
