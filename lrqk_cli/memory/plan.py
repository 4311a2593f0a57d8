"""A plan of settings, and what it is made for; ``planner`` makes plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrqk_cli.config import LrqkConfig, WeightForm, default_top_k
from lrqk_cli.memory.accounting import kv_bytes, weight_bytes, weight_bytes_read
from lrqk_cli.memory.budget import Budget
from lrqk_cli.memory.estimate import DEFAULT_SEGMENT, DeviceEstimate, estimate
from lrqk_cli.model_spec import ModelSpec

SEGMENTS = (DEFAULT_SEGMENT, 4096, 2048, 1024)


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings that fit.

    Attributes:
        spec: the model, with its weights in the chosen form.
        config: with ``segment`` set.
        context: tokens that the settings are for.
        budget: the free memory that the settings were chosen for.
        why: the reason for the settings, in one sentence.
    """

    spec: ModelSpec
    config: LrqkConfig
    context: int
    budget: Budget
    estimate: DeviceEstimate
    why: str

    @property
    def form(self) -> WeightForm | None:
        """The packed form of the weights; None for plain numbers."""
        return self.spec.packed.form if self.spec.packed is not None else None

    @property
    def has_experts_on_host(self) -> bool:
        """Whether packed experts stay in host memory."""
        return self.estimate.host_weights > 0

    @property
    def segment(self) -> int:
        """Tokens of a prefill segment."""
        return self.config.segment or DEFAULT_SEGMENT


@dataclass(frozen=True, slots=True)
class PlanTask:
    """The arguments of ``planner.plan``, which all choices share."""

    spec: ModelSpec
    dtype: str
    context: int
    vram: int | None
    ram: int
    wanted: Mapping[str, Any]

    def config(self, **chosen: Any) -> LrqkConfig:
        """Return the chosen settings, overridden by those that the user set."""
        merged = {**chosen, **self.wanted}
        if "hot" in merged and "top_k" not in merged:
            merged["top_k"] = default_top_k(merged["hot"])
        return LrqkConfig(**merged)

    def attempt(self, why: str, **chosen: Any) -> Plan | None:
        """Return the plan of these settings if it fits."""
        config = self.config(**chosen)
        needed = estimate(self.spec, config, self.context, self.dtype)
        if not self.has_room(needed):
            return None
        return Plan(self.spec, config, self.context, Budget(self.vram, self.ram), needed, why)

    def has_room(self, needed: DeviceEstimate) -> bool:
        """Return whether the needed memory is free."""
        if self.vram is None:
            return needed.on_host <= self.ram
        return needed.total <= self.vram and needed.beside_device <= self.ram

    def read(self, **chosen: Any) -> int:
        """Return the bytes that a decode step reads at the end of the context."""
        weights = weight_bytes_read(self.spec, self.dtype) or weight_bytes(self.spec, self.dtype)
        return weights + kv_bytes(self.spec, self.config(**chosen), self.context, self.dtype).read

    @property
    def segments(self) -> tuple[int, ...]:
        """Segment lengths in tokens, in the order to try them."""
        return (self.wanted["segment"],) if self.wanted.get("segment") else SEGMENTS
