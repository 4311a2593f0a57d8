"""The speed suite: every mode at every context, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from lrqk_cli.bench.speed.plan import SpeedPlan
from lrqk_cli.bench.speed.results import SpeedResult, empty_result, with_figures
from lrqk_cli.bench.speed.runners import EAGER, open_runner, release
from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory import probe
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.memory.activations import stream_rows
from lrqk_cli.memory.cap import memory_cap
from lrqk_cli.memory.estimate import estimate
from lrqk_cli.memory.exhaustion import is_out_of_memory
from lrqk_cli.memory.roofline import Bandwidth, step_bytes
from lrqk_cli.model_spec import ModelSpec

# A decode step runs eagerly, the next one is captured, and further ones are replayed.
_WARM_UP_STEPS = 4


@dataclass(frozen=True, slots=True)
class SpeedSubject:
    """The model, the modes and the prompt to measure.

    Attributes:
        modes: settings by name.
        prompt: at least as many tokens as the longest context.
        bandwidth: of the model's device.
        free_before: bytes of this device that were free before CUDA started; None if unknown.
    """

    model: PreTrainedModel
    spec: ModelSpec
    modes: dict[str, LrqkConfig]
    prompt: Sequence[int]
    bandwidth: Bandwidth
    free_before: int | None = None

    @property
    def dtype(self) -> str:
        """The element type of weights and rows, as in ``torch.dtype`` without its prefix."""
        return dtype_name(self.model.dtype)


def measure(
    subject: SpeedSubject, plan: SpeedPlan, on_progress: Callable[[str], None]
) -> Iterator[SpeedResult]:
    """Yield one result for each (mode, context) of the plan; a result that does not fit has an ``error``.

    Args:
        on_progress: called with the name of each step.

    Raises:
        UsageError: the model's limit is too low, or the cap cannot be set on this device.
    """
    device = torch.device(subject.model.device)
    for context in plan.contexts:
        length = plan.prompt_tokens(context, subject.spec)
        for mode in plan.modes:
            head = empty_result(mode, context, length, plan.new_tokens)
            if mode == plan.planned and context in plan.refused:
                yield replace(head, error=f"does not fit: {plan.refused[context].message}")
                continue
            cap = plan.cap_of(mode)
            head = replace(head, memory_cap_bytes=cap)
            release(device)
            try:
                with nullcontext() if cap is None else memory_cap(device, cap):
                    result = _measure_one(subject, plan, head, on_progress)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # torch's message is shown, because it says how many bytes were requested.
                reason = str(error.__cause__ or error).splitlines()[0]
                result = replace(head, error=f"does not fit: {reason}")
            yield result


def _measure_one(
    subject: SpeedSubject, plan: SpeedPlan, head: SpeedResult, on_progress: Callable[[str], None]
) -> SpeedResult:
    label = f"{head.mode} at {head.prompt_tokens:,} tokens"
    prompt, config = subject.prompt[: head.prompt_tokens], subject.modes[head.mode]
    on_progress(f"{label}: warming up")
    context = head.prompt_tokens + plan.answer_tokens
    with open_runner(head.mode, subject.model, subject.spec, config, context) as runner:
        first = warm_up_tokens(runner.segment, torch.device(subject.model.device))
        runner.run(prompt[:first], min(_WARM_UP_STEPS, plan.new_tokens))
        runs = []
        for number in range(1, plan.repeat + 1):
            on_progress(f"{label}: run {number} of {plan.repeat}")
            runs.append(runner.run(prompt, plan.new_tokens))
        result = replace(with_figures(head, runs, runner.memory()), note=runner.note)
        result = _with_memory(result, subject, config, context)
    return _with_roofline(result, subject, config, plan)


def warm_up_tokens(segment: int, device: torch.device) -> int:
    """Return how much of a text is read first, so that the figures of the whole text compile nothing.

    Two segments, so that the second also attends to rows of the first. On a GPU the last one attends to three
    chunks of rows, since the merges of two, and of a third, are kernels of their own.
    """
    return 2 * segment + (2 * stream_rows(segment) if device.type == "cuda" else 0)


def _with_memory(result: SpeedResult, subject: SpeedSubject, config: LrqkConfig, context: int) -> SpeedResult:
    """Add the GPU memory outside torch's count, and the predicted memory."""
    device = torch.device(subject.model.device)
    if device.type != "cuda":
        return result
    result = replace(result, peak_reserved_bytes=probe.peak_reserved_bytes(device))
    if subject.free_before is not None:
        result = replace(result, driver_bytes=probe.driver_bytes(device, subject.free_before))
    if result.mode == EAGER:
        return result
    predicted = estimate(subject.spec, config, context, subject.dtype)
    return replace(result, predicted_device_bytes=predicted.allocated, predicted_total_bytes=predicted.total)


def _with_roofline(
    result: SpeedResult, subject: SpeedSubject, config: LrqkConfig, plan: SpeedPlan
) -> SpeedResult:
    depth = result.prompt_tokens + plan.new_tokens // 2
    needed = step_bytes(subject.spec, config, depth, subject.dtype)
    if needed is None or result.decode_tokens_per_s is None:
        return result
    share = result.decode_tokens_per_s / needed.tokens_per_second(subject.bandwidth)
    result = replace(result, roofline_bytes_per_token=needed.total)
    if share <= 1:
        return replace(result, roofline_share=share)
    # The caches still hold data that the previous step read.
    return replace(result, note=result.note or "caches deliver what it reads, so that it has no MBU")
