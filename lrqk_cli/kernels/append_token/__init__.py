"""Store a step's tokens, and project their queries to the low-rank space."""

from torch import Tensor

from lrqk_cli.kernels.append_token import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[tuple[Tensor, Tensor]]:
    from lrqk_cli.kernels.append_token import triton

    return triton.append_token


append_token = with_triton(reference.append_token, _triton)
