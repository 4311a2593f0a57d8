"""The low-rank index of one layer: what is known on the device about every token's key."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lrqk_cli.attention.factors import Factors
from lrqk_cli.config import LrqkConfig, ModelSpec
from lrqk_cli.kernels import dispatch
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty

_INT8_MAX = 127


class LowRankIndex:
    """Projected keys ``(k − μ) W_K`` of all tokens: int8 with a scale per dimension and KV head, or bfloat16.

    Attributes:
        codes: ``[KV, context, r]``.
        scale: ``[KV, 1, r]``; ones for bfloat16.
        length: tokens that are indexed.
    """

    def __init__(self, spec: ModelSpec, settings: LrqkConfig, context: int, device: torch.device) -> None:
        self.codes = empty(accounting.index_codes(spec, settings, context), device)
        self.scale = empty(accounting.index_scale(spec, settings), device)
        self.length = 0
        self._factors: Factors | None = None

    @property
    def rank(self) -> int:
        """r, the width of the index."""
        return self.codes.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scale.nbytes

    def rebuild(self, factors: Factors, keys: Iterable[Tensor]) -> None:
        """Index all keys anew: chunks ``[KV, S, d]`` in the order of their tokens."""
        self._factors = factors
        projected = torch.cat([factors.project_keys(chunk) for chunk in keys], dim=1)
        if self.codes.dtype == torch.int8:
            largest = projected.abs().amax(1, keepdim=True)
            self.scale.copy_(largest.clamp(min=torch.finfo(torch.float32).tiny) / _INT8_MAX)
        else:
            self.scale.fill_(1.0)
        self.length = 0
        self._write(projected)

    def append(self, key: Tensor) -> None:
        """Index further keys ``[KV, S, d]`` with the standing factors; outliers saturate."""
        self._write(self._fitted().project_keys(key))

    def truncate(self, length: int) -> None:
        """Forget the tokens from ``length`` on."""
        self.length = min(self.length, length)

    def logits(self, query: Tensor, *, scaling: float, softcap: float | None) -> Tensor:
        """Return the predicted logits ``[KV, N, length]`` of queries ``[KV, N, d]``."""
        projected, offset = self._fitted().project_queries(query)
        return dispatch.proxy_logits(
            projected * self.scale, offset, self.codes[:, : self.length], scaling=scaling, softcap=softcap
        )

    def _fitted(self) -> Factors:
        if self._factors is None:
            raise RuntimeError("the index was used before it was built")
        return self._factors

    def _write(self, projected: Tensor) -> None:
        stop = self.length + projected.shape[1]
        codes = projected / self.scale
        if self.codes.dtype == torch.int8:
            codes = codes.round().clamp(-_INT8_MAX, _INT8_MAX)
        self.codes[:, self.length : stop] = codes.to(self.codes.dtype)
        self.length = stop
