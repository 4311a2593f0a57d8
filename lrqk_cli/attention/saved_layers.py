"""The tensors of a cache's layers that the prefix cache keeps on the disk.

A block holds what later segments need of its tokens: their rows, and sums, rings and states after the last.
A state holds what a prefill derives from all tokens: maps, codes, and the token in each hot slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from lrqk_cli.attention.layers import AttentionLayer, FullLayer, SlidingLayer
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.states import LayerState
from lrqk_cli.attention.unfinished import UnfinishedPrefill
from lrqk_cli.kernels.buffers import RowScales
from lrqk_cli.memory.accounting import SCALE_TOKENS
from lrqk_cli.memory.tensors import empty_staging
from lrqk_cli.prefix_cache.tensor_file import DamagedFileError, TensorFile
from lrqk_cli.prefix_cache.writer import Captured


def capture_block(
    layers: Sequence[AttentionLayer], states: Sequence[LayerState], start: int, stop: int
) -> Captured:
    """Return the block of tokens ``[start, stop)``, the newest of the cache; does not wait for the device.

    The rows are views: they must not be overwritten until they have been written.
    """
    found, events = dict[str, Tensor](), list[torch.cuda.Event]()
    for number, layer in enumerate(layers):
        if isinstance(layer, FullLayer) and not layer.store.is_borrowed:
            found[f"{number}.rows"] = layer.store.rows[:, start:stop]
            events[:1] = layer.store.written_events()
            if layer.store.scales is not None:
                found[f"{number}.scales"] = to_host(_channels(layer.store.scales, start, stop))
        if isinstance(layer, LrqkLayer):
            found[f"{number}.observed"] = torch.tensor(layer.projector.grams.count)
            for part, tensor in enumerate(layer.projector.summed()):
                found[f"{number}.summed.{part}"] = to_host(tensor)
        if isinstance(layer, SlidingLayer):
            found[f"{number}.ring"] = to_host(layer.ring.rows[:, :stop])
    for number, state in enumerate(states):
        found |= {f"{number}.{name}": to_host(tensor) for name, tensor in state.tensors.items()}
    return _captured(found, layers, events)


def capture_state(layers: Sequence[AttentionLayer], start: int, stop: int) -> Captured:
    """Return what is derived from the tokens so far; no layer may have unfinished work.

    The codes are views: no layer may replace its fit until they have been written.

    Args:
        start: tokens whose codes another state has, of the same fits.
        stop: tokens of the cache.
    """
    found = dict[str, Tensor]()
    for number, layer in enumerate(layers):
        if isinstance(layer, LrqkLayer):
            found[f"{number}.fitted"] = torch.tensor(layer.fit.tokens)
            if start == 0:
                for part, tensor in enumerate((*layer.projector.fitted(), layer.index.scale)):
                    found[f"{number}.fitted.{part}"] = to_host(tensor)
            for part, tensor in enumerate(layer.projector.adapted()):
                found[f"{number}.adapted.{part}"] = to_host(tensor)
            found[f"{number}.codes"] = layer.index.codes[:, start:stop]
            found[f"{number}.slots"] = to_host(layer.hot.slot_token[:, : layer.hot.filled(stop)].int())
    return _captured(found, layers, [])


def _captured(
    tensors: dict[str, Tensor], layers: Sequence[AttentionLayer], events: list[torch.cuda.Event]
) -> Captured:
    device = layers[0].position.tensor.device
    if device.type == "cuda":
        events = [*events, torch.cuda.current_stream(device).record_event()]

    def ready() -> None:
        for event in events:
            event.synchronize()

    return Captured(tensors, ready)


def to_host(tensor: Tensor) -> Tensor:
    """Return a copy in host memory, from a device in pinned memory and without waiting if that can be."""
    if not tensor.is_cuda:
        return tensor.clone()
    return empty_staging(tensor, tensor.device).copy_(tensor, non_blocking=True)


def side_stream(device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Return what makes the context in which another thread copies from the device; nothing on a CPU."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    return lambda: torch.cuda.stream(stream)


def _channels(scales: RowScales, start: int, stop: int) -> Tensor:
    """Return the scales of the channels for the tokens ``[start, stop)``."""
    return scales.channels[:, start // SCALE_TOKENS : -(-stop // SCALE_TOKENS)]


def read_row_scales(
    layer: AttentionLayer, number: int, blocks: Sequence[tuple[TensorFile, int, int]]
) -> None:
    """Restore the scales of rows in 8 bits.

    Args:
        blocks: each with the tokens whose rows it has.

    Raises:
        DamagedFileError: a block has other scales than the one before it, for tokens of the same block of
            scales: they were written by two processes, each of which read the text in segments of its own.
            Without the later block, the text goes on from the earlier one.
    """
    if not isinstance(layer, FullLayer) or layer.store.is_borrowed or layer.store.scales is None:
        return
    for block, start, stop in blocks:
        target = _channels(layer.store.scales, start, stop)
        found = torch.empty(target.shape, dtype=target.dtype)
        block.read_into(f"{number}.scales", found)
        if start % SCALE_TOKENS and not torch.equal(found[:, 0], target[:, 0].cpu()):
            raise DamagedFileError(block.path, "the rows before it have other scales")
        target.copy_(found)


def read_sums(layer: AttentionLayer, number: int, block: TensorFile, length: int) -> None:
    """Restore the sums or the ring of a layer from the last block of ``length`` tokens."""
    if isinstance(layer, LrqkLayer):
        for part, tensor in enumerate(layer.projector.summed()):
            block.read_into(f"{number}.summed.{part}", tensor)
        layer.projector.grams.count = int(block.tensor(f"{number}.observed"))
    elif isinstance(layer, SlidingLayer):
        block.read_into(f"{number}.ring", layer.ring.rows[:, :length])


def read_state(state: LayerState, number: int, block: TensorFile, device: torch.device) -> None:
    """Restore the state of a layer from the last block."""
    names = [name for name in ("conv", "recurrent") if f"{number}.{name}" in block]
    state.restore({name: block.tensor(f"{number}.{name}").to(device) for name in names})


def read_fit(layer: AttentionLayer, number: int, states: Sequence[TensorFile], length: int) -> None:
    """Restore the fit and the tokens in the hot slots, whose rows are not there yet.

    The first state has the fit, the last one the hot slots. Without any the layer has the whole fit to do, as
    after a prefill that was not finished.
    """
    if not isinstance(layer, LrqkLayer):
        return
    layer.fit.reset()
    layer.hot.clear()
    layer.prefill = None if states else UnfinishedPrefill(indexed=0, filled=0)
    if states:
        for part, tensor in enumerate((*layer.projector.fitted(), layer.index.scale)):
            states[0].read_into(f"{number}.fitted.{part}", tensor)
        for part, tensor in enumerate(layer.projector.adapted()):
            states[-1].read_into(f"{number}.adapted.{part}", tensor)
        layer.fit.tokens = int(states[-1].tensor(f"{number}.fitted"))
        used = layer.hot.slot_token[:, : layer.hot.filled(length)]
        slots = torch.empty(used.shape, dtype=torch.int32)
        states[-1].read_into(f"{number}.slots", slots)
        used.copy_(slots)


def read_residents(
    layer: AttentionLayer, number: int, states: Sequence[tuple[TensorFile, int, int]], length: int
) -> None:
    """Restore the index and the resident rows of a layer, once all its rows are in the store.

    Args:
        states: each with the tokens whose codes it has.
        length: tokens of the cache.
    """
    if not isinstance(layer, LrqkLayer):
        return
    slots = layer.hot.slot_token.clone()
    layer.hot.slot_token.fill_(-1)
    for state, start, stop in states:
        state.read_into(f"{number}.codes", layer.index.codes[:, start:stop])
    layer.hot.rewind(slots, layer.hot.filled(length) if states else 0, length, layer.store)
    if states:
        layer.fit_tail()
