"""LRQK for one layer: exact prefill; decode over the hot set, which the low-rank index keeps up to date."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.decode_step import DeviceState, DeviceStep, LrqkStep
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.hot_set import HotSet
from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.index_fit import IndexFit
from lrqk_cli.attention.layers import FullLayer, weigh_sinks
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.projection import ActiveRows, JointProjector, make_projector
from lrqk_cli.attention.rewind_points import Copies, LayerRewindPoint, LrqkRewindPoint, to_device, to_host
from lrqk_cli.attention.rotation import Growth
from lrqk_cli.attention.sources import add_weights
from lrqk_cli.attention.tail import ValueTail
from lrqk_cli.config import LrqkConfig, ModelSpec
from lrqk_cli.memory import accounting
from lrqk_cli.memory.activations import SEED_QUERIES
from lrqk_cli.telemetry.stats import StepStats


class LrqkLayer(FullLayer):
    """A full-attention layer whose rows live in host memory.

    Segments are attended exactly, and the projector observes them. ``solve`` then fits the projector;
    ``finish_prefill`` builds or extends the index, and seeds the hot set. A single token after that is a
    decode step: it attends to the residents, and what all other rows would have added is predicted from their
    codes (``tail``).

    Index and hot set are those of *row sets*: one a KV head, or one a query head, as ``settings.grouping``
    says. The queries of a row set share its residents.

    Attributes:
        observer: told of every decode step, where it is set: the queries ``[sets, N, 1, d]``, what the model
            passes, and the output ``[sets, N, 1, d]``. The residents are still those of the step.
    """

    # Index and hot set follow the tokens, in place; ``rewind_point`` and ``rewind`` go back.
    is_croppable = False

    def __init__(
        self, spec: ModelSpec, settings: LrqkConfig, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(spec, RowStore(spec, context, dtype, device, on_device=False))
        self.settings = settings
        self.projector = make_projector(spec, settings, device)
        self.index = LowRankIndex(spec, settings, context, device)
        self.hot = HotSet(spec, settings, context, dtype, device)
        self._sets = accounting.row_sets(spec, settings)
        self._share = self._sets // spec.num_kv_heads
        self.tail = ValueTail(spec, settings, device) if settings.tail != "none" else None
        self._seed: tuple[Tensor, AttentionParams] | None = None
        self._is_seeded = self._is_unsolved = False
        self._fit = IndexFit(self.projector, self.index)
        self._wanted = self._fetched = 0
        # Tokens whose keys the segment under way has seen, from the first on.
        self._keys_seen = 0
        self.observer: Callable[[Tensor, AttentionParams, Tensor], None] | None = None

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Attend approximately if this is a single token on a settled layer, else exactly."""
        if self._is_segment(key):
            return self._attend_segment(query, key, value, params)
        self.finish_prefill()
        return self._attend_token(query, key, value, params)

    @property
    def is_observed(self) -> bool:
        """See ``AttentionLayer``."""
        return self.observer is not None

    def _show(self, query: Tensor, params: AttentionParams, output: Tensor) -> None:
        if self.observer is not None:
            self.observer(self._per_set(query), params, self._per_set(output))

    def _make_step(self, state: DeviceState) -> DeviceStep:
        assert isinstance(self.projector, JointProjector)  # ``has_device_steps`` checks it
        parts = self.store, self.projector, self.index, self.hot, self.tail
        return LrqkStep(self.settings, state, self._number, *parts, self._token_attention)

    def track_attention(self, weights: Tensor | None) -> None:
        """See ``AttentionLayer``."""
        super().track_attention(weights)
        if self._fit.tokens:
            self._prepare_steps()

    def sync_host_length(self, length: int) -> None:
        """See ``AttentionLayer``."""
        super().sync_host_length(length)
        self.index.length = self.stored
        self.hot.count = min(self.hot.candidates(self.stored), self.hot.size)

    def reset(self) -> None:
        """Forget all tokens and what was fitted to them."""
        super().reset()
        self.projector.reset()
        self.hot.clear()
        self.index.truncate(0)
        self._fit.reset()
        self._seed, self._is_seeded, self._is_unsolved = None, False, False
        self._wanted = self._fetched = 0

    def rewind_point(self) -> LayerRewindPoint:
        """See ``AttentionLayer``."""
        return LrqkRewindPoint(
            length=self.stored,
            fit=self._fit.rewind_point(),
            fitted=self._fit.tokens,
            learned=Copies(self.projector.learned()),
            observed=self.projector.grams.count,
            indexed=self.index.length,
            hot=self.hot.rewind_point(),
            seed=to_host(self._seed),
        )

    def rewind(self, point: LayerRewindPoint) -> None:
        """See ``AttentionLayer``."""
        assert isinstance(point, LrqkRewindPoint)
        super().rewind(point)
        self._fit.rewind(point.fit, point.fitted)
        point.learned.put_back()
        self.projector.grams.count = point.observed
        self.index.truncate(point.indexed)
        self.hot.rewind(point.hot, point.length, self.store)
        self._seed, self._is_seeded = to_device(point.seed, self.store.device), False
        self._is_unsolved = self._seed is not None
        if self._seed is None and self._fit.tokens:
            self._prepare_steps()

    def adjust(self, settings: LrqkConfig) -> None:
        """Let other settings be in force from the next step on; see ``LrqkCache.adjust``."""
        is_other_tail = settings.tail != self.settings.tail
        self.settings = settings
        if is_other_tail:
            tail = None if settings.tail == "none" else ValueTail(self.spec, settings, self.store.device)
            self.tail = tail
        if self._device is not None:
            self.use_device_steps(self._device, self._number, is_last=self._is_last)
        if self._fit.tokens:
            self._prepare_steps()

    @property
    def is_unsolved(self) -> bool:
        """See ``AttentionLayer``.

        Only the joint solver is batched: it runs on the CPU, in parallel across layers. The alternating
        solver runs on the device, whose libraries must not be loaded by several threads.
        """
        return self._is_unsolved and self.settings.solver == "joint"

    def begin_segment(self) -> None:
        """Note where the newest segment begins, for ``solve_ahead`` after it."""
        self._fit.begin_segment()

    def solve_ahead(self, growth: Growth | None) -> Callable[[], Callable[[], None]] | None:
        """Return a task for the CPU: fit the projector to the text as it will be; the layer stays as it is.

        The task returns what puts the fit in force. The segment after that builds the index, from the keys
        that it attends to. None where the standing fit will do, or it is not known what is to come.
        """
        if growth is None or not self._fit.is_outgrown(growth.tokens):
            return None
        return self._fit.solve_ahead(growth)

    def solve(self) -> None:
        """See ``AttentionLayer``; the projector is fitted anew where too much of the text is new to it."""
        if self._fit.is_outgrown():
            self._fit.renew()
        if self.tail is not None:
            self.tail.fit(self.projector)
        self._is_unsolved = False

    def finish_prefill(self) -> None:
        """Bring index and hot set up to date with the segments that went through since the last time."""
        if self._seed is None:
            return
        if self._is_unsolved:
            self.solve()
        for key, _ in self.store.stream(self.index.length, self.stored):
            self.index.append(self.projector.project_keys(key))
        if not self._is_seeded:
            self._seed_hot_set(*self._seed)
        if self._token_attention is not None:
            query, params = self._seed
            self._token_attention.zero_()
            self._add_weights(self._token_attention, self._per_set(query[:, :, -1:]), params)
        self._seed = None
        if self._step is not None:
            self._step.refresh()

    def _seed_hot_set(self, query: Tensor, params: AttentionParams) -> None:
        """Let the rows be resident that score best for the newest queries; nothing waits for the device."""
        self.store.await_writes()
        candidates = self.hot.candidates(self.stored)
        for key, value in self.store.stream(self.hot.count, min(candidates, self.hot.size)):
            self.hot.fill(key, value)
        if candidates > self.hot.size:
            self._fetch(self._seed_scores(query, params)[:, :candidates], self.hot.size)
        self._is_seeded = True

    def take_stats(self) -> StepStats:
        """Return rows demanded and rows fetched by the decode steps since the counters were last taken."""
        wanted, fetched = self._wanted, self._fetched
        self._wanted = self._fetched = 0
        return StepStats(wanted, fetched, fetched * self.store.row_bytes, self.spec.num_kv_heads)

    def _prepare_steps(self) -> None:
        """Derive what decode steps need from what was fitted, and from the sums of all segments."""
        if self.tail is not None:
            self.tail.fit(self.projector)
        if self._step is not None:
            self._step.refresh()

    def _attend_segment(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        earlier, self._keys_seen, self._is_seeded = self.stored, 0, False
        output = self.attend_exactly(query, key, value, params)
        self._index_earlier_keys(key)
        self.hot.recent.append(earlier, key, value)
        self.projector.observe(query, key, value)
        # A sticky hot set starts with the rows that matter to the newest queries: the question, in a chat.
        # One that holds the exact best, with those of the newest query.
        count = SEED_QUERIES if self.settings.hot_policy == "sticky" else 1
        newest = query[:, :, -count:]
        if self._seed is not None:
            newest = torch.cat((self._seed[0], newest), 2)[:, :, -count:]
        self._seed = newest.clone(), params
        self._is_unsolved = True
        is_indexed = self.index.length == self.stored and not self._fit.is_outgrown()
        if self.ends_prefill and is_indexed:
            # A GPU does so between layers; after the last it would wait for the host to ask for each part.
            self._seed_hot_set(*self._seed)
        return output

    def _index_earlier_keys(self, keys: Tensor) -> None:
        # Once the index has begun, it grows with every segment, and no row need come back for it.
        if self._fit.tokens and self._keys_seen == self.index.length:
            self.index.append(self.projector.project_keys(keys))
        self._keys_seen += keys.shape[1]

    def _attend_token(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        queries = self._per_set(query)
        codes, key_code = self.projector.step(queries.squeeze(2), key, self._active_rows)
        self.hot.append(self.stored, key, value)
        self.write(key, value)
        self.store.await_writes()
        self.index.append(key_code)
        candidates = self.hot.candidates(self.stored)
        wanted = min(self.settings.top_k, candidates)
        self._wanted += wanted * self._sets
        if candidates <= self.hot.count:
            output, lse = self._attend_residents(queries, params)
        else:
            logits = self.index.logits(codes, scaling=params.scaling, softcap=params.softcap)
            self._fetched += int(self._fetch(self._scores(logits)[:, :candidates], wanted))
            output, lse = self._attend_residents(queries, params)
            if self.tail is not None:
                tail_value, tail_lse = self._tail(self.tail, logits[:, :, :candidates])
                output, lse = kernels.merge(output, lse, tail_value, tail_lse)
        output = weigh_sinks(output, lse, params.sinks).reshape(query.shape)
        self._show(query, params, output)
        if self._token_attention is not None:
            self._add_weights(self._token_attention, queries, params)
        return output

    def _per_set(self, query: Tensor) -> Tensor:
        """Return queries ``[KV, G, S, d]`` by row set, ``[sets, N, S, d]``."""
        return query.reshape(self._sets, -1, *query.shape[2:])

    def _active_rows(self) -> ActiveRows:
        key, _ = self.hot.resident_rows(self.stored)
        return ActiveRows(key, self.index.gather(self.hot.resident_tokens(self.stored)))

    def _attend_residents(self, query: Tensor, params: AttentionParams) -> tuple[Tensor, Tensor]:
        key, value = self.hot.resident_rows(self.stored)
        return kernels.attend(query, key, value, scaling=params.scaling, softcap=params.softcap)

    def _add_weights(self, weights: Tensor, query: Tensor, params: AttentionParams) -> None:
        key, _ = self.hot.resident_rows(self.stored)
        add_weights(weights, query, [key], self.hot.resident_tokens(self.stored), params)

    def _tail(self, tail: ValueTail, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted output ``[sets, N, 1, d]`` and log-mass ``[sets, N, 1]`` of the non-residents.

        Their weights are what the index predicts, from logits ``[sets, N, T]``.
        """
        resident = self.hot.resident[:, : logits.shape[2]].unsqueeze(1)
        logits = logits.masked_fill(resident, float("-inf"))
        mass = logits.logsumexp(-1, keepdim=True)
        mean_code = self.index.weighted_sum(torch.exp(logits - mass))
        return tail.mean_value(mean_code).unsqueeze(2), mass

    def _fetch(self, scores: Tensor, wanted: int) -> Tensor:
        """Make the best ``wanted`` candidates by scores ``[sets, T]`` resident; return the rows fetched."""
        resident = self.hot.resident[:, : scores.shape[1]]
        if self.settings.hot_policy == "refetch":
            resident = torch.zeros_like(resident)
        if sinks := self.settings.sink_tokens:
            scores = scores.clone()
            scores[:, :sinks] = torch.finfo(scores.dtype).max
        plan = kernels.plan_fetches(scores, resident, self.hot.slot_token, wanted)
        self.hot.replace(plan, self.store.rows)
        return plan.counts.sum()

    def _seed_scores(self, query: Tensor, params: AttentionParams) -> Tensor:
        """Return each token's score ``[sets, T]`` for queries ``[KV, G, S, d]``."""
        codes = self.projector.project_queries(self._per_set(query).flatten(1, 2))
        if codes.codes.shape[1] == 1:
            return self._scores(self.index.logits(codes, scaling=params.scaling, softcap=params.softcap))
        return self.index.total_scores(codes, scaling=params.scaling, softcap=params.softcap)

    def _scores(self, logits: Tensor) -> Tensor:
        """Return each token's score ``[sets, T]``; a single query ranks by its logits, free of underflow."""
        if logits.shape[1] == 1:
            return logits.squeeze(1)
        return kernels.group_scores(logits, self.settings.aggregate)
