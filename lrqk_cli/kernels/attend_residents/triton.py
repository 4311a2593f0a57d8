"""The same in two launches.

1. ``attend_split``: up to 31 programs per set read the planned rows from host memory, 16 at a time, copy them
   into their slots and attend to them. With a tail, one program per query sums the code sums of all spans
   (1.3 MiB at 64K tokens). All other programs attend to the rows that stay, 64 to 256 rows of a set each, so
   that about 500 programs share the device, and hide the link's latency. Reads all resident rows once (33 MiB
   at 8 sets, C 8,192, d 128 in 16 bits), and for each row that enters or leaves its index code and 4 bytes
   per query of predicted logits; writes one output per query and split. All queries of a set are one
   tensor-core tile, padded to 16 or 32, and K and V blocks of 8 KiB (at 16 bits) pass through a pipeline in
   48 KiB of shared memory.
2. ``combine_splits``: one program per query merges the splits (1.4 MiB at 85 splits, N 4, d 128), sums the
   code sums of spans and fetches, and adds drafts, tail and sinks; the slope is 32 KiB per set.

The tail is the sum of ``score_tokens`` over the candidates that were not resident before the step, minus the
rows that enter, plus the rows that leave.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from lrqk_cli.kernels.attend_residents.triton_combine import combine_splits
from lrqk_cli.kernels.attend_residents.triton_split import attend_split
from lrqk_cli.kernels.buffers import Fetch, Residents, Tail
from lrqk_cli.kernels.dependent_launch import DEPENDENT
from lrqk_cli.kernels.dequantise_rows.triton import row_format
from lrqk_cli.kernels.fixed_point.reference import planes_in
from lrqk_cli.kernels.launch_scratch import AttendScratch
from lrqk_cli.kernels.primitives import tile_rows
from lrqk_cli.memory.accounting import SCALE_TOKENS
from lrqk_cli.memory.scratch import FETCH_ROWS, blocks_of, code_width, fetch_splits, split_rows

# Elements of K, of V, and of code sums of spans that a program of the first launch loads at once; elements
# that the second merges.
_TILE, _SUM_TILE = 4096, 4096
_MERGE_TILE = 8192


class _TailParts(NamedTuple):
    logits: Tensor
    masses: Tensor
    code_sums: Tensor
    codes: Tensor
    slope: Tensor
    intercept: Tensor
    split_code_sums: Tensor
    span: int
    rank: int


class _FetchParts(NamedTuple):
    token: Tensor
    slot: Tensor
    counts: Tensor
    leaving: Tensor
    store: Tensor
    factors: Tensor
    channels: Tensor
    groups: int
    resident: Tensor
    splits: int
    share: int
    format: int


class _Beside(NamedTuple):
    """What a query attends to beside splits and tail."""

    query: Tensor
    drafts: Tensor | None
    sinks: Tensor | None
    scaling: float
    cap: float


def _fetch_parts(fetch: Fetch | None, residents: Residents, stand_in: Tensor) -> _FetchParts:
    """Return the kernel's arguments; without a fetch, ``stand_in`` takes their places and is not read."""
    if fetch is None:
        none = stand_in
        return _FetchParts(*(none,) * 7, groups=0, resident=none, splits=0, share=1, format=0)
    plan, store = fetch
    return _FetchParts(
        plan.token,
        plan.slot,
        plan.counts,
        plan.leaving.view(torch.uint8),
        *store.parts,
        residents.resident.view(torch.uint8),
        fetch_splits(residents.hot),
        residents.rows.shape[0] // store.rows.shape[0],
        row_format(store),
    )


def _tail_parts(tail: Tail | None, scratch: AttendScratch, stand_in: Tensor) -> _TailParts:
    """Return the kernels' arguments; without a tail, ``stand_in`` takes their places and is not read.

    Raises:
        ValueError: there is a tail, but scores or scratch were allocated without one.
    """
    if tail is None:
        none = stand_in
        return _TailParts(none, none, none, none, none, none, none, 1, 1)
    scores = tail.scores
    if scores.code_sums is None or scratch.code_sums is None:
        raise ValueError("the tail needs scores and scratch with code sums")
    return _TailParts(
        scores.logits,
        scores.masses,
        scores.code_sums,
        tail.codes,
        tail.slope,
        tail.intercept,
        scratch.code_sums,
        scores.span,
        tail.slope.shape[1],
    )


def attend_residents(
    query: Tensor,
    residents: Residents,
    length: Tensor,
    scratch: AttendScratch,
    out: Tensor,
    out_lse: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    fetch: Fetch | None = None,
    tail: Tail | None = None,
    sinks: Tensor | None = None,
    fixed: Tensor | None = None,
    drafts: Tensor | None = None,
) -> None:
    """See the reference; at most 32 queries per set."""
    sets, queries, width = query.shape
    hot, recent = residents.hot, residents.recent
    split = split_rows(sets, recent + hot)
    fetched = _fetch_parts(fetch, residents, out_lse)
    splits = fetched.splits + blocks_of(recent + hot, split)
    width_pad = max(16, triton.next_power_of_2(width))
    parts = _tail_parts(tail, scratch, out_lse)
    sizes: dict[str, int] = {
        "QUERIES": queries,
        "SOFTCAP": softcap is not None,
        "RANK": parts.rank,
        "RECENT": recent,
        "WIDTH": width,
        "WIDTH_PAD": width_pad,
        "SPLIT": split,
        "FETCHES": fetched.splits,
        "FETCH_ROWS": FETCH_ROWS,
        "TAIL": tail is not None,
    }
    spans = parts.masses.shape[-1]
    code_chunk = min(64, triton.next_power_of_2(parts.rank))
    attend_split[(splits + (queries if tail is not None else 0), sets)](
        query,
        residents.rows,
        residents.slot_token,
        length,
        parts.logits,
        parts.codes,
        *fetched[:9],
        parts.masses,
        parts.code_sums,
        *scratch[:3],
        parts.split_code_sums,
        residents.resident.shape[1],
        parts.logits.shape[-1],
        spans,
        hot,
        fetched.share,
        splits,
        scaling,
        softcap or 1.0,
        TILE=max(16, tile_rows(queries)),
        ROWS=tile_rows(queries),
        RANK_PAD=code_width(parts.rank),
        BLOCK=min(split, max(16, _TILE // width_pad)),
        SPAN=parts.span,
        SPANS_PAD=triton.next_power_of_2(spans),
        SPAN_CHUNK=_SUM_TILE // code_chunk,
        CODE_CHUNK=code_chunk,
        FORMAT=fetched.format,
        SCALE_TOKENS=SCALE_TOKENS,
        **sizes,
        num_warps=4,
        num_stages=3 if query.element_size() == 2 else 2,
        **DEPENDENT,
    )
    beside = _Beside(query, drafts, sinks, scaling, softcap or 1.0)
    _combine(scratch, parts, beside, fetched.counts, length, out, out_lse, fixed, hot, splits, sizes)


def _combine(
    scratch: AttendScratch,
    parts: _TailParts,
    beside: _Beside,
    counts: Tensor,
    length: Tensor,
    out: Tensor,
    out_lse: Tensor,
    fixed: Tensor | None,
    hot: int,
    splits: int,
    sizes: dict[str, int],
) -> None:
    sets, queries = out_lse.shape
    width_pad, splits_pad = sizes["WIDTH_PAD"], triton.next_power_of_2(splits)
    rank_chunk = min(triton.next_power_of_2(parts.rank), _MERGE_TILE // width_pad)
    drafts, sinks = beside.drafts, beside.sinks
    combine_splits[(queries, sets)](
        beside.query,
        beside.query if drafts is None else drafts,
        *scratch[:3],
        parts.split_code_sums,
        parts.slope,
        parts.intercept,
        sinks if sinks is not None else out_lse,
        counts,
        length,
        out,
        out_lse,
        out_lse if fixed is None else fixed,
        hot,
        splits,
        1 if drafts is None else sets // drafts.shape[0],
        beside.scaling,
        beside.cap,
        DRAFTS=0 if drafts is None else drafts.shape[1],
        MERGE_CHUNK=min(_MERGE_TILE // width_pad, splits_pad),
        RANK_CHUNK=rank_chunk,
        SPLITS_PAD=splits_pad,
        ENTRIES_PAD=triton.next_power_of_2(sizes["FETCHES"] + 1),
        SINKS=sinks is not None,
        PLANES=0 if fixed is None else planes_in(fixed),
        **sizes,
        num_warps=4,
        **DEPENDENT,
    )
