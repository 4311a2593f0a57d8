"""The options from which settings follow, which settings the user has fixed, and the plan of a bench."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrqk_cli.cli.options import option
from lrqk_cli.cli.values import parse_bytes
from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import OutOfMemoryError

if TYPE_CHECKING:
    from lrqk_cli.memory.planner import Plan
    from lrqk_cli.models.placement import Placement

MEMORY = "Memory"


def memory_size(flag: str, text: str) -> Any:
    """An option for an amount of memory, with its help."""
    return option(flag, help=text, panel=MEMORY, parse=parse_bytes, metavar="SIZE")


Vram = Annotated[
    int | None,
    memory_size(
        "--vram",
        "GPU memory to use at most, such as 12GiB; settings are chosen to fit. (default: what is free)",
    ),
]
Ram = Annotated[
    int | None,
    memory_size(
        "--ram", "CPU memory to use at most, such as 32GiB. (default: seven eighths of what is free)"
    ),
]


def said_settings(context: typer.Context, settings: LrqkConfig) -> dict[str, Any]:
    """Return the fields of ``settings`` that were said: by a flag, a variable or the config file.

    ``--attention auto`` says nothing.
    """
    said = {name for name in context.params if _is_said(context, name)}
    if context.params.get("attention") == "auto":
        said.discard("attention")
    names = {"als" if name.startswith("als_") else name for name in said}
    return {field.name: getattr(settings, field.name) for field in fields(settings) if field.name in names}


def on_command_line(context: typer.Context, names: Collection[str]) -> list[str]:
    """Return which parameters are on the command line; a variable may be meant for other commands."""
    sources = {name: context.get_parameter_source(name) for name in sorted(names)}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _is_said(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is measured with which settings.

    Attributes:
        mode: the attention that the settings were chosen for.
        plan: for the longest context that fits; the settings of all contexts.
        refused: why longer ones do not fit.
        vram: bytes of a GPU to keep to, where they were limited.
        free_before: bytes of the GPU that were free before CUDA started; None where it is not known.
    """

    mode: str
    plan: Plan
    refused: Mapping[int, OutOfMemoryError]
    vram: int | None = None
    free_before: int | None = None

    @property
    def settings(self) -> LrqkConfig:
        """Settings of the mode ``lrqk``, from which those of the others follow."""
        return self.plan.settings


def plan_bench(
    placement: Placement, rooms: Mapping[int, int], modes: Collection[str], wanted: Mapping[str, Any]
) -> BenchPlan:
    """Choose one setting for all contexts, so that they compare.

    Args:
        rooms: context -> tokens to reserve for it.
        modes: what is measured; where LRQK is none of it, the plan is for full attention.

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
