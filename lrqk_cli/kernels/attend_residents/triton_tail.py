"""The tail before a step's fetches: the sums of ``score_tokens`` over its spans, summed for each query.

There are many spans and few queries, so this takes longer than a merge should. ``attend_split`` has programs
for it, which run while others wait for rows.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_spans(
    masses,
    code_sums,
    split_masses,
    split_code_sums,
    query,
    spans,
    used_spans,
    RANK: tl.constexpr,
    ENTRIES: tl.constexpr,
    SPANS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
    RANK_CHUNK: tl.constexpr,
):
    """Store a query's sums of all spans as the last of its ``ENTRIES``; pointers are of all queries.

    Args:
        CHUNK, RANK_CHUNK: spans, and dimensions, of the code sums to take at once.
    """
    masses += query * (3 * spans)
    code_sums += query * spans * RANK
    split_masses += query * (2 * ENTRIES)
    split_code_sums += query * ENTRIES * RANK
    every = tl.arange(0, SPANS_PAD)
    peaks = tl.load(masses + every, mask=every < used_spans, other=float("-inf"))
    parts = tl.load(masses + 2 * spans + every, mask=every < used_spans, other=0.0)
    # Every span has tokens, so its peak is finite.
    peak = tl.max(peaks, 0)
    tl.store(split_masses + ENTRIES - 1, peak)
    tl.store(split_masses + 2 * ENTRIES - 1, tl.sum(parts * tl.exp(peaks - peak), 0))
    for first in range(0, RANK, RANK_CHUNK):
        dim = first + tl.arange(0, RANK_CHUNK)
        total = tl.zeros([CHUNK, RANK_CHUNK], tl.float32)
        start = 0
        # Not a ``for``: with numpy 2.4 and later, Triton's interpreter does not accept tensors as bounds.
        while start < used_spans:
            span = start + tl.arange(0, CHUNK)
            inside = span < used_spans
            weight = tl.exp(tl.load(masses + span, mask=inside, other=float("-inf")) - peak)
            place = code_sums + span[:, None] * RANK + dim[None, :]
            total += weight[:, None] * tl.load(place, mask=inside[:, None] & (dim < RANK)[None, :], other=0.0)
            start += CHUNK
        tl.store(split_code_sums + (ENTRIES - 1) * RANK + dim, tl.sum(total, 0), mask=dim < RANK)
