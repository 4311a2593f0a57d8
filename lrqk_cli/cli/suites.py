"""The suites of ``lrqk bench``: each checks its options at once and returns what is to be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import LrqkConfig, ReadLimits
from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    from lrqk_cli.bench.report import Report
    from lrqk_cli.bench.ruler.tasks import TaskInputs
    from lrqk_cli.cli.planning import BenchPlan
    from lrqk_cli.models.loading import LoadedModel
    from lrqk_cli.models.shapes import RandomModel

    OnProgress = Callable[[str], None]
    # Of a LoadedModel; the speed suite also takes a RandomModel.
    Measure = Callable[[Any, BenchPlan, OnProgress], Report]
    # Further settings by name, of those that are measured.
    Vary = Callable[[LrqkConfig], Mapping[str, LrqkConfig]]


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """What every suite is asked for.

    Attributes:
        contexts: tokens.
        modes: names.
        samples: prompts a task; the speed suite has none.
    """

    contexts: tuple[int, ...]
    modes: tuple[str, ...]
    samples: int

    def named(self, settings: LrqkConfig, vary: Vary) -> dict[str, LrqkConfig]:
        """Return the settings of all modes of a quality suite."""
        from lrqk_cli.bench.modes import named_modes

        return {**named_modes(self.modes, settings, max(self.contexts)), **vary(settings)}


@dataclass(frozen=True, slots=True)
class Prompts:
    """What prompts are made from.

    Attributes:
        text: for the task ``text``; None for made-up sentences.
        haystack, qa_data, seed: for the tasks of RULER.
        limits: what reading the text or the haystack may take.
    """

    text: Path | None
    haystack: Path | None
    qa_data: tuple[Path, ...]
    seed: int
    limits: ReadLimits

    def read(self, path: Path) -> list[str]:
        """Return the text of each document in a file or a folder."""
        from lrqk_cli.documents import read_documents

        return [document.text for document in read_documents([path], limits=self.limits)]

    def ruler_facts(self) -> dict[str, Any]:
        """Return what a reader needs to make the same prompts."""
        return {
            "seed": self.seed,
            "haystack": _named(self.haystack),
            "qa_data": [path.name for path in self.qa_data],
        }


def speed(
    asked: SuiteOptions, new_tokens: int, repeat: int, memory_cap: int | None, prompts: Prompts
) -> Measure:
    """Prefill, decode, memory and misses.

    Raises:
        UsageError: there is nothing to measure with these options.
    """
    from lrqk_cli.bench.collect import collect
    from lrqk_cli.bench.modes import named_modes
    from lrqk_cli.bench.report import Report
    from lrqk_cli.bench.speed import table
    from lrqk_cli.bench.speed.measure import SpeedSubject
    from lrqk_cli.bench.speed.measure import measure as measure_speed
    from lrqk_cli.bench.speed.plan import SpeedPlan
    from lrqk_cli.memory import probe
    from lrqk_cli.models.shapes import RandomModel

    checked = SpeedPlan(asked.modes, asked.contexts, new_tokens, repeat, memory_cap)

    def measure(loaded: LoadedModel | RandomModel, planned: BenchPlan, on_progress: OnProgress) -> Report:
        plan = replace(checked, vram=planned.vram, planned=planned.mode, refused=planned.refused)
        longest = max(plan.prompt_tokens(context, loaded.spec) for context in plan.contexts)
        prompt = _speed_prompt(loaded, prompts, longest)
        modes = named_modes(plan.modes, planned.settings, longest)
        is_random = isinstance(loaded, RandomModel)
        on_progress("memory bandwidth")
        bandwidth = probe.bandwidth(loaded.device)
        subject = SpeedSubject(loaded.model, loaded.spec, modes, prompt, bandwidth, planned.free_before)
        results, ended_by = collect(measure_speed(subject, plan, on_progress))
        # What was asked for and does not fit is a failure, though all the rest was measured.
        if planned.mode in plan.modes:
            ended_by = ended_by or next(iter(planned.refused.values()), None)
        facts = {
            "name": "speed",
            "new_tokens": new_tokens,
            "repeat": repeat,
            "text": "random tokens" if is_random else _named(prompts.text),
            "random_weights": is_random,
            "memory_bytes_per_s": round(bandwidth.memory),
        }
        if bandwidth.link is not None:
            facts["link_bytes_per_s"] = round(bandwidth.link)
        return Report(
            facts,
            results,
            table.table(results),
            notes=table.notes(results, bandwidth, random_weights=is_random),
            modes=modes,
            chart=table.chart(results),
            ended_by=ended_by,
        )

    return measure


def fidelity(
    asked: SuiteOptions,
    vary: Vary,
    tasks: str,
    prompts: Prompts,
    new_tokens: int,
    turns: int,
    layers: bool,
) -> Measure:
    """Next-token distributions beside full attention's, along full attention's own answers.

    Raises:
        UsageError: there is nothing to measure with these options.
        DocumentError: the haystack or the questions cannot be read.
    """
    from lrqk_cli.bench.collect import collect
    from lrqk_cli.bench.fidelity import cases, results, run, table
    from lrqk_cli.bench.report import Report
    from lrqk_cli.bench.ruler.tasks import parse_tasks

    chosen = parse_tasks(tasks, cases.ALL_TASKS)
    plan = run.FidelityPlan(asked.contexts, chosen, asked.samples, new_tokens, turns, prompts.seed, layers)
    sources = _ruler_sources(prompts)

    def measure(loaded: LoadedModel, planned: BenchPlan, on_progress: OnProgress) -> Report:
        from lrqk_cli.models.prompt import ChatPrompt

        modes = asked.named(planned.settings, vary)
        most = max(asked.contexts) * asked.samples if cases.TEXT in chosen else 0
        text = _text_tokens(prompts, loaded.tokenizer, most)
        material = cases.PromptInputs(ChatPrompt(loaded.tokenizer), text, sources)
        found, ended_by = collect(run.run_fidelity(loaded, modes, plan, material, on_progress))
        together = results.overall(found)
        facts = {
            "name": "fidelity",
            "tasks": chosen,
            "samples": asked.samples,
            "new_tokens": new_tokens,
            "turns": turns,
            "text": _named(prompts.text),
            **prompts.ruler_facts(),
        }
        return Report(
            facts,
            found,
            table.table(found, together),
            together,
            table.notes(found, together),
            modes,
            table.chart(together),
            ended_by,
        )

    return measure


def ruler(asked: SuiteOptions, vary: Vary, tasks: str, prompts: Prompts) -> Measure:
    """The tasks of RULER, scored.

    Raises:
        UsageError: there is no such task, there are no samples, or two files hold the same task.
        DocumentError: the haystack or the questions cannot be read.
    """
    from lrqk_cli.bench.collect import collect
    from lrqk_cli.bench.report import Report
    from lrqk_cli.bench.ruler import run, summary
    from lrqk_cli.bench.ruler.tasks import parse_tasks

    plan = run.RulerPlan(asked.contexts, parse_tasks(tasks), asked.samples, prompts.seed)
    sources = _ruler_sources(prompts)

    def measure(loaded: LoadedModel, planned: BenchPlan, on_progress: OnProgress) -> Report:
        modes = asked.named(planned.settings, vary)
        results, ended_by = collect(run.run_ruler(loaded, modes, plan, sources, on_progress))
        together = summary.averages(results)
        return Report(
            {"name": "ruler", "samples": asked.samples, **prompts.ruler_facts()},
            results,
            run.table(results),
            together,
            [summary.sentence(average) for average in together],
            modes,
            summary.chart(results),
            ended_by,
        )

    return measure


def _ruler_sources(prompts: Prompts) -> TaskInputs:
    from lrqk_cli.bench.ruler.essay import Essay
    from lrqk_cli.bench.ruler.questions import QA_FORMS, QaData, read_qa
    from lrqk_cli.bench.ruler.tasks import TaskInputs

    qa: dict[str, QaData] = {}
    for path in prompts.qa_data:
        task, data = read_qa(path)
        if task in qa:
            raise UsageError(
                f"'{path}' is a second file in the form of {QA_FORMS[task]}.",
                "Give --qa-data one file of each form.",
            )
        qa[task] = data
    if prompts.haystack is None:
        return TaskInputs(Essay.made_up(), qa)
    return TaskInputs(Essay("\n".join(prompts.read(prompts.haystack))), qa)


def _speed_prompt(loaded: LoadedModel | RandomModel, prompts: Prompts, count: int) -> list[int]:
    from lrqk_cli.models.shapes import RandomModel

    if isinstance(loaded, RandomModel):
        from lrqk_cli.bench.text import random_tokens

        return random_tokens(loaded.spec.vocab_size, count)
    return _prompt(prompts, loaded.tokenizer, count)


def _prompt(prompts: Prompts, tokenizer: Any, count: int) -> list[int]:
    tokens = _text_tokens(prompts, tokenizer, count)
    if len(tokens) < count:
        raise UsageError(
            f"'{prompts.text}' has {len(tokens):,} tokens, and the longest context needs {count:,}.",
            "Give a longer text, or lower --ctx.",
        )
    return tokens[:count]


def _text_tokens(prompts: Prompts, tokenizer: Any, count: int) -> list[int]:
    """All tokens of a text, or ``count`` of made-up sentences."""

    def encode(part: str) -> list[int]:
        return list(tokenizer.encode(part, add_special_tokens=False))

    if prompts.text is None:
        from lrqk_cli.bench.text import synthetic_tokens

        return synthetic_tokens(encode, count)
    return [token for text in prompts.read(prompts.text) for token in encode(text)]


def _named(text: Path | None) -> str:
    return "made-up sentences" if text is None else text.name
