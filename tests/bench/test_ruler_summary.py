"""Averages over tasks, and their difference from full attention."""

from __future__ import annotations

import pytest

from lrqk_cli.bench.ruler.run import ScoredAnswer, TaskResult
from lrqk_cli.bench.ruler.summary import averages


def result(task: str, mode: str, recalls: list[float], ctx: int = 4096) -> TaskResult:
    answers = tuple(ScoredAnswer("", ("x",), recall, 100) for recall in recalls)
    score = 100 * sum(recalls) / len(recalls)
    return TaskResult(task, mode, ctx, len(recalls), score=score, answers=answers)


def test_only_tasks_that_full_attention_can_do_count() -> None:
    results = [
        result("vt", "lrqk", [1.0, 0.5, 0.5, 1.0]),
        result("vt", "dense", [1.0, 1.0, 1.0, 1.0]),
        result("fwe", "lrqk", [1.0, 0.0, 1.0, 1.0]),
        result("fwe", "dense", [0.0, 1.0, 1.0, 0.0]),
        result("cwe", "lrqk", [1.0, 1.0, 1.0, 1.0]),
        result("cwe", "dense", [0.4, 0.4, 0.4, 0.4]),
        TaskResult("qa_1", "lrqk", 4096, 0, skipped="no file"),
        TaskResult("qa_1", "dense", 4096, 0, skipped="no file"),
    ]
    (average,) = averages(results)
    assert (average.mode, average.ctx, average.tasks) == ("lrqk", 4096, ("vt", "fwe"))
    assert (average.score, average.full_score, average.difference) == (75.0, 75.0, 0.0)
    assert (average.worst_task, average.worst_difference) == ("vt", -25.0)
    assert average.difference_low < 0.0 < average.difference_high


def test_prompts_are_paired() -> None:
    # Prompts differ much and the modes do not: without pairing the interval would be some 20 points wide.
    recalls = [0.0, 1.0, 1.0, 1.0] * 6
    (average,) = averages([result("vt", "lrqk", recalls), result("vt", "offload", recalls)])
    assert (average.difference_low, average.difference_high) == (0.0, 0.0)


def test_the_interval_is_that_of_the_mean_difference() -> None:
    # One prompt in four is lost: a mean of -25 with a standard error of 100 * sqrt(0.25 * 0.75 / 100) = 4.33.
    lost = [0.0, 1.0, 1.0, 1.0] * 25
    (average,) = averages([result("vt", "lrqk", lost), result("vt", "dense", [1.0] * 100)])
    assert average.difference == -25.0
    assert average.difference_low == pytest.approx(-25 - 1.96 * 4.33, abs=1.1)
    assert average.difference_high == pytest.approx(-25 + 1.96 * 4.33, abs=1.1)


def test_each_context_has_its_own_and_without_full_attention_there_is_none() -> None:
    results = [result("vt", mode, [1.0], ctx) for ctx in (2048, 4096) for mode in ("lrqk", "dense")]
    assert [average.ctx for average in averages(results)] == [2048, 4096]
    assert averages([result("vt", "lrqk", [1.0])]) == []
