"""The same in one launch: the GPU reads the rows from host memory itself.

The grid is fixed, as the host does not know the counts: ``sets · min(C / 4, 64)`` programs. Each takes four
rows at a time up to the set's count, so up to 256 rows of a set are in flight, and an idle program costs one
load. Bytes: a row's elements over the link (2·d + 4 bytes of rows with scales), and as many elements into
device memory. A row has 2·d elements, or d where the key is the value too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lrqk_cli.kernels.buffers import FetchPlan, Residents, StoredRows
from lrqk_cli.kernels.dequantise_rows.triton import PLAIN_ROWS, load_rows, rounded_for, row_format
from lrqk_cli.memory.accounting import SCALE_TOKENS
from lrqk_cli.memory.scratch import blocks_of

# Rows that a program copies at once: one per warp.
_ROWS = 4
# The most programs per row set.
_PROGRAMS = 64


@triton.jit
def load_stored(
    store,
    factors,
    channels,
    groups,
    head,
    context,
    token,
    inside,
    part,
    mask,
    rows,
    ROW: tl.constexpr,
    FORMAT: tl.constexpr,
    SCALE_TOKENS: tl.constexpr,
):
    """Return the columns ``part`` ``[1, n]`` of tokens' stored rows, in the type that ``rows`` points to.

    ``store``, ``factors`` and ``channels`` are of all KV heads (``StoredRows.parts``); a row has ROW numbers.
    """
    if FORMAT == PLAIN_ROWS:
        return tl.load(store + head * context * ROW + token[:, None] * ROW + part, mask=mask, other=0.0)
    numbers = load_rows(
        store + head * context * (ROW + 4),
        factors + head * context * (ROW // 2 + 2),
        channels + head * groups * (2 * ROW),
        token,
        token,
        inside,
        part,
        mask,
        ROW // 2,
        FORMAT,
        SCALE_TOKENS,
    )
    return rounded_for(numbers, rows)


@triton.jit
def take_slots(slot_token, resident, slot, token, leaving, inside):
    """Note which tokens are in the slots now; pointers are the set's own."""
    tl.store(resident + leaving, 0, mask=inside)
    tl.store(resident + token, 1, mask=inside)
    # Several threads may load the same ``leaving``; all must have read it before it is overwritten.
    tl.debug_barrier()
    tl.store(slot_token + slot, token, mask=inside)


@triton.jit
def _replace(
    store,
    factors,
    channels,
    groups,
    plan_token,
    plan_slot,
    plan_count,
    rows,
    slot_token,
    resident,
    share,
    context,
    hot,
    recent,
    programs,
    ROW: tl.constexpr,
    ROW_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    FORMAT: tl.constexpr,
    SCALE_TOKENS: tl.constexpr,
):
    row_set = tl.program_id(1).to(tl.int64)
    count = tl.load(plan_count + row_set)
    plan_token += row_set * hot
    plan_slot += row_set * hot
    slot_token += row_set * hot
    resident += row_set * context
    rows += (row_set * (recent + hot) + recent) * ROW
    part = tl.arange(0, ROW_PAD)[None, :]
    first = tl.program_id(0) * ROWS
    while first < count:
        entry = first + tl.arange(0, ROWS)
        inside = entry < count
        token = tl.load(plan_token + entry, mask=inside, other=0).to(tl.int64)
        slot = tl.load(plan_slot + entry, mask=inside, other=0).to(tl.int64)
        mask = inside[:, None] & (part < ROW)
        row = load_stored(
            store, factors, channels, groups, row_set // share, context, token, inside, part, mask, rows,
            ROW, FORMAT, SCALE_TOKENS,
        )  # fmt: skip
        leaving = tl.load(slot_token + slot, mask=inside, other=0)
        tl.store(rows + slot[:, None] * ROW + part, row, mask=mask)
        take_slots(slot_token, resident, slot, token, leaving, inside)
        first += programs * ROWS


def replace_rows(residents: Residents, plan: FetchPlan, store: StoredRows) -> None:
    """See the reference; ``store`` is in host memory that the GPU can read."""
    heads, context = store.rows.shape[:2]
    row = residents.rows[0, 0].numel()
    sets, hot = plan.token.shape
    programs = min(_PROGRAMS, blocks_of(hot, _ROWS))
    _replace[(programs, sets)](
        *store.parts,
        plan.token,
        plan.slot,
        plan.counts,
        residents.rows,
        residents.slot_token,
        residents.resident.view(torch.uint8),
        sets // heads,
        context,
        hot,
        residents.recent,
        programs,
        ROW=row,
        ROW_PAD=triton.next_power_of_2(row),
        ROWS=_ROWS,
        FORMAT=row_format(store),
        SCALE_TOKENS=SCALE_TOKENS,
        num_warps=4,
    )
