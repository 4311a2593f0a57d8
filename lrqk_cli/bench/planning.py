"""One plan for all contexts of a measurement, so that their results are comparable."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import OutOfMemoryError

if TYPE_CHECKING:
    from lrqk_cli.memory.plan import Plan
    from lrqk_cli.models.placement import Placement


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """The settings of a measurement.

    Attributes:
        mode: the attention that the settings were chosen for.
        plan: for the longest context that fits; the settings of all contexts.
        refused: the errors of longer contexts, which do not fit.
        vram: bytes of a GPU that may be used; None without a limit.
        free_before: bytes of the GPU that were free before CUDA started; None if unknown.
        varied: further settings by name, for the quality suites.
    """

    mode: str
    plan: Plan
    refused: Mapping[int, OutOfMemoryError]
    vram: int | None = None
    free_before: int | None = None
    varied: Mapping[str, LrqkConfig] = field(default_factory=dict)

    @property
    def config(self) -> LrqkConfig:
        """Settings of the mode ``lrqk``, from which the other modes derive theirs."""
        return self.plan.config


def plan_bench(
    placement: Placement, rooms: Mapping[int, int], modes: Collection[str], wanted: Mapping[str, Any]
) -> BenchPlan:
    """Choose the same settings for all contexts, so that their results are comparable.

    Args:
        rooms: context -> tokens to reserve for it.
        modes: the measured modes; if none of them is LRQK, the plan is for full attention.

    Raises:
        OutOfMemoryError: not even the shortest context fits.
    """
    mode = _planned_attention(modes)
    refused: dict[int, OutOfMemoryError] = {}
    for context in sorted(rooms, reverse=True):
        try:
            plan = placement.plan(rooms[context], {"attention": mode, **wanted})
        except OutOfMemoryError as error:
            refused[context] = error
        else:
            return BenchPlan(mode, plan, refused)
    raise refused[min(rooms)]


def _planned_attention(modes: Collection[str]) -> str:
    if set(modes) <= {"dense", "dense-eager"}:
        return "dense"
    return "offload" if "offload" in modes and set(modes) <= {"dense", "dense-eager", "offload"} else "lrqk"
