"""The cache that transformers uses: one layer object per decoder layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from lrqk_cli.attention.adjusting import AdjustableCache
from lrqk_cli.attention.counters import RowCounters
from lrqk_cli.attention.decode_step import DeviceStep
from lrqk_cli.attention.device_state import DeviceState, FixedSpace
from lrqk_cli.attention.layer_list import are_pageable, has_device_steps, make_layers
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.position import Position
from lrqk_cli.attention.restoring import OpenPart, Restoring
from lrqk_cli.attention.solving import EarlySolves
from lrqk_cli.attention.sources import AttentionTracker
from lrqk_cli.attention.states import LayerState
from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import UsageError
from lrqk_cli.memory import accounting
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.solver_pool import run_solvers

# Tokens before the first step that chooses rows at which the CPU begins to solve for the factors.
_SOLVE_BEFORE = 128


class LrqkCache(AdjustableCache):
    """KV cache of one sequence, for a model prepared by ``attach``.

    Args:
        spec: shape of the model.
        config: ``config.attention`` chooses the class of full-attention layers.
        context: tokens to reserve.
        dtype: dtype of the rows, the model's own.
        device: the model's device; ``fixed_space``: see ``DeviceState``; ``may_page``: see ``RowStore``.

    Attributes:
        position: the number of tokens in the cache; ``counters``: rows demanded and fetched.
        attention_layers: one per decoder layer; ``lrqk_layers``: those with an index.
        is_pageable: rows are in host memory that no kernel can read, so steps are plain ones.
        before_overwrite: called with a number of tokens before rows beyond it may be overwritten.
        is_torn: a step or a rewind has ended between two layers; rewind or reset before the next call.
        observers: by layer number, a callback for each decode step. Its arguments are the queries
            ``[KV, G, 1, d]``, the model's parameters, and the output ``[KV, G, 1, d]``. At the call the
            residents are those of the step, and ``position`` does not count its token. Eager steps only.

    Raises:
        OutOfMemoryError: the rows do not fit in host memory, or cannot be pinned.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: LrqkConfig,
        context: int,
        dtype: torch.dtype,
        device: torch.device,
        fixed_space: FixedSpace | None = None,
        *,
        may_page: bool = False,
    ) -> None:
        self.spec = spec
        self.config = config
        self.context = context
        self.dtype = dtype
        self.device = device
        self.position = Position(device)
        self.observers: dict[int, Callable[[Tensor, AttentionParams, Tensor], None]] = {}
        self.attention_layers = make_layers(
            spec, config, context, dtype, device, self.position, may_page=may_page
        )
        self.states = [LayerState() for _ in spec.layer_kinds] if spec.states is not None else []
        self._first, self._last = spec.attending[0], spec.attending[-1]
        self.lrqk_layers = [layer for layer in self.attention_layers if isinstance(layer, LrqkLayer)]
        self.before_overwrite: Callable[[int], None] = lambda _: None
        self._restoring: Restoring | None = None
        self._is_prefilling = self._ends_prefill = self._is_verifying = self._warms_up = False
        self.is_torn = False
        self._early = EarlySolves()
        self.is_pageable = are_pageable(self.attention_layers)
        has_steps = has_device_steps(spec, config, device) and not self.is_pageable
        self._state = DeviceState(spec, self.position, fixed_space) if has_steps else None
        self._steps: dict[int, DeviceStep] = {}
        self._make_steps()
        self._tracker: AttentionTracker | None = None
        self._latent_rows: Tensor | None = None
        row_bytes = accounting.row_store(spec, 1, accounting.dtype_name(dtype), config.kv_dtype).nbytes
        row_bytes //= spec.num_kv_heads
        self.counters = RowCounters(self.attention_layers, self._state, row_bytes)
        self._rewind_points = WeakSet()
        self._order = count()
        self._is_detached = False
        super().__init__(layers=list(self.attention_layers))

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Check new tokens of a layer; raise UsageError if the ``attach`` context has ended."""
        if self._is_detached:
            raise UsageError(
                "The cache was used after the end of the attach() context that it belongs to.",
                "Use it inside, or attach the model again, which gives a new cache.",
            )
        updated: tuple[Tensor, Tensor] = super().update(*args, **kwargs)
        if self.spec.is_latent:
            self._latent_rows = torch.cat(updated, -1)[0]
        return updated

    def take_latent_rows(self) -> Tensor:
        """Return the compressed rows ``[1, S, d]`` of the newest ``update``, which the model then expands."""
        rows, self._latent_rows = self._latent_rows, None
        assert rows is not None
        return rows

    def detach(self) -> None:
        """Refuse further tokens: the model's own attention would see only these."""
        self._is_detached = True

    def attend(
        self, number: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> Tensor:
        """Store K and V of the newest S tokens, and attend with their queries to all tokens so far.

        Several tokens, or the first token of all, are an exact segment; any other single token is a decode
        step. ``prefilling`` and ``verifying`` change that. The model calls the layers in order; the last one
        advances ``position``.

        Args:
            number: of the layer, from 0, which has attention; for the others and the result see
                ``AttentionLayer.attend_segment``.
        """
        layer, tokens = self.attention_layers[number], key.shape[1]
        if self._restoring is not None:
            self._restoring.complete_layer(number)
        is_token = tokens == 1 and self.position.length > 0 and not self._is_prefilling
        is_step = self._is_verifying or is_token
        if not is_step:
            if number == self._first:  # what steps have begun is of another text
                self._early.close()
            self.settle()
            output = layer.attend_segment(query, key, value, params)
            if self._ends_prefill and not self.holds_all(self.position.length + tokens):
                layer.prepare_ahead()
                if self.has_link and isinstance(layer, LrqkLayer):
                    self._early.begin(layer)
                    self._early.finish_solved(self.position.length + tokens)
        else:
            if number == self._first:
                self.prepare_step()
                self.is_torn = True
            # Only layers with an index are given drafts; others take one token.
            step = self._steps.get(number, layer.attend_token)
            output = step(query, key, value, params)
            if number in self.observers:
                self.observers[number](query, params, output)
        if number == self._last:
            if is_step and self._state is not None and not self._state.is_choosing:
                self._state.count_demands(self.config)
            self.position.advance(1 if self._is_verifying else tokens)
            self.is_torn = False
        return output

    @contextmanager
    def verifying(self) -> Iterator[None]:
        """Treat several tokens as a verify step inside this context: the newest token, then its drafts.

        There are always ``draft_tokens`` drafts, and the context has room for all of these tokens. The step
        adds the newest token only; ``accept_draft`` adds the drafts. What the others wrote is never read.
        """
        self._is_verifying = True
        try:
            yield
        finally:
            self._is_verifying = False

    @property
    def draft_tokens(self) -> int:
        """The drafts of a verify step now; 0 if it has no room, or if a layer is observed."""
        drafts = accounting.draft_tokens(self.spec, self.config)
        return 0 if self.observers or self.position.length + drafts >= self.context else drafts

    def accept_draft(self) -> None:
        """Add the next draft of the newest verify step; call this before any other use of the cache."""
        self.position.accept_draft()

    def settle(self) -> None:
        """Move accepted drafts into the recent windows, which a device step otherwise does on the device."""
        if self.position.pending:
            for layer in self.lrqk_layers:
                layer.settle(self.position.pending)
            self.position.set(self.position.length)

    def holds_all(self, length: int) -> bool:
        """Return whether a decode step after ``length`` tokens finds all rows resident."""
        return accounting.holds_all(self.spec, self.config, self.context, length)

    @property
    def is_choosing(self) -> bool:
        """Whether the prepared step chooses rows; a captured step serves only steps that agree in this."""
        return self._state is None or self._state.is_choosing

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """Let a step inside this context choose rows even if it need not: that compiles all kernels."""
        self._warms_up = True
        try:
            yield
        finally:
            self._warms_up = False

    def prepare_step(self) -> None:
        """Finish a prefill and the acceptance of drafts; a captured step needs this before its launch."""
        self.finish_prefill()
        if self._state is not None:
            self._state.is_choosing = self._warms_up or not self.holds_all(self.position.length)
        if self._steps:
            self.position.send()
        else:
            self.settle()

    @contextmanager
    def prefilling(self, *, ends: bool = False) -> Iterator[None]:
        """Treat single tokens as segments too, attended exactly, inside this context.

        Args:
            ends: decode steps follow, so each layer may prepare for them as soon as it has attended. Then
                call ``finish_prefill`` in this context, which ends what the layers have begun by then.
        """
        self._is_prefilling, self._ends_prefill = True, ends
        try:
            yield
        finally:
            self._is_prefilling = self._ends_prefill = False
            self._early.close()

    @property
    def has_link(self) -> bool:
        """Whether rows cross a link to the device, so that solving ahead saves transfers."""
        return self.device.type == "cuda"

    def begin_segment(self) -> None:
        """Record the Gram sums before the next segment, for a solve ahead after it."""
        for layer in self.lrqk_layers:
            layer.begin_segment()

    def solve(self) -> None:
        """Fit the joint solver's factors to the tokens so far, if a prefill has left that to do now."""
        if self.holds_all(self.position.length):
            return
        unsolved = [layer for layer in self.lrqk_layers if layer.is_unsolved and layer not in self._early]
        run_solvers([layer.solve for layer in unsolved])

    def finish_prefill(self) -> None:
        """Prepare all layers for decode steps; otherwise the first step does it."""
        self._complete_restoring()
        if self.holds_all(self.position.length):
            self._hold()
            return
        unfinished = [layer for layer in self.lrqk_layers if layer.prefill is not None]
        if not unfinished:
            return
        self.settle()
        self.solve()
        # In order, so that the device has work while later layers are still solved for.
        for layer in unfinished:
            self._early.install(layer)
            layer.finish_prefill()
        self._early.close()
        self._refresh_steps()

    def _hold(self) -> None:
        """Prepare all layers for decode steps that find all rows resident."""
        opened = [layer for layer in self.lrqk_layers if layer.prefill is None or not layer.prefill.is_held]
        if opened:
            self._refresh_steps()  # the steps' copies of the maps may be of another text
        for layer in opened:
            layer.hold()

    def solve_soon(self) -> None:
        """Shortly before steps have to choose rows, begin to solve for the factors of one more layer.

        A background thread does it. Call this before each step whose lengths are on the device.
        """
        length = self.position.length
        if self.holds_all(length) and self.has_link and not self.holds_all(length + _SOLVE_BEFORE):
            self._early.begin_next(self.lrqk_layers)

    def reset(self) -> None:
        """Forget all tokens and all fits."""
        self.cancel_background_work()
        self.before_overwrite(0)
        self._rewind_points.clear()
        self.position.set(0)
        self.counters.reset()
        for layer in self.attention_layers:
            layer.reset()
        for state in self.states:
            state.reset()
        self._clear_scratch()
        self.is_torn = False

    def restore(self, blocks: Sequence[OpenPart], states: Sequence[OpenPart]) -> None:
        """Restore an empty cache from files, see ``Restoring``; rows arrive in the background.

        Raises:
            DamagedFileError: a file is not as it was written; later calls raise it too. Reset the cache then.
        """
        self.position.set(blocks[-1].stop)
        self._restoring = Restoring(self.attention_layers, self.states, blocks, states)
        self._refresh_steps()

    def cancel_background_work(self) -> None:
        """Stop reading from files, and solving; reset the cache before it is used again."""
        self._early.close()
        if self._restoring is not None:
            self._restoring.cancel()
            self._restoring = None

    def _complete_restoring(self) -> None:
        if self._restoring is not None:
            self._restoring.complete()
            self._restoring = None
