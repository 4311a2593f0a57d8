"""Restores a cache from files: small tensors at once, rows layer by layer in background threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Event
from typing import NamedTuple

from lrqk_cli.attention import saved_layers
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.layers import AttentionLayer, FullLayer
from lrqk_cli.attention.states import LayerState
from lrqk_cli.prefix_cache.tensor_file import TensorFile
from lrqk_cli.solver_pool import take_results

# Fast disks are faster than one thread that reads and checks.
_THREADS = 8


class OpenPart(NamedTuple):
    """An open file of a block or a state, and the tokens ``[start, stop)`` whose rows or codes it has."""

    file: TensorFile
    start: int
    stop: int


class Restoring:
    """The restoration of a cache to the end of a chain of blocks.

    A layer is complete once ``complete_layer`` has been called for it, before its next segment or step. The
    layers are read in their order, so the first can compute while others are read.

    Args:
        layers, layer_states: of the cache.
        blocks: from the first token on, without gaps.
        states: their codes, from the first token on, of one fit; empty if there are none for the cache's
            settings.

    Raises:
        DamagedFileError: a file is not as it was written; also raised by the other methods. The cache must
            then be reset.
    """

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        layer_states: Sequence[LayerState],
        blocks: Sequence[OpenPart],
        states: Sequence[OpenPart],
    ) -> None:
        self._layers = layers
        self._blocks = blocks
        self._states = states
        self._length = blocks[-1].stop
        self._is_cancelled = Event()
        self._incomplete = set(range(len(layers)))
        self._pool = ThreadPoolExecutor(_THREADS, "lrqk-restore")
        self._reads: list[list[Future[None]]] = []
        try:
            for number, layer in enumerate(layers):
                saved_layers.read_row_scales(layer, number, blocks)
                saved_layers.read_sums(layer, number, blocks[-1].file, self._length)
                saved_layers.read_fit(layer, number, [state.file for state in states], self._length)
            for number, state in enumerate(layer_states):
                saved_layers.read_state(state, number, blocks[-1].file, layers[number].position.tensor.device)
            for number, layer in enumerate(layers):
                self._reads.append(
                    [self._pool.submit(self._read_rows, layer.store, number, block) for block in blocks]
                    if isinstance(layer, FullLayer) and not layer.store.is_borrowed
                    else []
                )
        except BaseException:
            self.cancel()
            raise

    @property
    def is_complete(self) -> bool:
        """Whether all layers are complete."""
        return not self._incomplete

    def complete_layer(self, number: int) -> None:
        """Wait for the rows of a layer, and restore its index and its resident rows."""
        if number not in self._incomplete:
            return
        take_results(self._reads[number])
        saved_layers.read_residents(self._layers[number], number, self._states, self._length)
        self._incomplete.remove(number)
        if self.is_complete:
            self._close()

    def complete(self) -> None:
        """Complete all layers."""
        for number in range(len(self._layers)):
            self.complete_layer(number)

    def cancel(self) -> None:
        """Stop reading; the cache must then be reset."""
        self._is_cancelled.set()
        self._close()

    def _close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for part in (*self._blocks, *self._states):
            part.file.close()

    def _read_rows(self, store: RowStore, number: int, block: OpenPart) -> None:
        if self._is_cancelled.is_set():
            raise CancelledError
        block.file.read_into(f"{number}.rows", store.rows[:, block.start : block.stop])
