"""The alternating least squares of the LRQK paper: pure mathematics, batched over heads.

The prefill finds A_Q, A_K ``[T, r]`` and B_Q, B_K ``[r, d]`` that minimise

    ½‖Q Kᵀ − A_Q A_Kᵀ‖² + ½λ_Q‖Q − A_Q B_Q‖² + ½λ_K‖K − A_K B_K‖²

by turns: B_Q and B_K from A_Q and A_K; then A_Q; then A_K with the new A_Q. No matrix here has T rows. Each
update of A is linear in Q or K (``A_Q = Q M_Q``) and uses only ``AᵀA`` and ``AᵀQ`` (or ``AᵀK``) of the
previous A. So the iterations run on these *sketches* and on the Gram matrices, and give the paper's iterates
exactly. The start may be columns of Q, which are linear in Q, or random and independent of Q; the sketches of
a random start are drawn from their own distribution (``random_sketch``).

A decode step solves for the codes q̂, k̂ of the new token and moves B_Q and B_K by one gradient step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrqk_cli.config import AlsConfig

# Keeps a singular system solvable (a text shorter than r); far below the precision of float32 sums.
_RIDGE = 1e-12


class Sketch(NamedTuple):
    """Sketch of A ``[n, r]``, a factor of X ``[n, d]``: the products ``AᵀA`` and ``AᵀX``, in float64."""

    gram: Tensor
    cross: Tensor


class AlsFactors(NamedTuple):
    """The prefill's solution, in float64: ``A_Q = Q M_Q``, ``A_K = K M_K`` and the bases B_Q, B_K.

    The maps are ``[…, d, r]``, the bases ``[…, r, d]``.
    """

    query_map: Tensor
    key_map: Tensor
    query_basis: Tensor
    key_basis: Tensor


class DecodeStep(NamedTuple):
    """One step's solution, in float64: q̂ ``[…, N, r]``, k̂ ``[…, 1, r]`` and the new bases ``[…, r, d]``."""

    query_code: Tensor
    key_code: Tensor
    query_basis: Tensor
    key_basis: Tensor


def column_sketch(gram: Tensor, columns: Tensor) -> Sketch:
    """Return the sketch of the A that consists of some columns of X.

    Args:
        gram: ``XᵀX``, ``[…, d, d]``.
        columns: numbers of the columns, ``[…, r]``.
    """
    width, rank = gram.shape[-1], columns.shape[-1]
    cross = gram.gather(-2, columns.unsqueeze(-1).expand(*columns.shape, width))
    return Sketch(cross.gather(-1, columns.unsqueeze(-2).expand(*columns.shape[:-1], rank, rank)), cross)


def random_sketch(gram: Tensor, count: int, rank: int, random: np.random.Generator) -> Sketch:
    """Draw the sketch of a random A ``[n, r]`` of independent standard normal numbers; n is ``count``.

    The part of A in the column space of X (``m ≤ d`` dimensions) has normal coordinates G ``[m, r]`` in the
    orthonormal basis ``X(XᵀX)^{-½}``, so ``AᵀX = Gᵀ(XᵀX)^½``. The rest of A adds an independent Wishart
    matrix W of n − m degrees of freedom: ``AᵀA = GᵀG + W``. A sketch of a drawn A has the same distribution.
    """
    values, vectors = torch.linalg.eigh(gram)
    spanned = min(count, gram.shape[-1])
    values, vectors = values[..., -spanned:].clamp(min=0.0), vectors[..., -spanned:]
    normal = random.standard_normal((*gram.shape[:-2], rank, gram.shape[-1]))
    inside = torch.from_numpy(normal).to(gram) @ vectors
    rest = torch.from_numpy(_wishart_root(count - spanned, rank, gram.shape[:-2], random)).to(gram)
    return Sketch(inside @ inside.mT + rest @ rest.mT, (inside * values.sqrt().unsqueeze(-2)) @ vectors.mT)


def _wishart_root(
    freedom: int, rank: int, batch: tuple[int, ...], random: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Draw L with ``L Lᵀ`` ~ Wishart_rank(freedom), by Bartlett's decomposition if ``freedom ≥ rank``."""
    if freedom < rank:
        return random.standard_normal((*batch, rank, freedom))
    lower = np.tril(random.standard_normal((*batch, rank, rank)), -1)
    diagonal = np.arange(rank)
    lower[..., diagonal, diagonal] = np.sqrt(random.chisquare(freedom - diagonal, (*batch, rank)))
    return lower


def solve_als(
    query_gram: Tensor,
    key_gram: Tensor,
    counts: tuple[int, int],
    start: tuple[Sketch, Sketch],
    config: AlsConfig,
) -> AlsFactors:
    """Alternate from ``start``; each row set stops when its factors have converged.

    Args:
        query_gram, key_gram: QᵀQ and KᵀK, ``[…, d, d]`` in float64.
        counts: rows of Q and of K.
        start: sketches of the first A_Q and A_K.
        config: iterations, tolerance (of the mean squared change of an entry of A) and penalties.
    """
    weight_q, weight_k = config.penalties.query, config.penalties.key
    query, key = start
    query_map, key_map = torch.zeros_like(query.cross.mT), torch.zeros_like(key.cross.mT)
    moving = torch.ones_like(query.gram[..., :1, :1], dtype=torch.bool)
    for _ in range(config.iterations):
        query_basis, key_basis = _basis(query), _basis(key)
        new_query_map = _right_solve(
            key.cross.mT + weight_q * query_basis.mT,
            key.gram + weight_q * query_basis @ query_basis.mT,
        )
        new_query = _sketch(query_gram, new_query_map)
        new_key_map = _right_solve(
            new_query.cross.mT + weight_k * key_basis.mT,
            new_query.gram + weight_k * key_basis @ key_basis.mT,
        )
        new_key = _sketch(key_gram, new_key_map)
        moved = torch.maximum(
            _squared_move(query, new_query, new_query_map) / counts[0],
            _squared_move(key, new_key, new_key_map) / counts[1],
        )
        query_map = torch.where(moving, new_query_map, query_map)
        key_map = torch.where(moving, new_key_map, key_map)
        query = Sketch(*(torch.where(moving, new, old) for new, old in zip(new_query, query, strict=True)))
        key = Sketch(*(torch.where(moving, new, old) for new, old in zip(new_key, key, strict=True)))
        moving = moving & (moved / query_map.shape[-1] >= config.tolerance)
    return AlsFactors(query_map, key_map, _basis(query), _basis(key))


def _basis(factor: Sketch) -> Tensor:
    """Return B = (AᵀA)⁻¹AᵀX, the best basis for A."""
    return _right_solve(factor.cross.mT, factor.gram).mT


def _sketch(gram: Tensor, linear_map: Tensor) -> Sketch:
    cross = linear_map.mT @ gram
    return Sketch(cross @ linear_map, cross)


def _squared_move(old: Sketch, new: Sketch, linear_map: Tensor) -> Tensor:
    """Return ``‖A − X M‖²``, ``[…, 1, 1]``."""
    traces = _trace(old.gram) - 2.0 * _trace(old.cross @ linear_map) + _trace(new.gram)
    return traces[..., None, None]


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _right_solve(target: Tensor, gram: Tensor) -> Tensor:
    """Return ``target · gram⁻¹`` for a symmetric positive semidefinite matrix."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    ridge = (diagonal.mean(-1, keepdim=True) * _RIDGE).clamp(min=1e-30).expand_as(diagonal)
    solved: Tensor = torch.linalg.solve_ex(gram + ridge.diag_embed(), target, left=False)[0]
    return solved


def solve_step(
    query: Tensor,
    key: Tensor,
    bases: tuple[Tensor, Tensor],
    active: tuple[Tensor, Tensor],
    config: AlsConfig,
) -> DecodeStep:
    """Solve for the codes of a new token, and adapt the bases to it.

    Starts from the k̂ that B_K alone gives, and minimises over q̂ and k̂ by turns

        ½‖q̂B_Q − q‖² + ½‖k̂B_K − k‖² + ½λ_new‖q̂k̂ᵀ − q kᵀ‖² + ½λ_active‖q̂A_{K,Ω}ᵀ − q K_Ωᵀ‖² ;

    then moves B_Q and B_K along the negative gradient of the first two terms by the best length.

    Args:
        query: q, ``[…, N, d]``; N is 1 in the paper, and the group size where a group shares an index.
        key: k, ``[…, 1, d]``.
        bases: B_Q and B_K, ``[…, r, d]``.
        active: K_Ω ``[…, n, d]`` and A_{K,Ω} ``[…, n, r]``.
        config: iterations, tolerance (of the mean squared change of an entry of k̂) and penalties.
    """
    weight_new, weight_active = config.penalties.new, config.penalties.active
    # Sums over the n rows of Ω are float32 (or the model's dtype, if wider); the r×r systems are float64.
    precision = torch.promote_types(query.dtype, torch.float32)
    active_keys, active_codes = (rows.to(precision) for rows in active)
    logits = (query.to(precision) @ active_keys.mT) @ active_codes
    query, key = query.double(), key.double()
    query_basis, key_basis = (basis.double() for basis in bases)
    query_target = query @ query_basis.mT + weight_active * logits.double()
    query_gram = query_basis @ query_basis.mT + weight_active * (active_codes.mT @ active_codes).double()
    key_target, key_gram = key @ key_basis.mT, key_basis @ key_basis.mT
    logit = weight_new * (query @ key.mT)

    key_code = _right_solve(key_target, key_gram)
    query_code = torch.zeros_like(query_target)
    moving = torch.ones_like(logit[..., :1, :1], dtype=torch.bool)
    for _ in range(config.iterations):
        new_query_code = _right_solve(
            query_target + logit @ key_code, query_gram + weight_new * key_code.mT @ key_code
        )
        new_key_code = _right_solve(
            key_target + logit.mT @ new_query_code,
            key_gram + weight_new * new_query_code.mT @ new_query_code,
        )
        moved = (new_key_code - key_code).square().mean((-2, -1), keepdim=True)
        query_code = torch.where(moving, new_query_code, query_code)
        key_code = torch.where(moving, new_key_code, key_code)
        moving = moving & (moved >= config.tolerance)
    return DecodeStep(
        query_code, key_code, _descend(query_basis, query_code, query), _descend(key_basis, key_code, key)
    )


def _descend(basis: Tensor, code: Tensor, row: Tensor) -> Tensor:
    """Return B after the best step down the gradient of ``½‖ĉB − c‖²``; for one row, ĉB is then c."""
    gradient = code.mT @ (code @ basis - row)
    steepness = gradient.square().sum((-2, -1), keepdim=True)
    curvature = (code @ gradient).square().sum((-2, -1), keepdim=True)
    return basis - steepness / curvature.clamp(min=torch.finfo(torch.float64).tiny) * gradient
