"""Cache layers that serve attention exactly: the base of all layers, full attention, and sliding windows."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from lrqk_cli import kernels
from lrqk_cli.attention.decode_step import DenseDeviceStep, DeviceState, DeviceStep
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.hot_set import Ring
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.rewind_points import Copies, LayerRewindPoint, SlidingRewindPoint
from lrqk_cli.attention.sources import add_weights
from lrqk_cli.config import ModelSpec
from lrqk_cli.errors import UnsupportedModelError
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty
from lrqk_cli.telemetry.stats import StepStats


class AttentionLayer(CacheLayerMixin):
    """One layer of the cache; transformers calls ``update`` and then, through the hook, ``attend``.

    Batch size is one. Lengths are tokens.

    Attributes:
        length: tokens announced by ``update``.
        prefilling: single tokens are segments too, not decode steps.
        ends_prefill: the segment under way is the last before decode steps.
    """

    is_compileable = False
    is_croppable = False
    is_sliding: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = 0
        self.prefilling = self.ends_prefill = False
        self.batch_size = 1
        self.is_initialized = True
        self._device: DeviceState | None = None
        self._step: DeviceStep | None = None
        self._number = 0
        self._is_last = False
        self._token_attention: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: everything was allocated on construction."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Count the new tokens and hand their K and V ``[1, KV, S, d]`` on; ``attend`` stores them."""
        if key_states.shape[0] != 1:
            raise UnsupportedModelError(
                f"A batch of {key_states.shape[0]} sequences was asked for; the cache holds one.",
                "Generate one sequence at a time.",
            )
        self.length += key_states.shape[2]
        return key_states, value_states

    def use_device_steps(self, state: DeviceState, number: int, *, is_last: bool) -> None:
        """Let decode steps keep their lengths on the device, as the other layers that share ``state`` do.

        Args:
            number: the layer's own, from 0.
            is_last: the layer is the model's last.
        """
        self._device = state
        self._number = number
        self._step = self._make_step(state)
        self._is_last = is_last

    def attend(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Attend with the newest S tokens over all tokens so far, and store their K and V.

        Args:
            query: ``[KV, G, S, d]``.
            key, value: ``[KV, S, d]``, what ``update`` was given.
            params: see ``AttentionParams``.

        Returns:
            ``[KV, G, S, d]``, in float32 or in the query's element type.
        """
        if self._is_segment(key) or self._device is None or self._step is None:
            return self._attend(query, key, value, params)
        self.finish_prefill()
        self._device.begin(self.length - 1)
        output = self._step(query, key, value, params)
        if self._is_last:
            self._device.end()
        self.sync_host_length(self.length)
        self._show(query, params, output)
        return output

    def sync_host_length(self, length: int) -> None:
        """Note that steps on the device have stored what there is up to ``length`` tokens."""
        self.length = length

    def track_attention(self, weights: Tensor | None) -> None:
        """Add the weights of tokens up in ``weights``, float32 ``[context]``, from the next prompt on.

        None stops it. A captured graph is void.
        """
        self._token_attention = weights
        if self._device is not None:
            self.use_device_steps(self._device, self._number, is_last=self._is_last)

    @property
    def is_unsolved(self) -> bool:
        """Whether ``solve`` has something to do before ``finish_prefill``, which else does it."""
        return False

    def solve(self) -> None:
        """Fit to the segments so far what decode steps need; many layers may do so side by side."""

    @property
    def is_observed(self) -> bool:
        """Whether something is told of every decode step, which a captured graph cannot do."""
        return False

    def _show(self, query: Tensor, params: AttentionParams, output: Tensor) -> None:
        """Tell who looks on of a decode step: what ``attend`` was given, and what it returns."""

    def _is_segment(self, key: Tensor) -> bool:
        return self.prefilling or key.shape[1] > 1 or self.length == 1

    @abstractmethod
    def _attend(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Attend to a segment, or a single token, with lengths on the host."""

    @abstractmethod
    def _make_step(self, state: DeviceState) -> DeviceStep:
        """Return this layer's part of a decode step."""

    def get_seq_length(self) -> int:
        """Return the tokens seen."""
        return self.length

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Return the length and offset of a mask over all tokens, after transformers' protocol."""
        new = query_length if isinstance(query_length, int) else len(query_length)
        return self.length + new, 0

    def get_max_length(self) -> int:
        """Return -1: what limits a layer is said by the error of its store."""
        return -1

    def reset(self) -> None:
        """Forget all tokens."""
        self.length = 0

    def finish_prefill(self) -> None:
        """Prepare for decode steps after a prefill."""

    def rewind_point(self) -> LayerRewindPoint:
        """Note the point that has been reached."""
        return LayerRewindPoint(self.length)

    def rewind(self, point: LayerRewindPoint) -> None:
        """Be again as at ``point``, one of this layer's own; rows beyond it may hold anything."""
        self.length = point.length

    def take_stats(self) -> StepStats:
        """Return the counters since they were last taken."""
        return StepStats()


class FullLayer(AttentionLayer):
    """Exact attention over all rows: on the device (``dense``) or streamed from the host (``offload``).

    Attributes:
        stored: tokens whose rows are in the store.
    """

    # Rows are only appended, and there is nothing else.
    is_croppable = True

    def __init__(self, spec: ModelSpec, store: RowStore) -> None:
        super().__init__()
        self.spec = spec
        self.store = store
        self.stored = 0
        self._streamed_rows = 0

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        output = self.attend_exactly(query, key, value, params)
        if self._token_attention is not None:
            if self._is_segment(key):
                self._token_attention.zero_()
            keys = (chunk for chunk, _ in self.store.stream(0, self.stored))
            tokens = torch.arange(self.stored, device=query.device).expand(query.shape[0], -1)
            add_weights(self._token_attention, query[:, :, -1:], keys, tokens, params)
        return output

    def _make_step(self, state: DeviceState) -> DeviceStep:
        return DenseDeviceStep(self.store.rows, state, self._token_attention)

    def sync_host_length(self, length: int) -> None:
        """See ``AttentionLayer``."""
        super().sync_host_length(length)
        self.stored = length

    def rewind(self, point: LayerRewindPoint) -> None:
        """See ``AttentionLayer``."""
        super().rewind(point)
        self.stored = point.length

    def write(self, key: Tensor, value: Tensor) -> None:
        """Store K and V ``[KV, S, d]`` of the next tokens."""
        self.store.write(self.stored, key, value)
        self.stored += key.shape[1]

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        self.stored = self._streamed_rows = 0

    def attend_exactly(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Attend to the own segment causally, to all earlier rows chunk by chunk, and merge."""
        earlier = self.stored
        # In this order the first chunk arrives during attention to the own segment.
        chunks = self.store.stream(0, earlier)
        self.write(key, value)
        output, lse = kernels.attend(
            query, key, value, scaling=params.scaling, softcap=params.softcap, causal=True
        )
        for keys, values in chunks:
            self._index_earlier_keys(keys)
            chunk_output, chunk_lse = kernels.attend(
                query, keys, values, scaling=params.scaling, softcap=params.softcap
            )
            output, lse = kernels.merge(output, lse, chunk_output, chunk_lse)
        self._streamed_rows += earlier * self.spec.num_kv_heads
        return weigh_sinks(output, lse, params.sinks)

    def _index_earlier_keys(self, keys: Tensor) -> None:
        """Take note of a chunk of earlier keys ``[KV, S, d]`` that are on the device for once, in order."""

    def take_stats(self) -> StepStats:
        """Count every earlier row as wanted, and as fetched where the store is not on the device."""
        wanted, self._streamed_rows = self._streamed_rows, 0
        fetched = 0 if self.store.on_device else wanted
        return StepStats(wanted, fetched, fetched * self.store.row_bytes, self.spec.num_kv_heads)


class SlidingLayer(AttentionLayer):
    """Exact attention over the newest ``window`` tokens: a small ring of rows on the device."""

    is_sliding: ClassVar[bool] = True

    def __init__(self, spec: ModelSpec, window: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        name = accounting.dtype_name(dtype)
        self.ring = Ring(empty(accounting.ring(spec, window, name), device))

    def rewind_point(self) -> LayerRewindPoint:
        """See ``AttentionLayer``."""
        return SlidingRewindPoint(self.length, Copies([self.ring.rows[:, : self.length]]))

    def rewind(self, point: LayerRewindPoint) -> None:
        """See ``AttentionLayer``."""
        assert isinstance(point, SlidingRewindPoint)
        super().rewind(point)
        point.rows.put_back()

    def _make_step(self, state: DeviceState) -> DeviceStep:
        return DenseDeviceStep(self.ring.rows, state)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        segment = key.shape[1]
        earlier = self.length - segment
        # The window counts the query's own token.
        past = min(earlier, self.ring.size - 1)
        past_key, past_value = self.ring.ordered(earlier, past)
        output, lse = kernels.attend(
            query,
            torch.cat((past_key, key), 1),
            torch.cat((past_value, value), 1),
            scaling=params.scaling,
            softcap=params.softcap,
            causal=True,
            window=self.ring.size,
        )
        self.ring.append(earlier, key, value)
        return weigh_sinks(output, lse, params.sinks)


def weigh_sinks(output: Tensor, lse: Tensor, sinks: Tensor | None) -> Tensor:
    """Let attention sinks take their share: ``o · e^lse / (e^lse + e^sink)``, ``[KV, G, S, d]``."""
    if sinks is None:
        return output
    heads, group, _ = lse.shape
    return output * torch.sigmoid(lse - sinks.float().view(heads, group, 1)).unsqueeze(-1)
