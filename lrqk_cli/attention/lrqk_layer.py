"""LRQK for one layer: exact prefill, and decode over a hot set that the low-rank index updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lrqk_cli.attention.decode_step import DeviceStep, LrqkStep
from lrqk_cli.attention.device_state import DeviceState
from lrqk_cli.attention.drafts import empty_drafts
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.hot_set import HotSet
from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.index_fit import IndexFit
from lrqk_cli.attention.layers import FullLayer
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.plain_step import PlainStep
from lrqk_cli.attention.position import Position
from lrqk_cli.attention.projection import Projector, make_projector
from lrqk_cli.attention.rewind_points import Copies, LayerRewindPoint, LrqkRewindPoint
from lrqk_cli.attention.tail import ValueTail
from lrqk_cli.attention.unfinished import UnfinishedPrefill
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels.buffers import Drafts
from lrqk_cli.memory.activations import SCORE_CHUNK, SEED_QUERIES
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.telemetry.stats import StepStats


class LrqkLayer(FullLayer):
    """A full-attention layer whose rows are in host memory.

    Segments are attended exactly, and the projector observes them. ``solve`` then fits the projector;
    ``finish_prefill`` builds or extends the index, and seeds the hot set. Each single token after that is a
    decode step: it attends exactly to the residents, and predicts the contribution of all other rows from
    their codes (``tail``). As long as all rows are resident there is nothing to choose or to predict:
    ``hold`` puts that work off.

    Each *row set* has its own part of the index and of the hot set. ``config.grouping`` chooses one row set
    per KV head or per query head. The queries of a row set share its residents.

    Attributes:
        prefill: the work that segments leave for later; None between decode steps that choose rows, when all
            tokens are indexed and all possible hot slots are filled.
        fit: the current fit of the projector.
        drafts: the rows of the newest verify step's drafts; None if the layer takes none.
    """

    # Decode steps change index and hot set in place; ``rewind_point`` and ``rewind`` restore them.
    is_croppable = False

    def __init__(
        self,
        spec: ModelSpec,
        config: LrqkConfig,
        context: int,
        dtype: torch.dtype,
        store: RowStore,
        position: Position,
    ) -> None:
        device = store.device
        super().__init__(spec, store, position)
        self.config = config
        self.projector = make_projector(spec, config, device)
        self.index = LowRankIndex(spec, config, context, device)
        self.hot = HotSet(spec, config, context, dtype, device)
        self.tail = ValueTail(spec, config, device) if config.tail != "none" else None
        self.prefill: UnfinishedPrefill | None = None
        self.drafts = empty_drafts(spec, config, dtype, position)
        self.fit = IndexFit(self.projector, self.index)
        self._step = PlainStep(config, position, *self._parts)

    @property
    def _parts(
        self,
    ) -> tuple[RowStore, Projector, LowRankIndex, HotSet, ValueTail | None, Drafts | None]:
        """What a step works on."""
        return self.store, self.projector, self.index, self.hot, self.tail, self.drafts

    def make_step(self, state: DeviceState, number: int) -> DeviceStep:
        """See ``AttentionLayer``."""
        return LrqkStep(self.config, state, number, *self._parts, self.token_attention)

    def reset(self) -> None:
        """Forget all tokens and the fit."""
        super().reset()
        self.projector.reset()
        self.hot.clear()
        self.fit.reset()
        self.prefill = None
        self._step.take_counts()

    def rewind_point(self) -> LayerRewindPoint:
        """See ``AttentionLayer``."""
        return LrqkRewindPoint(
            fit=self.fit.rewind_point(),
            fitted=self.fit.tokens,
            learned=Copies((*self.projector.summed(), *self.projector.adapted())),
            observed=self.projector.grams.count,
            slot_token=self.hot.slot_token.to("cpu", torch.int32, copy=True),
            prefill=self.prefill and self.prefill.to(torch.device("cpu")),
        )

    def rewind(self, point: LayerRewindPoint, length: int) -> None:
        """See ``AttentionLayer``."""
        assert isinstance(point, LrqkRewindPoint)
        self.fit.rewind(point.fit, point.fitted)
        point.learned.put_back()
        self.projector.grams.count = point.observed
        self.prefill = point.prefill and point.prefill.to(self.store.device)
        self.hot.rewind(point.slot_token, self._filled_slots(length), length, self.store)
        if self.prefill is None:  # else ``solve`` fits it before the next step
            self.fit_tail()

    def _filled_slots(self, length: int) -> int:
        prefill = self.prefill
        return self.hot.filled(length) if prefill is None or prefill.is_held else prefill.filled

    def adjust(self, config: LrqkConfig) -> None:
        """Change the configuration from the next step on; see ``LrqkCache.adjust``."""
        tail = self.tail
        if config.tail != self.config.tail:
            tail = ValueTail(self.spec, config, self.store.device) if config.tail != "none" else None
        self.config, self.tail = config, tail
        self._step = PlainStep(config, self.position, *self._parts)
        self.fit_tail()

    def release_hot_set(self, config: LrqkConfig) -> None:
        """Free the hot set of an empty layer, for a smaller one; see ``LrqkCache.release_hot_sets``."""
        self.hot.release()
        self.config = config
        self._step = PlainStep(config, self.position, *self._parts)

    @property
    def is_unsolved(self) -> bool:
        """Whether ``solve`` is pending and may run in parallel with that of other layers.

        Only the joint solver may: it runs on the CPU. The alternating solver runs on the device, whose
        libraries several threads must not load; ``finish_prefill`` calls it.
        """
        return self.prefill is not None and not self.prefill.is_solved and self.config.solver == "joint"

    def begin_segment(self) -> None:
        """Record the Gram sums before the newest segment, for a solve ahead after it."""
        self.fit.begin_segment()

    def solve(self) -> None:
        """Fit the tail to the segments so far, and first the projector if the text has outgrown its fit.

        Layers may do so in parallel, see ``is_unsolved``.
        """
        prefill = self._open_prefill()
        if self.fit.is_outgrown():
            self.index_anew(self.fit.renew)
        self.fit_tail()
        prefill.is_solved = True

    def finish_prefill(self) -> None:
        """Update index and hot set with the segments since the last decode step."""
        prefill = self.prefill
        if prefill is None:
            return
        if not prefill.is_solved:
            self.solve()
        self._release(prefill)
        self.index_and_seed(self.position.length)
        self._count_newest(prefill)
        self.prefill = None

    def hold(self) -> None:
        """Prepare for decode steps that find all rows resident, and leave fit and index for later.

        Steps must not have begun since the newest segment.
        """
        prefill = self._open_prefill()
        self._forget_seeds(prefill)
        self._fill_slots(prefill, self.position.length)
        self._count_newest(prefill)
        prefill.newest, prefill.is_held = None, True

    def _release(self, prefill: UnfinishedPrefill) -> None:
        """Go on from steps that found all rows resident, which have left no queries to seed with."""
        if prefill.is_held:
            prefill.filled, prefill.is_held = self._filled_slots(self.position.length), False

    def _count_newest(self, prefill: UnfinishedPrefill) -> None:
        """Begin to sum attention weights anew, with those of the prompt's newest token."""
        if self.token_attention is not None and prefill.newest is not None:
            query, params = prefill.newest
            self.token_attention.zero_()
            self._step.add_weights(self.token_attention, query[:, :, -1:], params, self.position.length)

    def index_and_seed(self, length: int) -> None:
        """Index what is not indexed of a text of ``length`` tokens, by maps that fit it; seed the hot set.

        Does not wait for the device.
        """
        prefill = self._open_prefill()
        for key in self._keys_to_index(prefill, length):
            self._index_keys(prefill.indexed, key)
        if prefill.seeded != length:
            self._seed_hot_set(prefill, length)

    def _keys_to_index(self, prefill: UnfinishedPrefill, length: int) -> Iterator[Tensor]:
        """Yield the keys that are not indexed yet; they need not cross the link if all are resident."""
        if prefill.filled == self.hot.candidates(length):
            return self.hot.keys(prefill.indexed, length)
        return (key for key, _ in self.store.stream(prefill.indexed, length))

    def _open_prefill(self) -> UnfinishedPrefill:
        """Return the unfinished prefill; create it if the layer is between decode steps."""
        if self.prefill is None:
            length = self.position.length
            self.prefill = UnfinishedPrefill(length, self.hot.filled(length))
        return self.prefill

    def index_anew(self, replace: Callable[[int], None]) -> None:
        """Replace the fit, given the number of indexed tokens; all tokens must then be indexed again."""
        prefill = self._open_prefill()
        replace(prefill.indexed)
        prefill.indexed = 0

    def fit_tail(self) -> None:
        """Fit the tail to the current maps and the sums of all segments."""
        if self.tail is not None and self.fit.tokens:
            self.tail.fit(self.projector)

    def _seed_hot_set(self, prefill: UnfinishedPrefill, length: int) -> None:
        """Make the rows resident that score best for the newest queries; does not wait for the device."""
        if prefill.newest is None:  # the segment was refused, and the hot set stands
            return
        self._forget_seeds(prefill)
        self._fill_slots(prefill, length)
        candidates = self.hot.candidates(length)
        if candidates > self.hot.size:
            self._step.fetch(self._seed_scores(*prefill.newest, length)[:, :candidates], self.hot.size)
        prefill.seeded = length

    def _fill_slots(self, prefill: UnfinishedPrefill, length: int) -> None:
        """Fill the free hot slots with the next rows of the text, from the store."""
        self.store.await_writes()
        for key, value in self.store.stream(prefill.filled, self.hot.filled(length)):
            self.hot.fill(prefill.filled, key, value)
            prefill.filled += key.shape[1]

    def _forget_seeds(self, prefill: UnfinishedPrefill) -> None:
        """Empty a hot set that was seeded in a segment that was then interrupted behind this layer."""
        if prefill.seeded:
            self.hot.clear()
            prefill.filled = prefill.seeded = 0

    def take_stats(self) -> StepStats:
        """Return the rows that decode steps demanded and fetched since the last call."""
        wanted, fetched = self._step.take_counts()
        return StepStats(wanted, fetched, fetched * self.store.row_bytes, self.spec.num_kv_heads)

    def attend_segment(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """See ``AttentionLayer``."""
        earlier, prefill = self.position.length, self._open_prefill()
        self._release(prefill)
        # A segment that was interrupted after this layer left codes that this one overwrites.
        prefill.indexed = min(prefill.indexed, earlier)
        self._forget_seeds(prefill)
        output, key, value = self.attend_exactly(query, key, value, params)
        self._index_keys(earlier, key)
        prefill.filled = self.hot.append_segment(earlier, prefill.filled, key, value)
        self.projector.observe(query, key, value)
        # A sticky hot set starts with the best rows for the newest queries: in a chat, the question. The
        # paper's hot sets, the exact best rows of each step, start with those of the newest query.
        count = SEED_QUERIES if self.config.hot_policy == "sticky" else 1
        newest = query[:, :, -count:]
        if prefill.newest is not None:
            newest = torch.cat((prefill.newest[0], newest), 2)[:, :, -count:]
        prefill.newest, prefill.is_solved = (newest.clone(), params), False
        return output

    def prepare_ahead(self) -> None:
        """Seed the hot set if all tokens are indexed, by a fit that will not be replaced.

        The GPU then seeds between layers; after the last layer it would wait for the host at every launch.
        """
        prefill = self._open_prefill()
        if prefill.indexed > self.position.length and not self.fit.is_outgrown():
            self._seed_hot_set(prefill, prefill.indexed)

    def _index_keys(self, first: int, keys: Tensor) -> None:
        # Extend a begun index with every segment, so that no key crosses the link again for it.
        prefill = self._open_prefill()
        indexed = prefill.indexed - first
        if self.fit.tokens and 0 <= indexed < keys.shape[1]:
            # Parts, because a key and its codes take some memory in float32.
            for part in keys[:, indexed:].split(SCORE_CHUNK, 1):
                self.index.write(prefill.indexed, self.projector.project_keys(part))
                prefill.indexed += part.shape[1]

    def attend_token(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """See ``AttentionLayer`` and ``PlainStep``; drafts may follow the token."""
        is_held = self.prefill is not None
        return self._step(query, key, value, params, self.token_attention, is_held=is_held)

    def settle(self, count: int) -> None:
        """Move the rows of the first ``count`` drafts, the newest tokens, into the recent window."""
        assert self.drafts is not None  # else nothing is pending
        key, value = self.drafts.rows[:, :count].unbind(2)
        self.hot.append(self.position.length - count, key, value)

    def _seed_scores(self, query: Tensor, params: AttentionParams, length: int) -> Tensor:
        """Return each token's score ``[sets, length]`` for queries ``[KV, G, S, d]``."""
        codes = self.projector.project_queries(self._step.per_set(query).flatten(1, 2))
        scaling, softcap = params.scaling, params.softcap
        if codes.codes.shape[1] == 1:
            return self._step.scores(self.index.logits(codes, length, scaling=scaling, softcap=softcap))
        return self.index.total_scores(codes, length, scaling=scaling, softcap=softcap)
