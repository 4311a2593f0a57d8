"""The tail: predict the mean value of the non-resident rows as a linear function of their mean code.

The device holds the index codes k̂ of all rows, but values of the residents only. The prefill's Gram matrices
give the best linear prediction of a value from its code, ``v ≈ b + k̂ M``. By linearity, the non-resident rows
with predicted weights w add ``Σ w v ≈ (Σ w)·b + (Σ w k̂) M``: one weighted sum of codes, without a transfer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.attention.projection import Projector, per_set
from lrqk_cli.config import LrqkConfig, ModelSpec
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty

# Relative to the mean variance of the codes: directions with little variance do not predict values.
_RIDGE = 1e-3


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
        """Fit to the rows that a projector has observed, and to its current maps.

        Ridge regression in float64 on the CPU: ``M = (W_Kᵀ C_K W_K + λI)⁻¹ W_Kᵀ C_KV`` with the centred Gram
        matrices, and ``b = v̄ − k̂(μ) M``.
        """
        sets, rank, _ = self.slope.shape
        grams = projector.grams.on_cpu()
        value_mean = per_set(grams.mean_value(), sets)
        if not self._is_linear:
            self.intercept.copy_(value_mean)
            return
        moments = grams.moments()
        maps = projector.key_map.cpu().double()
        crossed = maps.mT @ per_set(grams.centred_keys_values(), sets)
        gram = maps.mT @ per_set(moments.centred_key, sets) @ maps
        variance = gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
        ridge = _RIDGE * variance.view(-1, 1, 1) * torch.eye(rank, dtype=gram.dtype)
        slope = torch.linalg.solve(gram + ridge, crossed)
        mean_code = per_set(moments.mean - projector.key_centre().cpu(), sets).unsqueeze(1) @ maps
        self.slope.copy_(slope)
        self.intercept.copy_(value_mean - (mean_code @ slope).squeeze(1))

    def mean_value(self, mean_code: Tensor) -> Tensor:
        """Return the predicted mean value ``[sets, N, d]`` of rows with mean codes ``[sets, N, r]``."""
        return self.intercept.unsqueeze(1) + mean_code @ self.slope
