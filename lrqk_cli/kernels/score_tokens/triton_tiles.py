"""Packed codes as operands of tensor cores, without a way through shared memory.

A tensor core takes numbers from certain threads: of a left operand ``[rows, terms]``, thread l of a warp
holds rows l / 4 and l / 4 + 8, and in each of them pairs of adjacent terms, pair l % 4 of every four. If each
thread loads just the words from which its numbers come, no thread needs another's. Codes are the left operand
of two products, of all dimensions with the queries and of all tokens with their weights, so a tile is loaded
for either: ``load_words`` gives a thread whole words of its tokens, and ``load_pairs`` the same word of pairs
of tokens. The second load finds the words in the L1 cache.

Triton places threads by the contiguity of addresses, and if that does not decide, along the first dimensions.
The shapes here follow that; another placement would be slower, not wrong. The order of the dimensions does
not matter to a product; ``word_dimensions`` and ``pair_dimensions`` give it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import opaque


@triton.jit
def _pick(words):
    """Return the codes in bits 4 to 7 of the low and of the high half of each word, times 2^-20."""
    picked = words & 0x00F000F0
    low = picked.to(tl.int16).to(tl.float16, bitcast=True)
    return low, (picked >> 16).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _pick_all(words):
    """Return the codes of the low, and of the high half of each word, [..., byte of a half, half byte]."""
    later = words >> 8
    low_0, high_0 = _pick(words << 4)
    low_4, high_4 = _pick(words)
    low_8, high_8 = _pick(later << 4)
    low_12, high_12 = _pick(later)
    low = tl.join(tl.join(low_0, low_8), tl.join(low_4, low_12))
    return low, tl.join(tl.join(high_0, high_8), tl.join(high_4, high_12))


@triton.jit
def load_words(codes, BLOCK: tl.constexpr, RANK: tl.constexpr):
    """Load the words of ``BLOCK`` tokens, int32 ``[4, BLOCK, RANK / 32]``: a thread gets those of one row."""
    WORDS: tl.constexpr = RANK // 32
    word = tl.arange(0, 4)[:, None, None] * WORDS + tl.arange(0, WORDS)[None, None, :]
    place = codes.to(tl.pointer_type(tl.int32)) + tl.arange(0, BLOCK)[None, :, None] * (RANK // 8) + word
    return tl.load(place)


@triton.jit
def tile_of_words(words, BLOCK: tl.constexpr, RANK: tl.constexpr):
    """Return codes ``[BLOCK, RANK]``, (code + 8) · 2^-20, of the dimensions of ``word_dimensions``."""
    low, high = _pick_all(words)
    # From [quarter, token, word, byte of a half, half byte, half]
    # to [token, word, byte of a half, half byte, quarter, half].
    tile = tl.permute(tl.join(low, high), (1, 2, 3, 4, 0, 5))
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

    Each is int32 ``[4, RANK / 8, BLOCK / 8]``.
    """
    WORDS: tl.constexpr = RANK // 8
    # This order of the words has no adjacent ones; else a thread would get several of the same token.
    word = (tl.arange(0, WORDS) * 3 % WORDS)[None, :, None]
    token = tl.arange(0, 4)[:, None, None] * 2 + tl.arange(0, BLOCK // 8)[None, None, :] * 8
    place = codes.to(tl.pointer_type(tl.int32)) + token * WORDS + word
    return tl.load(place), tl.load(place + WORDS)


@triton.jit
def tile_of_pairs(first, second, BLOCK: tl.constexpr, RANK: tl.constexpr):
    """Return codes ``[RANK, BLOCK]``, (code + 8) · 2^-20, of the dimensions of ``pair_dimensions``."""
    low = (first & 0xFFFF) | (second << 16)
    high = ((first >> 16) & 0xFFFF) | (second & -65536)
    low, later_low = _pick_all(low)
    high, later_high = _pick_all(high)
    tile = tl.join(tl.join(low, high), tl.join(later_low, later_high))
    # From [quarter, word, eighth, byte of a half, half byte, half, token of a pair]
    # to [byte of a half, half byte, half, word, eighth, quarter, token of a pair].
    tile = tl.permute(tile, (3, 4, 5, 1, 2, 0, 6))
    return opaque(tl.reshape(tile, [RANK, BLOCK]))


@triton.jit
def pair_dimensions(RANK: tl.constexpr):
    """Return the dimension of each row of ``tile_of_pairs``."""
    WORDS: tl.constexpr = RANK // 8
    row = tl.arange(0, RANK)
    word = row % WORDS * 3 % WORDS
    half, half_byte, byte = row // WORDS % 2, row // WORDS // 2 % 2, row // WORDS // 4
    return word * 4 + half * 2 + byte + half_byte * (RANK // 2)
