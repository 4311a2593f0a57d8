"""Unpack rows of a packed matrix."""

from lrqk_cli.kernels.twins import with_triton
from lrqk_cli.kernels.unpack_rows import reference

unpack_rows = with_triton(reference.unpack_rows)
