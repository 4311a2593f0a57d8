"""Where an answer looked: exact attention weights of its steps, added up by token.

Only some layers retrieve. In the models that were measured (docs/sources.md), those of the third quarter look
at the passage that an answer quotes, those before it at their neighbourhood and at the first tokens. So the
third quarter of the layers with full attention is tracked; sliding ones do not see the documents.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.config import ModelSpec
from lrqk_cli.kernels.soft_cap import soft_cap


def retrieving_layers(spec: ModelSpec) -> list[int]:
    """Return the layers that are tracked: of those with full attention the third quarter, at least one."""
    full = [number for number, kind in enumerate(spec.layer_kinds) if kind == "full"]
    return full[len(full) // 2 : max(3 * len(full) // 4, len(full) // 2 + 1)]


class AttentionTracker:
    """The weights that the newest token of the prompt, and each decode step after it, put on every token.

    A layer starts its count anew with each prompt. Weights are those of a softmax over the rows that are
    attended exactly: the residents, or all.

    Args:
        spec: shape of the model.
        context: tokens there is room for.
        device: where the model computes.

    Attributes:
        weights: of each tracked layer, summed over its heads, float32 ``[context]``.
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
    """Add the weights that one token puts on rows, summed over its heads, to those of the rows' tokens.

    Args:
        out: float32 ``[context]``.
        query: ``[sets, N, 1, d]``.
        keys: the rows' keys in parts, each ``[sets, n, d]``.
        tokens: which tokens they are, int64 ``[sets, Σn]``.
        params: see ``AttentionParams``; sinks take no part.
    """
    asked = query.squeeze(2).float()
    logits = torch.cat([asked @ part.float().mT for part in keys], 2) * params.scaling
    logits = soft_cap(logits, params.softcap)
    out.index_add_(0, tokens.flatten(), logits.softmax(-1).sum(1).flatten())
