"""When the factors of the index are fitted, switched alone: what answers lose by each schedule, as JSON.

    python schedules.py MODEL TEXT --ctx 32k > schedules.json

On a CPU the schedule of a GPU is forced, on the plain references of its kernels: ``--dtype float32``
leaves no noise there, and ``--ctx 5k`` takes minutes. Segments are an eighth of the context. Every
schedule is led along the same answers of full attention, with the same settings. The report has the form
of ``lrqk bench --suite fidelity --output json``, so that ``make_tables.py`` reads it; a mode of it is a
schedule and a share of the KV cache.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.factors import Moments
from lrqk_cli.attention.index_fit import IndexFit
from lrqk_cli.attention.projection import JointProjector, SolvedMaps
from lrqk_cli.bench.environment import environment
from lrqk_cli.bench.fidelity import measure, results, table
from lrqk_cli.bench.fidelity.cases import TEXT, Case, CaseSize, PromptInputs, ruler_cases, text_cases
from lrqk_cli.bench.fidelity.run import size_of
from lrqk_cli.bench.report import Report, to_json
from lrqk_cli.bench.ruler.essay import Essay
from lrqk_cli.bench.ruler.tasks import TaskInputs
from lrqk_cli.cli.values import parse_tokens
from lrqk_cli.config import LrqkConfig, default_top_k
from lrqk_cli.engine.decode import FixedStep
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.devices import resolve_device_dtype
from lrqk_cli.models.loading import LoadedModel, load, resolve
from lrqk_cli.models.prompt import ChatPrompt

TASKS = (TEXT, "cwe", "fwe")
# Of the standard deviation that was allowed for before what is to come was foreseen.
ROOM = 1.25
# A second prompt begins here: it adds 43% and 18% to the text before it.
SPLITS = (0.7, 0.85)

Schedule = Callable[[ExitStack], None]


def after(stack: ExitStack) -> None:
    """Factors are fitted when the text has ended."""
    stack.enter_context(patch.object(LrqkCache, "has_link", False))


def ahead_unturned(stack: ExitStack) -> None:
    """Factors are fitted to what there is, with some room for the rest, as up to commit d559b00."""
    solve = JointProjector.solve

    def with_room(projector: JointProjector, moments: Moments) -> SolvedMaps:
        solved = solve(projector, moments)
        return solved._replace(install=lambda: ROOM * solved.install())

    stack.enter_context(patch.object(Moments, "grown", lambda moments, *_: moments))
    stack.enter_context(patch.object(JointProjector, "solve", with_room))


def without_sinks(stack: ExitStack) -> None:
    """The first tokens leave when their scores are low, as up to commit 805f050."""
    stack.enter_context(patch.object(LrqkConfig, "sink_tokens", 0))


def kept(stack: ExitStack) -> None:
    """A fit is kept until most of the text is new to it, as up to commit 8678aa2."""

    def is_outgrown(fit: IndexFit, coming: int = 0) -> bool:
        return fit.observed + coming - fit.tokens > fit.tokens

    stack.enter_context(patch.object(IndexFit, "is_outgrown", is_outgrown))


def in_two(share: float) -> Schedule:
    """The prompt comes in two parts, of which the first has this share."""

    def apply(stack: ExitStack) -> None:
        whole = measure._prefill

        def parts(engine: Engine, tokens: Sequence[int]) -> None:
            cut = int(share * len(tokens))
            whole(engine, tokens[:cut])
            whole(engine, tokens[cut:])

        stack.enter_context(patch.object(measure, "_prefill", parts))

    return apply


SCHEDULES: dict[str, tuple[Schedule, ...]] = {
    "ahead": (),
    "after": (after,),
    "ahead, not turned": (ahead_unturned,),
    "ahead, first tokens may leave": (without_sinks,),
    **{f"text grown by {1 / share - 1:.0%}": (in_two(share),) for share in SPLITS},
    **{f"text grown by {1 / share - 1:.0%}, fit kept": (in_two(share), kept) for share in SPLITS},
}


def with_hot_rows(part: float, context: int) -> LrqkConfig:
    """Return the default settings with that part of all rows on the device, in the recent window or hot."""
    hot = int(part * context) - LrqkConfig().recent
    return LrqkConfig(hot=hot, top_k=default_top_k(hot), segment=context // 8)


@contextmanager
def in_force(parts: Sequence[Schedule]) -> Iterator[None]:
    """Run what is inside by a schedule."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(LrqkCache, "has_link", True))
        if not torch.cuda.is_available():
            stack.enter_context(patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: True))
            stack.enter_context(patch.object(FixedStep, "_capture", lambda _: None))
        for part in parts:
            part(stack)
        yield


def compared(
    loaded: LoadedModel, cases: Sequence[Case], sizes: dict[str, LrqkConfig], context: int, new_tokens: int
) -> Iterator[results.FidelityResult]:
    """Yield one result for each schedule and each of the settings, over the cases of one task."""
    with Engine(loaded.model, loaded.spec, LrqkConfig(attention="dense"), context) as engine:
        references = [measure.full_attention(engine, loaded, case, new_tokens) for case in cases]

    def decode(token: int) -> str:
        return str(loaded.tokenizer.decode([token]))

    for share, settings in sizes.items():
        size = size_of(loaded, settings, context)
        for name, parts in SCHEDULES.items():
            found = []
            with in_force(parts), Engine(loaded.model, loaded.spec, settings, context) as engine:
                for case, reference in zip(cases, references, strict=True):
                    found += measure.compare(engine, loaded, case, reference, observe=False)
            yield results.result(cases[0].task, f"{share}, {name}", 1, context, size, found, decode)


def main() -> None:
    """Measure, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--ctx", type=parse_tokens, default=32768)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype")
    asked = parser.parse_args()
    loaded = load(resolve(asked.model), *resolve_device_dtype(None, asked.dtype, None))
    prompt, text = ChatPrompt(loaded.tokenizer), asked.text.read_text(encoding="utf-8")
    material = PromptInputs(prompt, prompt.text(text), TaskInputs(Essay(text)))
    shape = CaseSize(asked.ctx, asked.new_tokens, turns=1, samples=asked.samples)
    sizes = {name: with_hot_rows(part, asked.ctx) for name, part in (("37.5%", 0.25), ("20%", 0.075))}
    found: list[results.FidelityResult] = []
    for task in TASKS:
        print(task, file=sys.stderr)
        cases = (
            text_cases(material, shape) if task == TEXT else ruler_cases(task, asked.seed, material, shape)
        )
        found += compared(loaded, cases, sizes, asked.ctx, asked.new_tokens)
    facts = {"name": "schedules", "tasks": TASKS, "samples": asked.samples, "seed": asked.seed}
    together = results.overall(found)
    modes = {f"{share}, {name}": settings for share, settings in sizes.items() for name in SCHEDULES}
    report = Report(facts, found, table.table(found, together), together, modes=modes)
    print(to_json(environment(loaded, asked.model), LrqkConfig(), report))


if __name__ == "__main__":
    main()
