"""The results of comparisons: per task, mode and turn, and over all tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from lrqk_cli.bench.fidelity.measure import Comparison

Decode = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class WorstStep:
    """The step with the largest divergence.

    Attributes:
        sample, step: counted from 1; the first step follows the prompt.
        position: of the predicted token in the conversation.
        kl: nats.
        full_token, own_token: the likeliest token of full attention and of the mode.
    """

    sample: int
    step: int
    position: int
    kl: float
    full_token: str
    own_token: str


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One of the cases of a task.

    Attributes:
        steps: next-token distributions that were compared.
        kl_mean: nats; ``top1_agreement``: share of the steps. Both are over the steps of this case.
    """

    steps: int
    kl_mean: float
    top1_agreement: float


@dataclass(frozen=True, slots=True)
class LayerResult:
    """The losses of one layer in its decode steps.

    Attributes:
        captured_mass: share of the exact attention weights on resident rows: mean over heads and steps;
            ``captured_mass_min`` is the smallest.
        output_error: ``‖o − o*‖ / ‖o*‖`` against exact attention of the same query: mean over steps;
            ``output_error_max`` is the largest.
    """

    layer: int
    captured_mass: float
    captured_mass_min: float
    output_error: float
    output_error_max: float


@dataclass(frozen=True, slots=True)
class Size:
    """The bytes that a mode keeps on the device.

    Attributes:
        index_bytes, hot_bytes: over all layers.
        device_share: their sum as a share of the KV rows of the context.
    """

    index_bytes: int
    hot_bytes: int
    device_share: float


@dataclass(frozen=True, slots=True)
class FidelityResult:
    """One (task, mode, turn, ctx) over all its cases.

    Attributes:
        turn: of the user, counted from 1.
        samples: conversations; ``steps``: next-token distributions that were compared.
        kl_mean, kl_max: nats, full attention against the mode, over all steps.
        top1_agreement: share of steps where both prefer the same token.
        rows_fetched_per_step: mean per layer and KV head.
        device_share: bytes of index and hot rows as a share of the KV rows of ``ctx`` tokens.
        worst: the step with ``kl_max``.
        by_sample: the figures of each case.
        layers: empty unless layers were measured.
        skipped: the reason for having no figures; all of them are then None.
    """

    task: str
    mode: str
    turn: int
    ctx: int
    samples: int = 0
    steps: int = 0
    kl_mean: float | None = None
    kl_max: float | None = None
    top1_agreement: float | None = None
    rows_fetched_per_step: float | None = None
    index_bytes: int | None = None
    hot_bytes: int | None = None
    device_share: float | None = None
    worst: WorstStep | None = None
    by_sample: tuple[SampleResult, ...] = ()
    layers: tuple[LayerResult, ...] = ()
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Overall:
    """One (mode, turn, ctx) over all tasks with figures, equally weighted.

    Attributes:
        tasks: these tasks.
        worst_task: the one with the largest mean divergence, which is ``worst_kl_mean``.
    """

    mode: str
    turn: int
    ctx: int
    tasks: tuple[str, ...]
    kl_mean: float
    top1_agreement: float
    rows_fetched_per_step: float
    device_share: float
    worst_task: str
    worst_kl_mean: float


def result(
    task: str, mode: str, turn: int, ctx: int, size: Size, comparisons: Sequence[Comparison], decode: Decode
) -> FidelityResult:
    """Return the result of one turn over all cases, of which there is at least one.

    Args:
        decode: returns the text of a token.
    """
    divergence = torch.cat([comparison.divergence for comparison in comparisons])
    agreement = torch.cat([comparison.full_top == comparison.own_top for comparison in comparisons])
    return FidelityResult(
        task,
        mode,
        turn,
        ctx,
        samples=len(comparisons),
        steps=divergence.numel(),
        kl_mean=float(divergence.mean()),
        kl_max=float(divergence.max()),
        top1_agreement=float(agreement.float().mean()),
        rows_fetched_per_step=fmean(comparison.rows_fetched for comparison in comparisons),
        index_bytes=size.index_bytes,
        hot_bytes=size.hot_bytes,
        device_share=size.device_share,
        worst=_worst_step(comparisons, decode),
        by_sample=tuple(map(_sample, comparisons)),
        layers=tuple(_layers(comparisons)),
    )


def overall(results: Sequence[FidelityResult]) -> list[Overall]:
    """Return the means over all tasks for each mode, turn and context."""
    keys = dict.fromkeys((found.ctx, found.turn, found.mode) for found in results if found.skipped is None)
    return [
        _overall([r for r in results if (r.ctx, r.turn, r.mode) == key and r.skipped is None]) for key in keys
    ]


def _overall(results: Sequence[FidelityResult]) -> Overall:
    def mean(name: str) -> float:
        return fmean(getattr(found, name) for found in results)

    first, worst = results[0], max(results, key=lambda found: found.kl_mean or 0.0)
    return Overall(
        first.mode,
        first.turn,
        first.ctx,
        tasks=tuple(found.task for found in results),
        kl_mean=mean("kl_mean"),
        top1_agreement=mean("top1_agreement"),
        rows_fetched_per_step=mean("rows_fetched_per_step"),
        device_share=mean("device_share"),
        worst_task=worst.task,
        worst_kl_mean=worst.kl_mean or 0.0,
    )


def _sample(found: Comparison) -> SampleResult:
    agreement = (found.full_top == found.own_top).float()
    return SampleResult(found.divergence.numel(), float(found.divergence.mean()), float(agreement.mean()))


def _worst_step(comparisons: Sequence[Comparison], decode: Decode) -> WorstStep:
    sample, found = max(enumerate(comparisons, 1), key=lambda item: float(item[1].divergence.max()))
    step = int(found.divergence.argmax())
    return WorstStep(
        sample,
        step + 1,
        found.first_position + step,
        kl=float(found.divergence[step]),
        full_token=decode(int(found.full_top[step])),
        own_token=decode(int(found.own_top[step])),
    )


def _layers(comparisons: Sequence[Comparison]) -> Iterator[LayerResult]:
    for number in comparisons[0].observed:
        mass = torch.cat([comparison.observed[number].captured_mass for comparison in comparisons])
        error = torch.cat([comparison.observed[number].output_error for comparison in comparisons])
        if error.numel():  # an answer of a single token takes no decode step
            yield LayerResult(
                number, float(mass.mean()), float(mass.min()), float(error.mean()), float(error.max())
            )
