"""Decode steps with lengths on the device: no shape depends on data, and the device never waits for the host.

So a step can be captured in a CUDA graph and replayed. The layers of a cache share one ``DeviceState``; each
layer has its own step object, which works on the layer's tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.hot_set import HotSet
from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.position import Position
from lrqk_cli.attention.projection import Projector
from lrqk_cli.attention.tail import ValueTail
from lrqk_cli.config import LrqkConfig, ModelSpec
from lrqk_cli.formats import UNIT
from lrqk_cli.kernels.buffers import (
    AttendScratch,
    Fetch,
    FetchPlan,
    IndexMaps,
    Projected,
    Residents,
    SelectScratch,
    Tail,
    TokenScores,
)

FixedSpace: TypeAlias = Callable[[Tensor], Tensor]

# Rows of a tensor-core tile: one per query.
_MOST_QUERIES = 16


def has_device_steps(spec: ModelSpec, config: LrqkConfig, device: torch.device) -> bool:
    """Return whether all layers of a cache with this configuration can have device steps."""
    if device.type != "cuda" or not kernels.has_triton() or spec.group_size > _MOST_QUERIES:
        return False
    if config.attention == "lrqk":
        return config.solver == "joint" and config.hot_policy != "refetch"
    return config.attention == "dense"


class DeviceState:
    """State that the steps of all layers of a cache share.

    Attributes:
        length: tokens stored before a step, int64 ``[1]``.
        totals: rows demanded and rows fetched by all steps of each layer so far, int64 ``[layers, 2]``.

    Args:
        position: of the cache.
        fixed_space: returns the tensor for an output in fixed point, the input of packed products; None
            without packed weights.
    """

    def __init__(self, spec: ModelSpec, position: Position, fixed_space: FixedSpace | None = None) -> None:
        self.length = position.tensor
        self._device = self.length.device
        self.totals = torch.zeros(spec.num_layers, 2, dtype=torch.int64, device=self._device)
        self._fixed_space = fixed_space
        self._spec = spec
        # Layers run one after the other, so layers of one shape share their scratch.
        self.attend_scratch = cache(self._attend_scratch)
        self.lrqk_scratch = cache(self._lrqk_scratch)

    def space_for(self, output: Tensor) -> Tensor | None:
        """Return the tensor for an output ``[sets, N, d]`` in fixed point; None if it is not needed."""
        if self._fixed_space is None or output.shape[-1] % UNIT:
            return None
        return self._fixed_space(output)

    def take_totals(self) -> list[list[int]]:
        """Return the rows demanded and fetched in each layer since the last call. Waits for the device."""
        totals: list[list[int]] = self.totals.tolist()
        self.totals.zero_()
        return totals

    def _attend_scratch(
        self, sets: int, rows: int, tail_rank: int | None = None, fetching: int = 0
    ) -> AttendScratch:
        queries, width = self._spec.num_heads // sets, self._spec.head_dim
        return AttendScratch.empty(
            sets, queries, rows, width, self._device, tail_rank=tail_rank, fetching=fetching
        )

    def _lrqk_scratch(
        self, sets: int, rank: int, hot: int, context: int, tail_rank: int | None
    ) -> tuple[Projected, TokenScores, SelectScratch, FetchPlan]:
        queries = self._spec.num_heads // sets
        return (
            Projected.empty(sets, queries, rank, self._device),
            TokenScores.empty(sets, queries, context, self._device, tail_rank=tail_rank),
            SelectScratch.empty(sets, hot, context, self._device),
            FetchPlan.empty(sets, hot, self._device),
        )


class DeviceStep(ABC):
    """One layer's part of a decode step: store the token at ``state.length``, and attend to the residents.

    Args:
        state: shared by all layers.
        residents: the rows that the step attends to exactly.
        scratch: splits of the residents and of the fetched rows.
        weights: float32 ``[context]``, to which the step adds each token's attention weight; None to skip.
    """

    def __init__(
        self, state: DeviceState, residents: Residents, scratch: AttendScratch, weights: Tensor | None
    ) -> None:
        self._state = state
        self._residents = residents
        self._scratch = scratch
        self._token_attention = weights
        self._tail: Tail | None = None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Store the token's K and V, and attend with its queries.

        Args:
            query: ``[KV, G, 1, d]``.
            key, value: ``[KV, 1, d]``.
            params: see ``AttentionParams``.

        Returns:
            ``[KV, G, 1, d]`` in the query's dtype.
        """
        state, residents = self._state, self._residents
        queries = query.reshape(residents.rows.shape[0], -1, query.shape[-1]).contiguous()
        fetch = self._store_and_select(queries, key, value, params)
        output = torch.empty_like(queries)
        lse = torch.empty(queries.shape[:2], dtype=torch.float32, device=query.device)
        kernels.attend_residents(
            queries,
            residents,
            state.length,
            self._scratch,
            output,
            lse,
            scaling=params.scaling,
            softcap=params.softcap,
            fetch=fetch,
            tail=self._tail,
            sinks=None if params.sinks is None else params.sinks.view(lse.shape),
            fixed=state.space_for(output),
        )
        if self._token_attention is not None:
            kernels.weigh_tokens(
                queries,
                residents,
                lse,
                state.length,
                self._token_attention,
                scaling=params.scaling,
                softcap=params.softcap,
            )
        return output.view(query.shape)

    @abstractmethod
    def _store_and_select(
        self, queries: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> Fetch | None:
        """Store the token's row, and choose the rows to fetch for queries ``[sets, N, d]``; None if dense."""

    @abstractmethod
    def refresh(self) -> None:
        """Update the step's copies of the layer's fitted maps."""


class DenseDeviceStep(DeviceStep):
    """Exact attention over rows that are all on the device; the row of token t is at ``t % size``.

    Args:
        rows: ``[KV, size, 2, d]``.
        state, weights: see ``DeviceStep``.
    """

    def __init__(self, rows: Tensor, state: DeviceState, weights: Tensor | None = None) -> None:
        heads, size = rows.shape[:2]
        slot_token = torch.empty(heads, 0, dtype=torch.int64, device=rows.device)
        residents = Residents(rows, slot_token, torch.empty(heads, 0, dtype=torch.bool, device=rows.device))
        super().__init__(state, residents, state.attend_scratch(heads, size), weights)

    def _store_and_select(self, _: Tensor, key: Tensor, value: Tensor, __: AttentionParams) -> None:
        rows = self._residents.rows
        rows.index_copy_(1, self._state.length % rows.shape[1], torch.stack((key, value), dim=2))

    def refresh(self) -> None:
        """See ``DeviceStep``; there are no fitted maps."""


class LrqkStep(DeviceStep):
    """LRQK for one layer; the arguments after its number are the layer's own parts.

    For ``weights`` see ``DeviceStep``.
    """

    def __init__(
        self,
        config: LrqkConfig,
        state: DeviceState,
        layer: int,
        store: RowStore,
        projector: Projector,
        index: LowRankIndex,
        hot: HotSet,
        tail: ValueTail | None,
        weights: Tensor | None = None,
    ) -> None:
        sets, _, rank = projector.key_map.shape
        tail_rank = rank if tail is not None else None
        attend_scratch = state.attend_scratch(sets, hot.rows.shape[1], tail_rank, hot.size)
        super().__init__(state, hot.residents, attend_scratch, weights)
        self._config = config
        self._store = store
        self._projector = projector
        self._index = index
        self._value_tail = tail
        scratch = state.lrqk_scratch(sets, rank, hot.size, store.capacity, tail_rank)
        self._projected, self._scores, self._select, plan = scratch
        self._plan = plan._replace(totals=state.totals[layer])
        self._maps = IndexMaps(
            query=torch.empty_like(projector.query_map),
            key=projector.key_map,
            mean=projector.key_centre(),
            scale=index.scale.squeeze(1),
        )
        if tail is not None:
            self._tail = Tail(self._scores, index.codes, torch.empty_like(tail.slope), tail.intercept)

    def refresh(self) -> None:
        """See ``DeviceStep``; multiplies the scale of the index into the query map and the tail's slope."""
        scale = self._index.scale
        self._maps.query.copy_(self._projector.query_map * scale)
        if self._tail is not None and self._value_tail is not None:
            self._tail.slope.copy_(self._value_tail.slope * scale.mT)

    def _store_and_select(
        self, queries: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> Fetch:
        residents, length = self._residents, self._state.length
        kernels.append_token(
            queries,
            key.squeeze(1).contiguous(),
            value.squeeze(1).contiguous(),
            maps=self._maps,
            codes=self._index.codes,
            store=self._store.stored,
            residents=residents,
            length=length,
            out=self._projected,
        )
        kernels.score_tokens(
            self._projected,
            self._index.codes,
            residents.resident,
            length,
            self._scores,
            recent=residents.recent,
            scaling=params.scaling,
            softcap=params.softcap,
        )
        kernels.select_rows(
            self._scores,
            residents,
            length,
            self._select,
            self._plan,
            top_k=self._config.top_k,
            aggregate=self._config.aggregate,
            sink_tokens=self._config.sink_tokens,
        )
        return Fetch(self._plan, self._store.stored)
