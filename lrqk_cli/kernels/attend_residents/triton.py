"""The same in two launches, and one more where each row's weight is asked for.

1. ``attend_split``: a program for every 64 to 256 rows of a set, so that some 500 programs share the device.
   Reads all resident rows once (33 MiB at 8 sets, C 8,192, d 128 in 16 bits), and 4 bytes a query and hot
   row of predicted logits; writes one output a query and split. All queries of a set are one tile of a
   tensor-core product, padded to 16, and K and V blocks of 8 KiB (at 16 bits) pass through a pipeline
   within 48 KiB of shared memory.
2. ``combine_splits``: a program a query merges the splits (2 MiB at 65 splits, N 4) and adds tail and sinks.
3. ``weigh_rows``: 4 bytes a query and row.

The tail's mass is a difference: what ``score_tokens`` summed over all candidates, less the hot rows' part.
"""

from __future__ import annotations

import triton
from torch import Tensor

from lrqk_cli.kernels.attend_residents.triton_combine import combine_splits, weigh_rows
from lrqk_cli.kernels.attend_residents.triton_split import attend_split
from lrqk_cli.kernels.buffers import SCORE_BLOCK, AttendScratch, Residents, Tail, blocks_of, split_rows

# Elements of K, and of V, that a program loads at once.
_TILE = 4096
# Splits that are merged at once; entries of the masses that are summed at once; rows weighed at once.
_MERGE_CHUNK = 32
_MASS_CHUNK = 512
_WEIGH_BLOCK = 512


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
    tail: Tail | None = None,
    sinks: Tensor | None = None,
    out_logits: Tensor | None = None,
) -> None:
    """See the reference; at most 15 queries a set, since one row of the tile sums the values."""
    sets, queries, width = query.shape
    hot, recent = residents.hot, residents.recent
    split = split_rows(sets, recent + hot)
    splits = blocks_of(recent + hot, split)
    width_pad = max(16, triton.next_power_of_2(width))
    logits, masses = tail.scores if tail is not None else (out_lse, out_lse)
    value_sum = tail.value_sum if tail is not None else out_lse
    sizes = {
        "QUERIES": queries,
        "RECENT": recent,
        "WIDTH": width,
        "WIDTH_PAD": width_pad,
        "SPLIT": split,
        "TAIL": tail is not None,
    }
    attend_split[(splits, sets)](
        query,
        residents.rows,
        residents.slot_token,
        length,
        logits,
        *scratch,
        out_logits if out_logits is not None else out_lse,
        logits.shape[-1],
        hot,
        splits,
        scaling,
        softcap or 1.0,
        MASS_PAD=triton.next_power_of_2(queries),
        BLOCK=min(split, max(16, _TILE // width_pad)),
        SOFTCAP=softcap is not None,
        LOGITS=out_logits is not None,
        **sizes,
        num_warps=4,
        num_stages=3 if query.element_size() == 2 else 2,
    )
    combine_splits[(queries, sets)](
        *scratch,
        masses,
        value_sum,
        sinks if sinks is not None else out_lse,
        length,
        out,
        out_lse,
        sets // value_sum.shape[0],
        hot,
        masses.shape[-1],
        splits,
        CHUNK=min(_MERGE_CHUNK, triton.next_power_of_2(splits)),
        MASS_CHUNK=_MASS_CHUNK,
        SCORE_BLOCK=SCORE_BLOCK,
        SINKS=sinks is not None,
        **sizes,
        num_warps=4,
    )


def resident_weights(logits: Tensor, lse: Tensor, length: Tensor, out: Tensor, *, recent: int) -> None:
    """See the reference."""
    sets, queries, rows = logits.shape
    weigh_rows[(blocks_of(rows, _WEIGH_BLOCK), sets)](
        logits, lse, length, out, rows, recent, QUERIES=queries, BLOCK=_WEIGH_BLOCK, num_warps=4
    )
