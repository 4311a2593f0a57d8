"""Results of the lookup suite: each question with and without drafts, and the means of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lrqk_cli.bench.lookup.questions import Kind
from lrqk_cli.bench.report import Table
from lrqk_cli.engine.tokens import shared_length

_COLUMNS = (
    "kind",
    "mode",
    "ctx",
    "questions",
    "tokens",
    "same",
    "tokens/s",
    "with lookup",
    "ratio",
    "accepted",
    "copied",
)


@dataclass(frozen=True, slots=True)
class LookupResult:
    """One question at one context, answered greedily without and with lookup from the same prefill.

    Attributes:
        opening: words of the text that the answer was given to begin with; empty for a free answer.
        prompt_tokens: of the document and the question; ``tokens``: of the answer with lookup.
        identical: whether both answers have the same tokens; ``common``: how many are, from the first on.
        plain_tokens_per_s, lookup_tokens_per_s: decode speed without and with; ``ratio``: of with to without.
        offered, accepted: drafts of the answer with lookup.
        copied: share of the answer, from its beginning, that the text has after the words that the answer was
            given; 0 for a free answer.
        answer: the text with lookup.
    """

    kind: Kind
    question: str
    opening: str
    mode: str
    ctx: int
    prompt_tokens: int
    tokens: int
    identical: bool
    common: int
    plain_tokens_per_s: float
    lookup_tokens_per_s: float
    ratio: float
    offered: int
    accepted: int
    copied: float
    answer: str


@dataclass(frozen=True, slots=True)
class KindMeans:
    """Means over the questions of a kind at one context.

    Attributes:
        identical, accepted, copied: shares.
    """

    kind: Kind
    mode: str
    ctx: int
    questions: int
    tokens: float
    identical: float
    plain_tokens_per_s: float
    lookup_tokens_per_s: float
    ratio: float
    accepted: float
    copied: float


def copied_share(answer: str, source: str) -> float:
    """Return the share of an answer, from its beginning, that ``source`` begins with; spaces count as one."""
    words, own = " ".join(source.split()), " ".join(answer.split())
    return shared_length(own, words) / len(own) if own else 0.0


def kind_means(results: Sequence[LookupResult]) -> list[KindMeans]:
    """Return the means of each context, mode and kind, in the order of the results."""
    found = []
    for key in dict.fromkeys((result.kind, result.mode, result.ctx) for result in results):
        own = [result for result in results if (result.kind, result.mode, result.ctx) == key]
        offered = sum(result.offered for result in own)
        found.append(
            KindMeans(
                *key,
                questions=len(own),
                tokens=fmean(result.tokens for result in own),
                identical=fmean(result.identical for result in own),
                plain_tokens_per_s=fmean(result.plain_tokens_per_s for result in own),
                lookup_tokens_per_s=fmean(result.lookup_tokens_per_s for result in own),
                ratio=fmean(result.ratio for result in own),
                accepted=sum(result.accepted for result in own) / offered if offered else 0.0,
                copied=fmean(result.copied for result in own),
            )
        )
    return found


def table(means: Sequence[KindMeans]) -> Table:
    """Return the means for a person."""
    return Table(_COLUMNS, tuple(_cells(mean) for mean in means))


def _cells(mean: KindMeans) -> tuple[str, ...]:
    return (
        mean.kind,
        mean.mode,
        f"{mean.ctx:,}",
        str(mean.questions),
        f"{mean.tokens:.0f}",
        f"{mean.identical:.0%}",
        f"{mean.plain_tokens_per_s:.1f}",
        f"{mean.lookup_tokens_per_s:.1f}",
        f"{mean.ratio:.2f}",
        f"{mean.accepted:.0%}",
        f"{mean.copied:.0%}",
    )
