"""How far LRQK's next-token distributions are from full attention's, along full attention's own answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.bench.report import Table
from lrqk_cli.config import LrqkConfig, ModelSpec
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import UsageError
from lrqk_cli.memory import accounting
from lrqk_cli.models.prompt import ChatPrompt

_REQUEST = "\n\nWrite a detailed summary of the text above: who and what it is about, with names and numbers."


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt to compare on.

    Attributes:
        task: what kind of prompt it is; results are given per task.
        tokens: the whole prompt.
    """

    task: str
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class FidelityResult:
    """One (task, mode, ctx) over all its cases.

    Attributes:
        samples: prompts; ``steps``: next-token distributions that were compared.
        kl_mean, kl_max: nats, full attention against the mode, over all steps.
        top1_agreement: share of steps where both prefer the same token.
        rows_fetched_per_step: mean per layer and KV head.
        device_share: index and hot rows in bytes, of the KV rows of ``ctx`` tokens.
    """

    task: str
    mode: str
    ctx: int
    samples: int
    steps: int
    kl_mean: float
    kl_max: float
    top1_agreement: float
    rows_fetched_per_step: float
    device_share: float


@dataclass(frozen=True, slots=True)
class _Comparison:
    divergence: Tensor
    agreement: Tensor
    rows_fetched: float


def measure(
    model: PreTrainedModel,
    spec: ModelSpec,
    modes: Mapping[str, LrqkConfig],
    cases: Sequence[Case],
    context: int,
    new_tokens: int,
    stop_ids: Collection[int],
    on_progress: Callable[[str], None],
) -> Iterator[FidelityResult]:
    """Yield one result for each task and mode.

    Full attention answers each prompt greedily, up to a stop token; every mode is then led along that answer.

    Args:
        modes: name and settings of what is compared with full attention.
        context: tokens to reserve; every prompt and ``new_tokens`` fit.
    """
    for task in dict.fromkeys(case.task for case in cases):
        found: dict[str, list[_Comparison]] = {name: [] for name in modes}
        chosen = [case for case in cases if case.task == task]
        for number, case in enumerate(chosen, 1):
            label = f"{task} at {context:,} tokens, {number} of {len(chosen)}"
            on_progress(f"{label}: full attention")
            answer, reference = _reference(model, spec, case, context, new_tokens, stop_ids)
            for name, settings in modes.items():
                on_progress(f"{label}: {name}")
                found[name].append(_compare(model, spec, settings, case, context, answer, reference))
        for name, settings in modes.items():
            share = _device_share(spec, settings, context, model.dtype)
            yield _summary(task, name, context, found[name], share)


def text_cases(
    prompt: ChatPrompt, tokens: Sequence[int], context: int, new_tokens: int, samples: int
) -> list[Case]:
    """Return prompts that ask for a summary of a stretch of text, spread evenly over ``tokens``.

    Args:
        prompt: the model's chat format.
        tokens: of the whole text; stretches overlap where it is short.
        context: prompt and ``new_tokens`` fill it.

    Raises:
        UsageError: the text is shorter than one stretch, or the context too small for any.
    """
    before, after = prompt.opening(), prompt.text(_REQUEST) + prompt.closing()
    length = context - new_tokens - len(before) - len(after)
    if length < 1 or length > len(tokens):
        raise UsageError(
            f"A context of {context:,} tokens cannot be filled from a text of {len(tokens):,} tokens.",
            "Give a longer --text, or another --ctx.",
        )
    step = (len(tokens) - length) / max(1, samples - 1)
    starts = [round(number * step) for number in range(samples)]
    return [Case("text", [*before, *tokens[start : start + length], *after]) for start in starts]


def table(results: Sequence[FidelityResult]) -> Table:
    """Return the results as a person reads them."""
    columns = ("task", "mode", "ctx", "samples", "steps", "KL mean", "KL max", "top-1", "rows/step", "share")
    lines = tuple(
        (
            result.task,
            result.mode,
            f"{result.ctx:,}",
            str(result.samples),
            str(result.steps),
            f"{result.kl_mean:.5f}",
            f"{result.kl_max:.4f}",
            f"{result.top1_agreement:.1%}",
            f"{result.rows_fetched_per_step:.1f}",
            f"{result.device_share:.1%}",
        )
        for result in results
    )
    return Table(columns, lines)


def everything_resident(settings: LrqkConfig, context: int) -> LrqkConfig:
    """Return settings under which nothing is approximated: what is left is the noise of another kernel."""
    return replace(settings, attention="lrqk", hot_policy="sticky", hot=max(context, settings.top_k))


def _reference(
    model: PreTrainedModel,
    spec: ModelSpec,
    case: Case,
    context: int,
    new_tokens: int,
    stop_ids: Collection[int],
) -> tuple[list[int], Tensor]:
    """Return full attention's greedy answer, a stop token included, and the distributions it came from."""
    answer: list[int] = []
    distributions = []
    with Engine(model, spec, LrqkConfig(attention="dense"), context) as engine:
        _prefill(engine, case)
        while len(answer) < new_tokens and not (answer and answer[-1] in stop_ids):
            distributions.append(_log_probabilities(engine))
            answer.append(int(distributions[-1].argmax()))
            engine.append(answer[-1])
    return answer, torch.stack(distributions)


def _compare(
    model: PreTrainedModel,
    spec: ModelSpec,
    settings: LrqkConfig,
    case: Case,
    context: int,
    answer: Sequence[int],
    reference: Tensor,
) -> _Comparison:
    rows = []
    with Engine(model, spec, settings, context) as engine:
        _prefill(engine, case)
        engine.cache.take_stats()
        for token in answer:
            rows.append(_log_probabilities(engine))
            engine.append(token)
        stats = engine.cache.take_stats()
    ours = torch.stack(rows)
    return _Comparison(
        divergence=(reference.exp() * (reference - ours)).sum(-1).cpu(),
        agreement=(reference.argmax(-1) == ours.argmax(-1)).cpu(),
        rows_fetched=stats.rows_fetched / stats.row_sets / max(1, len(answer) - 1),
    )


def _prefill(engine: Engine, case: Case) -> None:
    for _ in engine.prefill(case.tokens):
        pass


def _log_probabilities(engine: Engine) -> Tensor:
    return engine.next_logits().float().log_softmax(-1)


def _device_share(spec: ModelSpec, settings: LrqkConfig, context: int, dtype: torch.dtype) -> float:
    size = accounting.kv_bytes(spec, settings, context, str(dtype).removeprefix("torch."))
    return (size.index + size.hot) / size.host_kv if size.host_kv else 1.0


def _summary(
    task: str, mode: str, context: int, comparisons: Sequence[_Comparison], share: float
) -> FidelityResult:
    divergence = torch.cat([comparison.divergence for comparison in comparisons])
    agreement = torch.cat([comparison.agreement for comparison in comparisons])
    return FidelityResult(
        task=task,
        mode=mode,
        ctx=context,
        samples=len(comparisons),
        steps=divergence.numel(),
        kl_mean=float(divergence.mean()),
        kl_max=float(divergence.max()),
        top1_agreement=float(agreement.float().mean()),
        rows_fetched_per_step=sum(c.rows_fetched for c in comparisons) / len(comparisons),
        device_share=share,
    )
