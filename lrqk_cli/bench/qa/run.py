"""Run the sets: each document is read once, and each question about it is answered from there."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import torch

from lrqk_cli.bench.answering import greedy_answer
from lrqk_cli.bench.modes import device_share
from lrqk_cli.bench.qa.data import AskedDocument, DocumentQuestion, DocumentSet
from lrqk_cli.bench.qa.metrics import score
from lrqk_cli.bench.qa.prompts import DocumentPrompt, answer_room, document_prompt
from lrqk_cli.bench.qa.results import MarkedAnswer, SetResult, mean_interval
from lrqk_cli.bench.suite import OnProgress, SuiteOptions
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.models.loading import LoadedModel
from lrqk_cli.models.prompt import ChatPrompt
from lrqk_cli.telemetry.stats import DecodeTotals


def run_sets(
    loaded: LoadedModel,
    modes: Mapping[str, LrqkConfig],
    asked: SuiteOptions,
    sets: Sequence[DocumentSet],
    on_progress: OnProgress,
) -> Iterator[SetResult]:
    """Yield one result for each context, set and mode, in this order.

    Args:
        modes: settings by name.
        on_progress: called with the name of each step.
    """
    prompt = ChatPrompt(loaded.tokenizer)
    for context in asked.contexts:
        for questions in sets:
            documents = questions.documents[: asked.samples]
            prompts = [document_prompt(document, context, prompt) for document in documents]
            for mode, config in modes.items():
                title = f"{questions.name} at {context:,} tokens, {mode}"
                head = SetResult(questions.name, mode, context)
                if any(found is None for found in prompts):
                    yield _skipped(head, "a question leaves no room for its document")
                    continue
                found = [item for item in prompts if item is not None]
                yield _run_set(loaded, head, config, documents, found, on_progress, title)


def _run_set(
    loaded: LoadedModel,
    head: SetResult,
    config: LrqkConfig,
    documents: Sequence[AskedDocument],
    prompts: Sequence[DocumentPrompt],
    on_progress: OnProgress,
    title: str,
) -> SetResult:
    answers, totals = list[MarkedAnswer](), DecodeTotals()
    try:
        with Engine(loaded.model, loaded.spec, config, head.ctx) as engine:
            for number, (document, tokens) in enumerate(zip(documents, prompts, strict=True)):
                on_progress(f"{title}: document {number + 1} of {len(documents)}")
                texts = _answer_all(engine, loaded, document, tokens, totals)
                answers += [
                    _marked(number, question, text)
                    for question, text in zip(document.questions, texts, strict=True)
                ]
    except (OutOfMemoryError, torch.OutOfMemoryError) as error:
        return _skipped(head, f"does not fit: {str(error).splitlines()[0]}")
    mean, low, high = mean_interval(answers, [answer.score for answer in answers])
    return SetResult(
        head.name,
        head.mode,
        head.ctx,
        documents=len(documents),
        questions=len(answers),
        cut=sum(tokens.is_cut for tokens in prompts),
        score=mean,
        score_low=low,
        score_high=high,
        prompt_tokens=statistics.fmean(
            len(tokens.head) + len(question) for tokens in prompts for question in tokens.questions
        ),
        miss_rate=totals.miss_rate,
        rows_fetched_per_step=totals.rows_fetched_per_step,
        device_share=device_share(loaded.spec, config, head.ctx, dtype_name(loaded.dtype)),
        answers=tuple(answers),
    )


def _answer_all(
    engine: Engine, loaded: LoadedModel, document: AskedDocument, tokens: DocumentPrompt, totals: DecodeTotals
) -> Iterator[str]:
    """Read a document, and yield the greedy answer to each question, which then is taken back."""
    engine.reset()
    for _ in engine.prefill(tokens.head):
        pass
    point = engine.rewind_point()
    for question, asked in zip(document.questions, tokens.questions, strict=True):
        for _ in engine.prefill(asked):
            pass
        yield greedy_answer(engine, loaded, answer_room(question), totals).strip()
        engine.rewind(point)


def _marked(document: int, question: DocumentQuestion, text: str) -> MarkedAnswer:
    found = score(question.metric, text, question.answers)
    return MarkedAnswer(document, question.text, text, question.answers, question.metric, found)


def _skipped(head: SetResult, reason: str) -> SetResult:
    return SetResult(head.name, head.mode, head.ctx, skipped=reason)
