"""The speed suite: prefill, decode, memory and misses, compared with full attention."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lrqk_cli.bench.collect import collect
from lrqk_cli.bench.modes import named_modes
from lrqk_cli.bench.report import Report
from lrqk_cli.bench.speed.plan import SpeedPlan
from lrqk_cli.bench.suite import READING, OnProgress, Suite, SuiteOptions
from lrqk_cli.bench.text import file_name, random_tokens, text_tokens
from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    from lrqk_cli.bench.planning import BenchPlan
    from lrqk_cli.models.loading import LoadedModel
    from lrqk_cli.models.shapes import RandomModel


class SpeedSuite(Suite):
    """See ``Suite``; also for a shape with random weights."""

    name = "speed"
    known_modes = ("lrqk", "dense", "dense-eager", "offload", "paper", "paper-no-hit-miss")
    default_modes = ("lrqk", "dense")
    options = READING | {"new_tokens", "repeat", "text", "shape", "memory_cap", "plot"}

    def __init__(self, asked: SuiteOptions) -> None:
        super().__init__(asked)
        self._plan = SpeedPlan(
            self.asked.modes, asked.contexts, asked.new_tokens, asked.repeat, asked.memory_cap
        )
        self.answer_tokens = self._plan.answer_tokens
        if asked.memory_cap is not None:
            from lrqk_cli.memory.cap import check_memory_cap
            from lrqk_cli.models.devices import choose_device

            check_memory_cap(choose_device(asked.device), asked.memory_cap)

    def measure(
        self, loaded: LoadedModel | RandomModel, planned: BenchPlan, on_progress: OnProgress
    ) -> Report:
        """See ``Suite``."""
        from lrqk_cli.bench.speed import table
        from lrqk_cli.bench.speed.measure import SpeedSubject, measure
        from lrqk_cli.memory import probe
        from lrqk_cli.models.shapes import RandomModel

        plan = replace(self._plan, vram=planned.vram, planned=planned.mode, refused=planned.refused)
        longest = max(plan.prompt_tokens(context, loaded.spec) for context in plan.contexts)
        is_random = isinstance(loaded, RandomModel)
        if isinstance(loaded, RandomModel):
            prompt = random_tokens(loaded.spec.vocab_size, longest)
        else:
            prompt = self._prompt(loaded, longest)
        modes = named_modes(plan.modes, planned.config, longest)
        on_progress("memory bandwidth")
        bandwidth = probe.bandwidth(loaded.device)
        subject = SpeedSubject(loaded.model, loaded.spec, modes, prompt, bandwidth, planned.free_before)
        results, ended_by = collect(measure(subject, plan, on_progress))
        # A requested context that does not fit is a failure, although all others were measured.
        if planned.mode in plan.modes:
            ended_by = ended_by or next(iter(planned.refused.values()), None)
        link = {} if bandwidth.link is None else {"link_bytes_per_s": round(bandwidth.link)}
        return Report(
            {
                "name": self.name,
                "new_tokens": plan.new_tokens,
                "repeat": plan.repeat,
                "text": "random tokens" if is_random else file_name(self.asked.text),
                "random_weights": is_random,
                "memory_bytes_per_s": round(bandwidth.memory),
                **link,
            },
            results,
            table.table(results),
            notes=table.notes(results, bandwidth, random_weights=is_random),
            modes=modes,
            chart=table.chart(results),
            ended_by=ended_by,
        )

    def _prompt(self, loaded: LoadedModel, count: int) -> list[int]:
        text = self.asked.text
        tokens = text_tokens(text, loaded.tokenizer, count, self.asked.limits)
        if len(tokens) < count:
            raise UsageError(
                f"'{text}' has {len(tokens):,} tokens, and the longest context needs {count:,}.",
                "Give a longer text, or lower --ctx.",
            )
        return tokens[:count]
