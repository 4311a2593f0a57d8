"""A constraint of answers, see ``engine.sampling.TokenConstraint``."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class Allowed:
    """Allows the same of ``known`` tokens at every step; remembers those that it accepted."""

    def __init__(self, known: int, tokens: Iterable[int]) -> None:
        self.mask = torch.zeros(known, dtype=torch.bool).index_fill(0, torch.tensor([*tokens]), True)
        self.accepted: list[int] = []

    def allowed(self) -> torch.Tensor:
        return self.mask

    def accept(self, token: int) -> None:
        self.accepted.append(token)
