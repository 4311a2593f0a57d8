"""Multiply packed matrices by one or a few tokens, for linear layers."""

from lrqk_cli.kernels.packed_gemv import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.packed_gemv import triton

    return triton.packed_gemv


packed_gemv = with_triton(reference.packed_gemv, _triton)
