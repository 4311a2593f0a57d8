"""The LRQK paper's equations for one query head, in float64 and as naively as they are written.

Nothing is shared with the package: every minimisation is a least-squares problem with its full, tall system
(all rows of Q and K are kept), and nothing is streamed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def bfloat16(values: Matrix) -> Matrix:
    """Round to bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def columns(query: Matrix, key: Matrix, rank: int, init: str) -> tuple[Matrix, Matrix]:
    """A_Q and A_K as columns of Q and K: the largest of each (``top``), or of both together (``topcol``)."""
    of_query, of_key = np.abs(query).sum(0), np.abs(key).sum(0)
    if init == "topcol":
        of_query = of_key = of_query + of_key
    return query[:, np.argsort(-of_query)[:rank]], key[:, np.argsort(-of_key)[:rank]]


def least_squares(*terms: tuple[float, Matrix, Matrix]) -> Matrix:
    """The X that minimises ``Σ weight·‖left X − right‖²``."""
    left = np.concatenate([np.sqrt(weight) * matrix for weight, matrix, _ in terms])
    right = np.concatenate([np.sqrt(weight) * matrix for weight, _, matrix in terms])
    return np.linalg.lstsq(left, right, rcond=None)[0]


@dataclass(frozen=True)
class Weights:
    query: float = 1.0
    key: float = 1.0
    new: float = 1.0
    active: float = 1.0


@dataclass(frozen=True)
class Solution:
    query_factor: Matrix
    key_factor: Matrix
    query_basis: Matrix
    key_basis: Matrix


def alternate(
    query: Matrix, key: Matrix, start: tuple[Matrix, Matrix], iterations: int, tolerance: float, w: Weights
) -> Solution:
    """Minimise ``½‖QKᵀ − A_Q A_Kᵀ‖² + ½λ_Q‖Q − A_Q B_Q‖² + ½λ_K‖K − A_K B_K‖²`` by turns."""
    scores = query @ key.T
    a_q, a_k = start
    for _ in range(iterations):
        b_q, b_k = least_squares((1.0, a_q, query)), least_squares((1.0, a_k, key))
        new_q = least_squares((1.0, a_k, scores.T), (w.query, b_q.T, query.T)).T
        new_k = least_squares((1.0, new_q, scores), (w.key, b_k.T, key.T)).T
        moved = max(np.mean((new_q - a_q) ** 2), np.mean((new_k - a_k) ** 2))
        a_q, a_k = new_q, new_k
        if moved < tolerance:
            break
    return Solution(a_q, a_k, least_squares((1.0, a_q, query)), least_squares((1.0, a_k, key)))


def new_codes(
    query: Matrix,
    key: Matrix,
    bases: tuple[Matrix, Matrix],
    active: tuple[Matrix, Matrix],
    iterations: int,
    tolerance: float,
    w: Weights,
) -> tuple[Matrix, Matrix]:
    """q̂ ``[N, r]`` and k̂ ``[1, r]`` of queries ``[N, d]`` and a key ``[1, d]``; active: K_Ω and A_{K,Ω}."""
    active_key, active_code = active
    k_code = least_squares((1.0, bases[1].T, key.T)).T
    for _ in range(iterations):
        q_code = least_squares(
            (1.0, bases[0].T, query.T),
            (w.active, active_code, active_key @ query.T),
            (w.new, k_code, key @ query.T),
        ).T
        new = least_squares((1.0, bases[1].T, key.T), (w.new, q_code, query @ key.T)).T
        moved = np.mean((new - k_code) ** 2)
        k_code = new
        if moved < tolerance:
            break
    return q_code, k_code


def descend(basis: Matrix, code: Matrix, row: Matrix) -> Matrix:
    """One gradient step on ``φ(B) = ½‖ĉB − c‖²`` with an exact line search."""
    gradient = code.T @ (code @ basis - row)
    direction = code @ gradient
    if not direction.any():
        return basis
    # φ(B − tG) is a parabola in t; this is its lowest point.
    length = np.sum(direction * (code @ basis - row)) / np.sum(direction**2)
    return basis - length * gradient


@dataclass
class Step:
    query_code: Matrix
    key_code: Matrix
    scores: Matrix
    chosen: set[int]
    output: Matrix


@dataclass
class PaperHead:
    """One query head: its whole Q, K and V, its factors and its active tokens."""

    query: Matrix
    key: Matrix
    value: Matrix
    start: tuple[Matrix, Matrix]
    top_k: int
    recent: int
    scaling: float
    iterations: int = 2
    tolerance: float = 1e-2
    weights: Weights = field(default_factory=Weights)

    def __post_init__(self) -> None:
        solved = alternate(self.query, self.key, self.start, self.iterations, self.tolerance, self.weights)
        self.query_basis, self.key_basis = solved.query_basis, solved.key_basis
        # The index is kept in the model's 16 bits.
        self.index = bfloat16(solved.key_factor)
        self.chosen = self._best(self.index @ solved.query_factor[-1])

    @property
    def length(self) -> int:
        return len(self.key)

    def step(self, query: Matrix, key: Matrix, value: Matrix) -> Step:
        """One token: rows ``[d]``."""
        active = sorted(self.chosen | set(range(max(0, self.length - self.recent), self.length)))
        q_code, k_code = new_codes(
            query[None],
            key[None],
            (self.query_basis, self.key_basis),
            (self.key[active], self.index[active]),
            self.iterations,
            self.tolerance,
            self.weights,
        )
        self.query_basis = descend(self.query_basis, q_code, query[None])
        self.key_basis = descend(self.key_basis, k_code, key[None])
        self.index = np.concatenate([self.index, bfloat16(k_code)])
        self.key = np.concatenate([self.key, key[None]])
        self.value = np.concatenate([self.value, value[None]])
        scores = self.index @ q_code[0]
        self.chosen = self._best(scores)
        return Step(q_code[0], k_code[0], scores, self.chosen, self.attend(query, self.chosen))

    def attend(self, query: Matrix, chosen: set[int]) -> Matrix:
        """Exact attention over the chosen tokens and the recent ones."""
        tokens = sorted(chosen | set(range(max(0, self.length - self.recent), self.length)))
        logits = self.scaling * (self.key[tokens] @ query)
        weights = np.exp(logits - logits.max())
        return weights @ self.value[tokens] / weights.sum()

    def _best(self, scores: Matrix) -> set[int]:
        candidates = max(0, self.length - self.recent)
        return set(np.argsort(-scores[:candidates])[: self.top_k].tolist())
