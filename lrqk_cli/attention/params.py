"""What a model passes to its attention function beside Q, K and V."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """Parameters of one call.

    Attributes:
        scaling: factor of the logits.
        softcap: logits become ``softcap · tanh(logits / softcap)``.
        sinks: one more logit per query head, ``[H]``, that takes part in the softmax and has no value.
    """

    scaling: float
    softcap: float | None = None
    sinks: Tensor | None = None
