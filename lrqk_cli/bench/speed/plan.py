"""The plan of the speed suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.memory.estimate import allocatable
from lrqk_cli.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class SpeedPlan:
    """The modes, the contexts and the limits of a measurement.

    Attributes:
        modes: their names, see ``bench.modes``.
        contexts: tokens of the prompts; fewer if the model's limit leaves no room for the decode steps.
        new_tokens: decode steps after each prefill.
        repeat: runs of each (mode, context).
        memory_cap: bytes that torch may allocate on the device in the mode ``lrqk``; None for no cap.
        vram: bytes of the device that any mode may take, the CUDA context included; None for no limit.
        planned: the mode that the settings were planned for; its contexts may be refused.
        refused: the errors of refused contexts.

    Raises:
        UsageError: there is nothing to measure, or the cap has no mode to act on.
    """

    modes: tuple[str, ...]
    contexts: tuple[int, ...]
    new_tokens: int
    repeat: int
    memory_cap: int | None = None
    vram: int | None = None
    planned: str = "lrqk"
    refused: Mapping[int, OutOfMemoryError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.new_tokens < 1 or self.repeat < 1:
            raise UsageError("--new-tokens and --repeat must be at least 1.")
        if self.memory_cap is not None and "lrqk" not in self.modes:
            raise UsageError(
                "--memory-cap is for the mode lrqk, which --modes leaves out.", "Add lrqk, or leave it out."
            )

    @property
    def answer_tokens(self) -> int:
        """Tokens after a prompt: the first comes from the prefill, each further one takes a decode step."""
        return 1 + self.new_tokens

    def cap_of(self, mode: str) -> int | None:
        """Return the bytes that torch may allocate in a mode; None for no cap."""
        caps = [self.memory_cap] if self.memory_cap is not None and mode == "lrqk" else []
        caps += [allocatable(self.vram)] if self.vram is not None else []
        return min(caps, default=None)

    def prompt_tokens(self, context: int, spec: ModelSpec) -> int:
        """Return the tokens of the prompt for a context.

        Raises:
            UsageError: the model's limit leaves no room for a prompt and the decode steps.
        """
        room = spec.max_context - self.answer_tokens
        if room < 1:
            raise UsageError(
                f"The {spec.max_context:,} tokens that {spec.name} allows have no room for a prompt and "
                f"{self.new_tokens:,} new tokens.",
                "Lower --new-tokens.",
            )
        return min(context, room)
