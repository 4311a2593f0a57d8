"""The second and third launch of ``select_rows``: decide by the histograms, then write the lists.

Dependent loads determine the time of both, so a program starts all independent loads first.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _store_decision(decision, in_bin, held_in_bin, edge, BINS: tl.constexpr):
    """Store the decision for a set; see ``SelectScratch.decision``."""
    bins = tl.arange(0, BINS)
    demanded = tl.sum(tl.where(bins > edge, in_bin, 0), 0)
    # Resident candidates are exactly the tokens in the slots, so the slots' histogram counts them.
    missing = demanded - tl.sum(tl.where(bins > edge, held_in_bin, 0), 0)
    no_higher = tl.cumsum(held_in_bin, 0)
    last_bin = tl.sum((no_higher < missing).to(tl.int32), 0)
    tl.store(decision, edge)
    tl.store(decision + 1, demanded)
    tl.store(decision + 2, missing)
    tl.store(decision + 3, last_bin)
    tl.store(decision + 4, tl.sum(tl.where(bins < last_bin, held_in_bin, 0), 0))


@triton.jit
def count_missing(
    token_bin,
    resident,
    histogram,
    length,
    block_counts,
    decision,
    context,
    columns,
    token_blocks,
    hot,
    recent,
    top_k,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Find the edge, store the set's decision, and count the tokens of a block to fetch."""
    program = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    candidates = tl.load(length) + 1 - recent
    if (candidates <= hot) | (program.to(tl.int64) * BLOCK >= candidates):
        return
    bins = tl.arange(0, BINS)
    in_bin = tl.load(histogram + row_set * 2 * BINS + bins)
    token = program * BLOCK + tl.arange(0, BLOCK)
    inside = token < candidates
    key = tl.load(token_bin + row_set * columns + token, mask=inside, other=-1).to(tl.int32)
    missing = tl.load(resident + row_set * context + token, mask=inside, other=1) == 0
    no_lower = tl.cumsum(in_bin, 0, reverse=True)
    # There are more candidates than slots, so the count of the highest bins exceeds m at some bin: the edge.
    edge = tl.max(tl.where(no_lower > tl.minimum(top_k, hot), bins, 0), 0)
    if program == 0:
        held_in_bin = tl.load(histogram + (row_set * 2 + 1) * BINS + bins)
        _store_decision(decision + row_set * 5, in_bin, held_in_bin, edge, BINS)
    tl.store(
        block_counts + row_set * token_blocks + program, tl.sum(((key > edge) & missing).to(tl.int32), 0)
    )


@triton.jit
def _list_tokens(
    token_bin,
    resident,
    block_counts,
    edge,
    plan_token,
    block,
    candidates,
    BLOCK: tl.constexpr,
    TOKEN_BLOCKS_PAD: tl.constexpr,
):
    """List the tokens of a block to fetch; pointers are the set's own."""
    number = tl.arange(0, TOKEN_BLOCKS_PAD)
    counts = tl.load(block_counts + number, mask=number < block, other=0)
    token = block * BLOCK + tl.arange(0, BLOCK)
    inside = token < candidates
    key = tl.load(token_bin + token, mask=inside, other=-1).to(tl.int32)
    missing = tl.load(resident + token, mask=inside, other=1) == 0
    wanted = (key > edge) & missing
    before = tl.sum(counts, 0)
    tl.store(plan_token + before + tl.cumsum(wanted.to(tl.int32), 0) - 1, token, mask=wanted)


@triton.jit
def _compare_slots(slot_bin, slot, hot, last_bin):
    """Return 1 for slots below the last bin that leaves, 2^16 for slots in it: one scan counts both."""
    key = tl.load(slot_bin + slot, mask=slot < hot, other=32767).to(tl.int32)
    return (key < last_bin).to(tl.int32) + ((key == last_bin).to(tl.int32) << 16)


@triton.jit
def _list_slots(slot_bin, plan_slot, leaving, block, hot, missing, last_bin, lower, BLOCK: tl.constexpr):
    """List the slots of a block that are taken; in the list, slots of the last bin follow all others."""
    low_place = -1
    tie_place = lower - 1
    earlier = 0
    while earlier < block:
        both = tl.sum(_compare_slots(slot_bin, earlier * BLOCK + tl.arange(0, BLOCK), hot, last_bin), 0)
        low_place += both & 0xFFFF
        tie_place += both >> 16
        earlier += 1
    slot = block * BLOCK + tl.arange(0, BLOCK)
    both = _compare_slots(slot_bin, slot, hot, last_bin)
    scan = tl.cumsum(both, 0)
    low = (both & 0xFFFF) > 0
    tl.store(plan_slot + low_place + (scan & 0xFFFF), slot, mask=low)
    tie_place += scan >> 16
    tie = (both >= 0x10000) & (tie_place < missing)
    tl.store(plan_slot + tie_place, slot, mask=tie)
    tl.store(leaving + slot, (low | tie).to(tl.int8), mask=slot < hot)


@triton.jit
def _finish(histogram, plan_count, totals, wanted, missing, BINS: tl.constexpr):
    """Store the number of fetches, add to the totals, and zero the histograms of the set."""
    tl.store(plan_count, missing)
    # Integer sums do not depend on the order of the sets.
    tl.atomic_add(totals, tl.full([], wanted, tl.int64), sem="relaxed")
    tl.atomic_add(totals + 1, tl.full([], missing, tl.int64), sem="relaxed")
    tl.store(histogram + tl.arange(0, 2 * BINS), 0)


@triton.jit
def list_fetches(
    token_bin,
    slot_bin,
    resident,
    block_counts,
    decision,
    histogram,
    length,
    plan_token,
    plan_slot,
    plan_count,
    leaving,
    totals,
    context,
    columns,
    token_blocks,
    hot,
    recent,
    top_k,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKEN_BLOCKS_PAD: tl.constexpr,
):
    """List the tokens of a block to fetch, or the slots of a block to take."""
    block = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    candidates = tl.load(length) + 1 - recent
    decision += row_set * 5
    if block < token_blocks:
        if (candidates > hot) & (block.to(tl.int64) * BLOCK < candidates):
            _list_tokens(
                token_bin + row_set * columns,
                resident + row_set * context,
                block_counts + row_set * token_blocks,
                tl.load(decision),
                plan_token + row_set * hot,
                block,
                candidates,
                BLOCK,
                TOKEN_BLOCKS_PAD,
            )
        return
    block -= token_blocks
    wanted = tl.maximum(tl.minimum(tl.minimum(top_k, hot), candidates), 0).to(tl.int32)
    missing = 0
    # Below all int16 numbers, so no slot is in a bin that leaves.
    last_bin = -40000
    lower = 0
    if candidates > hot:
        wanted = tl.load(decision + 1)
        missing = tl.load(decision + 2)
        last_bin = tl.load(decision + 3)
        lower = tl.load(decision + 4)
    _list_slots(
        slot_bin + row_set * hot,
        plan_slot + row_set * hot,
        leaving + row_set * hot,
        block,
        hot,
        missing,
        last_bin,
        lower,
        BLOCK,
    )
    if block == 0:
        _finish(histogram + row_set * 2 * BINS, plan_count + row_set, totals, wanted, missing, BINS)
