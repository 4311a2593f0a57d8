"""Run the tasks: free-running greedy answers of every mode to the same prompts."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lrqk_cli.bench.answering import greedy_answer
from lrqk_cli.bench.modes import device_share
from lrqk_cli.bench.report import Table
from lrqk_cli.bench.ruler.sample import Sample, encode
from lrqk_cli.bench.ruler.scoring import recall, wilson_interval
from lrqk_cli.bench.ruler.tasks import TaskInputs, make_sample, reason_to_skip
from lrqk_cli.bench.suite import OnProgress, SuiteOptions
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import ContextLengthError, OutOfMemoryError
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.models.loading import LoadedModel
from lrqk_cli.models.prompt import ChatPrompt
from lrqk_cli.telemetry.stats import DecodeTotals

_COLUMNS = ("task", "mode", "ctx", "samples", "score", "95% interval", "miss rate", "rows/step", "share")


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One answer.

    Attributes:
        text: what the model wrote after the answer prefix.
        recall: in [0, 1].
    """

    text: str
    references: tuple[str, ...]
    recall: float
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One (task, mode, context).

    Attributes:
        samples: number of scored answers.
        score: mean recall, times 100; ``score_low`` and ``score_high`` bound its 95% Wilson interval.
        prompt_tokens: mean over the samples, answer prefix included.
        miss_rate: rows fetched over rows demanded, over all decode steps.
        rows_fetched_per_step: mean per layer and KV head.
        host_kv_bytes, index_bytes, hot_bytes: at the end of the last answer.
        device_share: bytes of index and hot rows as a share of ``ctx`` tokens' KV rows; 1 for ``dense``.
        answers: in the order of the samples, which is the same in every mode.
        skipped: the reason for having no figures; all of them are then None.
    """

    task: str
    mode: str
    ctx: int
    samples: int
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    prompt_tokens: float | None = None
    miss_rate: float | None = None
    rows_fetched_per_step: float | None = None
    host_kv_bytes: int | None = None
    index_bytes: int | None = None
    hot_bytes: int | None = None
    device_share: float | None = None
    answers: tuple[ScoredAnswer, ...] = ()
    skipped: str | None = None


def run_ruler(
    loaded: LoadedModel,
    modes: Mapping[str, LrqkConfig],
    asked: SuiteOptions,
    sources: TaskInputs,
    on_progress: OnProgress,
) -> Iterator[TaskResult]:
    """Yield one result for each context, task and mode, in this order.

    Args:
        modes: settings by name.
        on_progress: called with the name of each step.
    """
    prompt = ChatPrompt(loaded.tokenizer)
    for context in asked.contexts:
        for task in asked.tasks:
            on_progress(f"{task} at {context:,} tokens: writing the prompts")
            samples, reason = _samples(task, context, asked, sources, prompt)
            for mode, config in modes.items():
                if reason is not None:
                    yield TaskResult(task, mode, context, 0, skipped=reason)
                else:
                    yield _run_task(loaded, mode, config, context, prompt, samples, on_progress)


def _samples(
    task: str, context: int, asked: SuiteOptions, sources: TaskInputs, prompt: ChatPrompt
) -> tuple[list[Sample], str | None]:
    """Return the samples of a task, or why there are none."""
    if reason := reason_to_skip(task, sources):
        return [], reason

    def count(sample: Sample) -> int:
        return len(encode(prompt, sample)) + sample.max_new_tokens

    try:
        numbers = range(asked.samples)
        return [make_sample(task, number, context, asked.seed, sources, count) for number in numbers], None
    except ContextLengthError as error:
        return [], error.message.rstrip(".")


def _run_task(
    loaded: LoadedModel,
    mode: str,
    config: LrqkConfig,
    context: int,
    prompt: ChatPrompt,
    samples: Sequence[Sample],
    on_progress: OnProgress,
) -> TaskResult:
    task = samples[0].task
    answers: list[ScoredAnswer] = []
    totals = DecodeTotals()
    try:
        with Engine(loaded.model, loaded.spec, config, context) as engine:
            for number, sample in enumerate(samples, 1):
                on_progress(f"{task} at {context:,} tokens, {mode}: sample {number} of {len(samples)}")
                answers.append(_answer(engine, loaded, prompt, sample, totals))
            memory = engine.memory()
    except (OutOfMemoryError, torch.OutOfMemoryError) as error:
        reason = str(error).splitlines()[0]
        return TaskResult(task, mode, context, 0, skipped=f"does not fit: {reason}")
    share = device_share(loaded.spec, config, context, dtype_name(loaded.dtype))
    return _result(TaskResult(task, mode, context, len(answers), device_share=share), answers, totals, memory)


def _answer(
    engine: Engine, loaded: LoadedModel, prompt: ChatPrompt, sample: Sample, totals: DecodeTotals
) -> ScoredAnswer:
    tokens = encode(prompt, sample)
    engine.reset()
    for _ in engine.prefill(tokens):
        pass
    text = greedy_answer(engine, loaded, sample.max_new_tokens, totals)
    return ScoredAnswer(text, sample.references, recall(sample.task, text, sample.references), len(tokens))


def _result(
    head: TaskResult, answers: Sequence[ScoredAnswer], totals: DecodeTotals, memory: MemoryUse
) -> TaskResult:
    recalls = [answer.recall for answer in answers]
    low, high = wilson_interval(recalls)
    return replace(
        head,
        score=100 * statistics.fmean(recalls),
        score_low=100 * low,
        score_high=100 * high,
        prompt_tokens=statistics.fmean(answer.prompt_tokens for answer in answers),
        miss_rate=totals.miss_rate,
        rows_fetched_per_step=totals.rows_fetched_per_step,
        host_kv_bytes=memory.host_kv_bytes,
        index_bytes=memory.index_bytes,
        hot_bytes=memory.hot_bytes,
        answers=tuple(answers),
    )


def table(results: Sequence[TaskResult]) -> Table:
    """Return the scores for a person; a skipped task has the reason in place of its score."""
    return Table(_COLUMNS, tuple(_cells(result) for result in results))


def _cells(result: TaskResult) -> tuple[str, ...]:
    head = (result.task, result.mode, f"{result.ctx:,}", str(result.samples))
    if result.skipped is not None:
        return (*head, f"skipped: {result.skipped}", *([""] * (len(_COLUMNS) - 5)))
    return (
        *head,
        f"{result.score:.1f}",
        f"{result.score_low:.1f} to {result.score_high:.1f}",
        f"{result.miss_rate:.1%}",
        f"{result.rows_fetched_per_step:.1f}",
        f"{result.device_share:.1%}",
    )
