"""The low-rank index of one layer: codes of all keys, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.projection import QueryCodes
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels.buffers import Projected
from lrqk_cli.kernels.codes import largest_code, unpack_codes
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty
from lrqk_cli.model_spec import ModelSpec

# Integer codes saturate at this many standard deviations. A scale that covers the few outliers, such as the
# first token's key, would cost all other keys precision.
_CLIP_DEVIATIONS = {torch.uint8: 3.0, torch.int8: 8.0}


class LowRankIndex:
    """Codes k̂ of all tokens' keys: integers with a scale per dimension and row set, or bfloat16.

    Attributes:
        codes: ``[sets, context, r]`` in int8 or bfloat16; 4-bit codes packed in uint8 (``kernels.codes``).
        scale: ``[sets, 1, r]``; ones for bfloat16.
    """

    def __init__(self, spec: ModelSpec, config: LrqkConfig, context: int, device: torch.device) -> None:
        self.codes = empty(accounting.index_codes(spec, config, context), device)
        self.scale = empty(accounting.index_scale(spec, config), device)
        self.scale.fill_(1.0)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scale.nbytes

    def rescale(self, deviations: Tensor) -> None:
        """Choose the scale from the statistics of all codes, before any is written.

        Args:
            deviations: the root mean square of each dimension over all tokens, ``[sets, 1, r]``.
        """
        top = largest_code(self.codes.dtype)
        if top is not None:
            reach = _CLIP_DEVIATIONS[self.codes.dtype] * deviations
            self.scale.copy_(reach.clamp(min=torch.finfo(torch.float32).tiny) / top)

    def write(self, first: int, codes: Tensor) -> None:
        """Store the codes ``[sets, S, r]`` of the tokens from ``first`` on, with the current scale.

        Outliers saturate.
        """
        kernels.encode_codes(codes, self.scale, self.codes[:, first : first + codes.shape[1]])

    def gather(self, token: Tensor) -> Tensor:
        """Return the codes ``[sets, n, r]`` of tokens ``[sets, n]``, in float32."""
        places = token.unsqueeze(2).expand(-1, -1, self.codes.shape[2])
        return unpack_codes(self.codes.gather(1, places)) * self.scale

    def logits(self, query: QueryCodes, length: int, *, scaling: float, softcap: float | None) -> Tensor:
        """Return the predicted logits ``[sets, N, length]`` of the first ``length`` tokens."""
        codes = self.codes[:, :length]
        return kernels.proxy_logits(*self._projected(query), codes, scaling=scaling, softcap=softcap)

    def total_scores(
        self, query: QueryCodes, length: int, *, scaling: float, softcap: float | None
    ) -> Tensor:
        """Return the sum over all queries of the softmax of their logits, ``[sets, length]``."""
        projected = self._projected(query)
        return kernels.total_scores(projected, self.codes, length, scaling=scaling, softcap=softcap)

    def _projected(self, query: QueryCodes) -> Projected:
        return Projected(query.codes * self.scale, query.offset)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the sums ``[sets, N, r]`` of the first n tokens' codes, weighted by ``[sets, N, n]``."""
        return weights @ unpack_codes(self.codes[:, : weights.shape[2]]) * self.scale
