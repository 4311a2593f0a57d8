"""The tensors that the kernels of a decode step read and write, allocated once at fixed addresses.

So a step can be captured in a CUDA graph. No shape depends on the number of tokens: ``length`` on the device
(int64, ``[1]``) is the number of tokens stored *before* the step. The step's token is token ``t = length``.
With it there are ``n = t + 1`` tokens: the newest ``min(n, W)`` are in the ring, and the first
``max(0, n - W)`` are *candidates* for the C hot slots. As long as all candidates fit, slot i holds token i;
after that all slots are filled.

All tensors are contiguous. Letters: ``sets`` row sets (one per KV head or query head), ``share`` of them per
KV head; N queries per set; d head size; r rank; ``context`` reserved tokens; ``columns`` the
tokens that scores have room for, at least n: the steps of a cache take ``context``.

The *codes* of the index are int8 or floating ``[sets, context, r]``, or 4-bit codes packed in uint8
``[sets, context, r / 2]`` (``kernels.codes``). A code times the index's scale is the row's k̂.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from lrqk_cli.config import KvDtype
from lrqk_cli.memory import scratch
from lrqk_cli.memory.accounting import SCALE_TOKENS
from lrqk_cli.memory.tensors import empty

# The score at the lower edge of the histogram's lowest bin.
LOWEST_SCORE = 2.0**-23


class Residents(NamedTuple):
    """Rows on the device.

    Attributes:
        rows: ``[sets, W + C, 2, d]``: the ring (token j at ``j % W``), then the hot slots; K before V.
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


class Drafts(NamedTuple):
    """The drafts of a layer's newest verify step; their rows are not in the ring.

    Attributes:
        rows: ``[KV, M - 1, 2, d]``, as the store gives them back; K before V.
        pending: int64 ``[1]``, how many of them the next step moves into the ring: the accepted ones.
    """

    rows: Tensor
    pending: Tensor


class IndexMaps(NamedTuple):
    """The maps to the low-rank space, in float32.

    Attributes:
        query: ``[sets, d, r]``, with the scale of the index multiplied in.
        key: ``[sets, d, r]``, without it.
        mean: the mean key, ``[KV, d]``.
        scale: k̂ for a code of one, ``[sets, r]``; ones for a floating index. Codes of outliers saturate.
    """

    query: Tensor
    key: Tensor
    mean: Tensor
    scale: Tensor


class Projected(NamedTuple):
    """A step's queries in the low-rank space, in float32.

    Attributes:
        codes: ``[sets, N, r]``.
        offset: added to ``q̂ k̂ᵀ`` of every token, ``[sets, N]``.
    """

    codes: Tensor
    offset: Tensor

    @classmethod
    def empty(cls, sets: int, queries: int, rank: int, device: torch.device) -> Projected:
        """Allocate."""
        return cls(**allocate(scratch.projected(sets, queries, rank), device))

    def part(self, queries: int) -> Projected:
        """Return the same for fewer queries of each set, in a part of the memory."""
        return Projected(*(part_of(tensor, queries) for tensor in self))


class TokenScores(NamedTuple):
    """Predicted logits of all tokens and sums over spans of tokens, in float32; undefined beyond n.

    A span has ``score_span(sets, columns)`` tokens.

    Attributes:
        logits: ``[sets, N, columns]``.
        masses: ``[sets, N, 3, spans]``: of each span the largest logit x, then ``Σ exp(logit - x)`` over all
            its tokens, then the same sum over its non-resident candidates.
        code_sums: ``[sets, N, spans, r]``, ``Σ exp(logit - x) · code`` over the span's non-resident
            candidates; None without a tail.
    """

    logits: Tensor
    masses: Tensor
    code_sums: Tensor | None = None

    @classmethod
    def empty(
        cls, sets: int, queries: int, columns: int, device: torch.device, *, tail_rank: int | None = None
    ) -> TokenScores:
        """Allocate; ``tail_rank`` is r, or None without a tail."""
        return cls(**allocate(scratch.token_scores(sets, queries, columns, tail_rank), device))

    def part(self, queries: int) -> TokenScores:
        """Return the same for fewer queries of each set, in a part of the memory."""
        code_sums = None if self.code_sums is None else part_of(self.code_sums, queries)
        return TokenScores(part_of(self.logits, queries), part_of(self.masses, queries), code_sums)

    @property
    def span(self) -> int:
        """Tokens of a span."""
        return scratch.score_span(self.logits.shape[0], self.logits.shape[2])


class FetchPlan(NamedTuple):
    """The tokens to fetch and their hot slots: the first ``counts[set]`` entries of each set are defined.

    Attributes:
        token, slot: int32 ``[sets, C]``.
        counts: int32 ``[sets]``, the entries of each set.
        totals: int64 ``[2]``, rows demanded and rows fetched, summed over steps and sets.
        leaving: bool ``[sets, C]``, whether the row in a slot is to be replaced.
    """

    token: Tensor
    slot: Tensor
    counts: Tensor
    totals: Tensor
    leaving: Tensor

    @classmethod
    def empty(cls, sets: int, hot: int, device: torch.device) -> FetchPlan:
        """Allocate, with zero totals."""
        plan = cls(**allocate(scratch.fetch_plan(sets, hot), device))
        plan.totals.zero_()
        return plan


class RowScales(NamedTuple):
    """How 8-bit codes become the numbers of rows, see ``quantise_rows``.

    Attributes:
        channels: the centre and the spread of each channel of K and of V, for every scale group of
            ``SCALE_TOKENS`` tokens, bfloat16 ``[KV, ⌈context / SCALE_TOKENS⌉, 2, 2, d]``: centres first, K
            first; on the device.
        kv_dtype: the type of the codes.
    """

    channels: Tensor
    kv_dtype: KvDtype

    @property
    def code_dtype(self) -> torch.dtype:
        """The type of the codes."""
        return torch.int8 if self.kv_dtype == "int8" else torch.float8_e4m3fn

    @property
    def largest_code(self) -> float:
        """The largest code; minus that is the smallest."""
        return 127.0 if self.kv_dtype == "int8" else 448.0

    def of_group(self, group: int) -> tuple[Tensor, Tensor]:
        """Return centre and spread for the tokens of a scale group, float32 ``[KV, 1, 2, d]``."""
        centre, spread = self.channels[:, group, None].float().unbind(2)
        return centre, spread

    def of_tokens(self, head: int, token: Tensor) -> tuple[Tensor, Tensor]:
        """Return centre and spread for tokens ``[S]`` of a KV head, float32 ``[S, 2, d]``."""
        centre, spread = self.channels[head, token // SCALE_TOKENS].float().unbind(1)
        return centre, spread


class StoredRows(NamedTuple):
    """The rows of all tokens; in host memory that a GPU can read if the residents are on one.

    Attributes:
        rows: ``[KV, context, 2, d]``; with scales uint8 ``[KV, context, 2d + 4]``, see ``quantise_rows``.
        scales: None for rows as the model computes them.
    """

    rows: Tensor
    scales: RowScales | None = None

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """Arguments of kernels: rows, rows as int16, channels, and the number of their scale groups.

        Without scales the rows take the places of all tensors.
        """
        if self.scales is None:
            return self.rows, self.rows, self.rows, 0
        channels = self.scales.channels
        return self.rows, self.rows.view(torch.int16), channels, channels.shape[1]


class Fetch(NamedTuple):
    """Rows to fetch into hot slots.

    Attributes:
        plan: the tokens and their slots.
        store: all rows.
    """

    plan: FetchPlan
    store: StoredRows


class Tail(NamedTuple):
    """Inputs of the tail correction: predicted masses, and values as a linear function of codes.

    Attributes:
        scores: from ``score_tokens``, with ``code_sums``.
        codes: the index.
        slope: M with the scale of the index multiplied in, float32 ``[sets, r, d]``; with zeros, every row
            has the mean value.
        intercept: b, float32 ``[sets, d]``.
    """

    scores: TokenScores
    codes: Tensor
    slope: Tensor
    intercept: Tensor


def part_of(tensor: Tensor, queries: int, dim: int = 1) -> Tensor:
    """Return a contiguous tensor of the same shape but for a dimension, in a part of the memory."""
    shape = list(tensor.shape)
    shape[dim] = queries
    return tensor.flatten()[: prod(shape)].view(shape)


def allocate(shapes: scratch.Shapes, device: torch.device) -> dict[str, Tensor]:
    """Return tensors of these shapes, undefined, by name."""
    return {name: empty(shape, device) for name, shape in shapes.items()}
