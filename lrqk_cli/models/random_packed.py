"""Packed matrices of random weights, in the place of a model's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lrqk_cli.kernels.packed import PackedMatrix, size_bytes
from lrqk_cli.models.mixes import q4_k_m
from lrqk_cli.models.packed_layers import PackedModule, packed_module

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Scales of units, where a format has them.
_SCALE = 32


def replace_by_packed(model: PreTrainedModel, dtype: torch.dtype, *, is_tied: bool) -> None:
    """Put packed modules without content in the place of those of a model that Q4_K_M packs."""
    for path, module, format in list(q4_k_m(model, is_tied=is_tied)):
        rows, width = module.weight.shape
        data = torch.empty(size_bytes(format, rows, width), dtype=torch.uint8, device="meta")
        matrix = PackedMatrix(data, format, rows, width)
        model.set_submodule(path, packed_module(module, matrix, dtype))


def draw_packed(model: PreTrainedModel, deviation: float, common: float) -> None:
    """Give all packed matrices of a model random weights.

    Args:
        deviation: the standard deviation of a weight.
        common: that of a direction which all embeddings share, as a multiple of it.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, PackedModule):
            _draw(module.matrix, deviation, common if module is embedding else 0.0)
    if model.config.tie_word_embeddings:
        assert isinstance(output, PackedModule)
        assert isinstance(embedding, PackedModule)
        output.packed = embedding.packed


def _draw(matrix: PackedMatrix, deviation: float, common: float) -> None:
    """Draw codes, which are uniform, around a mean that units of all rows share."""
    format = matrix.format
    matrix.words.random_(-(2**31), 2**31)
    step = deviation * 12**0.5 / (1 << format.bits)  # of the weights from one code to the next
    units = matrix.scales.shape[2]
    shared = torch.randn(units, device=matrix.data.device) * (common * deviation)
    middle = ((1 << format.bits) - 1) / 2 - format.zero
    minimum = (middle * step - shared).clamp_min(0.0)
    if not format.scales:
        matrix.floats[:, 0] = step
        if format.has_minimum:
            matrix.floats[:, 1] = -minimum
        return
    matrix.floats[:, 0] = step / _SCALE
    matrix.scales.fill_(_SCALE)
    if format.has_minimum:
        factor = float(minimum.max().clamp_min(1e-6)) / 63
        matrix.floats[:, 1] = factor
        matrix.scales[:, 1] = (minimum / factor).round().to(torch.uint8)
