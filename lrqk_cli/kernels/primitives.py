"""Device functions that several Triton kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


def tile_rows(queries: int) -> int:
    """Return the rows that up to 16 queries take in one half of a tile of two parts (see ``split_bits``)."""
    return 8 if queries <= 8 else 16


def code_width(rank: int) -> int:
    """Return the width of the tiles of ``load_codes``; a product on tensor cores has at least 16 terms."""
    return max(16, 1 << (rank - 1).bit_length())


@triton.jit
def _load_part(matrix, member, rows, column, WIDTH: tl.constexpr):
    """Return some columns of some rows of a matrix; what lies outside is another row's, or zero."""
    place = matrix + tl.minimum(member, rows - 1).to(tl.int64)[:, None] * WIDTH + column[None, :]
    return tl.load(place, mask=(column < WIDTH)[None, :], other=0.0)


@triton.jit
def dot_rows(matrix, member, rows, row, WIDTH: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """Return the products of some rows of a matrix with a vector, in float32."""
    total = tl.zeros([ROWS, CHUNK], tl.float32)
    part = _load_part(matrix, member, rows, tl.arange(0, CHUNK), WIDTH)
    for start in range(0, WIDTH, CHUNK):
        column = start + tl.arange(0, CHUNK)
        following = part
        if WIDTH > CHUNK:
            # Read while this one is multiplied. The last is read again, which costs less than to tell.
            beyond = tl.minimum(start + CHUNK, (WIDTH - 1) // CHUNK * CHUNK)
            following = _load_part(matrix, member, rows, beyond + tl.arange(0, CHUNK), WIDTH)
        factor = tl.load(row + column, mask=column < WIDTH, other=0.0)
        total += part.to(tl.float32) * factor.to(tl.float32)[None, :]
        part = following
    return tl.sum(total, 1)


@triton.jit
def activated(gated, SILU: tl.constexpr):
    """Return the activation of the gate of an MLP: SiLU, or the approximation of GELU by tanh."""
    # Both are x · sigmoid(...); the exponential would overflow from 88 on.
    inner = gated if SILU else 1.5957691216057308 * (gated + 0.044715 * gated * gated * gated)
    return gated / (1.0 + tl.exp(tl.minimum(-inner, 80.0)))


@triton.jit
def soft_cap(logits, cap):
    """Return ``cap · tanh(logits / cap)``; tanh is written out, since the interpreter has none."""
    # tanh is 1 in float32 long before 40; the exponential would overflow from 88 on.
    return cap * (1.0 - 2.0 / (tl.exp(tl.minimum(2.0 * logits / cap, 40.0)) + 1.0))


@triton.jit
def opaque(tensor):
    """Return a tensor of floats unchanged, of which Triton does not see how it came about.

    From that it chooses how tensor cores get an operand, and where a tensor changes its layout: after masks,
    joins and bytes Triton 3.6 expects to win by what costs twice the instructions. It does not look through a
    sum, and this one costs nothing, since a number plus minus zero is that number.
    """
    if tensor.dtype == tl.float16:
        nothing = tl.full(tensor.shape, -(1 << 15), tl.int16)
    else:
        nothing = tl.full(tensor.shape, -(1 << 31), tl.int32)
    return tl.sum(tl.join(tensor, nothing.to(tensor.dtype, bitcast=True)), len(tensor.shape))


# Codes become float16 without a conversion. Those of four bits, with 8 added, are put four bits up, which
# makes them that many times 2^-20. Tensor cores line up the terms of a sum by exponents, where a subnormal
# number counts as 2^-14 however small it is, and cut what lies 24 bits below: lower codes would lose more.


@triton.jit
def _pick_codes(words, PLACE: tl.constexpr):
    """Return the codes ``PLACE`` bits up in both halves of the words, times 2^-20."""
    words = words << (4 - PLACE) if PLACE < 4 else words >> (PLACE - 4)
    picked = words & 0x00F000F0
    low = picked.to(tl.int16).to(tl.float16, bitcast=True)
    high = (picked >> 16).to(tl.int16).to(tl.float16, bitcast=True)
    return low, high


@triton.jit
def load_codes(codes, token, RANK: tl.constexpr, RANK_PAD: tl.constexpr):
    """Return what stands for the codes of tokens, all of which must exist: a tile ``[tokens, RANK_PAD]``.

    Its columns are those of ``code_dimensions``, and ``true_codes`` tells what it means. Integers come in
    float16, which holds them exactly, and floating codes in float32.
    """
    ODD: tl.constexpr = RANK % 8 if codes.dtype.element_ty == tl.uint8 else 1
    if ODD == 0:
        # Eight codes at once, in 32 bits.
        word = tl.arange(0, RANK_PAD // 8)
        if RANK_PAD > RANK:
            word = tl.minimum(word, RANK // 8 - 1)
        words = codes.to(tl.pointer_type(tl.int32)) + token[:, None] * (RANK // 8) + word[None, :]
        words = tl.load(words)
        low_0, high_0 = _pick_codes(words, 0)
        low_4, high_4 = _pick_codes(words, 4)
        low_8, high_8 = _pick_codes(words, 8)
        low_12, high_12 = _pick_codes(words, 12)
        low = tl.join(tl.join(low_0, low_8), tl.join(low_4, low_12))
        high = tl.join(tl.join(high_0, high_8), tl.join(high_4, high_12))
        # Halves of a word stay neighbours: then none of this moves a register.
        tile = opaque(tl.reshape(tl.join(low, high), [token.shape[0], RANK_PAD]))
    else:
        dim = tl.arange(0, RANK_PAD)[None, :]
        if RANK_PAD > RANK:
            dim = tl.minimum(dim, RANK - 1)
        if codes.dtype.element_ty == tl.uint8:
            HALF: tl.constexpr = RANK // 2
            code = tl.load(codes + token[:, None] * HALF + dim % HALF).to(tl.int16) << (4 - dim // HALF * 4)
            tile = opaque((code & 0xF0).to(tl.int16).to(tl.float16, bitcast=True))
        elif codes.dtype.element_ty == tl.int8:
            # 0x6400 is 1,024 in float16, and leaves ten bits to the code. Taken off here: 128 is large beside
            # most codes, and their sums would lose bits.
            code = (tl.load(codes + token[:, None] * RANK + dim).to(tl.int16) + 128) | 0x6400
            tile = opaque(code.to(tl.float16, bitcast=True) - (1024.0 + 128.0))
        else:
            tile = tl.load(codes + token[:, None] * RANK + dim).to(tl.float32)
    return tile


@triton.jit
def code_dimensions(codes, RANK: tl.constexpr, RANK_PAD: tl.constexpr):
    """Return which dimension each column of ``load_codes`` is; r or more where there is none."""
    column = tl.arange(0, RANK_PAD)
    ODD: tl.constexpr = RANK % 8 if codes.dtype.element_ty == tl.uint8 else 1
    if ODD == 0:
        # See ``kernels.codes`` for what a byte holds.
        byte = column // 8 * 4 + column // 4 % 2 + column % 2 * 2
        column = tl.where(column < RANK, byte + column // 2 % 2 * (RANK // 2), RANK)
    return column


@triton.jit
def true_codes(product, total, codes):
    """Return ``Σ x · code`` of ``Σ x · tile`` and ``Σ x``."""
    if codes.dtype.element_ty == tl.uint8:
        product = 1048576.0 * product - 8.0 * total
    return product


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
def add_codes(weight, fade, code_sum, tile, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """Add codes by weights ``[ROWS, COUNT]`` within [-1, 1] to a faded sum, whose rows stay in two parts."""
    parts = split_bits(twice(weight, ROWS, COUNT), ROWS)
    parts = opaque(parts.to(tl.float16)) if tile.dtype == tl.float16 else parts
    # Apart from the sum so far, beside which tensor cores would cut more than a sum in float32 does.
    return code_sum * twice(fade[:, None], ROWS, 1) + tl.dot(parts, tile, input_precision="tf32")


@triton.jit
def store_code_sums(
    out,
    stride,
    code_sum,
    mass,
    codes,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PAD: tl.constexpr,
):
    """Store the sums of the queries, ``stride`` apart; ``mass`` ``[ROWS]`` is the sum of their weights."""
    member = tl.arange(0, ROWS)[:, None]
    dim = code_dimensions(codes, RANK, RANK_PAD)[None, :]
    total = true_codes(join_bits(code_sum, 1.0, ROWS, RANK_PAD), mass[:, None], codes)
    tl.store(out + member * stride + dim, total, mask=(member < QUERIES) & (dim < RANK))


@triton.jit
def store_sum(result, residual, out, place, inside, HAS_RESIDUAL: tl.constexpr):
    """Store a result at ``place``; with a residual, which has the same places, the sum of both.

    Either is rounded, as if it had been stored.
    """
    rounded = result.to(out.dtype.element_ty)
    if HAS_RESIDUAL:
        other = tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        rounded = (rounded.to(tl.float32) + other).to(out.dtype.element_ty)
    tl.store(out + place, rounded, mask=inside)
