"""Store keys of the low-rank space in an index."""

from lrqk_cli.kernels.encode_codes import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.encode_codes import triton

    return triton.encode_codes


encode_codes = with_triton(reference.encode_codes, _triton)
