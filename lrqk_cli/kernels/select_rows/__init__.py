"""Choose the rows that a step fetches, and their slots."""

from lrqk_cli.kernels.select_rows import reference
from lrqk_cli.kernels.twins import with_triton

select_rows = with_triton(reference.select_rows)
