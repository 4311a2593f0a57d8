"""The joint low-rank factors of queries and keys, in closed form: pure mathematics.

The best rank-r maps of queries and keys minimise ``‖Q Kᵀ − (Q W_Q)(K W_K)ᵀ‖_F``. With the Gram matrices
``C_Q = QᵀQ`` and ``C_K = KᵀK`` the error equals ``‖C_Q^½ (I − W_Q W_Kᵀ) C_K^½‖_F``, so by Eckart-Young it is
least where ``C_Q^½ W_Q W_Kᵀ C_K^½`` is the truncated SVD of ``C_Q^½ C_K^½`` (docs/design.md, section 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrqk_cli.config import ModelSpec
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty

# Directions that carry less than this share of the largest eigenvalue are noise.
_EIGENVALUE_FLOOR = 1e-9


class GramAccumulator:
    """Gram matrices of queries and keys of one layer, summed over a stream of segments.

    Keys are shifted by the mean key of the first segment: some models' mean key is large, and the difference
    of two large sums would lose the small one. All sums are float32.
    """

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self.query_gram = empty(accounting.gram(spec), device)
        self.key_gram = empty(accounting.gram(spec), device)
        self.key_sum = empty(accounting.head_vector(spec), device)
        self.shift = empty(accounting.head_vector(spec), device)
        self.reset()

    def add(self, query: Tensor, key: Tensor) -> None:
        """Add a segment: queries ``[KV, G, S, d]`` and their keys ``[KV, S, d]``."""
        queries = query.flatten(1, 2).float()
        keys = key.float()
        if self.count == 0:
            self.shift.copy_(keys.mean(1))
        keys = keys - self.shift.unsqueeze(1)
        self.query_gram.baddbmm_(queries.mT, queries)
        self.key_gram.baddbmm_(keys.mT, keys)
        self.key_sum += keys.sum(1)
        self.count += keys.shape[1]

    def reset(self) -> None:
        """Forget everything."""
        for tensor in (self.query_gram, self.key_gram, self.key_sum, self.shift):
            tensor.zero_()
        self.count = 0

    def solve(self, rank: int) -> Factors:
        """Return the factors of all that was added; ``rank`` is at most d."""
        mean = self.key_sum.double() / max(1, self.count)
        centred = self.key_gram.double() - self.count * mean.unsqueeze(2) * mean.unsqueeze(1)
        query_map, key_map = solve_joint(self.query_gram, centred, rank)
        return Factors(query_map.float(), key_map.float(), self.shift + mean.float())


@dataclass(frozen=True, slots=True)
class Factors:
    """Maps to the low-rank space of one layer, in float32.

    Attributes:
        query_map: W_Q ``[KV, d, r]``.
        key_map: W_K ``[KV, d, r]``.
        key_mean: μ ``[KV, d]``, taken from the keys before they are mapped.
    """

    query_map: Tensor
    key_map: Tensor
    key_mean: Tensor

    def project_queries(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``q W_Q`` ``[KV, N, r]`` and ``q μᵀ`` ``[KV, N]`` of queries ``[KV, N, d]``."""
        query = query.float()
        return query @ self.query_map, (query @ self.key_mean.unsqueeze(2)).squeeze(2)

    def project_keys(self, key: Tensor) -> Tensor:
        """Return ``(k − μ) W_K`` ``[KV, S, r]`` of keys ``[KV, S, d]``."""
        return (key.float() - self.key_mean.unsqueeze(1)) @ self.key_map


def solve_joint(query_gram: Tensor, key_gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Solve for the best rank-r maps, in float64.

    ``U Σ Vᵀ = svd(C_Q^½ C_K^½)``; ``W_Q = C_Q^{-½} U_r Σ_r^½``; ``W_K = C_K^{-½} V_r Σ_r^½``.

    Args:
        query_gram, key_gram: symmetric positive semidefinite, ``[…, d, d]``.
        rank: r, at most d.

    Returns:
        W_Q and W_K, ``[…, d, r]`` in float64.
    """
    query_root, query_inverse = _square_roots(query_gram.double())
    key_root, key_inverse = _square_roots(key_gram.double())
    left, singular, right = torch.linalg.svd(query_root @ key_root)
    weight = singular[..., None, :rank].sqrt()
    return query_inverse @ (left[..., :rank] * weight), key_inverse @ (right.mT[..., :rank] * weight)


def _square_roots(gram: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    # The tiny number keeps an all-zero Gram matrix (a single key, centred) from dividing by zero.
    floor = (values[..., -1:] * _EIGENVALUE_FLOOR).clamp(min=1e-30)
    roots = values.clamp(min=floor).sqrt().unsqueeze(-2)
    return (vectors * roots) @ vectors.mT, (vectors / roots) @ vectors.mT
