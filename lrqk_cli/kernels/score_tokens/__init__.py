"""Predict the logits of all tokens, and sum their masses."""

from lrqk_cli.kernels.score_tokens import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.score_tokens import triton

    return triton.score_tokens


score_tokens = with_triton(reference.score_tokens, _triton)
