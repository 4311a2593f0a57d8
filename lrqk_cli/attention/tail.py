"""The tail: predict the mean value of the non-resident rows as a linear function of their mean code.

The device holds the index codes k̂ of all rows, but values of the residents only. The prefill's Gram matrices
give the best linear prediction of a value from its code, ``v ≈ b + k̂ M``. By linearity, the non-resident rows
with predicted weights w add ``Σ w v ≈ (Σ w)·b + (Σ w k̂) M``: one weighted sum of codes, without a transfer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lrqk_cli.attention.factors import GramAccumulator, Moments
from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.projection import Projector, per_set
from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty, staged
from lrqk_cli.model_spec import ModelSpec

# Relative to the mean variance of the codes: directions with little variance do not predict values.
_RIDGE = 1e-3


class TailFit(NamedTuple):
    """Slope and intercept of a ``ValueTail``, in host memory; the slope is None with ``--tail mean``."""

    slope: Tensor | None
    intercept: Tensor


class ValueTail:
    """Predicts the mean value of any rows from their mean code.

    Attributes:
        slope: M, ``[sets, r, d]``; zero with ``--tail mean``.
        intercept: b, ``[sets, d]``.
    """

    def __init__(self, spec: ModelSpec, config: LrqkConfig, device: torch.device) -> None:
        self.slope = empty(accounting.value_slope(spec, config), device)
        self.intercept = empty(accounting.set_vector(spec, config), device)
        self._is_linear = config.tail == "linear"
        self.slope.zero_()
        self.intercept.zero_()

    def fit(self, projector: Projector) -> None:
        """Fit to the rows that a projector has observed, and to its current maps. Waits for the device."""
        maps = projector.key_map.cpu(), projector.key_centre().cpu()
        grams = projector.grams.on_cpu()
        self.install(self.solve(grams, grams.moments(), *maps))

    def solve(self, grams: GramAccumulator, moments: Moments, key_map: Tensor, key_centre: Tensor) -> TailFit:
        """Return the fit to the rows in these sums; this does not change the tail.

        Ridge regression in float64 on the CPU: ``M = (W_Kᵀ C_K W_K + λI)⁻¹ W_Kᵀ C_KV`` with the centred Gram
        matrices, and ``b = v̄ − k̂(μ) M``.

        Args:
            grams: on the CPU, as are the maps; ``moments``: theirs.
            key_map: ``[sets, d, r]``, as the index uses it.
            key_centre: subtracted from keys before mapping, ``[KV, d]``.
        """
        sets, rank, _ = self.slope.shape
        value_mean = per_set(grams.mean_value(), sets)
        device = self.slope.device
        if not self._is_linear:
            return TailFit(None, staged(value_mean, device))
        maps = key_map.double()
        crossed = maps.mT @ per_set(grams.centred_keys_values(), sets)
        gram = maps.mT @ per_set(moments.centred_key, sets) @ maps
        variance = gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
        ridge = _RIDGE * variance.view(-1, 1, 1) * torch.eye(rank, dtype=gram.dtype)
        slope = torch.linalg.solve(gram + ridge, crossed)
        mean_code = per_set(moments.mean - key_centre, sets).unsqueeze(1) @ maps
        intercept = value_mean - (mean_code @ slope).squeeze(1)
        return TailFit(staged(slope, device), staged(intercept, device))

    def install(self, fit: TailFit) -> None:
        """Put a fit in force; does not wait for the device."""
        if fit.slope is not None:
            self.slope.copy_(fit.slope, non_blocking=True)
        self.intercept.copy_(fit.intercept, non_blocking=True)

    def mean_value(self, mean_code: Tensor) -> Tensor:
        """Return the predicted mean value ``[sets, N, d]`` of rows with mean codes ``[sets, N, r]``."""
        return self.intercept.unsqueeze(1) + mean_code @ self.slope

    def predict(self, logits: Tensor, index: LowRankIndex) -> tuple[Tensor, Tensor]:
        """Return the predicted output ``[sets, N, 1, d]`` and log-mass ``[sets, N, 1]`` of non-residents.

        Args:
            logits: predicted, ``[sets, N, T]``; minus infinity for residents.
            index: of all tokens.
        """
        mass = logits.logsumexp(-1, keepdim=True)
        mean_code = index.weighted_sum(logits.softmax(-1))
        return self.mean_value(mean_code).unsqueeze(2), mass
