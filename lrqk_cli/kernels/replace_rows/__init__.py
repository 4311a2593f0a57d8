"""Fetch planned rows from the host store into their hot slots."""

from lrqk_cli.kernels.replace_rows import reference
from lrqk_cli.kernels.twins import with_triton

replace_rows = with_triton(reference.replace_rows)
