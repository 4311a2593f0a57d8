"""Decode steps with lengths on the device: no shape depends on data, and the device never waits for the host.

So a step can be captured in a CUDA graph and replayed. The layers of a cache share one ``DeviceState``; each
layer has its own step object, which works on the layer's tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.device_state import DeviceState
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.hot_set import HotSet
from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.projection import Projector
from lrqk_cli.attention.tail import ValueTail
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels.buffers import (
    Drafts,
    Fetch,
    IndexMaps,
    Projected,
    Residents,
    Tail,
    TokenScores,
)
from lrqk_cli.kernels.launch_scratch import AttendScratch


class _Chosen(NamedTuple):
    """What a step attends to beside the residents, and the memory for it; see ``attend_residents``."""

    scratch: AttendScratch
    fetch: Fetch | None = None
    tail: Tail | None = None
    drafts: Tensor | None = None


class DeviceStep(ABC):
    """One layer's part of a decode step: store the token at ``state.length``, and attend to the residents.

    A step with an index may be a verify step: a token with its drafts.

    Args:
        state: shared by all layers.
        residents: the rows that the step attends to exactly.
        weights: float32 ``[context]``, to which the step adds each token's attention weight; None to skip.
    """

    def __init__(self, state: DeviceState, residents: Residents, weights: Tensor | None) -> None:
        self._state = state
        self._residents = residents
        self._token_attention = weights

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Store the token's K and V, and attend with its queries.

        Args:
            query: ``[KV, G, S, d]``, where S is 1, or M in a verify step.
            key, value: ``[KV, S, d]``.
            params: see ``AttentionParams``.

        Returns:
            ``[KV, G, S, d]`` in the query's dtype.
        """
        state, residents, tokens = self._state, self._residents, query.shape[2]
        queries = query.reshape(residents.rows.shape[0], -1, query.shape[-1]).contiguous()
        chosen = self._store_and_select(queries, key, value, params)
        output = torch.empty_like(queries)
        lse = torch.empty(queries.shape[:2], dtype=torch.float32, device=query.device)
        sinks = params.sinks
        if sinks is not None:
            sinks = sinks.view(-1, 1).expand(-1, tokens).reshape(lse.shape)
        kernels.attend_residents(
            queries,
            residents,
            state.length,
            chosen.scratch,
            output,
            lse,
            scaling=params.scaling,
            softcap=params.softcap,
            fetch=chosen.fetch,
            tail=chosen.tail,
            sinks=sinks,
            fixed=state.space_for(output) if tokens == 1 else None,
            drafts=chosen.drafts,
        )
        if self._token_attention is not None:
            # Of a verify step only the first token counts, because drafts may be rejected.
            kernels.weigh_tokens(
                queries[:, ::tokens].contiguous(),
                residents,
                lse[:, ::tokens].contiguous(),
                state.length,
                self._token_attention,
                scaling=params.scaling,
                softcap=params.softcap,
            )
        return output.view(query.shape)

    @abstractmethod
    def _store_and_select(
        self, queries: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> _Chosen:
        """Store the tokens' rows, and choose what queries ``[sets, N, d]`` attend to."""

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
        super().__init__(state, residents, weights)
        self._scratch = state.attend_scratch(heads, size, rows.shape[-1])

    def _store_and_select(self, _: Tensor, key: Tensor, value: Tensor, __: AttentionParams) -> _Chosen:
        rows = self._residents.rows
        rows.index_copy_(1, self._state.length % rows.shape[1], torch.stack((key, value), dim=2))
        return _Chosen(self._scratch)

    def refresh(self) -> None:
        """See ``DeviceStep``; there are no fitted maps."""


class _Buffers(NamedTuple):
    """What the launches of a step hand to each other, for its number of queries."""

    projected: Projected
    scores: TokenScores
    attend: AttendScratch
    tail: Tail | None


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
        drafts: Drafts | None = None,
        weights: Tensor | None = None,
    ) -> None:
        sets, _, rank = projector.key_map.shape
        tail_rank = rank if tail is not None else None
        super().__init__(state, hot.residents, weights)
        self._config = config
        self._drafts = drafts
        self._store = store
        self._projector = projector
        self._index = index
        self._value_tail = tail
        tokens = 1 if drafts is None else 1 + drafts.rows.shape[1]
        scratch = state.lrqk_scratch(sets, rank, hot.size, store.capacity, tail_rank, tokens)
        projected, scores, self._select, plan = scratch
        attend = state.attend_scratch(
            sets, hot.rows.shape[1], hot.rows.shape[-1], tail_rank, hot.size, tokens
        )
        self._plan = plan._replace(totals=state.totals[layer])
        state.row_sets[layer] = sets
        self._maps = IndexMaps(
            query=torch.empty_like(projector.query_map),
            key=projector.key_map,
            mean=projector.key_centre(),
            scale=index.scale.squeeze(1),
        )
        self._slope = None if tail is None else torch.empty_like(tail.slope)
        verifying = _Buffers(projected, scores, attend, None)
        if tail is not None and self._slope is not None:
            verifying = verifying._replace(tail=Tail(scores, index.codes, self._slope, tail.intercept))
        # A plain step has fewer queries, in a part of the same memory.
        self._buffers = {tokens: verifying, 1: _part(verifying, projected.codes.shape[1] // tokens)}

    def refresh(self) -> None:
        """See ``DeviceStep``; multiplies the scale of the index into the query map and the tail's slope."""
        scale = self._index.scale
        self._maps.query.copy_(self._projector.query_map * scale)
        if self._slope is not None and self._value_tail is not None:
            self._slope.copy_(self._value_tail.slope * scale.mT)

    def _store_and_select(
        self, queries: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> _Chosen:
        residents, length, tokens = self._residents, self._state.length, key.shape[1]
        buffers = self._buffers[tokens]
        key, value = kernels.append_token(
            queries,
            key.contiguous(),
            value.contiguous(),
            maps=self._maps,
            codes=self._index.codes,
            store=self._store.stored,
            residents=residents,
            length=length,
            out=buffers.projected,
            drafts=self._drafts,
        )
        rows = None
        if self._drafts is not None and tokens > 1:
            rows = self._drafts.rows
            rows.copy_(torch.stack((key[:, 1:], value[:, 1:]), 2))
        if not self._state.is_choosing:
            return _Chosen(buffers.attend, drafts=rows)
        self._choose(buffers, params)
        return _Chosen(buffers.attend, Fetch(self._plan, self._store.stored), buffers.tail, rows)

    def _choose(self, buffers: _Buffers, params: AttentionParams) -> None:
        """Score all tokens, and plan the fetches."""
        residents, length = self._residents, self._state.length
        kernels.score_tokens(
            buffers.projected,
            self._index.codes,
            residents.resident,
            length,
            buffers.scores,
            recent=residents.recent,
            scaling=params.scaling,
            softcap=params.softcap,
        )
        kernels.select_rows(
            buffers.scores,
            residents,
            length,
            self._select,
            self._plan,
            top_k=self._config.top_k,
            aggregate=self._config.aggregate,
            sink_tokens=self._config.sink_tokens,
        )


def _part(buffers: _Buffers, queries: int) -> _Buffers:
    """Return the buffers for fewer queries of each row set."""
    scores, tail = buffers.scores.part(queries), buffers.tail
    tail = None if tail is None else tail._replace(scores=scores)
    return _Buffers(buffers.projected.part(queries), scores, buffers.attend.part(queries), tail)
