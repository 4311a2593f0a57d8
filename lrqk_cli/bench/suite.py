"""The base of all suites: their options, which a suite checks before a model is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lrqk_cli.bench.modes import named_modes
from lrqk_cli.config import LrqkConfig
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.errors import UsageError
from lrqk_cli.naming import flag

if TYPE_CHECKING:
    from lrqk_cli.bench.planning import BenchPlan
    from lrqk_cli.bench.report import Report

OnProgress = Callable[[str], None]
# The options of a suite that reads a text of the user's.
READING = frozenset({"read_memory", "read_timeout"})


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """The options of a measurement; a suite reads those that it has.

    Attributes:
        contexts: tokens.
        modes, tasks: names; empty for the suite's defaults.
        device: where to measure; None chooses.
        new_tokens: decode steps after each prefill.
        repeat: runs to average.
        memory_cap: bytes of the GPU that the mode ``lrqk`` may allocate.
        text: file to measure on; None for made-up sentences.
        samples: prompts per task.
        turns: user turns of a conversation.
        layers: whether to measure every layer too.
        haystack, qa_data, seed: for the tasks of RULER.
        limits: for reading the text or the haystack.
        given: the options on the command line, by the names of their parameters.
    """

    contexts: tuple[int, ...]
    modes: tuple[str, ...] = ()
    device: str | None = None
    new_tokens: int = 128
    repeat: int = 3
    memory_cap: int | None = None
    text: Path | None = None
    tasks: tuple[str, ...] = ()
    samples: int = 10
    turns: int = 1
    layers: bool = False
    haystack: Path | None = None
    qa_data: tuple[Path, ...] = ()
    seed: int = 0
    limits: ReadLimits = field(default_factory=ReadLimits)
    given: frozenset[str] = frozenset()


class Suite(ABC):
    """A suite with its options.

    Attributes:
        known_modes: all modes that it can compare; ``default_modes``: those that it compares by default.
        options: parameters of the command that this suite reads and some other suite does not, settings of
            the attention too. One that is in no suite's set is for all suites, so ``refuse_idle`` never
            refuses it.
        answer_tokens: tokens to reserve beside each context.
        asked: the options, with the names of all modes and tasks.

    Raises:
        UsageError: the options leave nothing to measure.
        DocumentError: a source of the prompts cannot be read.
    """

    name: ClassVar[str]
    known_modes: ClassVar[tuple[str, ...]]
    default_modes: ClassVar[tuple[str, ...]]
    options: ClassVar[frozenset[str]]
    answer_tokens = 0

    def __init__(self, asked: SuiteOptions) -> None:
        self.asked = replace(asked, modes=asked.modes or self.default_modes)
        for mode in self.asked.modes:
            if mode not in self.known_modes:
                known = ", ".join(self.known_modes)
                raise UsageError(f"--suite {self.name} has no mode '{mode}'.", f"Choose from {known}.")

    @abstractmethod
    def measure(self, loaded: Any, planned: BenchPlan, on_progress: OnProgress) -> Report:
        """Measure a ``LoadedModel``; the speed suite also takes a ``RandomModel``.

        Args:
            on_progress: called with the name of each step.

        Raises:
            UsageError: a text is too short, or the model's limit is too low.
        """

    def _modes(self, planned: BenchPlan) -> dict[str, LrqkConfig]:
        """Return the settings that a quality suite compares, by name."""
        longest = max(self.asked.contexts)
        return {**named_modes(self.asked.modes, planned.config, longest), **planned.varied}

    def _require_positive(self, *names: str) -> None:
        for name in names:
            if getattr(self.asked, name) < 1:
                raise UsageError(f"{flag(name)} must be at least 1.")
