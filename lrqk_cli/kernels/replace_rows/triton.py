"""The same in one launch: the GPU reads the rows from pinned host memory itself.

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
def replace_some(
    store,
    factors,
    channels,
    groups,
    head,
    context,
    plan_token,
    plan_slot,
    rows,
    slot_token,
    resident,
    entry,
    inside,
    ROW: tl.constexpr,
    ROW_PAD: tl.constexpr,
    FORMAT: tl.constexpr,
    SCALE_TOKENS: tl.constexpr,
):
    """Copy the rows of plan entries into their slots; return the slots, the new and the replaced tokens.

    ``store``, ``factors`` and ``channels`` are of all KV heads (``StoredRows.parts``), all other pointers are
    the set's own; ``rows`` points to its first hot slot. A row has ROW elements.
    """
    part = tl.arange(0, ROW_PAD)[None, :]
    token = tl.load(plan_token + entry, mask=inside, other=0).to(tl.int64)
    slot = tl.load(plan_slot + entry, mask=inside, other=0).to(tl.int64)
    mask = inside[:, None] & (part < ROW)
    if FORMAT == PLAIN_ROWS:
        row = tl.load(store + head * context * ROW + token[:, None] * ROW + part, mask=mask)
    else:
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
        row = rounded_for(numbers, rows)
    leaving = tl.load(slot_token + slot, mask=inside, other=0)
    tl.store(rows + slot[:, None] * ROW + part, row, mask=mask)
    tl.store(resident + leaving, 0, mask=inside)
    tl.store(resident + token, 1, mask=inside)
    # Several threads may load the same ``leaving``; all must have read it before it is overwritten.
    tl.debug_barrier()
    tl.store(slot_token + slot, token, mask=inside)
    return slot, token, leaving


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
    first = tl.program_id(0) * ROWS
    while first < count:
        entry = first + tl.arange(0, ROWS)
        replace_some(
            store,
            factors,
            channels,
            groups,
            row_set // share,
            context,
            plan_token + row_set * hot,
            plan_slot + row_set * hot,
            rows + (row_set * (recent + hot) + recent) * ROW,
            slot_token + row_set * hot,
            resident + row_set * context,
            entry,
            entry < count,
            ROW,
            ROW_PAD,
            FORMAT,
            SCALE_TOKENS,
        )
        first += programs * ROWS


def replace_rows(residents: Residents, plan: FetchPlan, store: StoredRows) -> None:
    """See the reference; ``store`` is in pinned host memory if the residents are on a GPU."""
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
