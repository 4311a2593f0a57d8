"""The device and the memory budget of a model, before its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import WeightChoice
from lrqk_cli.memory import planner
from lrqk_cli.memory.accounting import dtype_name, weight_bytes
from lrqk_cli.memory.budget import Budget, find_budget
from lrqk_cli.memory.estimate import allocatable
from lrqk_cli.memory.plan import Plan
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.describe import Description
from lrqk_cli.models.devices import resolve_device_dtype

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Placement:
    """The device, dtype and memory budget of a model.

    Attributes:
        budget: free bytes of the device and the host; without those for weights if ``weight_share`` is set.
        weight_share: device bytes for weights that are also spread over CPU memory; None otherwise.
    """

    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype
    budget: Budget
    weight_share: int | None = None

    @property
    def dtype_name(self) -> str:
        """The dtype's name without the prefix ``torch.``."""
        return dtype_name(self.dtype)

    def plan(self, context: int, wanted: Mapping[str, Any]) -> Plan:
        """Choose settings for ``context`` tokens; see ``planner.plan``."""
        return planner.plan(self.spec, self.dtype_name, context, *self.budget, wanted)

    def longest_context(self, most: int, wanted: Mapping[str, Any]) -> int:
        """Return the largest context, up to ``most`` tokens, for which some settings fit."""
        return planner.longest_context(self.spec, self.dtype_name, *self.budget, most, wanted)

    def with_spread_weights(self) -> Placement:
        """Return the placement with half the device's memory for weights, and the rest on the host."""
        if self.budget.vram is None:
            return self
        half = self.budget.vram // 2
        # An offloaded layer is copied to the device for its computation, as plain numbers.
        plain = replace(self.spec, packed=None)
        layer = weight_bytes(plain, self.dtype_name) // max(1, plain.num_layers)
        return replace(
            self,
            spec=replace(plain, num_parameters=0, forms=(), may_offload=False),
            budget=Budget(self.budget.vram - half, self.budget.ram),
            weight_share=max(0, half - layer),
        )


def find_placement(
    described: Description,
    device: str | None = None,
    dtype: str | None = None,
    vram: int | None = None,
    ram: int | None = None,
    *,
    weights: WeightChoice = "auto",
    may_offload: bool = False,
) -> Placement:
    """Find the placement of a model.

    Args:
        device, dtype: None chooses the best.
        weights: the form of the weights.
        may_offload: packed experts may stay in host memory.
        vram, ram: the most bytes that count as free.

    Raises:
        UsageError: there is no such device or dtype, or the weights cannot have this form on the device.
    """
    chosen, number_format = resolve_device_dtype(device, dtype, described.dtype)
    spec = described.with_weights(weights, on_gpu=chosen.type == "cuda")
    spec = replace(spec, may_offload=may_offload)
    return Placement(spec, chosen, number_format, find_budget(chosen, vram, ram))


def limit_vram(device: torch.device, vram: int | None) -> AbstractContextManager[None]:
    """Return a context that limits torch to ``vram`` bytes of a GPU, CUDA's own memory included.

    Without a limit, and on other devices, the context does nothing.
    """
    if vram is None or device.type != "cuda":
        return nullcontext()
    from lrqk_cli.memory.cap import memory_cap

    return memory_cap(device, allocatable(vram))
