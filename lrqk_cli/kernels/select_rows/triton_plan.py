"""The second and third launch of ``select_rows``: counts by block, then the lists."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def count_missing(
    token_bin,
    resident,
    histogram,
    length,
    block_counts,
    threshold,
    no_higher,
    context,
    bucket,
    token_blocks,
    hot,
    recent,
    top_k,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Find the threshold, and count a block's tokens above and in its bin; one program sums bins of slots."""
    program = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    candidates = tl.load(length) + 1 - recent
    if candidates <= hot:
        return
    bins = tl.arange(0, BINS)
    if program == token_blocks:
        in_bin = tl.load(histogram + (row_set * 2 + 1) * BINS + bins)
        tl.store(no_higher + row_set * BINS + bins, tl.cumsum(in_bin, 0))
        return
    if program.to(tl.int64) * BLOCK >= candidates:
        return
    # There are more candidates than slots, so ``min(top_k, hot)`` can be had.
    wanted = tl.minimum(top_k, hot)
    in_bin = tl.load(histogram + row_set * 2 * BINS + bins)
    no_lower = tl.cumsum(in_bin, 0, reverse=True)
    edge = tl.max(tl.where(no_lower >= wanted, bins, 0), 0)
    if program == 0:
        above = tl.sum(tl.where(bins > edge, in_bin, 0), 0)
        tl.store(threshold + row_set * 2, edge)
        tl.store(threshold + row_set * 2 + 1, wanted - above)
    token = program * BLOCK + tl.arange(0, BLOCK)
    inside = token < candidates
    key = tl.load(token_bin + row_set * bucket + token, mask=inside, other=-1).to(tl.int32)
    missing = tl.load(resident + row_set * context + token, mask=inside, other=1) == 0
    counts = block_counts + row_set * 3 * token_blocks + program
    tl.store(counts, tl.sum(((key > edge) & missing).to(tl.int32), 0))
    tl.store(counts + token_blocks, tl.sum((key == edge).to(tl.int32), 0))
    tl.store(counts + 2 * token_blocks, tl.sum(((key == edge) & missing).to(tl.int32), 0))


@triton.jit
def _places(chosen, before):
    """Return the list position of each chosen element, where ``before`` come ahead of the block."""
    return before + tl.cumsum(chosen.to(tl.int32), 0) - 1


@triton.jit
def _load_counts(block_counts, token_blocks, candidates, BLOCK: tl.constexpr, TOKEN_BLOCKS_PAD: tl.constexpr):
    """Return the numbers of all blocks, and of each what ``count_missing`` found in it."""
    number = tl.arange(0, TOKEN_BLOCKS_PAD)
    used = number.to(tl.int64) * BLOCK < candidates
    above = tl.load(block_counts + number, mask=used, other=0)
    tied = tl.load(block_counts + token_blocks + number, mask=used, other=0)
    tied_missing = tl.load(block_counts + 2 * token_blocks + number, mask=used, other=0)
    return number, above, tied, tied_missing


@triton.jit
def _list_tokens(
    token_bin,
    resident,
    block_counts,
    threshold,
    plan_token,
    block,
    token_blocks,
    candidates,
    BLOCK: tl.constexpr,
    TOKEN_BLOCKS_PAD: tl.constexpr,
):
    """List the missing tokens of a block: first, over all blocks, those above the edge, then those in it."""
    number, above, tied, tied_missing = _load_counts(
        block_counts, token_blocks, candidates, BLOCK, TOKEN_BLOCKS_PAD
    )
    edge = tl.load(threshold)
    quota = tl.load(threshold + 1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    inside = token < candidates
    key = tl.load(token_bin + token, mask=inside, other=-1).to(tl.int32)
    missing = tl.load(resident + token, mask=inside, other=1) == 0
    earlier = number < block
    higher = (key > edge) & missing
    place = _places(higher, tl.sum(tl.where(earlier, above, 0), 0))
    tl.store(plan_token + place, token, mask=higher)
    rank = _places(key == edge, tl.sum(tl.where(earlier, tied, 0), 0))
    taken = (key == edge) & (rank < quota) & missing
    # Where one is taken, all in earlier blocks are.
    before = tl.sum(above, 0) + tl.sum(tl.where(earlier, tied_missing, 0), 0)
    tl.store(plan_token + _places(taken, before), token, mask=taken)


@triton.jit
def _last_taken(
    token_bin,
    resident,
    block_counts,
    threshold,
    token_blocks,
    candidates,
    BLOCK: tl.constexpr,
    TOKEN_BLOCKS_PAD: tl.constexpr,
):
    """Return the last demanded token in the edge's bin, and how many rows are missing in all."""
    number, above, tied, tied_missing = _load_counts(
        block_counts, token_blocks, candidates, BLOCK, TOKEN_BLOCKS_PAD
    )
    edge = tl.load(threshold)
    quota = tl.load(threshold + 1)
    block = tl.sum((tl.cumsum(tied, 0) < quota).to(tl.int32), 0)
    token = block * BLOCK + tl.arange(0, BLOCK)
    inside = token < candidates
    key = tl.load(token_bin + token, mask=inside, other=-1).to(tl.int32)
    rank = _places(key == edge, tl.sum(tl.where(number < block, tied, 0), 0))
    taken = (key == edge) & (rank < quota)
    missing = tl.load(resident + token, mask=inside & taken, other=1) == 0
    earlier = tl.sum(above, 0) + tl.sum(tl.where(number < block, tied_missing, 0), 0)
    return tl.max(tl.where(taken, token, -1), 0), earlier + tl.sum(missing.to(tl.int32), 0)


@triton.jit
def _leaving(slot_bin, slot_token, place, hot, last_bin, edge, last_token):
    """Return which slots of a block lie below the last bin that leaves, and which in it may leave."""
    inside = place < hot
    key = tl.load(slot_bin + place, mask=inside, other=32767).to(tl.int32)
    tie = inside & (key == last_bin)
    held = tl.load(slot_token + place, mask=tie, other=0)
    # Only the bin of the edge holds demanded tokens too.
    last_demanded = tl.where(last_bin < edge, -1, last_token)
    return key < last_bin, tie & (held > last_demanded)


@triton.jit
def _list_slots(
    slot_bin,
    slot_token,
    no_higher,
    threshold,
    plan_slot,
    leaving,
    hot,
    last_token,
    missing,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """List the slots of a set that are taken: first those of bins that leave whole."""
    bins = tl.arange(0, BINS)
    counts = tl.load(no_higher + bins)
    edge = tl.load(threshold)
    last_bin = tl.minimum(tl.sum((counts < missing).to(tl.int32), 0), edge)
    lower = tl.sum(tl.where(bins == last_bin - 1, counts, 0), 0)
    lows = 0
    ties = lower
    start = 0
    while start < hot:
        slot = start + tl.arange(0, BLOCK)
        low, tie = _leaving(slot_bin, slot_token, slot, hot, last_bin, edge, last_token)
        tl.store(plan_slot + _places(low, lows), slot, mask=low)
        place = _places(tie, ties)
        taken = tie & (place < missing)
        tl.store(plan_slot + place, slot, mask=taken)
        tl.store(leaving + slot, (low | taken).to(tl.int8), mask=slot < hot)
        lows += tl.sum(low.to(tl.int32), 0)
        ties += tl.sum(tie.to(tl.int32), 0)
        start += BLOCK


@triton.jit
def _keep_all(leaving, hot, BLOCK: tl.constexpr):
    """Note that no slot of a set is taken."""
    start = 0
    while start < hot:
        slot = start + tl.arange(0, BLOCK)
        tl.store(leaving + slot, tl.zeros([BLOCK], tl.int8), mask=slot < hot)
        start += BLOCK


@triton.jit
def _add_totals(totals, wanted, missing):
    """Count rows demanded and rows missing; sums of integers do not depend on the order of the sets."""
    tl.atomic_add(totals, tl.full([], wanted, tl.int64), sem="relaxed")
    tl.atomic_add(totals + 1, tl.full([], missing, tl.int64), sem="relaxed")


@triton.jit
def list_fetches(
    token_bin,
    slot_bin,
    resident,
    slot_token,
    block_counts,
    threshold,
    no_higher,
    histogram,
    length,
    plan_token,
    plan_slot,
    plan_count,
    leaving,
    totals,
    context,
    bucket,
    token_blocks,
    hot,
    recent,
    top_k,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKEN_BLOCKS_PAD: tl.constexpr,
):
    """List the missing tokens of a block, or the slots of the set that they take."""
    block = tl.program_id(0)
    row_set = tl.program_id(1).to(tl.int64)
    candidates = tl.load(length) + 1 - recent
    token_bin += row_set * bucket
    resident += row_set * context
    block_counts += row_set * 3 * token_blocks
    threshold += row_set * 2
    if block < token_blocks:
        if (candidates > hot) & (block.to(tl.int64) * BLOCK < candidates):
            _list_tokens(
                token_bin,
                resident,
                block_counts,
                threshold,
                plan_token + row_set * hot,
                block,
                token_blocks,
                candidates,
                BLOCK,
                TOKEN_BLOCKS_PAD,
            )
        return
    missing = 0
    last = 0
    leaving += row_set * hot
    if candidates > hot:
        last, missing = _last_taken(
            token_bin, resident, block_counts, threshold, token_blocks, candidates, BLOCK, TOKEN_BLOCKS_PAD
        )
    if missing > 0:
        _list_slots(
            slot_bin + row_set * hot,
            slot_token + row_set * hot,
            no_higher + row_set * BINS,
            threshold,
            plan_slot + row_set * hot,
            leaving,
            hot,
            last,
            missing,
            BINS,
            BLOCK,
        )
    else:
        _keep_all(leaving, hot, BLOCK)
    wanted = tl.maximum(tl.minimum(tl.minimum(top_k, hot), candidates), 0)
    _add_totals(totals, wanted, missing)
    tl.store(plan_count + row_set, missing)
    tl.store(histogram + row_set * 2 * BINS + tl.arange(0, 2 * BINS), 0)
