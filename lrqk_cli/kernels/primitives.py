"""Device functions that several Triton kernels share."""

from __future__ import annotations

import triton
import triton.language as tl

TRITON_RELEASE = tuple(map(int, triton.__version__.split(".")[:2]))


def tile_rows(queries: int) -> int:
    """Return the rows of one half of a two-part tile (see ``split_bits``) for up to 32 queries."""
    return next(rows for rows in (8, 16, 32) if queries <= rows)


@triton.jit
def _load_part(matrix, member, rows, column, WIDTH: tl.constexpr):
    """Load a tile of a matrix; rows beyond ``rows`` repeat the last, columns beyond ``WIDTH`` are zero."""
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
            # Load the next part during this product; loading the last part twice is cheaper than a branch.
            beyond = tl.minimum(start + CHUNK, (WIDTH - 1) // CHUNK * CHUNK)
            following = _load_part(matrix, member, rows, beyond + tl.arange(0, CHUNK), WIDTH)
        factor = tl.load(row + column, mask=column < WIDTH, other=0.0)
        total += part.to(tl.float32) * factor.to(tl.float32)[None, :]
        part = following
    return tl.sum(total, 1)


@triton.jit
def activated(gated, SILU: tl.constexpr):
    """Return the activation of an MLP's gate: SiLU, or the tanh approximation of GELU."""
    # Both are x · sigmoid(...); the exponential overflows above 88.
    inner = gated if SILU else 1.5957691216057308 * (gated + 0.044715 * gated * gated * gated)
    return gated / (1.0 + tl.exp(tl.minimum(-inner, 80.0)))


@triton.jit
def rounded_code(code, TOP: tl.constexpr):
    """Round a code half to even and limit it to ±``TOP``; leave it as it is if ``TOP`` is 0."""
    if TOP > 0:
        code = tl.minimum(tl.maximum(code, -1.0 * TOP), 1.0 * TOP)
        # Adding 1.5·2^23 leaves no bits for a fraction, so the sum rounds half to even.
        code = (code + 12582912.0) - 12582912.0
    return code


@triton.jit
def exponential(numbers):
    """Return the exponentials of numbers, with fewer instructions than ``tl.exp``; the smallest become 0."""
    return tl.exp2(numbers * 1.4426950408889634)


@triton.jit
def soft_cap(logits, cap):
    """Return ``cap · tanh(logits / cap)``; tanh is written out, because the interpreter has none."""
    # tanh is 1 in float32 far below 40; the exponential overflows above 88.
    return cap * (1.0 - 2.0 / (tl.exp(tl.minimum(2.0 * logits / cap, 40.0)) + 1.0))


@triton.jit
def opaque(tensor):
    """Return a tensor of floats unchanged, with its origin hidden from Triton.

    Triton chooses an operand's path to the tensor cores, and the place of layout conversions, by how the
    tensor was computed. After masks, joins and byte loads, the choice of Triton 3.6 costs twice the
    instructions. It does not look through a sum; this sum, of each number and minus zero, costs nothing.
    """
    if tensor.dtype == tl.float16:
        nothing = tl.full(tensor.shape, -(1 << 15), tl.int16)
    else:
        nothing = tl.full(tensor.shape, -(1 << 31), tl.int32)
    return tl.sum(tl.join(tensor, nothing.to(tensor.dtype, bitcast=True)), len(tensor.shape))


# Codes become float16 without a conversion. The bits of a 4-bit code plus 8, shifted left by four, are the
# subnormal number (code + 8) · 2^-20. Tensor cores align the terms of a sum by exponent, take 2^-14 for every
# subnormal number, and cut bits 24 places below: without the shift the codes would lose more bits.


@triton.jit
def _pick(words):
    """Return the codes in bits 4 to 7 of the low and of the high half of each word, times 2^-20."""
    picked = words & 0x00F000F0
    low = picked.to(tl.int16).to(tl.float16, bitcast=True)
    return low, (picked >> 16).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def pick_codes(words):
    """Return the codes of the low, and of the high half of a word, ``[..., byte of a half, half byte]``."""
    later = words >> 8
    low_0, high_0 = _pick(words << 4)
    low_4, high_4 = _pick(words)
    low_8, high_8 = _pick(later << 4)
    low_12, high_12 = _pick(later)
    low = tl.join(tl.join(low_0, low_8), tl.join(low_4, low_12))
    return low, tl.join(tl.join(high_0, high_8), tl.join(high_4, high_12))


@triton.jit
def load_codes(codes, token, RANK: tl.constexpr, RANK_PAD: tl.constexpr):
    """Load a tile ``[tokens, RANK_PAD]`` of codes; all tokens must exist.

    ``code_dimensions`` gives the dimension of each column; ``true_codes`` converts products with the tile.
    Integer codes become float16, which holds them exactly, and floating codes float32.
    """
    ODD: tl.constexpr = RANK % 8 if codes.dtype.element_ty == tl.uint8 else 1
    if ODD == 0:
        # Load eight codes at once, as 32 bits.
        word = tl.arange(0, RANK_PAD // 8)
        if RANK_PAD > RANK:
            word = tl.minimum(word, RANK // 8 - 1)
        words = codes.to(tl.pointer_type(tl.int32)) + token[:, None] * (RANK // 8) + word[None, :]
        words = tl.load(words)
        low, high = pick_codes(words)
        # The two halves of a word stay adjacent, so the joins move no register.
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
            # 0x6400 is 1,024 in float16, with ten free bits for the code. Subtract both offsets here, not in
            # ``true_codes``: 128 is larger than most codes, and sums with it would lose bits.
            code = (tl.load(codes + token[:, None] * RANK + dim).to(tl.int16) + 128) | 0x6400
            tile = opaque(code.to(tl.float16, bitcast=True) - (1024.0 + 128.0))
        else:
            tile = tl.load(codes + token[:, None] * RANK + dim).to(tl.float32)
    return tile


@triton.jit
def code_dimensions(codes, RANK: tl.constexpr, RANK_PAD: tl.constexpr):
    """Return the dimension of each column of ``load_codes``; r or more for padding."""
    column = tl.arange(0, RANK_PAD)
    ODD: tl.constexpr = RANK % 8 if codes.dtype.element_ty == tl.uint8 else 1
    if ODD == 0:
        # See ``kernels.codes`` for the layout of a byte.
        byte = column // 8 * 4 + column // 4 % 2 + column % 2 * 2
        column = tl.where(column < RANK, byte + column // 2 % 2 * (RANK // 2), RANK)
    return column


@triton.jit
def true_codes(product, total, codes):
    """Return ``Σ x · code`` from ``product``, ``Σ x · tile``, and ``total``, ``Σ x``."""
    if codes.dtype.element_ty == tl.uint8:
        product = 1048576.0 * product - 8.0 * total
    return product


# Tensor cores use 11 bits of a float32 number. A tile has more rows than a set has queries, so its first half
# holds the numbers rounded to float16, and its second half 2,048 times the rounding errors: one product then
# keeps 22 bits.


@triton.jit
def twice(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return two copies of the rows ``[ROWS, COLUMNS]``, ``[2 · ROWS, COLUMNS]``."""
    return tl.reshape(tl.broadcast_to(tile[None, :, :], [2, ROWS, COLUMNS]), [2 * ROWS, COLUMNS])


@triton.jit
def split_bits(tile, ROWS: tl.constexpr):
    """Split numbers within [-2, 2], given in both halves of the rows, into their two parts."""
    rounded = tile.to(tl.float16).to(tl.float32)
    first = (tl.arange(0, 2 * ROWS) < ROWS)[:, None]
    return tl.where(first, rounded, (tile - rounded) * 2048.0)


@triton.jit
def join_bits(tile, unit, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the rows ``[ROWS, COLUMNS]`` from the two parts in the tile, each row times its ``unit``."""
    unit = tl.where(tl.arange(0, 2 * ROWS) < ROWS, unit, unit * (1.0 / 2048.0))
    return tl.sum(tl.reshape(tile * unit[:, None], [2, ROWS, COLUMNS]), 0)


@triton.jit
def add_codes(weight, fade, code_sum, tile, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """Return ``fade · code_sum``, in two parts, plus codes by weights ``[ROWS, COUNT]`` within [-1, 1]."""
    parts = split_bits(twice(weight, ROWS, COUNT), ROWS)
    parts = opaque(parts.to(tl.float16)) if tile.dtype == tl.float16 else parts
    # Add to the sum outside of the product: tensor cores would cut more bits beside it than float32 does.
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
    """Store the code sums of the queries, ``stride`` apart; ``mass`` ``[ROWS]`` are the sums of weights."""
    member = tl.arange(0, ROWS)[:, None]
    dim = code_dimensions(codes, RANK, RANK_PAD)[None, :]
    total = true_codes(join_bits(code_sum, 1.0, ROWS, RANK_PAD), mass[:, None], codes)
    tl.store(out + member * stride + dim, total, mask=(member < QUERIES) & (dim < RANK))


@triton.jit
def store_sum(result, residual, out, place, inside, HAS_RESIDUAL: tl.constexpr):
    """Store a result at ``place``, or its sum with the residual at the same place.

    The result is rounded before the sum, and the sum again, as two separate kernels would.
    """
    rounded = result.to(out.dtype.element_ty)
    if HAS_RESIDUAL:
        other = tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        rounded = (rounded.to(tl.float32) + other).to(out.dtype.element_ty)
    tl.store(out + place, rounded, mask=inside)
