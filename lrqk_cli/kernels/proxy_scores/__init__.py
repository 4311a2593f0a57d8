"""Predict logits and scores of all tokens from the low-rank index."""

from lrqk_cli.kernels.proxy_scores.reference import group_scores as group_scores
from lrqk_cli.kernels.proxy_scores.reference import proxy_logits as proxy_logits
