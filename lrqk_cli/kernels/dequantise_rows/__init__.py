"""Read rows of 8-bit numbers back."""

from lrqk_cli.kernels.dequantise_rows import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.dequantise_rows import triton

    return triton.dequantise_rows


dequantise_rows = with_triton(reference.dequantise_rows, _triton)
