"""Results of the QA suite: scores with intervals, and differences from full attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lrqk_cli.bench.plot import Chart, Scored, mean_scores
from lrqk_cli.bench.report import Table

_FULL_ATTENTION = ("dense", "offload")
_COLUMNS = ("set", "mode", "ctx", "questions", "score", "95% interval", "cut", "rows/step", "share")
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class MarkedAnswer:
    """One answer.

    Attributes:
        document: number of the document in its file, from 0.
        text: what the model wrote.
        score: in [0, 1], by ``metric``.
    """

    document: int
    question: str
    text: str
    references: tuple[str, ...]
    metric: str
    score: float


@dataclass(frozen=True, slots=True)
class SetResult:
    """One (set of questions, mode, context).

    Attributes:
        documents, questions: those that were read and answered; ``cut`` of the documents were longer than the
            context and lost their middle.
        score: mean over the questions, times 100; ``score_low`` and ``score_high`` bound its 95% interval, by
            a percentile bootstrap over the documents.
        prompt_tokens: mean over the questions.
        rows_fetched_per_step: mean per layer and KV head.
        device_share: bytes of index and hot rows as a share of ``ctx`` tokens' KV rows; 1 for ``dense``.
        answers: in the order of the file, the same in every mode.
        skipped: the reason for having no figures; all of them are then None.
    """

    name: str
    mode: str
    ctx: int
    documents: int = 0
    questions: int = 0
    cut: int = 0
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    prompt_tokens: float | None = None
    miss_rate: float | None = None
    rows_fetched_per_step: float | None = None
    device_share: float | None = None
    answers: tuple[MarkedAnswer, ...] = ()
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A mode beside full attention, on one set at one context.

    Attributes:
        score: ``full_score`` is full attention's.
        difference: ``score`` less ``full_score``, with its 95% interval by a bootstrap over the documents, of
            which both modes' answers are drawn together.
        same: share of the questions whose answers are equal to the letter.
    """

    name: str
    mode: str
    ctx: int
    score: float
    full_score: float
    difference: float
    difference_low: float
    difference_high: float
    same: float


def mean_interval(answers: Sequence[MarkedAnswer], scores: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean score times 100 and its 95% interval, by a bootstrap over documents."""
    numbers = np.array([answer.document for answer in answers])
    by_document = [np.array(scores)[numbers == number] for number in np.unique(numbers)]
    sums, counts = (np.array([f(of) for of in by_document], dtype=float) for f in (np.sum, len))
    drawn = np.random.default_rng(0).integers(len(sums), size=(_RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    # Plus zero, because a sum of negative zeros is one.
    mean = float(sums.sum() / counts.sum())
    return 100 * mean + 0.0, 100 * float(low) + 0.0, 100 * float(high) + 0.0


def differences(results: Sequence[SetResult]) -> list[Difference]:
    """Return the difference of each result from full attention, where there is one."""
    full = {
        (result.name, result.ctx): result
        for result in results
        if result.mode in _FULL_ATTENTION and result.skipped is None
    }
    found = []
    for result in results:
        other = full.get((result.name, result.ctx))
        if other is not None and result.skipped is None and result.mode not in _FULL_ATTENTION:
            found.append(_difference(result, other))
    return found


def _difference(own: SetResult, full: SetResult) -> Difference:
    pairs = list(zip(own.answers, full.answers, strict=True))
    mean, low, high = mean_interval(own.answers, [mine.score - theirs.score for mine, theirs in pairs])
    same = sum(mine.text == theirs.text for mine, theirs in pairs) / len(pairs)
    assert own.score is not None
    assert full.score is not None
    return Difference(own.name, own.mode, own.ctx, own.score, full.score, mean, low, high, same)


def sentence(found: Difference) -> str:
    """Return a difference as a sentence."""
    return (
        f"{found.mode} at {found.ctx:,} tokens, {found.name}: {found.score:.1f}, full attention "
        f"{found.full_score:.1f}, difference {found.difference:+.1f} ({found.difference_low:+.1f} to "
        f"{found.difference_high:+.1f}); {found.same:.0%} of the answers are the same."
    )


def table(results: Sequence[SetResult]) -> Table:
    """Return the scores for a person; a skipped set has the reason in place of its score."""
    return Table(_COLUMNS, tuple(_cells(result) for result in results))


def chart(results: Sequence[SetResult]) -> Chart:
    """Return the mean score over the sets that all modes have, against bytes."""
    scored = [Scored(found.name, found.mode, found.ctx, found.score, found.device_share) for found in results]
    return mean_scores("Questions about documents", scored)


def _cells(result: SetResult) -> tuple[str, ...]:
    head = (result.name, result.mode, f"{result.ctx:,}", str(result.questions))
    if result.skipped is not None:
        return (*head, f"skipped: {result.skipped}", *([""] * (len(_COLUMNS) - 5)))
    return (
        *head,
        f"{result.score:.1f}",
        f"{result.score_low:.1f} to {result.score_high:.1f}",
        str(result.cut),
        f"{result.rows_fetched_per_step:.1f}",
        f"{result.device_share:.1%}",
    )
