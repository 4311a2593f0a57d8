"""Sum the products of rows, for Gram matrices."""

from __future__ import annotations

from torch import Tensor

from lrqk_cli.kernels.tensor_cores import tensor_cores


def sum_products(
    left: Tensor, right: Tensor, left_shift: Tensor | None = None, right_shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``Σ (l − s)ᵀ (r − t)`` and ``Σ (r − t)`` over all rows l and r of a set, in float32.

    Args:
        left, right: ``[sets, G, n, d]``, of one dtype; the last dimension is contiguous.
        left_shift, right_shift: s and t, float32 ``[sets, d]``; None for zeros.

    Returns:
        ``[sets, d, d]`` and ``[sets, d]``. On a GPU the factors of products are rounded, here to TF32, and by
        the kernel to the dtype of the rows.
    """
    lefts = _shifted(left, left_shift)
    is_same = right is left and right_shift is left_shift
    rights = lefts if is_same else _shifted(right, right_shift)
    with tensor_cores():
        return lefts.mT @ rights, rights.sum(1)


def _shifted(rows: Tensor, shift: Tensor | None) -> Tensor:
    """Return the rows of each set less its shift, float32 ``[sets, G · n, d]``."""
    rows = rows.flatten(1, 2)
    return (rows if shift is None else rows - shift.unsqueeze(1)).float()
