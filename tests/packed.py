"""Matrices of random blocks in ggml's formats, and what they stand for."""

from __future__ import annotations

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from lrqk_cli.formats import FORMATS, PackedFormat
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.models.repack import repack

NAMES = list(FORMATS)


def random_blocks(format: PackedFormat, rows: int, width: int, *, seed: int = 0, size: float = 1.0) -> Tensor:
    """Return blocks as in a file, all of whose bytes are random but the floats, which are about ``size``."""
    random = np.random.default_rng(seed)
    shape = rows, width // format.block, format.block_bytes
    blocks = random.integers(0, 256, shape, dtype=np.uint8)
    first = format.block_bytes - 2 if format.is_halved else 0
    for start in range(first, first + 2 * format.floats, 2):
        numbers = size * random.standard_normal((*shape[:2], 1))
        blocks[:, :, start : start + 2] = numbers.astype(np.float16).view(np.uint8)
    return torch.from_numpy(blocks.reshape(rows, -1))


def matrix_of(
    name: str, rows: int, width: int, *, seed: int = 0, size: float = 1.0
) -> tuple[PackedMatrix, Tensor]:
    """Return a random matrix, and what ``gguf`` unpacks it to, in float32."""
    format = FORMATS[name]
    blocks = random_blocks(format, rows, width, seed=seed, size=size)
    return repack(format, blocks, width), unpacked(name, blocks)


def unpacked(name: str, blocks: Tensor) -> Tensor:
    """Return what ``gguf`` unpacks blocks to, in float32."""
    return torch.from_numpy(dequantize(blocks.numpy(), GGMLQuantizationType[name]))
