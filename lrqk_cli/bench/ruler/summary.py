"""The average over tasks, compared with full attention on the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lrqk_cli.bench.plot import Chart, Scored, mean_scores
from lrqk_cli.bench.ruler.run import TaskResult

_FULL_ATTENTION = ("dense", "offload")
# Below this score full attention cannot do a task, so a mode has nothing to lose.
_CAN_DO = 50.0
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Average:
    """One mode at one context, over the tasks for which full attention scores at least 50.

    Attributes:
        tasks: these tasks, equally weighted.
        score: mean of their scores; ``full_score`` is full attention's.
        difference: ``score`` less ``full_score``; ``difference_low`` and ``difference_high`` bound its 95%
            interval, by a percentile bootstrap over the prompts of each task. Both answers to a prompt are
            drawn together; if no answers differ, the interval is a point, however few prompts there are.
        worst_task: the one with the lowest difference, which is ``worst_difference``.
    """

    mode: str
    ctx: int
    tasks: tuple[str, ...]
    score: float
    full_score: float
    difference: float
    difference_low: float
    difference_high: float
    worst_task: str
    worst_difference: float


def averages(results: Sequence[TaskResult]) -> list[Average]:
    """Return one average for each mode and context with full attention; none for contexts without it."""
    found = []
    for context in dict.fromkeys(result.ctx for result in results):
        by_mode: dict[str, dict[str, TaskResult]] = {}
        for result in results:
            if result.ctx == context:
                by_mode.setdefault(result.mode, {})[result.task] = result
        full = next((by_mode[mode] for mode in _FULL_ATTENTION if mode in by_mode), {})
        for mode, of_mode in by_mode.items():
            pairs = [
                (of_mode[task], full[task])
                for task in full
                if (full[task].score or 0.0) >= _CAN_DO and of_mode[task].score is not None
            ]
            if mode not in _FULL_ATTENTION and pairs:
                found.append(_average(mode, context, pairs))
    return found


def chart(results: Sequence[TaskResult]) -> Chart:
    """Return the mean score over the tasks that all modes have, against bytes."""
    scored = [Scored(found.task, found.mode, found.ctx, found.score, found.device_share) for found in results]
    return mean_scores("RULER", scored)


def _average(mode: str, context: int, pairs: Sequence[tuple[TaskResult, TaskResult]]) -> Average:
    differences = [_recalls(own) - _recalls(full) for own, full in pairs]
    random = np.random.default_rng(0)
    resampled = np.mean(
        [100 * d[random.integers(len(d), size=(_RESAMPLES, len(d)))].mean(axis=1) for d in differences],
        axis=0,
    )
    low, high = np.percentile(resampled, [2.5, 97.5])
    by_task = {own.task: 100 * float(d.mean()) for (own, _), d in zip(pairs, differences, strict=True)}
    worst = min(by_task, key=lambda task: by_task[task])
    full_score = _mean(full.score for _, full in pairs)
    return Average(
        mode,
        context,
        tuple(by_task),
        score=_mean(own.score for own, _ in pairs),
        full_score=full_score,
        difference=_mean(by_task.values()),
        difference_low=float(low),
        difference_high=float(high),
        worst_task=worst,
        worst_difference=by_task[worst],
    )


def _recalls(result: TaskResult) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([answer.recall for answer in result.answers])


def _mean(numbers: Iterable[float | None]) -> float:
    return float(np.mean([number for number in numbers if number is not None]))


def sentence(average: Average) -> str:
    """Return the average as a sentence."""
    tasks = "task" if len(average.tasks) == 1 else f"{len(average.tasks)} tasks"
    return (
        f"{average.mode} at {average.ctx:,} tokens, over the {tasks} that full attention "
        f"can do: {average.score:.1f}, full attention {average.full_score:.1f}, "
        f"difference {average.difference:+.1f} "
        f"({average.difference_low:+.1f} to {average.difference_high:+.1f}), "
        f"worst {average.worst_task} {average.worst_difference:+.1f}."
    )
