"""The sizes of the formats of packed weights: those of GGUF files that stay packed.

A format describes how ``width`` weights of a row are written: in blocks, each of which has its scales. Names,
sizes and meanings are those of ggml (``ggml-common.h`` and ``gguf.quants``). Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

# Codes that share a scale; in Q6_K each half of them has its own scale.
UNIT = 32


@dataclass(frozen=True, slots=True)
class PackedFormat:
    """How weights are packed: ``w = s · (q − zero) − m``, with q a code and s, m those of its unit.

    Where codes number the values of a table, ``w = s · values[q]``.

    Attributes:
        name: ggml's.
        block: weights of a block; ``block_bytes``: its bytes in a file.
        bits: bits of a code.
        zero: the code that stands for zero, before m; with a table, the offset that makes no value negative.
        scales: small integers per unit: scales, or a scale and a minimum; 0 if the unit has its own floats.
        floats: float16 per block: d, or d and the factor of the minima, or d and m.
        has_minimum: whether the second of these is that of a minimum.
        is_halved: whether the two small integers are the scales of the unit's two halves.
        has_exponents: whether d is a byte e (E8M0) for ``2 ** (e − 128)`` instead of a float16.
        values: the table; empty where codes are numbers themselves.
    """

    name: str
    block: int
    block_bytes: int
    bits: int
    zero: int
    scales: int
    floats: int
    has_minimum: bool
    is_halved: bool = False
    has_exponents: bool = False
    values: tuple[int, ...] = ()

    @property
    def float_bytes(self) -> int:
        """Return the bytes of one of the block's ``floats``."""
        return 1 if self.has_exponents else 2

    @property
    def words(self) -> int:
        """Return the 32-bit words that the codes of a unit take."""
        return self.bits * UNIT // 32


# The tables of ggml: the numbers of E2M1 (4 bits), doubled, and steps for a normal distribution.
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
_NORMAL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

FORMATS = {
    each.name: each
    for each in (
        PackedFormat("Q4_0", 32, 18, 4, 8, 0, 1, False),
        PackedFormat("Q4_1", 32, 20, 4, 0, 0, 2, True),
        PackedFormat("Q5_0", 32, 22, 5, 16, 0, 1, False),
        PackedFormat("Q5_1", 32, 24, 5, 0, 0, 2, True),
        PackedFormat("Q8_0", 32, 34, 8, 128, 0, 1, False),
        PackedFormat("Q4_K", 256, 144, 4, 0, 2, 2, True),
        PackedFormat("Q5_K", 256, 176, 5, 0, 2, 2, True),
        PackedFormat("Q6_K", 256, 210, 6, 32, 2, 1, False, is_halved=True),
        PackedFormat("MXFP4", 32, 17, 4, 12, 0, 1, False, has_exponents=True, values=_E2M1),
        PackedFormat("IQ4_NL", 32, 18, 4, 127, 0, 1, False, values=_NORMAL),
    )
}

# The parts of a matrix begin at multiples of this on the device, in bytes.
_ALIGNMENT = 16


def part_bounds(format: PackedFormat, rows: int, width: int) -> list[tuple[int, int]]:
    """Return offset and size of each part of a matrix on the device, in bytes; see ``kernels.packed``."""
    units, blocks = width // UNIT, width // format.block
    sizes = (4 * format.words * units, format.float_bytes * format.floats * blocks, format.scales * units)
    bounds, start = list[tuple[int, int]](), 0
    for size in sizes:
        bounds.append((start, rows * size))
        start = -(-(start + rows * size) // _ALIGNMENT) * _ALIGNMENT
    return bounds


def size_bytes(format: PackedFormat, rows: int, width: int) -> int:
    """Return the bytes of a matrix on the device."""
    start, size = part_bounds(format, rows, width)[-1]
    return start + size
