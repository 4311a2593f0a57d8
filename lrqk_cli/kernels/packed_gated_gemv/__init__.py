"""Gate and up projection of a gated MLP with packed weights, and their gated product, for one token."""

from lrqk_cli.kernels.packed_gated_gemv import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.packed_gated_gemv import triton

    return triton.packed_gated_gemv


packed_gated_gemv = with_triton(reference.packed_gated_gemv, _triton)
