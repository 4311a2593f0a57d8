"""Sum the exact attention weights of the resident rows per token."""

from lrqk_cli.kernels.twins import Twin, with_triton
from lrqk_cli.kernels.weigh_tokens import reference


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.weigh_tokens import triton

    return triton.weigh_tokens


weigh_tokens = with_triton(reference.weigh_tokens, _triton)
