"""The store of all K and V rows of one layer, in host memory or (for ``dense``) on the device."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.row_scales import empty_scales, fit_row_scales
from lrqk_cli.config import KvDtype
from lrqk_cli.errors import ContextLengthError, PinningError
from lrqk_cli.kernels.buffers import FetchPlan, Residents, StoredRows
from lrqk_cli.memory import accounting
from lrqk_cli.memory.activations import stream_rows
from lrqk_cli.memory.managed import empty_managed
from lrqk_cli.memory.tensors import empty, empty_host
from lrqk_cli.model_spec import ModelSpec


class _CopyStreams(NamedTuple):
    """One stream per direction, so that neither waits for the other.

    Kernels that copy (``kernels.copy_rows``) go before those that compute, which may fill the device.
    """

    to_host: torch.cuda.Stream
    to_device: torch.cuda.Stream


@cache
def _copy_streams(device: torch.device) -> _CopyStreams:
    return _CopyStreams(torch.cuda.Stream(device, priority=-1), torch.cuda.Stream(device, priority=-1))


def side_by_side(key: Tensor, value: Tensor, parts: int) -> Tensor:
    """Return rows ``[KV, S, parts, d]`` of K and V ``[KV, S, d]``; in one part the key is the value too."""
    return torch.stack((key, value), 2) if parts > 1 else key.unsqueeze(2)


def _copy_heads(target: Tensor, source: Tensor) -> None:
    """Copy rows head by head: both sides are contiguous, so that a copy with pinned memory does not wait."""
    for head in range(target.shape[0]):
        target[head].copy_(source[head], non_blocking=True)


class RowStore:
    """K and V of every token, side by side: ``rows[KV, context, 2, d]``.

    A row is the unit of transfer. K and V of a token are adjacent, so one transfer moves both; if K is
    V too, rows are ``[KV, context, 1, d]``. With
    ``kv_dtype`` fp8 or int8 a row is ``2d + 4`` bytes (``kernels.quantise_rows``), and all that reads K and V
    of a token, its own segment included, reads the same rounded numbers.

    Attributes:
        scales: of rows in 8 bits, on the device.
        is_borrowed: the rows are another layer's, which writes them; see ``borrowed``.
        is_pageable: the rows are in host memory that no kernel of a GPU can read, and each copy from or to it
            waits. Else they are in managed memory, if single rows are fetched and there is such, or pinned.

    Args:
        fetched: steps fetch single rows; otherwise all are read in order, which copy engines do best.
        may_page: be pageable where there is no managed memory and host memory cannot be pinned.

    Raises:
        HostMemoryError: the rows do not fit in host memory.
        PinningError: they cannot be pinned, and ``may_page`` is false.
    """

    is_borrowed = False

    def __init__(
        self,
        spec: ModelSpec,
        context: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        on_device: bool,
        fetched: bool = True,
        kv_dtype: KvDtype = "bf16",
        may_page: bool = False,
    ) -> None:
        shape = accounting.row_store(spec, context, accounting.dtype_name(dtype), kv_dtype)
        self._dtype = dtype
        self._width = spec.head_dim
        self.scales = empty_scales(spec, context, kv_dtype, device)
        self.device = device
        self.on_device = on_device
        local = on_device or device.type == "cpu"
        self.is_pageable = False
        may_be_managed = fetched and not on_device and kernels.has_triton()
        managed = empty_managed(shape, device) if may_be_managed else None
        self._is_managed = managed is not None
        if on_device:
            self.rows = empty(shape, device)
        elif managed is not None:
            self.rows = managed
        else:
            try:
                self.rows = empty_host(shape, pinned=device.type == "cuda")
            except PinningError:
                if not may_page:
                    raise
                self.rows, self.is_pageable = empty_host(shape, pinned=False), True
        self._streams = None if local else _copy_streams(device)

    def borrowed(self) -> RowStore:
        """Return the same rows for another layer, which has the same K and V and need not write them."""
        other = copy(self)
        other.is_borrowed = True
        return other

    @property
    def capacity(self) -> int:
        """Tokens that the store can hold."""
        return self.rows.shape[1]

    @property
    def stored(self) -> StoredRows:
        """The rows with their scales, for kernels."""
        return StoredRows(self.rows, self.scales)

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's K and V for one KV head."""
        return self.rows[0, 0].nbytes

    def write(self, start: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store K and V ``[KV, S, d]`` of the tokens from ``start`` on; return them as they are read back.

        Raises:
            ContextLengthError: the tokens exceed the capacity; nothing was written.
        """
        stop = start + key.shape[1]
        if stop > self.capacity:
            raise ContextLengthError(
                f"The text reaches {stop:,} tokens, and the context was reserved for {self.capacity:,}.",
                "Raise `context`.",
            )
        if self.scales is None:
            rows = side_by_side(key, value, self.rows.shape[2])
        else:
            if not self.is_borrowed:
                fit_row_scales(self.scales, start, key, value)
            rows = torch.empty(*key.shape[:2], self.rows.shape[2], dtype=self.rows.dtype, device=key.device)
            key, value = kernels.quantise_rows(key, value, StoredRows(rows, self.scales), start)
        self._copy_to_host(start, stop, rows)
        return key, value

    def _copy_to_host(self, start: int, stop: int, rows: Tensor) -> None:
        if self.is_borrowed:
            return
        if self._streams is None:
            self.rows[:, start:stop] = rows
            return
        rows = rows.contiguous()
        writes = self._streams.to_host
        writes.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(writes):
            if self._is_managed:
                kernels.copy_to_host(rows, self.rows[:, start:stop])
            else:
                _copy_heads(self.rows[:, start:stop], rows)
        rows.record_stream(writes)

    def await_writes(self) -> None:
        """Let later work of the current stream wait for all writes to host memory."""
        if self._streams is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._streams.to_host)

    def fetch(self, residents: Residents, plan: FetchPlan) -> None:
        """Copy the rows of a plan into their slots; see ``kernels.replace_rows``."""
        replace = kernels.replace_rows_by_host if self.is_pageable else kernels.replace_rows
        replace(residents, plan, self.stored)

    def written_events(self) -> list[torch.cuda.Event]:
        """Return events after which all rows so far, of all layers, are in host memory."""
        return [] if self._streams is None else [self._streams.to_host.record_event()]

    def stream(self, start: int, stop: int, segment: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return an iterator of K and V of tokens ``[start, stop)``, chunks ``[KV, S, d]`` on the device.

        The copy of the first chunk starts at once and overlaps with the caller's computation. A chunk is
        valid until the next one is requested: two buffers alternate, and one is filled while the other is in
        use.

        Args:
            segment: tokens that attend to these; see ``memory.activations.stream_rows``.
        """
        if stop <= start:
            return iter(())
        size = stream_rows(segment)
        if self._streams is None:
            return self._local_chunks(start, stop, size)
        heads = self.rows.shape[0]
        shape = (heads, min(size, stop - start), *self.rows.shape[2:])
        copies = self._streams.to_device
        buffers = [
            torch.empty(shape, dtype=self.rows.dtype, device=self.device)
            for _ in range(min(2, -(-(stop - start) // size)))
        ]
        for buffer in buffers:
            buffer.record_stream(copies)
        # Pending writes to the host must be complete before they are read back.
        copies.wait_stream(self._streams.to_host)
        copies.wait_stream(torch.cuda.current_stream(self.device))
        filled = self._fill(copies, buffers[0], start, stop)
        return self._chunks(copies, buffers, filled, start, stop)

    def _local_chunks(self, start: int, stop: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the chunks of ``stream`` of rows that need no transfer: one, if they are plain."""
        size = stop - start if self.scales is None else size
        plain = self._plain_buffer(min(size, stop - start))
        for first in range(start, stop, size):
            yield self._key_and_value(first, self.rows[:, first : min(first + size, stop)], plain)

    def _plain_buffer(self, count: int) -> Tensor | None:
        """Return memory for ``count`` rows that are read back; None if they are plain."""
        if self.scales is None:
            return None
        shape = (self.rows.shape[0], count, 2, self._width)
        return torch.empty(shape, dtype=self._dtype, device=self.device)

    def _key_and_value(self, first: int, rows: Tensor, plain: Tensor | None) -> tuple[Tensor, Tensor]:
        if plain is not None:
            plain = plain[:, : rows.shape[1]]
            kernels.dequantise_rows(StoredRows(rows, self.scales), plain, first)
            rows = plain
        return rows[:, :, 0], rows[:, :, -1]

    def _chunks(
        self,
        copies: torch.cuda.Stream,
        buffers: list[Tensor],
        filled: torch.cuda.Event,
        start: int,
        stop: int,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the chunks of ``stream``; the copy of the first has started."""
        compute = torch.cuda.current_stream(self.device)
        size = buffers[0].shape[1]
        plain = self._plain_buffer(size)
        for number, first in enumerate(range(start, stop, size)):
            compute.wait_event(filled)
            if first + size < stop:
                # The caller's work on the other buffer must be complete before it is overwritten.
                copies.wait_stream(compute)
                filled = self._fill(copies, buffers[(number + 1) % 2], first + size, stop)
            yield self._key_and_value(first, buffers[number % 2][:, : stop - first], plain)

    def _fill(self, copies: torch.cuda.Stream, buffer: Tensor, first: int, stop: int) -> torch.cuda.Event:
        count = min(buffer.shape[1], stop - first)
        rows = self.rows[:, first : first + count]
        with torch.cuda.stream(copies):
            if self._is_managed:
                kernels.copy_from_host(buffer[:, :count], rows)
            else:
                _copy_heads(buffer[:, :count], rows)
            event = torch.cuda.Event()
            event.record(copies)
        return event
