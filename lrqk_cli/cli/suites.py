"""The suites of ``lrqk bench``: each checks its options at once and returns what is to be measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lrqk_cli.config import AttentionMode, LrqkConfig, paper_settings
from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    from lrqk_cli.bench.report import Report
    from lrqk_cli.bench.ruler.tasks import Sources
    from lrqk_cli.models.loading import LoadedModel

    OnProgress = Callable[[str], None]
    Measure = Callable[[LoadedModel, LrqkConfig, OnProgress], Report]


def speed(
    contexts: tuple[int, ...],
    modes: tuple[str, ...],
    new_tokens: int,
    repeat: int,
    text: Path | None,
) -> Measure:
    """Prefill, decode, memory and misses.

    Raises:
        UsageError: there is nothing to measure with these options.
    """
    from lrqk_cli.bench import speed
    from lrqk_cli.bench.report import Report

    plan = speed.Plan(cast(tuple[AttentionMode, ...], modes), contexts, new_tokens, repeat)

    def measure(loaded: LoadedModel, settings: LrqkConfig, on_progress: OnProgress) -> Report:
        prompt = _prompt(text, loaded.tokenizer, max(contexts))
        results = list(speed.measure(loaded.model, loaded.spec, settings, plan, prompt, on_progress))
        asked = {"name": "speed", "new_tokens": new_tokens, "repeat": repeat, "text": _named(text)}
        return Report(asked, results, speed.table(results))

    return measure


def fidelity(
    contexts: tuple[int, ...],
    modes: tuple[str, ...],
    new_tokens: int,
    samples: int,
    text: Path | None,
) -> Measure:
    """Next-token distributions beside full attention's, along full attention's own answers.

    Raises:
        UsageError: there is nothing to measure with these options.
    """
    from lrqk_cli.bench import fidelity
    from lrqk_cli.bench.report import Report

    if new_tokens < 1 or samples < 1:
        raise UsageError("--new-tokens and --samples must be at least 1.")

    def measure(loaded: LoadedModel, settings: LrqkConfig, on_progress: OnProgress) -> Report:
        from lrqk_cli.models.prompt import ChatPrompt

        prompt = ChatPrompt(loaded.tokenizer)
        source = _text_tokens(text, loaded.tokenizer, max(contexts) * samples)
        results: list[fidelity.FidelityResult] = []
        for context in contexts:
            variants = {
                "lrqk": settings,
                "resident": fidelity.everything_resident(settings, context),
                "paper": paper_settings(settings),
            }
            chosen = {name: variants[name] for name in modes}
            cases = fidelity.text_cases(prompt, source, context, new_tokens, samples)
            results += fidelity.measure(
                loaded.model, loaded.spec, chosen, cases, context, new_tokens, loaded.stop_ids, on_progress
            )
        asked = {"name": "fidelity", "new_tokens": new_tokens, "samples": samples, "text": _named(text)}
        return Report(asked, results, fidelity.table(results))

    return measure


def ruler(
    contexts: tuple[int, ...],
    modes: tuple[str, ...],
    tasks: str,
    samples: int,
    haystack: Path | None,
    qa_data: Sequence[Path],
    seed: int,
) -> Measure:
    """The tasks of RULER, scored.

    Raises:
        UsageError: there is no such task, there are no samples, or two files hold the same task.
        DocumentError: the haystack or the questions cannot be read.
    """
    from lrqk_cli.bench.report import Report
    from lrqk_cli.bench.ruler import run, summary
    from lrqk_cli.bench.ruler.tasks import parse_tasks

    chosen = cast(tuple[AttentionMode, ...], modes)
    plan = run.RulerPlan(chosen, contexts, parse_tasks(tasks), samples, seed)
    sources = _ruler_sources(haystack, qa_data)

    def measure(loaded: LoadedModel, settings: LrqkConfig, on_progress: OnProgress) -> Report:
        results = list(run.run_ruler(loaded, settings, plan, sources, on_progress))
        asked = {
            "name": "ruler",
            "samples": samples,
            "seed": seed,
            "haystack": _named(haystack),
            "qa_data": [path.name for path in qa_data],
        }
        together = summary.averages(results)
        return Report(asked, results, run.table(results), together, [summary.sentence(a) for a in together])

    return measure


def _ruler_sources(haystack: Path | None, qa_data: Sequence[Path]) -> Sources:
    from lrqk_cli.bench.ruler.essay import Essay
    from lrqk_cli.bench.ruler.questions import QA_FORMS, QaData, read_qa
    from lrqk_cli.bench.ruler.tasks import Sources
    from lrqk_cli.documents import read_documents

    qa: dict[str, QaData] = {}
    for path in qa_data:
        task, data = read_qa(path)
        if task in qa:
            raise UsageError(
                f"'{path}' is a second file in the form of {QA_FORMS[task]}.",
                "Give --qa-data one file of each form.",
            )
        qa[task] = data
    if haystack is None:
        return Sources(Essay.made_up(), qa)
    return Sources(Essay("\n".join(document.text for document in read_documents([haystack]))), qa)


def _prompt(text: Path | None, tokenizer: Any, count: int) -> list[int]:
    tokens = _text_tokens(text, tokenizer, count)
    if len(tokens) < count:
        raise UsageError(
            f"'{text}' has {len(tokens):,} tokens, and the longest context needs {count:,}.",
            "Give a longer text, or lower --ctx.",
        )
    return tokens[:count]


def _text_tokens(text: Path | None, tokenizer: Any, count: int) -> list[int]:
    """All tokens of a text, or ``count`` of made-up sentences."""

    def encode(part: str) -> list[int]:
        return list(tokenizer.encode(part, add_special_tokens=False))

    if text is None:
        from lrqk_cli.bench.text import synthetic_tokens

        return synthetic_tokens(encode, count)
    from lrqk_cli.documents import read_documents

    return [token for document in read_documents([text]) for token in encode(document.text)]


def _named(text: Path | None) -> str:
    return "made-up sentences" if text is None else text.name
