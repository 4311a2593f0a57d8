"""Multiply the packed matrices of a token's experts by vectors."""

from lrqk_cli.kernels.packed_experts_gemv import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.packed_experts_gemv import triton

    return triton.packed_experts_gemv


packed_experts_gemv = with_triton(reference.packed_experts_gemv, _triton)
