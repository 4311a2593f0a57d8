"""Products of packed rows with a vector: codes become floats by a shift, a mask and an or.

A float32 whose exponent says ``2 ** bits`` and whose highest bits of the mantissa are a code q is
``2 ** bits + q``. What is too much, ``2 ** bits · Σ x``, is the same for all rows, and is taken off a unit at
a time. Conversions of integers would take four times as long.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _moved(word, FROM: tl.constexpr, TO: tl.constexpr):
    """Return a word with its bit ``FROM`` at ``TO``; what else there is must be masked."""
    if FROM < TO:
        return word << (TO - FROM)
    return word >> (FROM - TO)


@triton.jit
def _add_codes(
    product,
    word,
    high,
    vector,
    unit,
    inside,
    exponent,
    FIRST: tl.constexpr,
    UNITS: tl.constexpr,
    BITS: tl.constexpr,
):
    """Add what the codes of one word of each unit contribute: ``Σ (2 ** bits + q) x``."""
    LOW: tl.constexpr = 8 if BITS == 8 else 4
    HIGH: tl.constexpr = BITS - LOW
    LOWEST: tl.constexpr = 23 - BITS
    for number in tl.static_range(0, 32 // LOW):
        code = _moved(word, LOW * number, LOWEST) & (((1 << LOW) - 1) << LOWEST)
        if HIGH > 0:
            place = (FIRST + number) * HIGH % 32
            code |= _moved(high, place, 23 - HIGH) & (((1 << HIGH) - 1) << (23 - HIGH))
        number_of_code = (code | exponent).to(tl.float32, bitcast=True)
        factor = tl.load(vector + (FIRST + number) * UNITS + unit, mask=inside, other=0.0)
        product += number_of_code * factor[None, :]
    return product


@triton.jit
def _scaled(
    product,
    factor,
    floats,
    scales,
    vector,
    unit,
    apart,
    inside,
    both,
    UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
):
    """Return the products of whole units, with their scales and minima."""
    EXCESS: tl.constexpr = (1 << (FORMAT % 16)) + FORMAT // 16 % 256
    BLOCK: tl.constexpr = 8 if FORMAT // 4096 % 2 == 1 else 1
    HAS_SCALES: tl.constexpr = FORMAT // 8192 % 2 == 1
    HAS_MINIMUM: tl.constexpr = FORMAT // 16384 % 2 == 1
    total = tl.load(vector + 32 * UNITS + unit, mask=inside, other=0.0)
    total += tl.load(vector + 33 * UNITS + unit, mask=inside, other=0.0)
    if HAS_SCALES:
        factor *= tl.load(scales + apart[None, :], mask=both, other=0).to(tl.float32)
    result = factor * (product - EXCESS * total[None, :])
    if HAS_MINIMUM:
        place = floats + UNITS // BLOCK + (apart // BLOCK)[None, :]
        least = tl.load(place, mask=both, other=0.0).to(tl.float32)
        if HAS_SCALES:
            least *= -tl.load(scales + UNITS + apart[None, :], mask=both, other=0).to(tl.float32)
        result += least * total[None, :]
    return result


@triton.jit
def dot_packed_rows(
    words,
    floats,
    scales,
    member,
    rows,
    vector,
    exponent,
    UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return the products of some rows with a vector, in float32.

    Args:
        words, floats, scales: the parts of a matrix, see ``kernels.packed``.
        member: the rows, ``[ROWS]``; those beyond ``rows`` give anything.
        vector: ``[34, UNITS]``, see ``spread``.
        exponent: the bits of ``2 ** bits`` as a float32. An argument, since mask and or are one instruction
            only if one of their operands is no constant.
        FORMAT: see ``format_code``.
    """
    BITS: tl.constexpr = FORMAT % 16
    ZERO: tl.constexpr = FORMAT // 16 % 256
    BLOCK: tl.constexpr = 8 if FORMAT // 4096 % 2 == 1 else 1
    HAS_MINIMUM: tl.constexpr = FORMAT // 16384 % 2 == 1
    IS_HALVED: tl.constexpr = FORMAT // 32768 % 2 == 1
    # The words of a unit, those of low bits, and codes of each of them.
    WORDS: tl.constexpr = BITS
    LOW_WORDS: tl.constexpr = 8 if BITS == 8 else 4
    SHARE: tl.constexpr = 32 // LOW_WORDS
    FLOATS: tl.constexpr = 2 if HAS_MINIMUM else 1
    row = tl.minimum(member, rows - 1).to(tl.int64)[:, None]
    words += row * (WORDS * UNITS)
    floats += row * (FLOATS * (UNITS // BLOCK))
    scales += row * (2 * UNITS)
    result = tl.zeros([ROWS, CHUNK], tl.float32)
    for start in range(0, UNITS, CHUNK):
        unit = start + tl.arange(0, CHUNK)
        inside = unit < UNITS
        # Scales are read as if they lay apart: else Triton lays everything out for them, since more of them
        # than of words fit into 16 bytes, and moves every factor through shared memory.
        apart = tl.where(inside, unit, 0)
        both = inside[None, :] & (row >= 0)
        product = tl.zeros([ROWS, CHUNK], tl.float32)
        factor = tl.load(floats + (apart // BLOCK)[None, :], mask=both, other=0.0).to(tl.float32)
        high = tl.zeros([ROWS, CHUNK], tl.int32)
        for number in tl.static_range(0, LOW_WORDS):
            word = tl.load(words + number * UNITS + unit[None, :], mask=both, other=0)
            if BITS == 5 and number == 0:
                high = tl.load(words + 4 * UNITS + unit[None, :], mask=both, other=0)
            if BITS == 6 and number % 2 == 0:
                high = tl.load(words + (4 + number // 2) * UNITS + unit[None, :], mask=both, other=0)
            product = _add_codes(
                product, word, high, vector, unit, inside, exponent, number * SHARE, UNITS, BITS
            )
            if IS_HALVED and number % 2 == 1:
                scale = tl.load(scales + (number // 2) * UNITS + apart[None, :], mask=both, other=0)
                scaled = factor * scale.to(tl.float32)
                total = tl.load(vector + (32 + number // 2) * UNITS + unit, mask=inside, other=0.0)
                result += scaled * (product - ((1 << BITS) + ZERO) * total[None, :])
                product = tl.zeros([ROWS, CHUNK], tl.float32)
        if not IS_HALVED:
            result += _scaled(
                product, factor, floats, scales, vector, unit, apart, inside, both, UNITS, FORMAT
            )
    return tl.sum(result, 1)
