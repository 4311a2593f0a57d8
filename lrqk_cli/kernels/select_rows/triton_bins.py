"""The first launch of ``select_rows``: scores to bins and histograms."""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import total_mass


@triton.jit
def _score_bin(
    logits,
    masses,
    token,
    inside,
    mass_blocks,
    stride,
    blocks,
    scale,
    QUERIES: tl.constexpr,
    SUM: tl.constexpr,
    LOWEST: tl.constexpr,
    LAST: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return the bins of tokens of a set; the pointers are the set's own."""
    score = tl.zeros_like(token).to(tl.float32) + (0.0 if SUM else float("-inf"))
    for member in tl.static_range(QUERIES):
        summary = masses + member * (3 * blocks)
        peak, mass = total_mass(summary, summary + blocks, mass_blocks, CHUNK)
        logit = tl.load(logits + member * stride + token, mask=inside, other=float("-inf"))
        share = logit - (peak + tl.log(mass))
        score = score + tl.exp(share) if SUM else tl.maximum(score, share)
    if SUM:
        score = tl.log(tl.maximum(score, 1e-30))
    return tl.minimum(tl.maximum((score - LOWEST) * scale, 0.0), LAST).to(tl.int32)


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
    SUM: tl.constexpr,
    BINS: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
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
    place = tl.where(of_slots, program - token_blocks, program) * BLOCK + tl.arange(0, BLOCK)
    # Of the two kinds of place a program has one: the other kind's mask is empty.
    is_slot = place < tl.where(of_slots, hot, 0)
    is_token = place < tl.where(of_slots, 0, candidates)
    inside = is_slot | is_token
    # What decides when a row leaves is computed here, for slots: the score of the slot's token.
    held = tl.load(slot_token + row_set * hot + place, mask=is_slot, other=0)
    token = tl.where(of_slots, held, place.to(tl.int64))
    key = _score_bin(
        logits + row_set * QUERIES * bucket,
        masses + row_set * QUERIES * 3 * blocks,
        token,
        inside,
        tl.cdiv(tokens, SPAN).to(tl.int32),
        bucket,
        blocks,
        scale,
        QUERIES,
        SUM,
        LOWEST,
        BINS - 1.0,
        CHUNK,
    )
    tl.store(token_bin + row_set * bucket + place, key.to(tl.int16), mask=is_token)
    tl.store(slot_bin + row_set * hot + place, key.to(tl.int16), mask=is_slot)
    # Tokens crowd in few bins: counted within the block first, they need few additions to memory.
    bins = tl.arange(0, BINS)
    count = tl.histogram(tl.where(inside, key, 0), BINS)
    count -= tl.where(bins == 0, BLOCK - tl.sum(inside.to(tl.int32), 0), 0)
    counts = histogram + (row_set * 2 + of_slots.to(tl.int64)) * BINS
    tl.atomic_add(counts + bins, count, mask=count > 0, sem="relaxed")
