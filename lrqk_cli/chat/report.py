"""The object that ``lrqk chat --json`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypedDict

from lrqk_cli.chat.events import Answer, AnswerSources, DocumentUse
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.memory.plan import Plan


class DocumentReport(TypedDict):
    """One document: its path, the number of pages in the context, and their tokens, page marks included."""

    path: str
    pages: int
    tokens: int


class SourceReport(TypedDict):
    """One page that the answer rests on.

    ``document`` is its path, ``page`` its number (null for a stretch of a document without pages), ``share``
    its part of the attention that counts, ``passage`` the sentence with the most of it, ``by_ocr`` whether
    the page's text was recognised on a picture.
    """

    document: str
    page: int | None
    share: float
    passage: str
    by_ocr: bool


class TimingReport(TypedDict):
    """Wall times in seconds and speeds in tokens per second.

    ``load_s`` to fetch and load the model. ``prefill_s`` to read ``prefill_tokens`` of documents and question
    into the context; tokens that were read before an earlier answer or in another chat are not among them.
    ``ttft_s`` from the start of the prefill to the first token; null without one.
    ``decode_tokens_per_s`` tokens after the first, over the time of their steps; 0 without any.
    """

    load_s: float
    prefill_tokens: int
    prefill_s: float
    prefill_tokens_per_s: float
    ttft_s: float | None
    decode_tokens_per_s: float


class MemoryReport(TypedDict):
    """Bytes in use.

    ``peak_device_bytes`` is the most allocated on the device (on a CPU, the process's resident memory),
    ``host_kv_bytes`` is the KV store in host memory at the reserved context, ``index_bytes`` the low-rank
    index, ``hot_bytes`` the resident rows and the recent window.
    """

    device: str
    peak_device_bytes: int
    host_kv_bytes: int
    index_bytes: int
    hot_bytes: int


class CacheReport(TypedDict):
    """Decode steps of this answer.

    ``hit_rate`` and ``miss_rate`` are shares of the demanded rows that were resident and that were not;
    ``rows_fetched_per_step`` is a mean per decode step, layer and KV head; ``bytes_fetched`` is a sum.
    ``drafts_offered`` are the tokens that ``--lookup`` gave steps to check, and ``drafts_accepted`` those of
    them that the answer took over.
    """

    hit_rate: float
    miss_rate: float
    rows_fetched_per_step: float
    bytes_fetched: int
    drafts_offered: int
    drafts_accepted: int


class PlanReport(TypedDict):
    """The reason for the settings, and the memory they need.

    ``context`` is the reserved one, in tokens. ``device_bytes`` is the estimated peak, 0 on a CPU;
    ``host_bytes`` the KV rows in host memory, on a CPU all bytes needed. The budgets are the free memory, or
    the part of it that ``--vram`` and ``--ram`` allow.
    """

    why: str
    context: int
    device_bytes: int
    device_budget_bytes: int
    host_bytes: int
    host_budget_bytes: int


class ChatReport(TypedDict):
    """The whole object.

    ``prompt`` is the question, and ``reasoning`` what the model thought before its answer, null without.
    ``finish_reason`` is ``stop`` (a stop token), ``length`` (``--max-new-tokens``), ``context`` (it is full)
    or ``interrupted``. ``attention`` holds the settings in force, ``plan`` the reason for them.
    ``prompt_tokens`` counts the tokens before reasoning and answer, ``new_tokens`` the answer without its
    stop token, ``reasoning_tokens`` the reasoning with its marks. ``sources`` has the best page first, and is
    null without ``--sources``. If a server answers, ``attention``, ``plan`` and ``memory`` are null because
    they are the server's, and the tokens of ``documents`` are estimates.
    """

    prompt: str
    answer: str
    reasoning: str | None
    finish_reason: str
    model: str
    attention: dict[str, Any] | None
    plan: PlanReport | None
    prompt_tokens: int
    new_tokens: int
    reasoning_tokens: int
    documents: list[DocumentReport]
    sources: list[SourceReport] | None
    timing: TimingReport
    memory: MemoryReport | None
    cache: CacheReport


def build_report(
    prompt: str,
    answer: Answer,
    *,
    model: str,
    config: LrqkConfig | None,
    plan: Plan | None,
    documents: Sequence[DocumentUse],
    load_s: float,
) -> ChatReport:
    """Return the ``--json`` report of one question and its answer; ``load_s`` is in seconds."""
    timing, memory, cache = answer.timing, answer.memory, answer.cache
    return {
        "prompt": prompt,
        "answer": answer.text,
        "reasoning": answer.reasoning or None,
        "finish_reason": answer.finish_reason,
        "model": model,
        "attention": asdict(config) if config is not None else None,
        "plan": _plan_report(plan) if plan is not None else None,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": answer.new_tokens,
        "reasoning_tokens": answer.reasoning_tokens,
        "documents": [
            {"path": document.path, "pages": document.pages, "tokens": document.tokens}
            for document in documents
        ],
        "sources": source_reports(answer.sources),
        "timing": {
            "load_s": load_s,
            "prefill_tokens": timing.prefill_tokens,
            "prefill_s": timing.prefill_s,
            "prefill_tokens_per_s": timing.prefill_tokens_per_s,
            "ttft_s": timing.ttft_s,
            "decode_tokens_per_s": cache.tokens_per_second,
        },
        "memory": _memory_report(memory) if memory is not None else None,
        "cache": {
            "hit_rate": cache.hit_rate,
            "miss_rate": cache.miss_rate,
            "rows_fetched_per_step": cache.rows_fetched_per_step,
            "bytes_fetched": cache.bytes_fetched,
            "drafts_offered": cache.drafts_offered,
            "drafts_accepted": cache.drafts_accepted,
        },
    }


def _memory_report(memory: MemoryUse) -> MemoryReport:
    return {
        "device": memory.device,
        "peak_device_bytes": memory.peak_device_bytes,
        "host_kv_bytes": memory.host_kv_bytes,
        "index_bytes": memory.index_bytes,
        "hot_bytes": memory.hot_bytes,
    }


def source_reports(sources: AnswerSources | None) -> list[SourceReport] | None:
    """Return the sources of an answer; None if they were not asked for."""
    if sources is None:
        return None
    return [
        {
            "document": source.document.path,
            "page": source.page,
            "share": round(source.share, 4),
            "passage": source.passage,
            "by_ocr": source.by_ocr,
        }
        for source in sources.pages
    ]


def _plan_report(plan: Plan) -> PlanReport:
    needed, on_device = plan.estimate, plan.budget.vram is not None
    return {
        "why": plan.why,
        "context": plan.context,
        "device_bytes": needed.total if on_device else 0,
        "device_budget_bytes": plan.budget.vram or 0,
        "host_bytes": needed.beside_device if on_device else needed.on_host,
        "host_budget_bytes": plan.budget.ram,
    }
