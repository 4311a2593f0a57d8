"""Merge attentions of the same queries over disjoint rows."""

from torch import Tensor

from lrqk_cli.kernels.merge import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[tuple[Tensor, Tensor]]:
    from lrqk_cli.kernels.merge import triton

    return triton.merge


merge = with_triton(reference.merge, _triton)
