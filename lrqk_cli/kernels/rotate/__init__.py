"""Rotary position embedding of a few tokens."""

from lrqk_cli.kernels.rotate import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.rotate import triton

    return triton.rotate


rotate = with_triton(reference.rotate, _triton)
