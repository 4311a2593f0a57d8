"""What the kernels of a decode step read and write: tensors that are allocated once and never move.

A step can then be captured in a CUDA graph. Nothing here depends on how many tokens there are: that number is
on the device, in ``length`` (int64, ``[1]``), the tokens stored *before* the step. The step's token stands at
``t = length``; after it there are ``n = t + 1`` tokens, of which the newest ``min(n, W)`` are in the ring and
the first ``max(0, n - W)`` are *candidates* for the C hot slots. While all candidates fit, slot i holds token
i; from then on all slots are filled.

All tensors are contiguous. Letters: ``sets`` row sets (a KV head each, or a query head each), ``share`` of
them to a KV head; N queries a set; d head size; r rank; ``context`` tokens there is room for; ``bucket`` an
upper bound of n, known to the host.

The *codes* of the index are int8 or floating ``[sets, context, r]``, or of 4 bits, packed in uint8
``[sets, context, r / 2]`` (``kernels.codes``). A code times the index's scale is the row's k̂.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lrqk_cli.memory import scratch
from lrqk_cli.memory.tensors import empty

# The log-score where the lowest bin of the histogram of scores begins.
LOWEST_SCORE = -16.0


class Residents(NamedTuple):
    """Rows on the device.

    Attributes:
        rows: ``[sets, W + C, 2, d]``, the ring first (token j at ``j % W``), K before V.
        slot_token: int64 ``[sets, C]``, the token in each hot slot; -1 where empty.
        resident: bool ``[sets, context]``, whether a token is in a hot slot.
    """

    rows: Tensor
    slot_token: Tensor
    resident: Tensor

    @property
    def hot(self) -> int:
        """C, the hot slots of a set."""
        return self.slot_token.shape[1]

    @property
    def recent(self) -> int:
        """W, the rows of the ring."""
        return self.rows.shape[1] - self.hot


class IndexMaps(NamedTuple):
    """The maps to the low-rank space, in float32.

    Attributes:
        query: ``[sets, d, r]``, with the scale of the index multiplied in.
        key: ``[sets, d, r]``, without it.
        mean: the mean key, ``[KV, d]``.
        scale: what a code of one stands for, ``[sets, r]``; ones for a floating index. With 4 bits it is so
            small that outliers saturate, in int8 only keys that came after the fit can.
    """

    query: Tensor
    key: Tensor
    mean: Tensor
    scale: Tensor


class Projected(NamedTuple):
    """A step's queries in the low-rank space, in float32.

    Attributes:
        codes: ``[sets, N, r]``.
        offset: what is added to ``q̂ k̂ᵀ`` for every token, ``[sets, N]``.
    """

    codes: Tensor
    offset: Tensor

    @classmethod
    def empty(cls, sets: int, queries: int, rank: int, device: torch.device) -> Projected:
        """Allocate."""
        return cls(**_allocate(scratch.projected(sets, queries, rank), device))


class TokenScores(NamedTuple):
    """Predicted logits of all tokens, and sums over spans of them, in float32; what lies past n is undefined.

    A span has ``score_span(sets, bucket)`` tokens.

    Attributes:
        logits: ``[sets, N, bucket]``.
        masses: ``[sets, N, 3, spans]``: of each span the largest logit x, then ``Σ exp(logit - x)`` over all
            its tokens, then the same over its candidates that are not resident.
        code_sums: ``[sets, N, spans, r]``, ``Σ exp(logit - x) · code`` over the span's candidates that are
            not resident; None where no tail is wanted.
    """

    logits: Tensor
    masses: Tensor
    code_sums: Tensor | None = None

    @classmethod
    def empty(
        cls, sets: int, queries: int, bucket: int, device: torch.device, *, tail_rank: int | None = None
    ) -> TokenScores:
        """Allocate; ``tail_rank`` is r where a tail is wanted."""
        return cls(**_allocate(scratch.token_scores(sets, queries, bucket, tail_rank), device))

    @property
    def span(self) -> int:
        """Tokens of a span."""
        return scratch.score_span(self.logits.shape[0], self.logits.shape[2])


class FetchPlan(NamedTuple):
    """Which tokens come into which hot slots: entry ``i < counts[set]`` of each set; the rest is undefined.

    Attributes:
        token, slot: int32 ``[sets, C]``.
        counts: int32 ``[sets]``, the entries of each set.
        totals: int64 ``[2]``, rows demanded and rows fetched, added up over steps and sets.
        leaving: bool ``[sets, C]``, whether the row in a slot is to be replaced.
    """

    token: Tensor
    slot: Tensor
    counts: Tensor
    totals: Tensor
    leaving: Tensor

    @classmethod
    def empty(cls, sets: int, hot: int, device: torch.device) -> FetchPlan:
        """Allocate, with totals of zero."""
        plan = cls(**_allocate(scratch.fetch_plan(sets, hot), device))
        plan.totals.zero_()
        return plan


class Fetch(NamedTuple):
    """Rows that are to take their slots.

    Attributes:
        plan: which, and where.
        store: all rows, ``[KV, context, 2, d]``; pinned host memory where the rest is on a GPU.
    """

    plan: FetchPlan
    store: Tensor


class SelectScratch(NamedTuple):
    """What the launches of ``select_rows`` leave each other.

    Attributes:
        token_bin: int16 ``[sets, bucket]``, the bin of each candidate's score.
        slot_bin: int16 ``[sets, C]``, the bin that decides when the row in a slot leaves.
        histogram: int32 ``[sets, 2, BINS]``, of candidates and of slots; zero between steps.
        block_counts: int32 ``[sets, blocks]``, the tokens to fetch in each block of ``SELECT_BLOCK``.
        decision: int32 ``[sets, 5]``: the bin above which tokens are demanded, how many are, how many of them
            are missing, the last bin from which slots are taken, and the slots below that.
    """

    token_bin: Tensor
    slot_bin: Tensor
    histogram: Tensor
    block_counts: Tensor
    decision: Tensor

    @classmethod
    def empty(cls, sets: int, hot: int, bucket: int, device: torch.device) -> SelectScratch:
        """Allocate, with histograms of zeros."""
        made = cls(**_allocate(scratch.select_scratch(sets, hot, bucket), device))
        made.histogram.zero_()
        return made


class AttendScratch(NamedTuple):
    """What each split of the residents contributes, in float32; unused splits are undefined.

    Where rows are fetched, the first ``fetch_splits(C)`` are theirs; then come those of ``split_rows`` rows.

    Attributes:
        output: ``[sets, splits, N, d]``, normalised within the split.
        lse: ``[sets, N, splits]``.
        masses: ``[sets, N, 2, fetch splits]``: the largest predicted logit x of the rows that a split
            replaces and of those it fetches, and ``Σ exp(logit - x)`` over the former less the latter.
        code_sums: ``[sets, N, fetch splits, r]``, ``Σ exp(logit - x) · code`` likewise; None where there is
            no tail, or nothing is fetched.
    """

    output: Tensor
    lse: Tensor
    masses: Tensor
    code_sums: Tensor | None = None

    @classmethod
    def empty(
        cls,
        sets: int,
        queries: int,
        rows: int,
        width: int,
        device: torch.device,
        *,
        tail_rank: int | None = None,
        fetching: int = 0,
    ) -> AttendScratch:
        """Allocate for ``rows`` (W + C) residents a set of head size ``width``, and for a tail of rank r.

        Args:
            fetching: C, where rows are fetched while attention runs.
        """
        shapes = scratch.attend_scratch(sets, queries, rows, width, tail_rank, fetching=fetching)
        return cls(**_allocate(shapes, device))


class Tail(NamedTuple):
    """What the rows that are not resident add: their predicted mass, and a linear function of their codes.

    Attributes:
        scores: as ``score_tokens`` left them, with ``code_sums``.
        codes: the index.
        slope: M with the scale of the index multiplied in, float32 ``[sets, r, d]``; zeros let all rows
            count with their mean value.
        intercept: b, float32 ``[sets, d]``.
    """

    scores: TokenScores
    codes: Tensor
    slope: Tensor
    intercept: Tensor


def _allocate(shapes: scratch.Shapes, device: torch.device) -> dict[str, Tensor]:
    return {name: empty(shape, device) for name, shape in shapes.items()}
