"""Gate and up projection of a gated MLP, and their gated product, for one token."""

from lrqk_cli.kernels.gated_gemv import reference
from lrqk_cli.kernels.gated_gemv.reference import Activation as Activation
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.gated_gemv import triton

    return triton.gated_gemv


gated_gemv = with_triton(reference.gated_gemv, _triton)
