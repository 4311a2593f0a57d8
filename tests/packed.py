"""Matrices of random blocks in ggml's formats, and what they stand for."""

from __future__ import annotations

import math

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor, nn
from transformers import PreTrainedModel

from lrqk_cli.config import WeightForm
from lrqk_cli.formats import FORMATS, PackedFormat
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.models.matrices import formats_of
from lrqk_cli.models.packed_experts import put_packed
from lrqk_cli.models.quantise import quantise
from lrqk_cli.models.repack import repack

NAMES = list(FORMATS)
# Formats that checkpoints can be given.
MADE = [name for name, format in FORMATS.items() if not format.values]


def random_blocks(format: PackedFormat, rows: int, width: int, *, seed: int = 0, size: float = 1.0) -> Tensor:
    """Return blocks as in a file, all of whose bytes are random but the floats, which are about ``size``."""
    random = np.random.default_rng(seed)
    shape = rows, width // format.block, format.block_bytes
    blocks = random.integers(0, 256, shape, dtype=np.uint8)
    if format.has_exponents:
        exponents = 127 + round(math.log2(size)) + random.integers(-8, 1, shape[:2])
        blocks[:, :, 0] = exponents.clip(0, 255)
        return torch.from_numpy(blocks.reshape(rows, -1))
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


@torch.no_grad()
def pack(model: PreTrainedModel, form: WeightForm) -> None:
    """Pack the matrices of an untied model in their places."""
    formats = formats_of(model, form, is_tied=False)
    # Those of experts go with the first that is packed.
    weights = {path: weight_at(model, path) for path in formats}
    for path, weight in weights.items():
        rows = weight.reshape(-1, weight.shape[-1])
        put_packed(model, path, quantise(formats[path], rows), weight.dtype)


def weight_at(model: PreTrainedModel, path: str) -> Tensor:
    """Return the weight of a module, or that of experts by its own path, with the width last."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    found = getattr(parent, name)
    if isinstance(found, nn.Module):
        weight: Tensor = found.weight
        return weight
    experts: Tensor = found.mT if parent.is_transposed else found
    return experts


def unpacked(name: str, blocks: Tensor) -> Tensor:
    """Return what ``gguf`` unpacks blocks to, in float32."""
    return torch.from_numpy(dequantize(blocks.numpy(), GGMLQuantizationType[name]))


def quantised(name: str, weights: np.ndarray) -> np.ndarray:
    """Return weights as ``gguf`` packs them, or in IQ4_NL, for which it has no quantiser, by the largest."""
    if name != "IQ4_NL":
        return quantize(weights, GGMLQuantizationType[name])
    values = np.array(FORMATS[name].values, dtype=np.float32)
    units = weights.reshape(*weights.shape[:-1], -1, 32)
    scale = (np.abs(units).max(-1, keepdims=True) / np.abs(values).max()).astype(np.float16)
    codes = np.abs(units[..., None] - scale[..., None].astype(np.float32) * values).argmin(-1)
    nibbles = (codes[..., :16] | codes[..., 16:] << 4).astype(np.uint8)
    return np.concatenate([scale.view(np.uint8), nibbles], -1).reshape(*weights.shape[:-1], -1)
