"""Where the time of a decode step goes, kernel by kernel, as JSON for make_tables.py.

    python profile_steps.py llama-3.1-8b --weights q4 --ctx 64k,256k > speed/profile-8b-q4.json

Random tokens fill each context. Then replayed steps with default settings are timed, and as many more are
profiled. A profiler lengthens the step, so the step's own time is taken without it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lrqk_cli.bench.environment import environment
from lrqk_cli.bench.report import Report, Table, to_json
from lrqk_cli.cli.values import parse_tokens
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.events import Step
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models import shapes
from lrqk_cli.models.devices import choose_device

STEPS = 32  # timed, and profiled
ROOM = 3 * STEPS


@dataclass(frozen=True)
class Launch:
    """One kernel of a step.

    Attributes:
        launches: of the kernel, per step; ``us``: microseconds of each.
        step_ms: the time of a whole step without a profiler, in milliseconds.
    """

    mode: str
    ctx: int
    kernel: str
    launches: float
    us: float
    step_ms: float


def profiled(steps: Iterator[Step]) -> tuple[Counter[str], Counter[str]]:
    """Return the microseconds and the launches of each kernel, over ``STEPS`` steps."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(STEPS):
            next(steps)
        torch.cuda.synchronize()
    spent, launches = Counter[str](), Counter[str]()
    for event in profile.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spent[event.name] += event.device_time
            launches[event.name] += 1
    return spent, launches


def measure(engine: Engine, context: int) -> Iterator[Launch]:
    """Yield the kernels of a step, the costliest first."""
    engine.reset()
    tokens = random.Random(0).choices(range(engine.spec.vocab_size), k=context - ROOM)
    for _ in engine.prefill(tokens):
        pass
    steps = engine.generate(GenerationConfig(max_new_tokens=ROOM, temperature=0.0), stop_ids=())
    for _ in range(STEPS // 2):  # the first ones compile and capture
        next(steps)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        next(steps)
    torch.cuda.synchronize()
    each = (time.perf_counter() - start) / STEPS
    spent, launches = profiled(steps)
    for name, total in spent.most_common():
        yield Launch("lrqk", context, name, launches[name] / STEPS, total / launches[name], 1e3 * each)


def main(arguments: Sequence[str]) -> None:
    """Profile the steps of a shape at each context."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("--weights", default="q4", choices=("bf16", "q8", "q4"))
    parser.add_argument("--ctx", default="64k,256k")
    asked = parser.parse_args(arguments)
    contexts = [parse_tokens(part) for part in asked.ctx.split(",")]
    form = None if asked.weights == "bf16" else asked.weights
    loaded = shapes.build(asked.shape, max(contexts), choose_device(), torch.bfloat16, form=form)
    config = LrqkConfig()
    results: list[Launch] = []
    for context in contexts:
        with Engine(loaded.model, loaded.spec, config, context) as engine:
            engine.uses_lookup = False  # random weights fall into loops, which it would find
            results += measure(engine, context)
    report = Report({"name": "profile", "steps": STEPS}, results, Table((), ()))
    print(to_json(environment(loaded, f"{asked.shape} (random weights)"), config, report))


if __name__ == "__main__":
    main(sys.argv[1:])
