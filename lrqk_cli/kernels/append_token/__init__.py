"""Store a step's token, and project its queries to the low-rank space."""

from lrqk_cli.kernels.append_token import reference
from lrqk_cli.kernels.twins import with_triton

append_token = with_triton(reference.append_token)
