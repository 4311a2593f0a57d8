"""Settings, plans, answers and their sources, each in one line of text."""

from __future__ import annotations

from lrqk_cli.chat.events import Answer, AnswerSources, DocumentUse, SourcePage
from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory.plan import Plan
from lrqk_cli.memory.units import format_bytes

_MOST_NAMED = 3


def settings_label(config: LrqkConfig) -> str:
    """Return the settings that determine the error of attention, in a few words."""
    if config.attention == "dense":
        return "full attention"
    if config.attention == "offload":
        return "full attention, streamed"
    rows = config.hot if config.hot_policy == "sticky" else config.top_k
    return f"LRQK, {rows:,} hot rows, rank {config.rank} in {config.index_bits} bits"


def plan_line(plan: Plan) -> str:
    """Return a plan's settings, context, memory and reason."""
    needed, budget = plan.estimate, plan.budget
    if budget.vram is None:
        memory = f"{format_bytes(needed.on_host)} of {format_bytes(budget.ram)} memory"
    else:
        memory = f"{format_bytes(needed.total)} of {format_bytes(budget.vram)} device memory"
        if needed.beside_device:
            memory += f", {format_bytes(needed.beside_device)} of {format_bytes(budget.ram)} host memory"
    label = settings_label(plan.config) + (f" · weights {plan.form}" if plan.form else "")
    label += ", experts in host memory" if plan.has_experts_on_host else ""
    return f"Planned: {label} · {plan.context:,} tokens · {memory}. {plan.why}"


def statistics_line(answer: Answer, attention: str = "") -> str:
    """Return tokens, times, misses, settings and memory of one answer."""
    timing, cache = answer.timing, answer.cache
    parts = [f"{answer.prompt_tokens:,} in"]
    if timing.ttft_s is not None:
        parts.append(f"first after {timing.ttft_s:.1f} s")
    if answer.reasoning_tokens:
        parts.append(f"{answer.reasoning_tokens:,} of reasoning")
    speed = f" at {cache.tokens_per_second:.1f}/s" if cache.steps else ""
    parts.append(f"{answer.new_tokens:,} out{speed}")
    if cache.rows_wanted:
        parts.append(f"misses {cache.miss_rate:.1%}")
    if attention:
        parts.append(attention)
    if answer.memory is not None:
        parts.append(f"{answer.memory.device} peak {format_bytes(answer.memory.peak_device_bytes)}")
    return " · ".join(parts)


def sources_line(sources: AnswerSources) -> str:
    """Return the best pages in one line, by document; empty without sources."""
    places = dict[DocumentUse, list[str]]()
    for source in sources.pages[:_MOST_NAMED]:
        places.setdefault(source.document, []).append(f"{_page(source)} ({source.share:.0%})")
    named = [document.title + "".join(parts) for document, parts in places.items()]
    return f"Sources: {'; '.join(named)}" if named else ""


def source_label(source: SourcePage) -> str:
    """Return a document's title and the page."""
    return source.document.title + _page(source)


def _page(source: SourcePage) -> str:
    """Return the page label after a document's title."""
    label = "" if source.page is None else f", page {source.page}"
    return f"{label}, read by OCR" if source.by_ocr else label
