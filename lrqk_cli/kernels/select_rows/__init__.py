"""Which rows a step fetches, and which slots they take."""

from lrqk_cli.kernels.select_rows import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.select_rows import triton

    return triton.select_rows


select_rows = with_triton(reference.select_rows, _triton)
