"""What the decode steps of all layers of a cache share, with lengths on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

from lrqk_cli.attention.position import Position
from lrqk_cli.config import LrqkConfig
from lrqk_cli.formats import UNIT
from lrqk_cli.kernels.buffers import FetchPlan, Projected, TokenScores
from lrqk_cli.kernels.launch_scratch import AttendScratch, SelectScratch
from lrqk_cli.model_spec import ModelSpec

FixedSpace: TypeAlias = Callable[[Tensor], Tensor]


class DeviceState:
    """State that the steps of all layers of a cache share.

    Attributes:
        length: tokens stored before a step, int64 ``[1]``.
        totals: rows demanded and rows fetched by all steps of each layer so far, int64 ``[layers, 2]``.
        is_choosing: whether the next step chooses rows; otherwise all rows are resident.
        row_sets: of each layer with an index; 0 for other layers, int64 ``[layers]``.

    Args:
        position: of the cache.
        fixed_space: returns the tensor for an output in fixed point, the input of packed products; None
            without packed weights.
    """

    def __init__(self, spec: ModelSpec, position: Position, fixed_space: FixedSpace | None = None) -> None:
        self.length = position.tensor
        self._device = self.length.device
        self.totals = torch.zeros(spec.num_layers, 2, dtype=torch.int64, device=self._device)
        self.is_choosing = True
        self.row_sets = torch.zeros(spec.num_layers, dtype=torch.int64, device=self._device)
        self._fixed_space = fixed_space
        self._spec = spec
        self._selects: list[SelectScratch] = []
        # Layers run one after the other, so layers of one shape share their scratch.
        self.attend_scratch = cache(self._attend_scratch)
        self.lrqk_scratch = cache(self._lrqk_scratch)

    def space_for(self, output: Tensor) -> Tensor | None:
        """Return the tensor for an output ``[sets, N, d]`` in fixed point; None if it is not needed."""
        if self._fixed_space is None or output.shape[-1] % UNIT:
            return None
        return self._fixed_space(output)

    def forget_scratch(self) -> None:
        """Free what steps share; steps that are made from now on take it anew."""
        self.attend_scratch.cache_clear()
        self.lrqk_scratch.cache_clear()
        self._selects.clear()

    def clear_scratch(self) -> None:
        """Clear what a step has counted that ended between two of its launches."""
        for select in self._selects:
            select.histogram.zero_()

    def take_totals(self) -> list[list[int]]:
        """Return the rows demanded and fetched in each layer since the last call. Waits for the device."""
        totals: list[list[int]] = self.totals.tolist()
        self.totals.zero_()
        return totals

    def count_demands(self, config: LrqkConfig) -> None:
        """Count the rows that a step of all layers demands if it finds all rows resident."""
        candidates = (self.length + (1 - config.recent)).clamp(0, config.top_k)
        self.totals[:, 0].addcmul_(self.row_sets, candidates)

    def _attend_scratch(
        self,
        sets: int,
        rows: int,
        width: int,
        tail_rank: int | None = None,
        fetching: int = 0,
        tokens: int = 1,
    ) -> AttendScratch:
        queries = tokens * self._spec.num_heads // sets
        return AttendScratch.empty(
            sets, queries, rows, width, self._device, tail_rank=tail_rank, fetching=fetching
        )

    def _lrqk_scratch(
        self, sets: int, rank: int, hot: int, context: int, tail_rank: int | None, tokens: int
    ) -> tuple[Projected, TokenScores, SelectScratch, FetchPlan]:
        queries = tokens * self._spec.num_heads // sets
        made = (
            Projected.empty(sets, queries, rank, self._device),
            TokenScores.empty(sets, queries, context, self._device, tail_rank=tail_rank),
            SelectScratch.empty(sets, hot, context, self._device),
            FetchPlan.empty(sets, hot, self._device),
        )
        self._selects.append(made[2])
        return made
