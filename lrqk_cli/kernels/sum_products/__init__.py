"""Sum the products of rows, for Gram matrices."""

from torch import Tensor

from lrqk_cli.kernels.sum_products import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[tuple[Tensor, Tensor]]:
    from lrqk_cli.kernels.sum_products import triton

    return triton.sum_products


sum_products = with_triton(reference.sum_products, _triton)
