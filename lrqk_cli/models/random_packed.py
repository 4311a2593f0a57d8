"""Packed matrices of random weights, in the place of a model's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lrqk_cli.config import WeightForm
from lrqk_cli.kernels.packed import PackedMatrix, empty_matrix
from lrqk_cli.models.matrices import formats_of
from lrqk_cli.models.packed_layers import PackedModule, packed_module

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Scales of units, where a format has them.
_SCALE = 32


def replace_by_packed(model: PreTrainedModel, form: WeightForm, dtype: torch.dtype, *, is_tied: bool) -> None:
    """Put packed modules without content in the place of those of a model on the meta device."""
    for path, format in formats_of(model, form, is_tied=is_tied).items():
        module: Any = model.get_submodule(path)
        rows, width = module.weight.shape
        matrix = empty_matrix(format, rows, width, torch.device("meta"))
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
