"""Compare decode steps with exact attention of the same queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.layers import weigh_sinks
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.params import AttentionParams


@dataclass(frozen=True, slots=True)
class Observed:
    """The decode steps of one layer.

    Attributes:
        captured_mass: the residents' share of the exact attention weights, without the tail;
            ``[steps, H]``, in [0, 1].
        output_error: ``‖o − o*‖ / ‖o*‖`` over the outputs of all heads together; ``[steps]``.
    """

    captured_mass: Tensor
    output_error: Tensor


class LayerObserver:
    """Compares every decode step of a layer with exact attention over all rows of its store.

    It streams the store in every step, so a step takes about as long as under ``offload``, and steps run
    eagerly. Call ``detach`` at the end.
    """

    def __init__(self, cache: LrqkCache, number: int) -> None:
        layer = cache.attention_layers[number]
        assert isinstance(layer, LrqkLayer)
        self._cache = cache
        self._number = number
        self._layer = layer
        self._mass: list[Tensor] = []
        self._error: list[Tensor] = []
        cache.observers[number] = self

    def __call__(self, query: Tensor, params: AttentionParams, output: Tensor) -> None:
        """Record one step; see ``LrqkCache.observers``."""
        length = self._cache.position.length + 1
        key, value = self._layer.hot.resident_rows(length)
        per_set = query.reshape(key.shape[0], -1, *query.shape[2:])
        _, resident_lse = kernels.attend(per_set, key, value, scaling=params.scaling, softcap=params.softcap)
        exact, lse = self._exact(query, params, length)
        self._mass.append(torch.exp(resident_lse.flatten() - lse.flatten()).clamp(max=1.0))
        exact = weigh_sinks(exact, lse, params.sinks).flatten()
        self._error.append((output.flatten().float() - exact).norm() / exact.norm())

    def take(self) -> Observed:
        """Return the steps recorded since the last call, on the CPU."""
        heads = self._layer.spec.num_heads
        mass = torch.stack(self._mass).cpu() if self._mass else torch.empty(0, heads)
        error = torch.stack(self._error).cpu() if self._error else torch.empty(0)
        self._mass, self._error = [], []
        return Observed(mass, error)

    def detach(self) -> None:
        """Stop observing, which breaks the reference cycle that would keep the layer's rows in memory."""
        self._cache.observers.pop(self._number, None)

    def _exact(self, query: Tensor, params: AttentionParams, length: int) -> tuple[Tensor, Tensor]:
        """Return exact attention ``[KV, G, 1, d]`` over ``length`` rows, and its log-sum-exp."""
        output = torch.zeros_like(query, dtype=torch.float32)
        lse = output.new_full(query.shape[:3], float("-inf"))
        for key, value in self._layer.store.stream(0, length):
            part, part_lse = kernels.attend(query, key, value, scaling=params.scaling, softcap=params.softcap)
            output, lse = kernels.merge(output, lse, part, part_lse)
        return output, lse
