"""Intermediate results between the launches of one operation; letters as in ``kernels.buffers``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import allocate, part_of
from lrqk_cli.memory import scratch


class SelectScratch(NamedTuple):
    """Intermediate results between the launches of ``select_rows``.

    Attributes:
        token_bin: int16 ``[sets, columns]``, the bin of each candidate's score.
        slot_bin: int16 ``[sets, C]``, the bin of the score of each slot's token.
        histogram: int32 ``[sets, 2, BINS]``, of candidates and of slots; that of candidates is zero between
            steps.
        block_counts: int32 ``[sets, blocks]``, the tokens to fetch in each block of ``SELECT_BLOCK``.
        decision: int32 ``[sets, 2]``: the bin above which tokens are demanded, and their number.
    """

    token_bin: Tensor
    slot_bin: Tensor
    histogram: Tensor
    block_counts: Tensor
    decision: Tensor

    @classmethod
    def empty(cls, sets: int, hot: int, columns: int, device: torch.device) -> SelectScratch:
        """Allocate, with zero histograms."""
        made = cls(**allocate(scratch.select_scratch(sets, hot, columns), device))
        made.histogram.zero_()
        return made


class AttendScratch(NamedTuple):
    """Partial attention over each split of the residents, in float32; unused splits are undefined.

    With a fetch, the first ``fetch_splits(C)`` splits are the fetched rows; others have ``split_rows`` rows.

    Attributes:
        output: ``[sets, splits, N, d]``, normalised within the split.
        lse: ``[sets, N, splits]``.
        masses: ``[sets, N, 2, fetch splits + 1]``: the largest predicted logit x over the rows that a split
            replaces or fetches, and ``Σ exp(logit - x)`` over the replaced minus that over the fetched rows;
            last, both over the spans of ``TokenScores``.
        code_sums: ``[sets, N, fetch splits + 1, r]``, the same of ``Σ exp(logit - x) · code``; None without a
            tail.
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
        """Allocate for ``rows`` (W + C) residents per set of head size ``width``, and a tail of rank r.

        Args:
            fetching: C if attention fetches rows, else 0.
        """
        shapes = scratch.attend_scratch(sets, queries, rows, width, tail_rank, fetching=fetching)
        return cls(**allocate(shapes, device))

    def part(self, queries: int) -> AttendScratch:
        """Return the same for fewer queries of each set, in a part of the memory."""
        code_sums = None if self.code_sums is None else part_of(self.code_sums, queries)
        output = part_of(self.output, queries, dim=2)
        return AttendScratch(output, part_of(self.lse, queries), part_of(self.masses, queries), code_sums)
