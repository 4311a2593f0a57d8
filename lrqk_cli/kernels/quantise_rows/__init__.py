"""Write rows as 8-bit numbers with scales."""

from torch import Tensor

from lrqk_cli.kernels.quantise_rows import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[tuple[Tensor, Tensor]]:
    from lrqk_cli.kernels.quantise_rows import triton

    return triton.quantise_rows


quantise_rows = with_triton(reference.quantise_rows, _triton)
