"""The parameters that a model passes to its attention function beside Q, K and V."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """Parameters of one attention call.

    Attributes:
        scaling: factor of the logits.
        softcap: logits become ``softcap · tanh(logits / softcap)``.
        sinks: one extra logit per query head, ``[H]``, which joins the softmax and has no value.
    """

    scaling: float
    softcap: float | None = None
    sinks: Tensor | None = None
