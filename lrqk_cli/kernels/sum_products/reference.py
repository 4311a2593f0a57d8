"""Sum the products of rows, for Gram matrices."""

from __future__ import annotations

from torch import Tensor

from lrqk_cli.kernels.tensor_cores import tensor_cores


def sum_products(
    left: Tensor, right: Tensor, left_shift: Tensor | None = None, right_shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``Σ (l − s)ᵀ (r − t)`` and ``Σ (r − t)`` over all rows l and r of a set, in float32.

    Args:
        left, right: ``[sets, G, n, d]``, of one dtype.
        left_shift, right_shift: s and t, float32 ``[sets, d]``; None for zeros.

    Returns:
        ``[sets, d, d]`` and ``[sets, d]``. On a GPU the factors of products are rounded, here to TF32, and by
        the kernel to the dtype of the rows.
    """
    shifted, others = (
        (rows if shift is None else rows - shift[:, None, None]).float().flatten(1, 2)
        for rows, shift in ((left, left_shift), (right, right_shift))
    )
    with tensor_cores():
        return shifted.mT @ others, others.sum(1)
