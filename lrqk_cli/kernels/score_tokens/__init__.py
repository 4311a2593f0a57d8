"""Predict the logits of all tokens, and sum their masses."""

from lrqk_cli.kernels.score_tokens import reference
from lrqk_cli.kernels.twins import with_triton

score_tokens = with_triton(reference.score_tokens)
