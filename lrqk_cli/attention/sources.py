"""The sources of an answer: exact attention weights of its steps, summed per token.

Only some layers retrieve. In the measured models (docs/sources.md), the layers of the third quarter attend to
the passage that an answer quotes; earlier layers attend to nearby tokens and to the first tokens. So the
third quarter of the full-attention layers is tracked. Sliding-window layers do not see the documents.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.kernels.soft_cap import soft_cap
from lrqk_cli.model_spec import ModelSpec


def retrieving_layers(spec: ModelSpec) -> list[int]:
    """Return the tracked layers: the third quarter of the full-attention layers, at least one layer."""
    full = [number for number, kind in enumerate(spec.layer_kinds) if kind == "full"]
    return full[len(full) // 2 : max(3 * len(full) // 4, len(full) // 2 + 1)]


class AttentionTracker:
    """Sums the attention weights of every token over the prompt's newest token and all later decode steps.

    A layer resets its sums at each prompt. The weights come from a softmax over the rows that the layer
    attends to exactly: the residents, or all rows.

    Args:
        spec: shape of the model.
        context: tokens to reserve.
        device: the model's device.

    Attributes:
        weights: by layer number, the sums over the layer's heads, float32 ``[context]``.
    """

    def __init__(self, spec: ModelSpec, context: int, device: torch.device) -> None:
        layers = retrieving_layers(spec)
        self._sums = torch.zeros(len(layers), context, device=device)
        self.weights = dict(zip(layers, self._sums, strict=True))

    def read(self, length: int) -> list[float]:
        """Return the weights of the first ``length`` tokens, summed over layers. Waits for the device."""
        total: list[float] = self._sums[:, :length].sum(0).tolist()
        return total


def add_weights(
    out: Tensor, query: Tensor, keys: Iterable[Tensor], tokens: Tensor, params: AttentionParams
) -> None:
    """Add one query token's attention weights, summed over its heads, to the entries of the rows' tokens.

    Args:
        out: float32 ``[context]``.
        query: ``[sets, N, 1, d]``.
        keys: the rows' keys in parts, each ``[sets, n, d]``.
        tokens: the rows' tokens, int64 ``[sets, Σn]``.
        params: see ``AttentionParams``; sinks are ignored.
    """
    asked = query.squeeze(2).float()
    logits = torch.cat([asked @ part.float().mT for part in keys], 2) * params.scaling
    logits = soft_cap(logits, params.softcap)
    out.index_add_(0, tokens.flatten(), logits.softmax(-1).sum(1).flatten())
