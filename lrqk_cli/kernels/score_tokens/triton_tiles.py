"""Packed codes as operands of tensor cores, without a way through shared memory.

A tensor core takes numbers from certain threads: of a left operand ``[rows, terms]``, thread l of a warp
holds rows l / 4 and l / 4 + 8, and in each of them pairs of adjacent terms, pair l % 4 of every four. If each
thread loads just the words from which its numbers come, no thread needs another's. Codes are the left operand
of two products, of all dimensions with the queries and of all tokens with their weights, so a tile is loaded
for either: ``load_words`` gives a thread whole words of its tokens, and ``load_pairs`` the same word of pairs
of tokens. The second load finds the words in the L1 cache.

Triton places threads by the contiguity of addresses, then by the order of a tensor's dimensions. The shapes
here follow that; with another placement the kernel would be slower, not wrong, and take more shared memory,
which a test would see. The order of a code's dimensions does not matter to a product; ``word_dimensions`` and
``pair_dimensions`` give it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import TRITON_RELEASE, opaque, pick_codes

# Where contiguity does not decide, Triton places threads along the first dimensions; from 3.7 on, the last.
_FIRST = tl.constexpr(TRITON_RELEASE < (3, 7))


@triton.jit
def load_words(codes, BLOCK: tl.constexpr, RANK: tl.constexpr):
    """Load words, int32 ``[4, BLOCK, RANK / 32]``: a thread gets those of a quarter of a token's.

    Since Triton 3.7 the first two dimensions are exchanged.
    """
    WORDS: tl.constexpr = RANK // 32
    word = tl.arange(0, WORDS)[None, None, :]
    if _FIRST:
        word += tl.arange(0, 4)[:, None, None] * WORDS
        token = tl.arange(0, BLOCK)[None, :, None]
    else:
        word += tl.arange(0, 4)[None, :, None] * WORDS
        token = tl.arange(0, BLOCK)[:, None, None]
    return tl.load(codes.to(tl.pointer_type(tl.int32)) + token * (RANK // 8) + word)


@triton.jit
def tile_of_words(words, BLOCK: tl.constexpr, RANK: tl.constexpr):
    """Return codes ``[BLOCK, RANK]``, (code + 8) · 2^-20, of the dimensions of ``word_dimensions``."""
    low, high = pick_codes(words)
    tile = tl.join(low, high)
    # To [token, word, byte of a half, half byte, quarter, half].
    tile = tl.permute(tile, (1, 2, 3, 4, 0, 5) if _FIRST else (0, 2, 3, 4, 1, 5))
    return opaque(tl.reshape(tile, [BLOCK, RANK]))


@triton.jit
def word_dimensions(RANK: tl.constexpr):
    """Return the dimension of each column of ``tile_of_words``."""
    column = tl.arange(0, RANK)
    half, quarter, half_byte = column % 2, column // 2 % 4, column // 8 % 2
    byte, word = column // 16 % 2, column // 32
    # See ``kernels.codes`` for the layout of a byte.
    return (quarter * (RANK // 32) + word) * 4 + half * 2 + byte + half_byte * (RANK // 2)


@triton.jit
def load_pairs(codes, BLOCK: tl.constexpr, RANK: tl.constexpr):
    """Load the same words: those of the first and of the second token of each pair.

    Each is int32 ``[4, RANK / 8, BLOCK / 8]``; since Triton 3.7 the dimensions have the opposite order.
    """
    WORDS: tl.constexpr = RANK // 8
    # This order of the words has no adjacent ones; else a thread would get several of the same token.
    word = (tl.arange(0, WORDS) * 3 % WORDS)[None, :, None]
    if _FIRST:
        token = tl.arange(0, 4)[:, None, None] * 2 + tl.arange(0, BLOCK // 8)[None, None, :] * 8
    else:
        token = tl.arange(0, 4)[None, None, :] * 2 + tl.arange(0, BLOCK // 8)[:, None, None] * 8
    place = codes.to(tl.pointer_type(tl.int32)) + token * WORDS + word
    return tl.load(place), tl.load(place + WORDS)


@triton.jit
def tile_of_pairs(first, second, BLOCK: tl.constexpr, RANK: tl.constexpr):
    """Return codes ``[RANK, BLOCK]``, (code + 8) · 2^-20, of the dimensions of ``pair_dimensions``."""
    low = (first & 0xFFFF) | (second << 16)
    high = ((first >> 16) & 0xFFFF) | (second & -65536)
    low, later_low = pick_codes(low)
    high, later_high = pick_codes(high)
    tile = tl.join(tl.join(low, high), tl.join(later_low, later_high))
    # To [byte of a half, half byte, half, word, eighth, quarter, token of a pair].
    tile = tl.permute(tile, (3, 4, 5, 1, 2, 0, 6) if _FIRST else (3, 4, 5, 1, 0, 2, 6))
    return opaque(tl.reshape(tile, [RANK, BLOCK]))


@triton.jit
def pair_dimensions(RANK: tl.constexpr):
    """Return the dimension of each row of ``tile_of_pairs``."""
    WORDS: tl.constexpr = RANK // 8
    row = tl.arange(0, RANK)
    word = row % WORDS * 3 % WORDS
    half, half_byte, byte = row // WORDS % 2, row // WORDS // 2 % 2, row // WORDS // 4
    return word * 4 + half * 2 + byte + half_byte * (RANK // 2)
