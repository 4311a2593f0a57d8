"""What a decode step lost: its residents and its output beside exact attention of the same query."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.layers import weigh_sinks
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.params import AttentionParams


@dataclass(frozen=True, slots=True)
class Observed:
    """The decode steps of one layer.

    Attributes:
        captured_mass: share of the exact attention weights that the residents have, before any correction
            for the other rows; ``[steps, H]``, in [0, 1].
        output_error: ``‖o − o*‖ / ‖o*‖`` over the outputs of all heads together; ``[steps]``.
    """

    captured_mass: Tensor
    output_error: Tensor


class LayerObserver:
    """Compares every decode step of a layer with exact attention over all rows of its store.

    It streams the store in every step, so a step takes about as long as under ``offload``, and no step is
    replayed from a graph. Call ``detach`` in the end.
    """

    def __init__(self, layer: LrqkLayer) -> None:
        self._layer = layer
        self._mass: list[Tensor] = []
        self._error: list[Tensor] = []
        layer.observer = self

    def __call__(self, query: Tensor, params: AttentionParams, output: Tensor) -> None:
        """Take up one step; see ``LrqkLayer.observer``."""
        layer = self._layer
        key, value = layer.hot.resident_rows(layer.stored)
        _, resident_lse = kernels.attend(query, key, value, scaling=params.scaling, softcap=params.softcap)
        exact, lse = self._exact(query, params)
        self._mass.append(torch.exp(resident_lse.flatten() - lse.flatten()).clamp(max=1.0))
        exact = weigh_sinks(exact, lse, params.sinks).flatten()
        self._error.append((output.flatten().float() - exact).norm() / exact.norm())

    def take(self) -> Observed:
        """Return the steps since they were last taken, on the CPU."""
        heads = self._layer.spec.num_heads
        mass = torch.stack(self._mass).cpu() if self._mass else torch.empty(0, heads)
        error = torch.stack(self._error).cpu() if self._error else torch.empty(0)
        self._mass, self._error = [], []
        return Observed(mass, error)

    def detach(self) -> None:
        """Leave the layer alone; it and this would else keep each other, and the layer's rows, in memory."""
        self._layer.observer = None

    def _exact(self, query: Tensor, params: AttentionParams) -> tuple[Tensor, Tensor]:
        """Return exact attention ``[KV, G, 1, d]`` and its log-sum-exp ``[KV, G, 1]``."""
        store, stored = self._layer.store, self._layer.stored
        grouped = query.reshape(self._layer.spec.num_kv_heads, -1, 1, query.shape[-1])
        output = torch.zeros_like(grouped, dtype=torch.float32)
        lse = output.new_full(grouped.shape[:3], float("-inf"))
        for key, value in store.stream(0, stored):
            part, part_lse = kernels.attend(
                grouped, key, value, scaling=params.scaling, softcap=params.softcap
            )
            output, lse = kernels.merge(output, lse, part, part_lse)
        return output, lse
