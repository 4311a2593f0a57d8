"""Store a step's token, and project its queries to the low-rank space."""

from lrqk_cli.kernels.append_token import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.append_token import triton

    return triton.append_token


append_token = with_triton(reference.append_token, _triton)
