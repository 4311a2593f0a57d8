"""Gram matrices of a stream of queries and keys, and the joint low-rank factors in closed form.

The best rank-r maps of queries and keys minimise ``‖Q Kᵀ − (Q W_Q)(K W_K)ᵀ‖_F``. With the Gram matrices
``C_Q = QᵀQ`` and ``C_K = KᵀK`` the error equals ``‖C_Q^½ (I − W_Q W_Kᵀ) C_K^½‖_F``. By Eckart-Young it is
smallest if ``C_Q^½ W_Q W_Kᵀ C_K^½`` is the truncated SVD of ``C_Q^½ C_K^½``, for any choice of the matrix
roots (docs/design.md, section 2).
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.rotation import Growth
from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.solver_pool import spread

# Eigenvalues below this share of the largest, or of their sum, are noise.
_FLOOR = 1e-9
# Row sets for which one thread solves.
_SETS = 2


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the tokens of one layer, in float64, without a shift of the keys.

    Attributes:
        query: ``Σ qᵀq`` over all queries of a row set, ``[sets, d, d]``.
        key: ``Σ kᵀk``, ``[KV, d, d]``.
        key_sum: ``Σ k``, ``[KV, d]``.
        count: number of keys; a share of other moments may make it a fraction.
    """

    query: Tensor
    key: Tensor
    key_sum: Tensor
    count: float

    def plus(self, other: Moments, share: float = 1.0) -> Moments:
        """Return these sums plus ``share`` times the others; ``share`` may be negative."""
        return Moments(
            self.query + share * other.query,
            self.key + share * other.key,
            self.key_sum + share * other.key_sum,
            self.count + share * other.count,
        )

    def turned(self, turn: Tensor) -> Moments:
        """Return the sums of the same queries and keys, each multiplied by M ``[d, d]`` from the right."""
        query, key = (turn.mT @ gram @ turn for gram in (self.query, self.key))
        return Moments(query, key, self.key_sum @ turn, self.count)

    def grown(self, before: Moments, growth: Growth) -> Moments:
        """Return these sums plus those of the coming segments: the sums since ``before``, turned by RoPE."""
        newest, grown = self.plus(before, -1.0), self
        for share, turn in zip(growth.shares, growth.turns, strict=True):
            grown = grown.plus(newest.turned(turn), share)
        return grown

    @property
    def mean(self) -> Tensor:
        """The mean key μ, ``[KV, d]``."""
        return self.key_sum / max(1.0, self.count)

    @property
    def centred_key(self) -> Tensor:
        """The Gram matrix of the keys minus their mean, ``[KV, d, d]``."""
        return self.key - self.count * _outer(self.mean, self.mean)


class GramAccumulator:
    """Gram matrices of queries, keys and values of one layer, summed over a stream of segments.

    Keys are shifted by the mean key of the first segment: some models' mean key is large, and the difference
    of two large sums would lose precision. All sums are float32.

    Attributes:
        query_gram: ``[sets, d, d]``, over all queries of a row set.
        key_gram, key_sum: of the shifted keys, ``[KV, d, d]`` and ``[KV, d]``.
        value_gram: shifted keys times values, ``[KV, d, d]``.
        value_sum: ``[KV, d]``.
        shift: ``[KV, d]``, subtracted from each key.
        count: number of keys added.
    """

    def __init__(self, spec: ModelSpec, config: LrqkConfig, device: torch.device) -> None:
        self.query_gram = empty(accounting.query_gram(spec, config), device)
        self.key_gram = empty(accounting.key_gram(spec), device)
        self.key_sum = empty(accounting.head_vector(spec), device)
        self.value_gram = empty(accounting.key_gram(spec), device)
        self.value_sum = empty(accounting.head_vector(spec), device)
        self.shift = empty(accounting.head_vector(spec), device)
        self.reset()

    def add(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Add a segment: queries ``[KV, G, S, d]``, keys and values ``[KV, S, d]``."""
        queries = query.reshape(self.query_gram.shape[0], -1, *query.shape[2:])
        keys, values = key.unsqueeze(1), value.unsqueeze(1)
        if self.count == 0:
            self.shift.copy_(key.mean(1, dtype=torch.float32))
        query_gram, _ = kernels.sum_products(queries, queries)
        key_gram, key_sum = kernels.sum_products(keys, keys, self.shift, self.shift)
        value_gram, value_sum = kernels.sum_products(keys, values, self.shift)
        self.query_gram += query_gram
        self.key_gram += key_gram
        self.value_gram += value_gram
        self.key_sum += key_sum
        self.value_sum += value_sum
        self.count += key.shape[1]

    def on_cpu(self, *, non_blocking: bool = False) -> GramAccumulator:
        """Return a copy on the CPU, for the solvers.

        Args:
            non_blocking: return at once; the copy is valid after the current stream has reached this point.
        """
        other = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(other, name, value.to("cpu", copy=True, non_blocking=True))
        if self.key_sum.is_cuda and not non_blocking:
            torch.cuda.current_stream(self.key_sum.device).synchronize()
        return other

    def reset(self) -> None:
        """Set all sums to zero."""
        for tensor in self.sums:
            tensor.zero_()
        self.count = 0

    @property
    def sums(self) -> tuple[Tensor, ...]:
        """All tensors that ``add`` changes."""
        matrices = self.query_gram, self.key_gram, self.value_gram
        return *matrices, self.key_sum, self.value_sum, self.shift

    def mean_value(self) -> Tensor:
        """Return the mean value ``[KV, d]``, in float64."""
        return self.value_sum.double() / max(1, self.count)

    def centred_keys_values(self) -> Tensor:
        """Return ``Σ (k − μ)ᵀ v``, ``[KV, d, d]`` in float64."""
        shifted_mean = self.key_sum.double() / max(1, self.count)
        return self.value_gram.double() - _outer(shifted_mean, self.value_sum.double())

    def moments(self) -> Moments:
        """Return the sums of queries and of keys without the shift, in float64."""
        total, shift = self.key_sum.double(), self.shift.double()
        mixed = _outer(total, shift)
        key = self.key_gram.double() + mixed + mixed.mT + self.count * _outer(shift, shift)
        return Moments(self.query_gram.double(), key, total + self.count * shift, self.count)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left.unsqueeze(2) * right.unsqueeze(1)


def solve_joint(query_gram: Tensor, key_gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Solve for the best rank-r maps in float64 on the CPU; consumer GPUs are slow in float64.

    With any root ``C_K = L Lᵀ`` and ``Lᵀ C_Q L = V Σ² Vᵀ``: ``W_Q = L V_r Σ_r^{-½}`` and
    ``W_K = L^{-T} V_r Σ_r^½``. V and Σ are those of the SVD of ``C_Q^½ L``, so the product of the maps is
    optimal by Eckart-Young.

    Args:
        query_gram, key_gram: symmetric positive semidefinite, ``[sets, d, d]``.
        rank: r, at most d.

    Returns:
        W_Q and W_K, ``[sets, d, r]`` in float64 on the CPU.
    """
    parts = zip(*(gram.cpu().double().split(_SETS) for gram in (query_gram, key_gram)), strict=True)
    solved = spread(lambda part: _solve_sets(part[0], part[1], rank), parts)
    query_maps, key_maps = zip(*solved, strict=True)
    return torch.cat(query_maps), torch.cat(key_maps)


def _solve_sets(query_gram: Tensor, key_gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    root = _root(key_gram)
    gram = root.mT @ query_gram @ root
    squares, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    # eigh sorts in ascending order.
    squares, vectors = squares.flip(-1)[..., :rank], vectors.flip(-1)[..., :rank]
    weight = _floored(squares, _FLOOR**2).pow(0.25).unsqueeze(-2)
    return root @ (vectors / weight), torch.linalg.solve_triangular(root.mT, vectors * weight, upper=True)


def _root(gram: Tensor) -> Tensor:
    """Return a lower triangular L with ``L Lᵀ = gram``, up to a ridge of ``_FLOOR`` times its trace."""
    gram = (gram + gram.mT) / 2
    ridge = (gram.diagonal(dim1=-2, dim2=-1).sum(-1) * _FLOOR).clamp(min=1e-30)
    ridge = ridge[..., None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype)
    root: Tensor
    root, failures = torch.linalg.cholesky_ex(gram + ridge)
    if failures.any():
        # The sums are in float32, so their rounding may leave eigenvalues below zero.
        values, vectors = torch.linalg.eigh(gram)
        values = _floored(values, _FLOOR).unsqueeze(-2)
        root = torch.linalg.cholesky(vectors * values @ vectors.mT + ridge)
    return root


def _floored(values: Tensor, share: float) -> Tensor:
    """Return eigenvalues of at least a share of the largest, and above zero (a single centred key)."""
    return values.clamp(min=(values.amax(-1, keepdim=True) * share).clamp(min=1e-30))
