"""The suites of ``lrqk bench``: each checks its options at once and returns what is to be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import AttentionMode, LrqkConfig
from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    from lrqk_cli.bench.report import Report
    from lrqk_cli.models.loading import LoadedModel

    OnProgress = Callable[[str], None]
    Measure = Callable[[LoadedModel, LrqkConfig, OnProgress], Report]


def speed(
    contexts: tuple[int, ...],
    modes: tuple[AttentionMode, ...],
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

    plan = speed.Plan(modes, contexts, new_tokens, repeat)

    def measure(loaded: LoadedModel, settings: LrqkConfig, on_progress: OnProgress) -> Report:
        prompt = _prompt(text, loaded.tokenizer, max(contexts))
        results = list(speed.measure(loaded.model, loaded.spec, settings, plan, prompt, on_progress))
        asked = {"name": "speed", "new_tokens": new_tokens, "repeat": repeat, "text": _named(text)}
        return Report(asked, results, speed.table(results))

    return measure


def _prompt(text: Path | None, tokenizer: Any, count: int) -> list[int]:
    def encode(part: str) -> list[int]:
        return list(tokenizer.encode(part, add_special_tokens=False))

    if text is None:
        from lrqk_cli.bench.text import synthetic_tokens

        return synthetic_tokens(encode, count)
    from lrqk_cli.documents import read_documents

    tokens = [token for document in read_documents([text]) for token in encode(document.text)]
    if len(tokens) < count:
        raise UsageError(
            f"'{text}' has {len(tokens):,} tokens, and the longest context needs {count:,}.",
            "Give a longer text, or lower --ctx.",
        )
    return tokens[:count]


def _named(text: Path | None) -> str:
    return "made-up sentences" if text is None else text.name
