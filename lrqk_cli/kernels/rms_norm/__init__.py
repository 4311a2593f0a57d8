"""Normalisation by the root mean square."""

from lrqk_cli.kernels.rms_norm import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.rms_norm import triton

    return triton.rms_norm


rms_norm = with_triton(reference.rms_norm, _triton)
