"""What the suites have in common: what each is asked, and that it checks this before a model is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lrqk_cli.config import LrqkConfig, ReadLimits
from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    from lrqk_cli.bench.planning import BenchPlan
    from lrqk_cli.bench.report import Report

OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """What was asked for; a suite reads the options that it has.

    Attributes:
        given: the parameters that stand on the command line.
        contexts: tokens.
        modes: names, separated by commas; None for those that the suite compares by default.
        device: where to measure; None chooses.
        new_tokens: decode steps after each prefill.
        repeat: runs to average.
        memory_cap: bytes of the GPU that the mode ``lrqk`` may allocate.
        text: to measure on; None for made-up sentences.
        tasks: names, separated by commas; None for those that the suite has by default.
        samples: prompts a task.
        turns: of a conversation.
        vary: gives further settings by name, of those that are measured.
        layers: look into every layer too.
        haystack, qa_data, seed: for the tasks of RULER.
        limits: what reading the text or the haystack may take.
    """

    given: frozenset[str]
    contexts: tuple[int, ...]
    modes: str | None
    device: str | None
    new_tokens: int
    repeat: int
    memory_cap: int | None
    text: Path | None
    tasks: str | None
    samples: int
    turns: int
    vary: Callable[[LrqkConfig], Mapping[str, LrqkConfig]]
    layers: bool
    haystack: Path | None
    qa_data: tuple[Path, ...]
    seed: int
    limits: ReadLimits


class Suite(ABC):
    """A suite, with what it was asked to measure.

    Attributes:
        known_modes: all that it can compare; ``default_modes`` are those that it does by default.
        options: those of ``SuiteOptions``, and of the output, that it has and another suite has not.
        answer_tokens: tokens to reserve beside each context.
        modes: names of those that it compares.

    Raises:
        UsageError: there is nothing to measure with these options.
        DocumentError: what prompts are made from cannot be read.
    """

    name: ClassVar[str]
    known_modes: ClassVar[tuple[str, ...]]
    default_modes: ClassVar[tuple[str, ...]]
    options: ClassVar[frozenset[str]]
    answer_tokens = 0

    def __init__(self, asked: SuiteOptions) -> None:
        self.asked = asked
        names = asked.modes.split(",") if asked.modes else self.default_modes
        self.modes = tuple(dict.fromkeys(name.strip() for name in names))
        for name in self.modes:
            if name not in self.known_modes:
                known = ", ".join(self.known_modes)
                raise UsageError(f"--suite {self.name} has no mode '{name}'.", f"Choose from {known}.")

    @abstractmethod
    def measure(self, loaded: Any, planned: BenchPlan, on_progress: OnProgress) -> Report:
        """Measure a ``LoadedModel``; the speed suite also takes a ``RandomModel``.

        Args:
            on_progress: told what is being measured.

        Raises:
            UsageError: a text is too short, or the model has no room.
        """

    def configs(self, config: LrqkConfig) -> dict[str, LrqkConfig]:
        """Return those of all modes of a quality suite by name; ``config`` is that of ``lrqk``."""
        from lrqk_cli.bench.modes import named_modes

        return {**named_modes(self.modes, config, max(self.asked.contexts)), **self.asked.vary(config)}
