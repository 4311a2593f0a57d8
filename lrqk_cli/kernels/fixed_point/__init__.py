"""A vector in fixed point, for integer products with packed weights."""

from lrqk_cli.kernels.fixed_point import reference
from lrqk_cli.kernels.fixed_point.reference import empty_fixed as empty_fixed
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.fixed_point import triton

    return triton.fixed_point


fixed_point = with_triton(reference.fixed_point, _triton)
