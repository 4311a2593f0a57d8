"""Products of packed rows with a vector in fixed point; one instruction multiplies four codes."""

from __future__ import annotations

import os

import triton
import triton.language as tl

# Triton's interpreter has no inline assembly.
_IS_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _dot4(codes, bytes, total, IS_SIGNED: tl.constexpr):
    """Add the four products of the bytes of two words; the bytes of ``codes`` are unsigned."""
    if _IS_INTERPRETED:
        for number in tl.static_range(0, 4):
            byte = (bytes << (24 - 8 * number)) >> 24
            if not IS_SIGNED:
                byte &= 255
            total += ((codes >> (8 * number)) & 255) * byte
        return total
    if IS_SIGNED:
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [codes, bytes, total], tl.int32, True, 1
        )
    return tl.inline_asm_elementwise(
        "dp4a.u32.u32 $0, $1, $2, $3;", "=r,r,r,r", [codes, bytes, total], tl.int32, True, 1
    )


@triton.jit
def _moved(word, FROM: tl.constexpr, TO: tl.constexpr):
    """Return a word with bit ``FROM`` moved to ``TO``; the caller masks all other bits."""
    if FROM < TO:
        return word << (TO - FROM)
    return word >> (FROM - TO)


@triton.jit
def table_word(TABLE: tl.constexpr, NUMBER: tl.constexpr):
    """Return the four bytes from byte 4 ``NUMBER`` of a 16-byte table on, as an int32."""
    WORD: tl.constexpr = (TABLE >> (32 * NUMBER)) & 0xFFFFFFFF
    return tl.full([], WORD - ((WORD >> 31) << 32), tl.int32)


@triton.jit
def _picked(low, high, places):
    """Return four of the eight bytes of two words; the lower four nibbles of ``places`` are their numbers."""
    if _IS_INTERPRETED:
        eight = (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)
        four = tl.zeros_like(eight)
        for number in tl.static_range(0, 4):
            place = (places >> (4 * number)) & 7
            four |= ((eight >> (8 * place)) & 255) << (8 * number)
        return four.to(tl.int32)
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, places], tl.int32, True, 1
    )


@triton.jit
def _four_values(word, IS_HIGH: tl.constexpr, TABLE: tl.constexpr):
    """Return the table values, as four bytes, of four codes: the low or the high nibbles of a word's bytes.

    One instruction looks up four nibbles, half a word, in eight table bytes. So their lower three bits pick
    from the first and from the last eight bytes of the table, and their highest bit chooses between the two.
    Both groups share all work that does not depend on ``IS_HIGH``.
    """
    places = word & 0x77777777
    # Byte i of the result is byte i of the first word, or of the second if the highest bit is set.
    halves = ((word >> 1) & 0x44444444) | 0x32103210
    first, second = table_word(TABLE, 0), table_word(TABLE, 1)
    third, fourth = table_word(TABLE, 2), table_word(TABLE, 3)
    start = _picked(_picked(first, second, places), _picked(third, fourth, places), halves)
    places, halves = places >> 16, halves >> 16
    end = _picked(_picked(first, second, places), _picked(third, fourth, places), halves)
    return _picked(start, end, tl.full([], 0x7531 if IS_HIGH else 0x6420, tl.int32))


@triton.jit
def _four_codes(word, high, GROUP: tl.constexpr, BITS: tl.constexpr, TABLE: tl.constexpr):
    """Return the four codes of group ``GROUP`` of a unit, or their table values, as four bytes."""
    if BITS == 8:
        return word
    if TABLE > 0:
        return _four_values(word, GROUP % 2 == 1, TABLE)
    codes = (word >> (GROUP % 2 * 4)) & 0x0F0F0F0F
    if BITS == 5:
        codes |= _moved(high, GROUP, 4) & 0x10101010
    if BITS == 6:
        codes |= _moved(high, GROUP % 4 * 2, 4) & 0x30303030
    return codes


@triton.jit
def _whole(first, second, third, PLANES: tl.constexpr):
    """Return the sums of all planes as one number, in float32."""
    # With 8-bit codes the sum of two planes takes 29 bits, so it fits an int32; three would not.
    high = (first * 256 + second).to(tl.float32)
    if PLANES == 2:
        return high
    return high * 256.0 + third.to(tl.float32)


@triton.jit
def _bytes_of(words, IS_SIGNED: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """Return the four bytes of each word ``[ROWS, CHUNK / 4]`` in float32 ``[ROWS, CHUNK]``."""
    if IS_SIGNED:
        even = tl.join((words << 24) >> 24, (words << 8) >> 24)
        odd = tl.join((words << 16) >> 24, words >> 24)
    else:
        even = tl.join(words & 255, (words >> 16) & 255)
        odd = tl.join((words >> 8) & 255, (words >> 24) & 255)
    return tl.reshape(tl.join(even, odd), [ROWS, CHUNK]).to(tl.float32)


@triton.jit
def float_of(number):
    """Return the floats of blocks in float32; a uint8 is an exponent, as in ``kernels.packed``."""
    if number.dtype == tl.uint8:
        exponent = number.to(tl.int32)
        bits = tl.where(exponent < 2, (exponent + 1) << 21, (exponent - 1) << 23)
        return bits.to(tl.float32, bitcast=True)
    return number.to(tl.float32)


@triton.jit
def _factors(
    floats,
    scales,
    start,
    PART: tl.constexpr,
    UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return, in float32, the scales (``PART`` 0) or minima (``PART`` 1) of units, or those of a half."""
    BLOCK: tl.constexpr = 8 if FORMAT // 4096 % 2 == 1 else 1
    HAS_SCALES: tl.constexpr = FORMAT // 8192 % 2 == 1
    IS_HALVED: tl.constexpr = FORMAT // 32768 % 2 == 1
    # ``tl.where`` hides that places are contiguous. Otherwise Triton chooses the layout of all tensors for
    # these narrow loads, and moves every number of the vector through shared memory.
    if not IS_HALVED:
        floats += PART * (UNITS // BLOCK)
    if HAS_SCALES and CHUNK >= 128:
        # A lane has four units of one block, and loads their integer scales as one word.
        four = start // 4 + tl.arange(0, CHUNK // 4)
        inside = four < UNITS // 4
        four = tl.where(inside, four, 0)[None, :]
        inside = inside[None, :]
        factor = tl.load(floats + four // (BLOCK // 4), mask=inside, other=0.0).to(tl.float32)
        factor = tl.join(factor, factor)
        factor = tl.reshape(tl.join(factor, factor), [ROWS, CHUNK])
        places = (scales + PART * UNITS).to(tl.pointer_type(tl.int32), bitcast=True) + four
        small = tl.load(places, mask=inside, other=0)
        return factor * _bytes_of(small, IS_HALVED, ROWS, CHUNK)
    unit = start + tl.arange(0, CHUNK)
    inside = (unit < UNITS)[None, :]
    unit = tl.where(unit < UNITS, unit, 0)[None, :]
    factor = float_of(tl.load(floats + unit // BLOCK, mask=inside, other=0))
    if HAS_SCALES:
        factor *= tl.load(scales + PART * UNITS + unit, mask=inside, other=0).to(tl.float32)
    return factor


@triton.jit
def dot_packed_rows(
    words,
    floats,
    scales,
    member,
    rows,
    vector,
    UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return the products of some rows with a vector, in float32.

    Args:
        words, floats, scales: the parts of a matrix, see ``kernels.packed``.
        member: the rows, ``[ROWS]``; results beyond ``rows`` are undefined.
        vector: in fixed point with ``PLANES`` planes, see ``kernels.fixed_point``.
        FORMAT: see ``format_code``.
        CHUNK: units to take at once: 128 per warp, or fewer with a single warp.
    """
    BITS: tl.constexpr = FORMAT % 16
    ZERO: tl.constexpr = FORMAT // 16 % 256
    BLOCK: tl.constexpr = 8 if FORMAT // 4096 % 2 == 1 else 1
    HAS_SCALES: tl.constexpr = FORMAT // 8192 % 2 == 1
    HAS_MINIMUM: tl.constexpr = FORMAT // 16384 % 2 == 1
    IS_HALVED: tl.constexpr = FORMAT // 32768 % 2 == 1
    # Groups of four codes per word.
    GROUPS: tl.constexpr = 1 if BITS == 8 else 2
    row = tl.minimum(member, rows - 1).to(tl.int64)[:, None]
    words += row * (BITS * UNITS)
    floats += row * ((2 if HAS_MINIMUM else 1) * (UNITS // BLOCK))
    scales += row * (2 * UNITS)
    result, zeros = tl.zeros([ROWS, CHUNK], tl.float32), tl.zeros([ROWS, CHUNK], tl.int32)
    for start in range(0, UNITS, CHUNK):
        unit = start + tl.arange(0, CHUNK)
        inside = unit < UNITS
        # Hide that places are contiguous, as in ``_factors``, if a lane has fewer than four units.
        place = tl.where(inside, unit, 0) if CHUNK < 128 else unit
        both = inside[None, :] & (row >= 0)
        sums = vector + 8 * PLANES * UNITS + place
        first_sum = tl.load(sums, mask=inside, other=0).to(tl.float32)[None, :]
        second_sum = tl.load(sums + UNITS, mask=inside, other=0).to(tl.float32)[None, :]
        size = tl.load(sums + 2 * UNITS, mask=inside, other=0).to(tl.float32, bitcast=True)[None, :]
        first, second, third, high = zeros, zeros, zeros, zeros
        for number in tl.static_range(0, 8 // GROUPS):
            word = tl.load(words + number * UNITS + place[None, :], mask=both, other=0)
            if (BITS == 5 and number == 0) or (BITS == 6 and number % 2 == 0):
                high = tl.load(words + (4 + number // 2) * UNITS + place[None, :], mask=both, other=0)
            for part in tl.static_range(0, GROUPS):
                codes = _four_codes(word, high, number * GROUPS + part, BITS, FORMAT // 65536)
                bytes = vector + (number * GROUPS + part) * UNITS + place
                first = _dot4(codes, tl.load(bytes, mask=inside, other=0)[None, :], first, True)
                low = tl.load(bytes + 8 * UNITS, mask=inside, other=0)[None, :]
                second = _dot4(codes, low, second, False)
                if PLANES == 3:
                    low = tl.load(bytes + 16 * UNITS, mask=inside, other=0)[None, :]
                    third = _dot4(codes, low, third, False)
            if IS_HALVED and number % 2 == 1:
                total = first_sum if number == 1 else second_sum
                product = _whole(first, second, third, PLANES) - ZERO * total
                factor = _factors(floats, scales, start, number // 2, UNITS, FORMAT, ROWS, CHUNK)
                result += factor * (product * size)
                first, second, third = zeros, zeros, zeros
        if not IS_HALVED:
            total = first_sum + second_sum
            product = size * (_whole(first, second, third, PLANES) - ZERO * total)
            result += product * _factors(floats, scales, start, 0, UNITS, FORMAT, ROWS, CHUNK)
            if HAS_MINIMUM:
                # A format with integer scales stores the negated minimum, other formats the minimum.
                least = (-size if HAS_SCALES else size) * total
                result += least * _factors(floats, scales, start, 1, UNITS, FORMAT, ROWS, CHUNK)
    return tl.sum(result, 1)
