"""Run the suite: compare every mode with full attention on the same conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lrqk_cli.bench.fidelity.cases import (
    QA,
    TEXT,
    Case,
    CaseSize,
    PromptInputs,
    qa_cases,
    ruler_cases,
    text_cases,
)
from lrqk_cli.bench.fidelity.measure import Comparison, Reference, compare, full_attention
from lrqk_cli.bench.fidelity.results import FidelityResult, Size, result
from lrqk_cli.bench.modes import device_share
from lrqk_cli.bench.ruler.tasks import reason_to_skip
from lrqk_cli.bench.suite import OnProgress, SuiteOptions
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import ContextLengthError, OutOfMemoryError
from lrqk_cli.memory import accounting
from lrqk_cli.models.loading import LoadedModel


@dataclass(slots=True)
class _AtContext:
    """The state that the tasks of one context share; equal settings with several names are measured once."""

    context: int
    modes: Mapping[str, LrqkConfig]
    failed: dict[LrqkConfig, str] = field(default_factory=dict)

    def remaining(self) -> dict[LrqkConfig, str]:
        """Return the settings that have not run out of memory, each with its first name."""
        names: dict[LrqkConfig, str] = {}
        for name, config in self.modes.items():
            if config not in self.failed:
                names.setdefault(config, name)
        return names


def run_fidelity(
    loaded: LoadedModel,
    modes: Mapping[str, LrqkConfig],
    asked: SuiteOptions,
    material: PromptInputs,
    on_progress: OnProgress,
) -> Iterator[FidelityResult]:
    """Yield one result for each context, task, mode and turn, in this order.

    Full attention answers all conversations of a task greedily; then each mode in turn reads these answers.
    If a task is interrupted or fails, its complete comparisons are still yielded.

    Args:
        modes: the settings to compare with full attention, by name.
        on_progress: called with the name of each step.

    Raises:
        UsageError: the text is too short for a context.
    """
    if TEXT in asked.tasks:
        for context in asked.contexts:  # fail before anything slow begins
            text_cases(material, _size(asked, context))
    for context in asked.contexts:
        here = _AtContext(context, modes)
        for task in asked.tasks:
            on_progress(f"{task} at {context:,} tokens: writing the prompts")
            cases, reason = _cases(task, asked, material, _size(asked, context))
            if reason is None:
                yield from _run_task(loaded, here, asked, cases, on_progress)
                continue
            for mode in modes:
                yield FidelityResult(task, mode, 1, context, skipped=reason)


def _cases(
    task: str, asked: SuiteOptions, material: PromptInputs, shape: CaseSize
) -> tuple[list[Case], str | None]:
    """Return the cases of a task, or why there are none."""
    if task == TEXT:
        return text_cases(material, shape), None
    if task == QA and not material.sets:
        return [], "no --qa-data in the form of L-Eval or LongBench"
    if reason := reason_to_skip(task, material.sources):
        return [], reason
    try:
        if task == QA:
            return qa_cases(material, shape), None
        return ruler_cases(task, asked.seed, material, shape), None
    except ContextLengthError as error:
        return [], error.message.rstrip(".")


def _size(asked: SuiteOptions, context: int) -> CaseSize:
    return CaseSize(context, asked.new_tokens, asked.turns, asked.samples)


def _run_task(
    loaded: LoadedModel,
    here: _AtContext,
    asked: SuiteOptions,
    cases: Sequence[Case],
    on_progress: OnProgress,
) -> Iterator[FidelityResult]:
    task = cases[0].task
    compared: dict[LrqkConfig, list[list[Comparison]]] = {}

    def tell(what: str, number: int) -> None:
        on_progress(f"{task} at {here.context:,} tokens, {number} of {len(cases)}: {what}")

    try:
        references = _references(loaded, here, asked, cases, tell)
        for config, name in here.remaining().items():
            try:
                with Engine(loaded.model, loaded.spec, config, here.context) as engine:
                    for case, reference in zip(cases, references, strict=True):
                        own = compared.setdefault(config, [])
                        tell(name, len(own) + 1)
                        own.append(compare(engine, loaded, case, reference, observe=asked.layers))
            except (OutOfMemoryError, torch.OutOfMemoryError) as error:
                here.failed[config] = f"does not fit: {_first_line(error)}"
    except (Exception, KeyboardInterrupt):
        yield from _results(loaded, here, asked, task, compared)
        raise
    yield from _results(loaded, here, asked, task, compared)


def _references(
    loaded: LoadedModel,
    here: _AtContext,
    asked: SuiteOptions,
    cases: Sequence[Case],
    on_progress: Callable[[str, int], None],
) -> list[list[Reference]]:
    """Return full attention's answers to all cases; if it does not fit, all remaining settings fail."""
    references: list[list[Reference]] = []
    if not here.remaining():
        return references
    try:
        with Engine(loaded.model, loaded.spec, LrqkConfig(attention="dense"), here.context) as engine:
            for number, case in enumerate(cases, 1):
                on_progress("full attention", number)
                references.append(full_attention(engine, loaded, case, asked.new_tokens))
    except (OutOfMemoryError, torch.OutOfMemoryError) as error:
        reason = f"full attention does not fit: {_first_line(error)}"
        here.failed |= dict.fromkeys(here.remaining(), reason)
    return references


def _results(
    loaded: LoadedModel,
    here: _AtContext,
    asked: SuiteOptions,
    task: str,
    compared: Mapping[LrqkConfig, Sequence[Sequence[Comparison]]],
) -> Iterator[FidelityResult]:
    def decode(token: int) -> str:
        return str(loaded.tokenizer.decode([token]))

    for name, config in here.modes.items():
        if config in here.failed:
            yield FidelityResult(task, name, 1, here.context, skipped=here.failed[config])
        elif compared.get(config):
            size = size_of(loaded, config, here.context)
            for turn in range(asked.turns):
                of_turn = [of_case[turn] for of_case in compared[config]]
                yield result(task, name, turn + 1, here.context, size, of_turn, decode)


def size_of(loaded: LoadedModel, config: LrqkConfig, context: int) -> Size:
    """Return the bytes that a mode with these settings keeps on the device."""
    dtype = accounting.dtype_name(loaded.dtype)
    size = accounting.kv_bytes(loaded.spec, config, context, dtype)
    return Size(size.index, size.hot, device_share(loaded.spec, config, context, dtype))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
