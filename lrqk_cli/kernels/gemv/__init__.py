"""Multiply matrices by one token, for linear layers."""

from lrqk_cli.kernels.gemv import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.gemv import triton

    return triton.gemv


gemv = with_triton(reference.gemv, _triton)
