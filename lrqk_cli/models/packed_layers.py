"""Linear layers and embeddings with packed weights, which replace torch's own modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrqk_cli import kernels
from lrqk_cli.formats import PackedFormat
from lrqk_cli.kernels.fixed_point import empty_fixed
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.memory.activations import UNPACKED_AT_ONCE

# The most tokens for which a product with packed rows is faster than unpacking them.
FEW_TOKENS = 8
# A multiple of the tile sizes of matrix products.
_WHOLE_TILES = 256


class PackedModule(nn.Module):
    """A module with a packed matrix as a buffer, which moves with the model and counts as its memory.

    Args:
        stays: the matrix is no buffer: it stays where it is, and is not counted.

    Attributes:
        dtype: dtype of the results, which are rounded from float32.
    """

    packed: Tensor

    def __init__(self, matrix: PackedMatrix, dtype: torch.dtype, *, stays: bool = False) -> None:
        super().__init__()
        if stays:
            self.packed = matrix.data
        else:
            self.register_buffer("packed", matrix.data)
        self.dtype = dtype
        self._format: PackedFormat = matrix.format
        self._shape = matrix.rows, matrix.width

    @property
    def matrix(self) -> PackedMatrix:
        """Return the matrix on its current device."""
        return PackedMatrix(self.packed, self._format, *self._shape)


class PackedLinear(PackedModule):
    """``nn.Linear`` of a packed matrix ``[out_features, in_features]``.

    On a GPU a few tokens are multiplied by the packed rows. More tokens use unpacked rows, some at a time.
    """

    bias: nn.Parameter | None

    def __init__(self, matrix: PackedMatrix, dtype: torch.dtype, bias: nn.Parameter | None = None) -> None:
        super().__init__(matrix, dtype)
        self.out_features, self.in_features = self._shape
        self.register_parameter("bias", bias)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to ``[..., in_features]``."""
        out = input.new_empty(*input.shape[:-1], self.out_features)
        flat, tokens = out.view(-1, self.out_features), input.reshape(-1, self.in_features)
        if reads_packed(tokens):
            multiply_packed(tokens, self.matrix, flat, self.bias)
        else:
            multiply_unpacked(tokens, self.matrix, range(self.out_features), flat, self.bias)
        return out


def reads_packed(tokens: Tensor) -> bool:
    """Return whether a product of tokens ``[n, width]`` reads packed rows: few tokens, on a GPU."""
    return tokens.is_cuda and tokens.shape[0] <= FEW_TOKENS and kernels.has_triton()


def multiply_packed(tokens: Tensor, matrix: PackedMatrix, out: Tensor, bias: Tensor | None) -> None:
    """Multiply a few tokens ``[n, width]`` by a packed matrix into ``out`` ``[n, rows]``."""
    count, width = tokens.shape
    vectors = empty_fixed(width, tokens.dtype, tokens.device, count)
    kernels.fixed_point(vectors, tokens.contiguous())
    kernels.packed_gemv((matrix,), vectors, out, biases=(bias,))


def multiply_unpacked(
    tokens: Tensor, matrix: PackedMatrix, rows: range, out: Tensor, bias: Tensor | None
) -> None:
    """Multiply tokens by a range of rows of a packed matrix; unpack some rows at a time.

    Args:
        tokens: ``[n, width]``.
        rows: the range of rows, without gaps.
        out: ``[n, rows]``; products write into views of it, so nothing is copied afterwards.
        bias: ``[rows]``, or None.
    """
    step = max(1, UNPACKED_AT_ONCE // matrix.width)
    # Library products are slower if a part of the result begins at an unaligned address.
    step -= step % _WHOLE_TILES if step > _WHOLE_TILES else 0
    scratch = tokens.new_empty(min(step, len(rows)), matrix.width)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        weight = scratch[: len(part)]
        kernels.unpack_rows(weight, matrix, torch.arange(part.start, part.stop, device=tokens.device))
        columns = out[:, start : start + step]
        if bias is None:
            torch.mm(tokens, weight.mT, out=columns)
        else:
            torch.addmm(bias[start : start + step], tokens, weight.mT, out=columns)


class PackedEmbedding(PackedModule):
    """``nn.Embedding`` of a packed matrix ``[tokens, width]``, scaled as the model's own.

    Args:
        scale: the factor of every number.
    """

    def __init__(self, matrix: PackedMatrix, dtype: torch.dtype, scale: float = 1.0) -> None:
        super().__init__(matrix, dtype)
        # Rounded as in the model.
        self._scale = float(torch.tensor(scale, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        """Look up token ids ``[...]``; return ``[..., width]``."""
        rows = input.reshape(-1)
        out = torch.empty(rows.shape[0], self._shape[1], dtype=self.dtype, device=input.device)
        kernels.unpack_rows(out, self.matrix, rows)
        if self._scale != 1.0:
            out *= self._scale
        return out.view(*input.shape, -1)


def packed_module(module: nn.Module, matrix: PackedMatrix, dtype: torch.dtype) -> PackedModule:
    """Return the packed replacement of a linear layer or an embedding, with its bias or scale."""
    if isinstance(module, nn.Linear):
        return PackedLinear(matrix, dtype, module.bias)
    # The scale as a buffer has no value on the meta device, so prefer the plain attribute.
    scale = getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", 1.0))
    return PackedEmbedding(matrix, dtype, float(scale))
