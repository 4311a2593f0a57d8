"""Unpack rows of a packed matrix."""

from lrqk_cli.kernels.twins import Twin, with_triton
from lrqk_cli.kernels.unpack_rows import reference


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.unpack_rows import triton

    return triton.unpack_rows


unpack_rows = with_triton(reference.unpack_rows, _triton)
