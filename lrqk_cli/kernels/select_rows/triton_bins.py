"""The first launch of ``select_rows``: scores to bins and histograms."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _log_masses(
    masses, mass_blocks, blocks, QUERIES: tl.constexpr, QUERIES_PAD: tl.constexpr, CHUNK: tl.constexpr
):
    """Return the log-sum-exp over all tokens of each query of a set; a padded query has zero."""
    member = tl.arange(0, QUERIES_PAD)
    asks = member < QUERIES
    peak = tl.full([QUERIES_PAD], float("-inf"), tl.float32)
    mass = tl.zeros([QUERIES_PAD], tl.float32)
    start = 0
    while start < mass_blocks:
        place = start + tl.arange(0, CHUNK)[None, :]
        inside = asks[:, None] & (place < mass_blocks)
        place += member[:, None] * (3 * blocks)
        peaks = tl.load(masses + place, mask=inside, other=float("-inf"))
        parts = tl.load(masses + blocks + place, mask=inside, other=0.0)
        higher = tl.maximum(peak, tl.max(peaks, 1))
        base = tl.where(asks, higher, 0.0)
        mass = mass * tl.exp(peak - base) + tl.sum(parts * tl.exp(peaks - base[:, None]), 1)
        peak = higher
        start += CHUNK
    return tl.where(asks, peak + tl.log(tl.where(asks, mass, 1.0)), 0.0)


@triton.jit
def bin_tokens(
    logits,
    masses,
    slot_token,
    length,
    token_bin,
    slot_bin,
    histogram,
    bucket,
    blocks,
    token_blocks,
    hot,
    recent,
    scale,
    QUERIES: tl.constexpr,
    QUERIES_PAD: tl.constexpr,
    SUM: tl.constexpr,
    BINS: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SPAN: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Bin the scores of a block of candidates, or of the tokens in a block of slots, and count the bins."""
    program = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    tokens = tl.load(length) + 1
    candidates = tokens - recent
    if candidates <= hot:
        return
    of_slots = program >= token_blocks
    # Of the two kinds of place a program has one: there are none of the other.
    slots = tl.where(of_slots, hot, 0)
    others = tl.where(of_slots, 0, candidates)
    member = tl.arange(0, QUERIES_PAD)[:, None]
    log_mass = _log_masses(
        masses + row_set * QUERIES * 3 * blocks,
        tl.cdiv(tokens, SPAN).to(tl.int32),
        blocks,
        QUERIES,
        QUERIES_PAD,
        CHUNK,
    )
    logits += row_set * QUERIES * bucket
    bins = tl.arange(0, BINS)
    counted = tl.zeros([BINS], tl.int32)
    for start in range(0, BLOCK, TILE):
        place = tl.where(of_slots, program - token_blocks, program) * BLOCK + start + tl.arange(0, TILE)
        is_slot = place < slots
        is_token = place < others
        inside = is_slot | is_token
        # What decides when a row leaves is computed here, for slots: the score of the slot's token.
        held = tl.load(slot_token + row_set * hot + place, mask=is_slot, other=0)
        token = tl.where(of_slots, held, place.to(tl.int64))
        logit = tl.load(
            logits + member * bucket + token[None, :],
            mask=(member < QUERIES) & inside[None, :],
            other=float("-inf"),
        )
        share = logit - log_mass[:, None]
        score = tl.log(tl.maximum(tl.sum(tl.exp(share), 0), 1e-30)) if SUM else tl.max(share, 0)
        key = tl.minimum(tl.maximum((score - LOWEST) * scale, 0.0), BINS - 1.0).to(tl.int32)
        tl.store(token_bin + row_set * bucket + place, key.to(tl.int16), mask=is_token)
        tl.store(slot_bin + row_set * hot + place, key.to(tl.int16), mask=is_slot)
        # Tokens crowd in few bins: counted here first, they need few additions to memory.
        counted += tl.histogram(tl.where(inside, key, 0), BINS)
        counted -= tl.where(bins == 0, TILE - tl.sum(inside.to(tl.int32), 0), 0)
    counts = histogram + (row_set * 2 + of_slots.to(tl.int64)) * BINS
    tl.atomic_add(counts + bins, counted, mask=counted > 0, sem="relaxed")
