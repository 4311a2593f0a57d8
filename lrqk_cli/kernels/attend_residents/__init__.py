"""Decode attention over the resident rows, with the tail correction."""

from lrqk_cli.kernels.attend_residents import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.attend_residents import triton

    return triton.attend_residents


attend_residents = with_triton(reference.attend_residents, _triton)
