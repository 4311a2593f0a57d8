"""Device functions that several Triton kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


def tile_rows(queries: int) -> int:
    """Return the rows that up to 16 queries take in one half of a tile of two parts (see ``split_bits``)."""
    return 8 if queries <= 8 else 16


def half_rank(rank: int) -> int:
    """Return the width of the tiles of ``load_codes``; a product on tensor cores has at least 16 terms."""
    return max(16, 1 << ((rank + 1) // 2 - 1).bit_length())


@triton.jit
def soft_cap(logits, cap):
    """Return ``cap · tanh(logits / cap)``; tanh is written out, since the interpreter has none."""
    # tanh is 1 in float32 long before 40; the exponential would overflow from 88 on.
    return cap * (1.0 - 2.0 / (tl.exp(tl.minimum(2.0 * logits / cap, 40.0)) + 1.0))


@triton.jit
def total_mass(peaks, masses, count, CHUNK: tl.constexpr):
    """Return the largest of ``count`` peaks x, and ``Σ mass · exp(peak - x)``."""
    peak = float("-inf")
    mass = 0.0
    start = 0
    # Not a ``for``: numpy 2.4 and later keep Triton's interpreter from taking tensors as bounds.
    while start < count:
        place = start + tl.arange(0, CHUNK)
        inside = place < count
        chunk_peaks = tl.load(peaks + place, mask=inside, other=float("-inf"))
        chunk_masses = tl.load(masses + place, mask=inside, other=0.0)
        higher = tl.maximum(peak, tl.max(chunk_peaks, 0))
        # Where everything so far is empty, minus infinity must not be taken from itself.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        mass = mass * tl.exp(peak - base) + tl.sum(chunk_masses * tl.exp(chunk_peaks - base), 0)
        peak = higher
        start += CHUNK
    return peak, mass


@triton.jit
def _small_to_float(number, shift):
    """Return int16 numbers in [0, 1024), less ``shift``, in float16; quicker than a conversion."""
    # 0x6400 is 1,024 in float16, and leaves ten bits to the number.
    return (number | 0x6400).to(tl.float16, bitcast=True) - (1024.0 + shift)


@triton.jit
def load_codes(
    codes,
    token,
    inside,
    RANK: tl.constexpr,
    HALF_PAD: tl.constexpr,
):
    """Return the dimensions of tokens below r/2, and those from r/2 on: two tiles ``[tokens, HALF_PAD]``.

    Integers come in float16, which holds them exactly, and floating codes in float32.
    """
    HALF: tl.constexpr = (RANK + 1) // 2
    dim = tl.arange(0, HALF_PAD)[None, :]
    token = token[:, None]
    whole = inside[:, None] & (dim < HALF)
    if codes.dtype.element_ty == tl.uint8:
        both = tl.load(codes + token * HALF + dim, mask=whole, other=0x88).to(tl.int16)
        low = _small_to_float(both & 15, 8.0)
        high = _small_to_float(both >> 4, 8.0)
    else:
        low = tl.load(codes + token * RANK + dim, mask=whole, other=0)
        high = tl.load(codes + token * RANK + HALF + dim, mask=whole & (HALF + dim < RANK), other=0)
        if codes.dtype.element_ty == tl.int8:
            low = _small_to_float(low.to(tl.int16) + 128, 128.0)
            high = _small_to_float(high.to(tl.int16) + 128, 128.0)
        else:
            low = low.to(tl.float32)
            high = high.to(tl.float32)
    return low, high


# Float32 rows meet codes on tensor cores, which take 11 bits of a number. A tile of 16 rows has room to spare
# for a few queries, so its first half holds the numbers rounded to float16, and its second half 2,048 times
# what rounding took: 22 bits in one product.


@triton.jit
def twice(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the rows ``[ROWS, COLUMNS]`` two times, ``[2 · ROWS, COLUMNS]``."""
    return tl.reshape(tl.broadcast_to(tile[None, :, :], [2, ROWS, COLUMNS]), [2 * ROWS, COLUMNS])


@triton.jit
def split_bits(tile, ROWS: tl.constexpr):
    """Turn numbers within [-2, 2] that stand in both halves of the rows into their two parts."""
    rounded = tile.to(tl.float16).to(tl.float32)
    first = (tl.arange(0, 2 * ROWS) < ROWS)[:, None]
    return tl.where(first, rounded, (tile - rounded) * 2048.0)


@triton.jit
def join_bits(tile, unit, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the rows ``[ROWS, COLUMNS]`` whose two parts the tile holds, each times its ``unit``."""
    unit = tl.where(tl.arange(0, 2 * ROWS) < ROWS, unit, unit * (1.0 / 2048.0))
    return tl.sum(tl.reshape(tile * unit[:, None], [2, ROWS, COLUMNS]), 0)


@triton.jit
def add_codes(weight, fade, low_sum, high_sum, low, high, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """Add codes by weights ``[ROWS, COUNT]`` within [0, 1] to faded sums, whose rows stay in two parts."""
    parts = split_bits(twice(weight, ROWS, COUNT), ROWS).to(low.dtype)
    fades = twice(fade[:, None], ROWS, 1)
    low_sum = tl.dot(parts, low, low_sum * fades, input_precision="tf32")
    high_sum = tl.dot(parts, high, high_sum * fades, input_precision="tf32")
    return low_sum, high_sum


@triton.jit
def store_code_sums(
    out,
    stride,
    low_sum,
    high_sum,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    HALF_PAD: tl.constexpr,
):
    """Store the sums of the queries, ``stride`` apart."""
    HALF: tl.constexpr = (RANK + 1) // 2
    member = tl.arange(0, ROWS)[:, None]
    dim = tl.arange(0, HALF_PAD)[None, :]
    place = out + member * stride + dim
    whole = (member < QUERIES) & (dim < HALF)
    tl.store(place, join_bits(low_sum, 1.0, ROWS, HALF_PAD), mask=whole)
    tl.store(place + HALF, join_bits(high_sum, 1.0, ROWS, HALF_PAD), mask=whole & (HALF + dim < RANK))
