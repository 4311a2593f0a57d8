"""The cache that transformers sees: one layer object a decoder layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import count
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from lrqk_cli.attention.counters import RowCounters
from lrqk_cli.attention.decode_step import DeviceState, DeviceStep, FixedSpace, has_device_steps
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.layers import AttentionLayer, FullLayer, SlidingLayer
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.position import Position
from lrqk_cli.attention.rewind_points import CacheRewindPoint
from lrqk_cli.attention.rotation import Growth
from lrqk_cli.attention.sources import AttentionTracker
from lrqk_cli.config import LayerKind, LrqkConfig, ModelSpec
from lrqk_cli.errors import UsageError
from lrqk_cli.solver_pool import SolverPool, run_solvers


class LrqkCache(Cache):
    """KV cache of one sequence, for a model that ``attach`` has prepared.

    Args:
        spec: shape of the model.
        config: ``config.attention`` decides what full-attention layers do.
        context: tokens to reserve room for.
        dtype: element type of the rows, the model's own.
        device: where the model computes; ``fixed_space``: see ``DeviceState``.

    Attributes:
        position: how many tokens there are; ``counters``: rows demanded and fetched.
        observers: by the number of a layer, what is called after each of its decode steps, with the queries
            ``[KV, G, 1, d]``, what the model passed, and the output ``[KV, G, 1, d]``. Residents are then
            still those of the step, and ``position`` stands before its token. A replayed graph calls nobody.

    Raises:
        OutOfMemoryError: the host memory is not there, or cannot be pinned.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: LrqkConfig,
        context: int,
        dtype: torch.dtype,
        device: torch.device,
        fixed_space: FixedSpace | None = None,
    ) -> None:
        self.spec = spec
        self.config = config
        self.context = context
        self.dtype = dtype
        self.device = device
        self.position = Position(device)
        self.observers: dict[int, Callable[[Tensor, AttentionParams, Tensor], None]] = {}
        self._attention = [self._make_layer(kind) for kind in spec.layer_kinds]
        self._lrqk = [layer for layer in self._attention if isinstance(layer, LrqkLayer)]
        self._is_prefilling = self._ends_prefill = False
        self._state: DeviceState | None = None
        self._steps: list[DeviceStep] = []
        if has_device_steps(spec, config, device):
            self._state = DeviceState(spec, self.position, fixed_space)
            self._make_steps()
        self._tracker: AttentionTracker | None = None
        row_bytes = 2 * spec.head_dim * dtype.itemsize
        self.counters = RowCounters(self._attention, self._state, row_bytes)
        self._rewind_points: WeakSet[CacheRewindPoint] = WeakSet()
        self._order = count()
        self._is_detached = False
        super().__init__(layers=list(self._attention))

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Announce new tokens to a layer, see ``AttentionLayer.update``.

        Raises:
            UsageError: nothing serves the model's attention from the cache any more.
        """
        if self._is_detached:
            raise UsageError(
                "The cache was used after the end of the attach() context that it belongs to.",
                "Use it inside, or attach the model again, which gives a new cache.",
            )
        updated: tuple[Tensor, Tensor] = super().update(*args, **kwargs)
        return updated

    def detach(self) -> None:
        """Refuse what comes: the model has its own attention again, which would see new tokens alone."""
        self._is_detached = True

    def layer(self, index: int) -> AttentionLayer:
        """Return the layer of that ``layer_idx``."""
        return self._attention[index]

    def _make_layer(self, kind: LayerKind) -> AttentionLayer:
        spec, place = self.spec, (self.dtype, self.device, self.position)
        if kind == "sliding":
            assert spec.sliding_window is not None  # ModelSpec checks it
            return SlidingLayer(spec, spec.sliding_window, *place)
        if self.config.attention == "lrqk":
            return LrqkLayer(spec, self.config, self.context, *place)
        store = RowStore(spec, self.context, *place[:2], on_device=self.config.attention == "dense")
        return FullLayer(spec, store, self.position)

    def _make_steps(self) -> None:
        if self._state is not None:
            self._steps = [layer.make_step(self._state, n) for n, layer in enumerate(self._attention)]
            self._refresh_steps()

    def _refresh_steps(self) -> None:
        for step in self._steps:
            step.refresh()

    def attend(
        self, number: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> Tensor:
        """Attend in a layer with the newest S tokens over all tokens so far, and store their K and V.

        Several tokens are a segment, which is exact, as the first token of all is; a single one is a decode
        step. Layers come in their order, and the last moves ``position`` on.

        Args:
            number: of the layer, from 0.
            query: ``[KV, G, S, d]``.
            key, value: ``[KV, S, d]``, what ``update`` was given.
            params: see ``AttentionParams``.

        Returns:
            ``[KV, G, S, d]``, in float32 or in the query's element type.
        """
        layer, tokens = self._attention[number], key.shape[1]
        if self._is_prefilling or tokens > 1 or self.position.length == 0:
            output = layer.attend_segment(query, key, value, params)
            if self._ends_prefill:
                layer.prepare_ahead()
        else:
            if number == 0:
                self.finish_prefill()
            step = self._steps[number] if self._steps else layer.attend_token
            output = step(query, key, value, params)
            if number in self.observers:
                self.observers[number](query, params, output)
        if layer is self._attention[-1]:
            self.position.advance(tokens)
        return output

    @contextmanager
    def prefilling(self, *, ends: bool = False) -> Iterator[None]:
        """Treat single tokens as segments too, attended exactly, inside this context.

        Args:
            ends: decode steps follow, so that each layer may prepare for them as soon as it has attended.
        """
        self._is_prefilling, self._ends_prefill = True, ends
        try:
            yield
        finally:
            self._is_prefilling = self._ends_prefill = False

    @property
    def has_link(self) -> bool:
        """Whether rows come over a link, so that it pays to prepare for decode steps on the way."""
        return self.device.type == "cuda"

    def begin_segment(self) -> None:
        """Note where the next segment begins, for ``solve_ahead`` after it."""
        for layer in self._lrqk:
            layer.begin_segment()

    def solve_ahead(self, growths: Sequence[Growth | None]) -> SolverPool[Callable[[], None]] | None:
        """Start fitting to the tokens so far and the expected rest of the prefill, in background threads.

        Call each result before the last segment to install its fit: that segment then indexes all keys while
        it attends to them. Otherwise they would cross the link once more.

        Args:
            growths: what each layer is to expect.

        Returns:
            None where the standing fits will do, or nothing is known.
        """
        expected = zip(self._attention, growths, strict=True)
        layers = [(layer, coming) for layer, coming in expected if isinstance(layer, LrqkLayer)]
        tasks = [layer.solve_ahead(coming) for layer, coming in layers if layer.is_unsolved]
        begun = [task for task in tasks if task is not None]
        return SolverPool(begun) if begun else None

    def finish_prefill(self) -> None:
        """Prepare for decode steps now; else the first step does it."""
        unfinished = [layer for layer in self._lrqk if layer.prefill is not None]
        if not unfinished:
            return
        run_solvers([layer.solve for layer in unfinished if layer.is_unsolved])
        for layer in unfinished:
            layer.finish_prefill()
        self._refresh_steps()

    def reset(self) -> None:
        """Forget all tokens, and what was fitted to them."""
        self._rewind_points.clear()
        self.position.set(0)
        self.counters.reset()
        for layer in self._attention:
            layer.reset()

    def rewind_point(self) -> CacheRewindPoint:
        """Note the point that has been reached, between two segments or steps."""
        layers = tuple(layer.rewind_point() for layer in self._attention)
        point = CacheRewindPoint(next(self._order), self.position.length, layers)
        self._rewind_points.add(point)
        return point

    def rewind(self, point: CacheRewindPoint) -> None:
        """Be again as at ``point``; rows beyond it may hold anything. Later points are no longer valid.

        A captured graph stays valid: nothing moves. Counters of rows go on.

        Raises:
            UsageError: the point is not one of this cache, or was left behind by an earlier rewind or reset.
        """
        if point not in self._rewind_points:
            raise UsageError(
                "This point of the conversation is gone: it was taken back beyond it before.",
                "Begin a new conversation.",
            )
        self._rewind_points -= {other for other in self._rewind_points if other.number > point.number}
        self.position.set(point.length)
        for layer, layer_point in zip(self._attention, point.layers, strict=True):
            layer.rewind(layer_point, point.length)
        self._refresh_steps()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens, exactly, where ``is_croppable``; transformers' protocol.

        Args:
            tokens_to_remove: how many, as a negative number, or 0.

        Raises:
            UsageError: layers change in place, or there were never so many tokens.
        """
        self.activate_past_recording()
        length = self.position.length + tokens_to_remove
        if tokens_to_remove > 0 or length < 0:
            raise UsageError(
                f"crop({tokens_to_remove}) was asked of a cache of {self.position.length} tokens.",
                "Pass minus the number of tokens to take back.",
            )
        self._rewind_points -= {point for point in self._rewind_points if point.length > length}
        self.position.set(length)

    def activate_past_recording(self) -> None:
        """Refuse what ``crop`` would: transformers calls this before it decodes with drafts.

        Raises:
            UsageError: layers change in place.
        """
        if self.is_croppable:
            return
        what = (
            "index and hot set follow them" if self._lrqk else "a sliding window overwrites its oldest rows"
        )
        raise UsageError(
            f"The cache cannot take back tokens, as prompt lookup and assisted decoding do: {what}.",
            "Generate without them; for a point of your own there are rewind_point() and rewind().",
        )

    def adjust(self, config: LrqkConfig) -> None:
        """Let another ``top_k`` or ``tail`` be in force from the next step on. A captured graph is void.

        Raises:
            UsageError: something else would change, which needs a new cache; it is named.
        """
        free = {"tail"} if self.config.hot_policy != "sticky" else {"tail", "top_k"}
        for field in fields(LrqkConfig):
            name = field.name
            if name not in free and getattr(config, name) != getattr(self.config, name):
                raise UsageError(
                    f"`{name}` cannot change while the conversation goes on: the cache was made for it.",
                    f"Start again with another `{name}`.",
                )
        if self.config.attention != "lrqk":
            return
        self.config = config
        for layer in self._lrqk:
            layer.adjust(config)
        self._make_steps()

    def track_sources(self, wanted: bool) -> None:
        """Note from the next prompt on where steps look, or no more. A captured graph is void."""
        self._tracker = AttentionTracker(self.spec, self.context, self.device) if wanted else None
        for number, layer in enumerate(self._attention):
            layer.token_attention = None if self._tracker is None else self._tracker.weights.get(number)
        self._make_steps()

    @property
    def source_weights(self) -> list[float] | None:
        """The weight of each token since the newest prompt, see ``AttentionTracker``; None if not noted."""
        return None if self._tracker is None else self._tracker.read(self.position.length)

    @property
    def has_device_steps(self) -> bool:
        """Whether the lengths of decode steps are on the device, so that a graph may be captured."""
        return bool(self._steps)

    @property
    def host_kv_bytes(self) -> int:
        """Bytes of the rows kept outside the device's own memory."""
        stores = [layer.store for layer in self._attention if isinstance(layer, FullLayer)]
        return sum(store.rows.nbytes for store in stores if not store.on_device)

    @property
    def index_bytes(self) -> int:
        """Bytes of the low-rank index."""
        return sum(layer.index.nbytes for layer in self._lrqk)

    @property
    def hot_bytes(self) -> int:
        """Bytes of hot rows and recent windows."""
        return sum(layer.hot.rows.nbytes for layer in self._lrqk)
