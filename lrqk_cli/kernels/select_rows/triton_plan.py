"""The second and third launch of ``select_rows``: count what is missing, then write the lists.

Dependent loads determine the time of both, so a program starts all independent loads first.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.dependent_launch import await_launch_before
from lrqk_cli.kernels.select_rows.triton_bins import add_bins, histogram_of


@triton.jit
def count_missing(
    token_bin,
    slot_bin,
    slot_token,
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
    SLOTS: tl.constexpr,
):
    """Find the edge, and count the tokens of a block to fetch; or count the bins of some ``SLOTS``."""
    await_launch_before()
    program = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    candidates = tl.load(length) + 1 - recent
    if (candidates <= hot) | ((program < token_blocks) & (program.to(tl.int64) * BLOCK >= candidates)):
        return
    token_bin += row_set * columns
    histogram += row_set * 2 * BINS
    if program >= token_blocks:
        slot = (program - token_blocks) * SLOTS + tl.arange(0, SLOTS)
        # There are more candidates than slots, so every slot holds one.
        exists = slot < hot
        held = tl.load(slot_token + row_set * hot + slot, mask=exists, other=0).to(tl.int32)
        held_bin = tl.load(token_bin + held, mask=exists, other=0)
        tl.store(slot_bin + row_set * hot + slot, held_bin, mask=exists)
        add_bins(histogram + BINS, histogram_of(held_bin.to(tl.int32), exists, BINS, SLOTS), BINS)
    else:
        bins = tl.arange(0, BINS)
        in_bin = tl.load(histogram + bins)
        token = program * BLOCK + tl.arange(0, BLOCK)
        inside = token < candidates
        key = tl.load(token_bin + token, mask=inside, other=-1).to(tl.int32)
        missing = tl.load(resident + row_set * context + token, mask=inside, other=1) == 0
        no_lower = tl.cumsum(in_bin, 0, reverse=True)
        # There are more candidates than slots, so the count of the highest bins exceeds m at some bin: the
        # edge.
        edge = tl.max(tl.where(no_lower > tl.minimum(top_k, hot), bins, 0), 0)
        if program == 0:
            tl.store(decision + row_set * 2, edge)
            tl.store(decision + row_set * 2 + 1, tl.sum(tl.where(bins > edge, in_bin, 0), 0))
        count = tl.sum(((key > edge) & missing).to(tl.int32), 0)
        tl.store(block_counts + row_set * token_blocks + program, count)


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
    earlier = 0
    counts = tl.zeros([BLOCK], tl.int32)
    while earlier < block:
        counts += _compare_slots(slot_bin, earlier * BLOCK + tl.arange(0, BLOCK), hot, last_bin)
        earlier += 1
    slot = block * BLOCK + tl.arange(0, BLOCK)
    both = _compare_slots(slot_bin, slot, hot, last_bin)
    # There may be more slots than 16 bits count, but not in a block.
    low_place = tl.sum(counts & 0xFFFF, 0) - 1
    tie_place = tl.sum(counts >> 16, 0) + lower - 1
    scan = tl.cumsum(both, 0)
    low = (both & 0xFFFF) > 0
    tl.store(plan_slot + low_place + (scan & 0xFFFF), slot, mask=low)
    tie_place += scan >> 16
    tie = (both >= 0x10000) & (tie_place < missing)
    tl.store(plan_slot + tie_place, slot, mask=tie)
    tl.store(leaving + slot, (low | tie).to(tl.int8), mask=slot < hot)


@triton.jit
def _decide_slots(held_in_bin, edge, demanded, BINS: tl.constexpr):
    """Return how many tokens are missing, the last bin from which slots are taken, and the slots below it."""
    bins = tl.arange(0, BINS)
    # Resident candidates are exactly the tokens in the slots, so the slots' histogram counts them.
    missing = demanded - tl.sum(tl.where(bins > edge, held_in_bin, 0), 0)
    last_bin = tl.sum((tl.cumsum(held_in_bin, 0) < missing).to(tl.int32), 0)
    return missing, last_bin, tl.sum(tl.where(bins < last_bin, held_in_bin, 0), 0)


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
    await_launch_before()
    block = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    candidates = tl.load(length) + 1 - recent
    decision += row_set * 2
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
        held_in_bin = tl.load(histogram + (row_set * 2 + 1) * BINS + tl.arange(0, BINS))
        wanted = tl.load(decision + 1)
        missing, last_bin, lower = _decide_slots(held_in_bin, tl.load(decision), wanted, BINS)
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
        tl.store(plan_count + row_set, missing)
        # Integer sums do not depend on the order of the sets.
        tl.atomic_add(totals, tl.full([], wanted, tl.int64), sem="relaxed")
        tl.atomic_add(totals + 1, tl.full([], missing, tl.int64), sem="relaxed")
        tl.store(histogram + row_set * 2 * BINS + tl.arange(0, BINS), 0)
