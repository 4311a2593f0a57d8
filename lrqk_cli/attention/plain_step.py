"""The plain decode step of a layer with an index: operations of torch, with lengths on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.hot_set import HotSet
from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.layers import weigh_sinks
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.position import Position
from lrqk_cli.attention.projection import ActiveRows, Projector, QueryCodes
from lrqk_cli.attention.sources import add_weights
from lrqk_cli.attention.tail import ValueTail
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels.buffers import Drafts
from lrqk_cli.kernels.drafts import add_drafts


class PlainStep:
    """LRQK for one layer; ``LrqkStep`` does the same with lengths on the device.

    The seeding of a hot set chooses rows as a step does (``fetch``, ``scores``).

    Args:
        config: of the layer.
        position: of the cache.
        store, projector, index, hot, tail, drafts: the layer's own parts.
    """

    def __init__(
        self,
        config: LrqkConfig,
        position: Position,
        store: RowStore,
        projector: Projector,
        index: LowRankIndex,
        hot: HotSet,
        tail: ValueTail | None,
        drafts: Drafts | None,
    ) -> None:
        self._config = config
        self._tail = tail
        self._position = position
        self._store = store
        self._projector = projector
        self._index = index
        self._hot = hot
        self._drafts = drafts
        self._wanted = self._fetched = 0

    @property
    def _sets(self) -> int:
        return self._hot.rows.shape[0]

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        params: AttentionParams,
        weights: Tensor | None,
        *,
        is_held: bool,
    ) -> Tensor:
        """Attend with a token and its M - 1 drafts.

        The drafts are stored and indexed, and their queries count in the scores; their rows stay in the
        layer's ``drafts`` until they are settled.

        Args:
            query: ``[KV, G, M, d]``.
            key, value: ``[KV, M, d]``.
            params: see ``AttentionParams``.
            weights: float32 ``[context]``, to which the step adds each token's attention weight for the first
                query of each M, because drafts may be rejected; None to skip.
            is_held: all rows will be resident, and the index is not kept up.

        Returns:
            ``[KV, G, M, d]``.
        """
        length, drafts = self._position.length, key.shape[1] - 1
        queries = self.per_set(query).flatten(1, 2).unsqueeze(2)
        key, value = self._store.write(length, key, value)
        codes: QueryCodes | None = None
        if not is_held:
            codes, key_codes = self._projector.step(queries.squeeze(2), key, self._active_rows)
            self._index.write(length, key_codes)
        self._hot.append(length, key[:, :1], value[:, :1])
        self._store.await_writes()
        output, lse = self._attend(queries, codes, params)
        if weights is not None:
            self.add_weights(weights, query[:, :, :1], params, length + 1)
        grouped = self._sets, -1, drafts + 1
        output, lse = output.reshape(*grouped, output.shape[-1]), lse.reshape(grouped)
        if self._drafts is not None and drafts:
            self._drafts.rows.copy_(torch.stack((key[:, 1:], value[:, 1:]), 2))
            output, lse = add_drafts(
                output,
                lse,
                self.per_set(query),
                self._drafts.rows,
                scaling=params.scaling,
                softcap=params.softcap,
            )
        return weigh_sinks(output, lse, params.sinks).reshape(query.shape)

    def _attend(
        self, queries: Tensor, codes: QueryCodes | None, params: AttentionParams
    ) -> tuple[Tensor, Tensor]:
        """Fetch the best rows, attend to the residents with ``[sets, N, 1, d]``, and add the tail.

        Without codes of the queries all rows are resident.
        """
        length = self._position.length + 1
        candidates = self._hot.candidates(length)
        wanted = min(self._config.top_k, candidates)
        self._wanted += wanted * self._sets
        if codes is None or candidates <= self._hot.size:
            return self._attend_residents(queries, params)
        logits = self._index.logits(codes, length, scaling=params.scaling, softcap=params.softcap)
        self._fetched += int(self.fetch(self.scores(logits)[:, :candidates], wanted))
        output, lse = self._attend_residents(queries, params)
        if self._tail is None:
            return output, lse
        others = logits[:, :, :candidates].masked_fill(
            self._hot.resident[:, :candidates].unsqueeze(1), float("-inf")
        )
        return kernels.merge(output, lse, *self._tail.predict(others, self._index))

    def per_set(self, query: Tensor) -> Tensor:
        """Return queries ``[KV, G, S, d]`` grouped by row set, ``[sets, N, S, d]``."""
        return query.reshape(self._sets, -1, *query.shape[2:])

    def _active_rows(self) -> ActiveRows:
        key, _ = self._hot.resident_rows(self._position.length)
        return ActiveRows(key, self._index.gather(self._hot.resident_tokens(self._position.length)))

    def _attend_residents(self, query: Tensor, params: AttentionParams) -> tuple[Tensor, Tensor]:
        key, value = self._hot.resident_rows(self._position.length + 1)
        return kernels.attend(query, key, value, scaling=params.scaling, softcap=params.softcap)

    def add_weights(self, weights: Tensor, query: Tensor, params: AttentionParams, length: int) -> None:
        """Add the attention weights of queries ``[KV, G, 1, d]`` over the residents of ``length`` tokens."""
        key, _ = self._hot.resident_rows(length)
        tokens = self._hot.resident_tokens(length)
        add_weights(weights, self.per_set(query), [key], tokens, params)

    def fetch(self, scores: Tensor, wanted: int) -> Tensor:
        """Make the best ``wanted`` candidates by scores ``[sets, T]`` resident; return the fetched rows."""
        resident = self._hot.resident[:, : scores.shape[1]]
        if self._config.hot_policy == "refetch":
            resident = torch.zeros_like(resident)
        if sinks := self._config.sink_tokens:
            scores = scores.clone()
            scores[:, :sinks] = torch.finfo(scores.dtype).max
        plan = kernels.plan_fetches(scores, resident, self._hot.slot_token, wanted)
        self._store.fetch(self._hot.residents, plan)
        return plan.counts.sum()

    def scores(self, logits: Tensor) -> Tensor:
        """Return each token's score ``[sets, T]``: a single query's logits, which cannot underflow."""
        if logits.shape[1] == 1:
            return logits.squeeze(1)
        return kernels.group_scores(logits, self._config.aggregate)

    def take_counts(self) -> tuple[int, int]:
        """Return the rows demanded and the rows fetched since the last call, summed over row sets."""
        counts = self._wanted, self._fetched
        self._wanted = self._fetched = 0
        return counts
