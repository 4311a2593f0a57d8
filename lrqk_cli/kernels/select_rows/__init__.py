"""Choose the rows that a step fetches, and their slots."""

from lrqk_cli.kernels.select_rows import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.select_rows import triton

    return triton.select_rows


select_rows = with_triton(reference.select_rows, _triton)
