"""Score all tokens for many queries at once."""

from torch import Tensor

from lrqk_cli.kernels.total_scores import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[Tensor]:
    from lrqk_cli.kernels.total_scores import triton

    return triton.total_scores


total_scores = with_triton(reference.total_scores, _triton)
