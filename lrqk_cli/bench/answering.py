"""Free-running answers, for the suites that score or compare them."""

from __future__ import annotations

from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.loading import LoadedModel
from lrqk_cli.telemetry.stats import DecodeTotals


def greedy_answer(engine: Engine, loaded: LoadedModel, max_new_tokens: int, totals: DecodeTotals) -> str:
    """Return the text of ``greedy_tokens``."""
    new = greedy_tokens(engine, loaded, max_new_tokens, totals)
    return str(loaded.tokenizer.decode(new, skip_special_tokens=True))


def greedy_tokens(
    engine: Engine, loaded: LoadedModel, max_new_tokens: int, totals: DecodeTotals
) -> list[int]:
    """Return the greedy answer to what the engine has read, and add its steps to ``totals``."""
    new = list[int]()
    for step in engine.generate(GenerationConfig(max_new_tokens=max_new_tokens), loaded.stop_ids):
        totals.add(step.stats)
        if step.finish_reason != "stop":
            new.append(step.token)
    return new
