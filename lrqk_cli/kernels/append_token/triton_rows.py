"""Where ``append_token`` writes rows: to the store in host memory, to the ring and to hot slots."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def store_row(key, value, store, WIDTH: tl.constexpr, WIDTH_PAD: tl.constexpr):
    """Copy K and V of a token to the host."""
    dim = tl.arange(0, WIDTH_PAD)
    inside = dim < WIDTH
    new_key = tl.load(key + dim, mask=inside)
    new_value = tl.load(value + dim, mask=inside)
    tl.store(store + dim, new_key, mask=inside)
    tl.store(store + WIDTH + dim, new_value, mask=inside)


@triton.jit
def append_row(
    key,
    value,
    rows,
    slot_token,
    resident,
    position,
    hot,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
):
    """Copy the ring slot's old row to its hot slot, then K and V to the ring; pointers are the set's own."""
    dim = tl.arange(0, WIDTH_PAD)
    inside = dim < WIDTH
    ring = rows + (position % RECENT) * (2 * WIDTH)
    leaving = position - RECENT
    if (leaving >= 0) & (leaving < hot):
        slot = rows + (RECENT + leaving) * (2 * WIDTH)
        tl.store(slot + dim, tl.load(ring + dim, mask=inside), mask=inside)
        tl.store(slot + WIDTH + dim, tl.load(ring + WIDTH + dim, mask=inside), mask=inside)
        tl.store(slot_token + leaving, leaving)
        tl.store(resident + leaving, 1)
    new_key = tl.load(key + dim, mask=inside)
    new_value = tl.load(value + dim, mask=inside)
    # All threads must have read the old row before any overwrites it.
    tl.debug_barrier()
    tl.store(ring + dim, new_key, mask=inside)
    tl.store(ring + WIDTH + dim, new_value, mask=inside)


@triton.jit
def append_pending(
    drafts,
    rows,
    slot_token,
    resident,
    first,
    pending,
    hot,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
):
    """Append ``pending`` rows of the draft buffer, of the tokens from ``first`` on."""
    number = 0
    while number < pending:
        row = drafts + number * (2 * WIDTH)
        position = first + number
        append_row(row, row + WIDTH, rows, slot_token, resident, position, hot, RECENT, WIDTH, WIDTH_PAD)
        # In a short ring the next row may displace this one.
        tl.debug_barrier()
        number += 1
