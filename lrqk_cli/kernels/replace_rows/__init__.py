"""Fetch planned rows from the host store into their hot slots."""

from lrqk_cli.kernels.replace_rows import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.replace_rows import triton

    return triton.replace_rows


replace_rows = with_triton(reference.replace_rows, _triton)
replace_rows_by_host = reference.replace_rows
"""The same from pageable host memory: the host gathers the rows, and waits for each copy."""
