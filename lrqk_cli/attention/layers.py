"""Cache layers that serve attention exactly: the base of all layers, full attention, and sliding windows."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from lrqk_cli import kernels
from lrqk_cli.attention.decode_step import DenseDeviceStep, DeviceStep
from lrqk_cli.attention.device_state import DeviceState
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.hot_set import Ring
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.position import Position
from lrqk_cli.attention.rewind_points import Copies, LayerRewindPoint, SlidingRewindPoint
from lrqk_cli.attention.sources import add_weights
from lrqk_cli.errors import UnsupportedModelError
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.telemetry.stats import StepStats


class AttentionLayer(CacheLayerMixin):
    """One layer of the cache. transformers calls ``update``, and ``LrqkCache.attend`` then calls the layer.

    Batch size is one. Lengths are in tokens; ``position`` does not count the tokens of the current call.

    Attributes:
        token_attention: the attention weights of each token since the newest prompt, summed, float32
            ``[context]``; None if the layer is not tracked.
    """

    is_compileable = False
    is_croppable = False
    is_sliding: ClassVar[bool] = False
    attends: ClassVar[bool] = True

    def __init__(self, position: Position) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.position = position
        self.batch_size = 1
        self.is_initialized = True
        self.token_attention: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the constructor has allocated all tensors."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return K and V ``[1, KV, S, d]`` for ``attend``; raise UnsupportedModelError for larger batches."""
        if key_states.shape[0] != 1:
            raise UnsupportedModelError(
                f"A batch of {key_states.shape[0]} sequences was asked for; the cache holds one.",
                "Generate one sequence at a time.",
            )
        return key_states, value_states

    @abstractmethod
    def attend_segment(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Store K and V of the newest S tokens, and attend exactly with their queries to all tokens so far.

        Args:
            query: ``[KV, G, S, d]``.
            key, value: ``[KV, S, d]``, as passed to ``update``.
            params: see ``AttentionParams``.

        Returns:
            ``[KV, G, S, d]``, in float32 or in the query's dtype.
        """

    def prepare_ahead(self) -> None:
        """Prepare for decode steps within the last segment, after this layer has attended."""

    def attend_token(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Attend with one token in a plain decode step, with lengths on the host."""
        return self.attend_segment(query, key, value, params)

    @abstractmethod
    def make_step(self, state: DeviceState, number: int) -> DeviceStep:
        """Return the layer's decode step with lengths on the device.

        Args:
            state: shared by all layers.
            number: of the layer, from 0.
        """

    def get_seq_length(self) -> int:
        """Return the number of tokens in the cache."""
        return self.position.length

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Return the length and offset of a mask over all tokens; transformers' protocol."""
        new = query_length if isinstance(query_length, int) else len(query_length)
        return self.position.length + new, 0

    def get_max_length(self) -> int:
        """Return -1 for no limit: the layer's store raises its own error when it is full."""
        return -1

    def reset(self) -> None:
        """Forget all tokens."""

    def rewind_point(self) -> LayerRewindPoint:
        """Return a point to rewind to, with copies of the state that later tokens change in place."""
        return LayerRewindPoint()

    def rewind(self, point: LayerRewindPoint, length: int) -> None:
        """Restore the layer to ``point``, one of its own, at ``length`` tokens."""

    def take_stats(self) -> StepStats:
        """Return the counters since the last call."""
        return StepStats()


class NoAttention(AttentionLayer):
    """The place of a layer without attention, which the model never calls."""

    attends = False

    def attend_segment(self, *_: object) -> Tensor:
        """Raise: the model's configuration does not say that this layer attends."""
        raise UnsupportedModelError("A layer attends that has no attention by the model's configuration.")

    def make_step(self, *_: object) -> DeviceStep:
        """Raise, as ``attend_segment``."""
        raise NotImplementedError


class FullLayer(AttentionLayer):
    """Exact attention over all rows: on the device (``dense``) or streamed from the host (``offload``)."""

    # The layer's only state is rows, and they are only appended.
    is_croppable = True

    def __init__(self, spec: ModelSpec, store: RowStore, position: Position) -> None:
        super().__init__(position)
        self.spec = spec
        self.store = store
        self._streamed_rows = 0

    def attend_segment(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """See ``AttentionLayer``."""
        if self.token_attention is not None:
            self.token_attention.zero_()
        return self.attend_token(query, key, value, params)

    def attend_token(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """See ``AttentionLayer``."""
        output, key, _ = self.attend_exactly(query, key, value, params)
        if self.token_attention is not None:
            length = self.position.length + key.shape[1]
            keys = (chunk for chunk, _ in self.store.stream(0, length))
            tokens = torch.arange(length, device=query.device).expand(query.shape[0], -1)
            add_weights(self.token_attention, query[:, :, -1:], keys, tokens, params)
        return output

    def make_step(self, state: DeviceState, _: int) -> DeviceStep:
        """See ``AttentionLayer``."""
        return DenseDeviceStep(self.store.rows, state, self.token_attention)

    def reset(self) -> None:
        """See ``AttentionLayer``."""
        self._streamed_rows = 0

    def attend_exactly(
        self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Store a segment; attend causally within it and to all earlier rows chunk by chunk.

        Returns:
            The output, and the segment's K and V as they are read back.
        """
        earlier, streamed = self.position.length, 0
        # Start the stream first: its first chunk arrives during attention within the segment.
        chunks = self.store.stream(0, earlier, key.shape[1])
        key, value = self.store.write(earlier, key, value)
        output, lse = kernels.attend(
            query, key, value, scaling=params.scaling, softcap=params.softcap, causal=True
        )
        waiting: tuple[Tensor, Tensor] | None = None
        is_merged = False
        for keys, values in chunks:
            self._index_keys(streamed, keys)
            streamed += keys.shape[1]
            part = kernels.attend(query, keys, values, scaling=params.scaling, softcap=params.softcap)
            if waiting is None:
                waiting = part
            else:  # two chunks at once, because a merge reads and writes the whole output in float32
                output, lse = kernels.merge(output, lse, *waiting, part, in_place=is_merged)
                waiting, is_merged = None, True
        if waiting is not None:
            output, lse = kernels.merge(output, lse, *waiting, in_place=is_merged)
        self._streamed_rows += earlier * self.spec.num_kv_heads
        return weigh_sinks(output, lse, params.sinks), key, value

    def _index_keys(self, first: int, keys: Tensor) -> None:
        """Index the keys ``[KV, S, d]`` of the tokens from ``first`` on while they are on the device."""

    def take_stats(self) -> StepStats:
        """Count every earlier row as wanted, and as fetched if the store is not on the device."""
        wanted, self._streamed_rows = self._streamed_rows, 0
        fetched = 0 if self.store.on_device else wanted
        return StepStats(wanted, fetched, fetched * self.store.row_bytes, self.spec.num_kv_heads)


class SlidingLayer(AttentionLayer):
    """Exact attention over the newest ``window`` tokens: a small ring of rows on the device."""

    is_sliding: ClassVar[bool] = True

    def __init__(
        self, spec: ModelSpec, window: int, dtype: torch.dtype, device: torch.device, position: Position
    ) -> None:
        super().__init__(position)
        name = accounting.dtype_name(dtype)
        self.ring = Ring(empty(accounting.ring(spec, window, name), device))

    def rewind_point(self) -> LayerRewindPoint:
        """See ``AttentionLayer``."""
        return SlidingRewindPoint(Copies([self.ring.rows[:, : self.position.length]]))

    def rewind(self, point: LayerRewindPoint, _: int) -> None:
        """See ``AttentionLayer``."""
        assert isinstance(point, SlidingRewindPoint)
        point.rows.put_back()

    def make_step(self, state: DeviceState, _: int) -> DeviceStep:
        """See ``AttentionLayer``."""
        return DenseDeviceStep(self.ring.rows, state)

    def attend_segment(self, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """See ``AttentionLayer``."""
        earlier = self.position.length
        # The window includes the query's own token.
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
    """Scale outputs by their share beside the sinks: ``o · e^lse / (e^lse + e^sink)``, ``[KV, G, S, d]``."""
    if sinks is None:
        return output
    heads, group, _ = lse.shape
    return output * torch.sigmoid(lse - sinks.float().view(heads, group, 1)).unsqueeze(-1)
