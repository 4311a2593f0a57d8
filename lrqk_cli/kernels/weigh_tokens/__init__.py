"""Sum the exact attention weights of the resident rows per token."""

from lrqk_cli.kernels.twins import with_triton
from lrqk_cli.kernels.weigh_tokens import reference

weigh_tokens = with_triton(reference.weigh_tokens)
