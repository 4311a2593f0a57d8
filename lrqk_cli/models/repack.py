"""Rearranges the blocks of a GGUF file into planes on the device, bit for bit.

The block layouts are those of ggml (``ggml-common.h``); ``gguf.quants`` unpacks them the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lrqk_cli.formats import FORMATS, PackedFormat
from lrqk_cli.kernels.packed import PackedMatrix, empty_matrix, pack, weights_of

# Weights repacked at a time: temporary tensors take some ten bytes per weight.
_AT_ONCE = 1 << 24
# Weights unpacked at a time: few enough to stay in a CPU's cache.
_UNPACKED_AT_ONCE = 1 << 18

# Of n blocks codes uint8 [n, width of a block], floats float16 or uint8 [n, F], scales [n, 2, units] or None.
_Content = tuple[Tensor, Tensor, Tensor | None]


def repack(format: PackedFormat, blocks: Tensor, width: int, order: Tensor | None = None) -> PackedMatrix:
    """Rearrange the blocks of a matrix into planes.

    Args:
        blocks: uint8 ``[rows, bytes of a row]`` as in the file, on the device of the result.
        width: weights per row.
        order: the file's row number for each row, ``[rows]``; None for the same order.
    """
    rows = blocks.shape[0]
    whole = empty_matrix(format, rows, width, blocks.device)
    for part, taken in _parts(blocks, order, _AT_ONCE // width):
        whole.put(part.start, _packed(format, taken))
    return whole


def unpack_blocks(format: PackedFormat, blocks: Tensor, out: Tensor, order: Tensor | None = None) -> None:
    """Unpack blocks into ``out`` ``[rows, width]``, rounded once from float32.

    Args:
        blocks, order: as in ``repack``.
    """
    width = out.shape[1]
    at_once = _AT_ONCE if out.is_cuda else _UNPACKED_AT_ONCE
    for part, taken in _parts(blocks, order, at_once // width):
        codes, floats, scales = _READERS[format.name](taken.reshape(-1, format.block_bytes))
        # Treat each block as a row.
        out[part] = weights_of(format, codes, floats.unsqueeze(2), scales).view(-1, width)


def _parts(blocks: Tensor, order: Tensor | None, step: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of ``step`` rows and their blocks."""
    step = max(1, step)
    for start in range(0, blocks.shape[0], step):
        part = slice(start, start + step)
        yield part, blocks[part] if order is None else blocks[order[part]]


def _packed(format: PackedFormat, blocks: Tensor) -> PackedMatrix:
    rows = blocks.shape[0]
    codes, floats, scales = _READERS[format.name](blocks.reshape(-1, format.block_bytes))
    if scales is not None:
        scales = scales.view(rows, -1, *scales.shape[1:]).transpose(1, 2).flatten(2)
    return pack(format, codes.view(rows, -1), floats.view(rows, -1, format.floats).mT, scales)


def _floats(blocks: Tensor) -> Tensor:
    return blocks.contiguous().view(torch.float16)


def _nibbles(bytes_: Tensor) -> Tensor:
    """All low nibbles, then all high ones."""
    return torch.cat((bytes_ & 15, bytes_ >> 4), -1)


def _bits(bytes_: Tensor, count: int, wide: int = 1) -> Tensor:
    """Split bytes ``[n, b]`` into fields of ``wide`` bits, the lowest first: ``[n, count, b]``."""
    return torch.stack([(bytes_ >> (wide * number)) & ((1 << wide) - 1) for number in range(count)], 1)


def _plain(blocks: Tensor, floats: int) -> _Content:
    return _nibbles(blocks[:, 2 * floats :]), _floats(blocks[:, : 2 * floats]), None


def _five(blocks: Tensor, floats: int) -> _Content:
    start = 2 * floats
    # Byte k has the fifth bits of codes 8k to 8k + 7.
    fifth = _bits(blocks[:, start : start + 4], 8).mT.flatten(1)
    return _nibbles(blocks[:, start + 4 :]) | fifth << 4, _floats(blocks[:, :start]), None


def _mxfp4(blocks: Tensor) -> _Content:
    return _nibbles(blocks[:, 1:]), blocks[:, :1], None


def _q8_0(blocks: Tensor) -> _Content:
    return blocks[:, 2:] ^ 128, _floats(blocks[:, :2]), None


def _k_scales(bytes_: Tensor) -> Tensor:
    """Unpack 6-bit scales and minima from twelve bytes: ``[n, 2, 8]``."""
    first, second, third = bytes_[:, :4], bytes_[:, 4:8], bytes_[:, 8:]
    scale = torch.cat((first & 63, (third & 15) | (first >> 6) << 4), 1)
    minimum = torch.cat((second & 63, (third >> 4) | (second >> 6) << 4), 1)
    return torch.stack((scale, minimum), 1)


def _k_nibbles(bytes_: Tensor) -> Tensor:
    """Units 2j and 2j + 1 are the low and the high nibbles of bytes 32j to 32j + 31."""
    return _nibbles(bytes_.unflatten(1, (4, 32))).flatten(1)


def _q4_k(blocks: Tensor) -> _Content:
    return _k_nibbles(blocks[:, 16:]), _floats(blocks[:, :4]), _k_scales(blocks[:, 4:16])


def _q5_k(blocks: Tensor) -> _Content:
    fifth = _bits(blocks[:, 16:48], 8).flatten(1)  # bit j belongs to unit j
    return _k_nibbles(blocks[:, 48:]) | fifth << 4, _floats(blocks[:, :4]), _k_scales(blocks[:, 4:16])


def _q6_k(blocks: Tensor) -> _Content:
    # Each half of a block has 64 bytes of low nibbles, and 32 bytes with the upper two bits of four units.
    low = _nibbles(blocks[:, :128].unflatten(1, (2, 64)))
    high = torch.stack([_bits(half, 4, 2).flatten(1) for half in blocks[:, 128:192].split(32, 1)], 1)
    codes = (low | high << 4).flatten(1)
    scales = blocks[:, 192:208].contiguous().view(torch.int8)
    return codes, _floats(blocks[:, 208:]), scales.view(-1, 8, 2).mT


_READERS: dict[str, Callable[[Tensor], _Content]] = {
    "Q4_0": lambda blocks: _plain(blocks, 1),
    "Q4_1": lambda blocks: _plain(blocks, 2),
    "Q5_0": lambda blocks: _five(blocks, 1),
    "Q5_1": lambda blocks: _five(blocks, 2),
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "MXFP4": _mxfp4,
    "IQ4_NL": lambda blocks: _plain(blocks, 1),
}
assert _READERS.keys() == FORMATS.keys()
