"""Read the document once per context, and answer each question without and with lookup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lrqk_cli.bench.answering import greedy_tokens
from lrqk_cli.bench.lookup.questions import LookupQuestion, lookup_prompt
from lrqk_cli.bench.lookup.results import LookupResult, copied_share
from lrqk_cli.bench.suite import OnProgress
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.rewind_points import EngineRewindPoint
from lrqk_cli.engine.tokens import shared_length
from lrqk_cli.errors import UsageError
from lrqk_cli.models.loading import LoadedModel
from lrqk_cli.models.prompt import ChatPrompt
from lrqk_cli.telemetry.stats import DecodeTotals

# Decode steps after which all kernels are compiled, and all graphs captured.
_WARM_UP = 32


@dataclass(frozen=True, slots=True)
class LookupRun:
    """What to measure.

    Attributes:
        mode: the name of ``config`` in results.
        text: the document; as much of it is read as fits a context.
        seed: of the table in it.
        new_tokens: of an answer, at most.
    """

    mode: str
    config: LrqkConfig
    text: str
    seed: int
    new_tokens: int


def run_context(
    loaded: LoadedModel, run: LookupRun, context: int, on_progress: OnProgress
) -> Iterator[LookupResult]:
    """Yield the result of each question at ``context`` tokens, which include the answer.

    Raises:
        UsageError: the context has no room for a document.
    """
    prompt = lookup_prompt(run.text, run.seed, ChatPrompt(loaded.tokenizer), context - run.new_tokens)
    if prompt is None:
        raise UsageError(
            f"A context of {context:,} tokens leaves too little of the text beside the answer.",
            "Raise --ctx, lower --new-tokens, or give a longer --haystack.",
        )
    with Engine(loaded.model, loaded.spec, run.config, context) as engine:
        on_progress(f"reading {len(prompt.head):,} tokens")
        for _ in engine.prefill(prompt.head):
            pass
        point = engine.rewind_point()
        for number, (question, asked) in enumerate(prompt.questions):
            on_progress(f"{context:,} tokens: question {number + 1} of {len(prompt.questions)}")
            yield _answered(engine, loaded, run, question, asked, is_first=number == 0)
            engine.rewind(point)


def _answered(
    engine: Engine,
    loaded: LoadedModel,
    run: LookupRun,
    question: LookupQuestion,
    asked: list[int],
    *,
    is_first: bool,
) -> LookupResult:
    for _ in engine.prefill(asked):
        pass
    point = engine.rewind_point()
    if is_first:
        for uses_lookup in (False, True):
            _answer(engine, loaded, point, min(_WARM_UP, run.new_tokens), uses_lookup)
    plain, plain_totals = _answer(engine, loaded, point, run.new_tokens, uses_lookup=False)
    tokens, totals = _answer(engine, loaded, point, run.new_tokens, uses_lookup=True)
    answer = str(loaded.tokenizer.decode(tokens, skip_special_tokens=True))
    speeds = plain_totals.tokens_per_second, totals.tokens_per_second
    return LookupResult(
        question.kind,
        question.text,
        question.opening,
        run.mode,
        engine.context,
        prompt_tokens=point.length,
        tokens=len(tokens),
        identical=plain == tokens,
        common=shared_length(plain, tokens),
        plain_tokens_per_s=speeds[0],
        lookup_tokens_per_s=speeds[1],
        # An answer of one token has no step.
        ratio=speeds[1] / speeds[0] if all(speeds) else 1.0,
        offered=totals.drafts_offered,
        accepted=totals.drafts_accepted,
        copied=copied_share(answer, question.source),
        answer=answer,
    )


def _answer(
    engine: Engine, loaded: LoadedModel, point: EngineRewindPoint, new_tokens: int, uses_lookup: bool
) -> tuple[list[int], DecodeTotals]:
    """Return the tokens and the counters of the greedy answer at ``point``, which is then taken back."""
    totals = DecodeTotals()
    engine.uses_lookup = uses_lookup
    found = greedy_tokens(engine, loaded, new_tokens, totals)
    engine.rewind(point)
    return found, totals
