"""Packed matrices of random weights, which replace a model's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lrqk_cli.config import WeightForm
from lrqk_cli.kernels.packed import PackedMatrix, empty_host_matrix, empty_matrix
from lrqk_cli.models.matrices import formats_of, matrices_of
from lrqk_cli.models.packed_experts import put_packed
from lrqk_cli.models.packed_layers import PackedModule
from lrqk_cli.models.quantise import quantise

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The integer scale of every unit, in formats that have such scales.
_SCALE = 32
# Embeddings drawn at a time.
_ROWS = 1 << 13


def replace_by_packed(
    model: PreTrainedModel,
    form: WeightForm,
    dtype: torch.dtype,
    *,
    is_tied: bool,
    experts_for: torch.device | None = None,
) -> None:
    """Replace the modules of a model on the meta device by packed modules without content.

    Args:
        experts_for: packed experts are in host memory, which this device can read; None for the meta device.
    """
    shapes = {matrix.path: matrix for matrix in matrices_of(model)}
    for path, format in formats_of(model, form, is_tied=is_tied).items():
        shape = shapes[path]
        if experts_for is None or not shape.is_of_experts:
            matrix = empty_matrix(format, shape.rows, shape.width, torch.device("meta"))
        else:
            pinned = experts_for.type == "cuda"
            matrix = empty_host_matrix(format, shape.rows, shape.width, pinned=pinned)
        put_packed(model, path, matrix, dtype, experts_on_host=not matrix.data.is_meta)


def draw_packed(model: PreTrainedModel, deviation: float, common: float) -> None:
    """Give all packed matrices of a model random weights.

    Args:
        deviation: the standard deviation of a weight.
        common: the standard deviation of the direction that all embeddings share, in multiples of it.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, PackedModule) and module is not embedding:
            _draw(module.matrix, deviation)
    if isinstance(embedding, PackedModule):
        _draw_embeddings(embedding.matrix, deviation, common)
    if model.config.tie_word_embeddings:
        assert isinstance(output, PackedModule)
        assert isinstance(embedding, PackedModule)
        output.packed = embedding.packed


def _draw(matrix: PackedMatrix, deviation: float) -> None:
    """Draw codes uniformly around zero."""
    format = matrix.format
    matrix.words.random_(-(2**31), 2**31)
    step = deviation * 12**0.5 / (1 << format.bits)  # difference of the weights of two neighbouring codes
    minimum = (((1 << format.bits) - 1) / 2 - format.zero) * step
    if not format.scales:
        matrix.floats[:, 0] = step
        if format.has_minimum:
            matrix.floats[:, 1] = -minimum
        return
    matrix.floats[:, 0] = step / _SCALE
    matrix.scales.fill_(_SCALE)
    if format.has_minimum:
        matrix.floats[:, 1] = minimum / _SCALE


def _draw_embeddings(matrix: PackedMatrix, deviation: float, common: float) -> None:
    """Draw normal numbers around a direction that all rows share, and quantise them."""
    shared = torch.randn(matrix.width, device=matrix.data.device) * (common * deviation)
    for start in range(0, matrix.rows, _ROWS):
        rows = min(_ROWS, matrix.rows - start)
        numbers = torch.randn(rows, matrix.width, device=matrix.data.device) * deviation + shared
        matrix.put(start, quantise(matrix.format, numbers))
