"""A matrix of packed weights, in planes of codes, floats and scales.

A *unit* is 32 consecutive weights of a row; a row has U units. The bytes of a matrix are three parts, one
after the other, each aligned to 16 bytes:

- ``words`` int32 ``[rows, W, U]``. A word holds 32 / b codes of b bits: byte i has the codes 4 k + i of the
  word, from its lowest bits on. So one mask leaves four consecutive codes in the bytes of a word, for the
  instruction that multiplies four bytes. Formats of 5 and 6 bits store the low 4 bits of all codes like
  that, then the higher bits. Codes of 8 bits are offset by 128 to be positive.
- ``floats`` float16 ``[rows, F, B]``: d of each of B blocks, then the factor of the minima or m; uint8 if d
  is an exponent.
- ``scales`` ``[rows, 2, U]``: of each unit its scale and minimum, uint8, or the scales of its halves, int8.

The layout loses nothing of a file. The unit is the innermost dimension, so the 32 lanes of a warp, each with
its own units, read adjacent memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrqk_cli.formats import UNIT, PackedFormat, part_bounds, size_bytes
from lrqk_cli.memory.accounting import TensorShape
from lrqk_cli.memory.tensors import empty_host


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix ``[rows, width]`` of a format.

    Attributes:
        data: all bytes of the matrix, uint8 ``[size_bytes(...)]``.
    """

    data: Tensor
    format: PackedFormat
    rows: int
    width: int

    @property
    def words(self) -> Tensor:
        """Return the codes, int32 ``[rows, W, U]``."""
        return self._part(0).view(torch.int32).view(self.rows, self.format.words, -1)

    @property
    def floats(self) -> Tensor:
        """Return d and, if the format has minima, the second float, float16 or uint8 ``[rows, F, B]``."""
        part = self._part(1) if self.format.has_exponents else self._part(1).view(torch.float16)
        return part.view(self.rows, self.format.floats, -1)

    @property
    def scales(self) -> Tensor:
        """Return the integer scales of all units, uint8 or int8 ``[rows, 2, U]``, or ``[rows, 0, U]``."""
        part = self._part(2).view(torch.int8) if self.format.is_halved else self._part(2)
        return part.view(self.rows, self.format.scales, self.width // UNIT)

    @property
    def device(self) -> torch.device:
        """Return the device that the matrix is on."""
        return self.data.device

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return words, floats and scales."""
        return self.words, self.floats, self.scales

    @property
    def is_finite(self) -> Tensor:
        """Return whether all floats are finite, bool ``[]``; an exponent of 255 means NaN."""
        return (self.floats < 255).all() if self.format.has_exponents else self.floats.isfinite().all()

    def put(self, start: int, other: PackedMatrix) -> None:
        """Write all rows of another matrix of the same format and width, from row ``start`` on."""
        for own, given in zip(self.parts, other.parts, strict=True):
            own[start : start + other.rows] = given

    def put_in_each(self, count: int, place: slice, other: PackedMatrix) -> None:
        """Write all rows of another matrix into ``place`` of each of ``count`` equal shares of the rows."""
        for own, given in zip(self.parts, other.parts, strict=True):
            shares = own.unflatten(0, (count, self.rows // count))
            shares[:, place] = given.unflatten(0, (count, other.rows // count))

    def _part(self, number: int) -> Tensor:
        start, size = part_bounds(self.format, self.rows, self.width)[number]
        return self.data[start : start + size]


def empty_matrix(format: PackedFormat, rows: int, width: int, device: torch.device) -> PackedMatrix:
    """Return an uninitialised matrix."""
    data = torch.empty(size_bytes(format, rows, width), dtype=torch.uint8, device=device)
    return PackedMatrix(data, format, rows, width)


def empty_host_matrix(format: PackedFormat, rows: int, width: int, *, pinned: bool) -> PackedMatrix:
    """Return an uninitialised matrix in host memory.

    Args:
        pinned: a GPU can read it.

    Raises:
        OutOfMemoryError: the host memory cannot be allocated or pinned.
    """
    shape = TensorShape((size_bytes(format, rows, width),), "uint8")
    return PackedMatrix(empty_host(shape, pinned=pinned), format, rows, width)


def on_host(matrix: PackedMatrix) -> PackedMatrix:
    """Return a copy of a matrix in host memory that its device can read.

    Raises:
        OutOfMemoryError: the host memory cannot be allocated or pinned.
    """
    copy = empty_host_matrix(matrix.format, matrix.rows, matrix.width, pinned=matrix.device.type == "cuda")
    copy.data.copy_(matrix.data)
    return copy


def pack(format: PackedFormat, codes: Tensor, floats: Tensor, scales: Tensor | None = None) -> PackedMatrix:
    """Return a matrix in the packed layout.

    Args:
        codes: uint8 ``[rows, width]``, each below ``2 ** format.bits``.
        floats: float16 or uint8 ``[rows, F, B]``; ``scales``: uint8 or int8 ``[rows, 2, U]``.
    """
    rows, width = codes.shape
    matrix = empty_matrix(format, rows, width, codes.device)
    units = codes.view(rows, -1, UNIT)
    parts = [units] if format.bits == 8 else [units & 15, units >> 4]
    widths = [8] if format.bits == 8 else [4, format.bits - 4]
    planes = [_joined(part, bits) for part, bits in zip(parts, widths, strict=True) if bits]
    matrix.words.copy_(torch.cat(planes, 2).mT)
    matrix.floats.copy_(floats)
    if scales is not None:
        matrix.scales.copy_(scales)
    return matrix


def _joined(codes: Tensor, bits: int) -> Tensor:
    """Join codes ``[rows, U, 32]`` of ``bits`` bits to words ``[rows, U, bits]``, the first codes lowest."""
    share = 8 // bits
    parts = codes.unflatten(2, (-1, share, 4))
    joined = parts[:, :, :, 0].clone()
    for number in range(1, share):
        joined |= parts[:, :, :, number] << (bits * number)
    words: Tensor = joined.contiguous().view(torch.int32).flatten(2)
    return words


def codes_of(matrix: PackedMatrix, rows: Tensor) -> Tensor:
    """Return the codes of the rows with numbers ``rows`` ``[n]``, uint8 ``[n, width]``."""
    words = matrix.words[rows].mT.contiguous().view(torch.uint8)  # [n, U, 4 W]
    if matrix.format.bits == 8:
        return words.flatten(1)
    codes = _split(words[..., :16], 4)
    if bits := matrix.format.bits - 4:
        codes = codes | _split(words[..., 16:], bits) << 4
    mask: Tensor = codes.flatten(1)
    return mask


def _split(bytes_: Tensor, bits: int) -> Tensor:
    """Split words, as bytes ``[n, U, 4 bits]``, into codes ``[n, U, 32]`` of ``bits`` bits."""
    words = bytes_.unflatten(2, (-1, 4))
    parts = [(words >> (bits * number)) & ((1 << bits) - 1) for number in range(8 // bits)]
    codes: Tensor = torch.stack(parts, 3).flatten(2)
    return codes


def weights_of(format: PackedFormat, codes: Tensor, floats: Tensor, scales: Tensor | None) -> Tensor:
    """Return the weights of packed rows, see ``PackedFormat``, in float32 ``[n, width]``.

    Args:
        codes: uint8 ``[n, width]``; floats, scales: as in ``pack``, of the same rows.
    """
    group = UNIT // 2 if format.is_halved else UNIT
    weights = _numbers(format, codes).unflatten(1, (-1, group))
    factors = _factors(floats).repeat_interleave(format.block // UNIT, 2)
    if scales is not None and format.scales:
        factors = factors * scales
    scale = factors.mT.flatten(1) if format.is_halved else factors[:, 0]
    weights.mul_(scale.unsqueeze(2))
    if format.has_minimum:
        # A format with integer scales stores the negated minimum, other formats the minimum.
        weights.add_(factors[:, 1].unsqueeze(2), alpha=-1 if format.scales else 1)
    mask: Tensor = weights.flatten(1)
    return mask


def _numbers(format: PackedFormat, codes: Tensor) -> Tensor:
    """Return the values of codes ``[n, width]`` before scaling, in float32."""
    if not format.values:
        return codes.float().sub_(format.zero)
    table = torch.tensor(format.values, dtype=torch.float32, device=codes.device)
    return table.index_select(0, codes.flatten().int()).view(codes.shape)


def _factors(floats: Tensor) -> Tensor:
    """Return the floats of blocks in float32, also those stored as exponents."""
    if floats.dtype != torch.uint8:
        return floats.float()
    exponent = floats.int()
    # The two smallest powers are subnormal: their bits are 1 << 21 and 1 << 22.
    bits = torch.where(exponent < 2, (exponent + 1) << 21, (exponent - 1) << 23)
    return bits.view(torch.float32)
