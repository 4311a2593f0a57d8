"""Answers by the schedule of a GPU, forced on a CPU, on tasks where it counts which rows are chosen.

Factors are fitted ahead of the last segment, hot sets are seeded within it, and steps choose rows by bins of
their scores. In float32, which leaves no noise.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from measurements import script

from lrqk_cli.bench.fidelity.cases import TEXT, Case, CaseSize, PromptInputs, ruler_cases, text_cases
from lrqk_cli.bench.fidelity.measure import Reference, compare, full_attention
from lrqk_cli.bench.ruler.essay import Essay
from lrqk_cli.bench.ruler.tasks import TaskInputs
from lrqk_cli.config import LrqkConfig, default_top_k
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.loading import LoadedModel, choose_device, load, resolve
from lrqk_cli.models.prompt import ChatPrompt

pytestmark = pytest.mark.model

CONTEXT, STEPS, TASKS = 5120, 24, (TEXT, "cwe", "fwe")
SMALL = LrqkConfig(rank=32, hot=384, top_k=default_top_k(384), segment=1280)
# Of the mean over the tasks, and of fwe alone. Seen: 0.0042 and 0.0041; 0.0036 and 0.0037 where factors are
# fitted when the text has ended; 0.0082 and 0.0102 where sums are not turned, as up to commit d559b00.
BOUND, BOUND_OF_FWE = 0.006, 0.0065


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load(resolve("smollm2-135m"), choose_device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def cases(loaded: LoadedModel) -> dict[str, Case]:
    text = Path(__file__).parents[2] / "docs" / "samples" / "report.md"
    prompt = ChatPrompt(loaded.tokenizer)
    material = PromptInputs(
        prompt, prompt.text(text.read_text(encoding="utf-8")), TaskInputs(Essay.made_up())
    )
    shape = CaseSize(CONTEXT, STEPS, turns=1, samples=1)
    of_ruler = {task: ruler_cases(task, 0, material, shape)[0] for task in TASKS if task != TEXT}
    return {TEXT: text_cases(material, shape)[0], **of_ruler}


@pytest.fixture(scope="module")
def references(loaded: LoadedModel, cases: dict[str, Case]) -> dict[str, list[Reference]]:
    settings = LrqkConfig(attention="dense", segment=SMALL.segment)
    with Engine(loaded.model, loaded.spec, settings, CONTEXT) as engine:
        return {task: full_attention(engine, loaded, case, STEPS) for task, case in cases.items()}


def divergence(
    schedule: str, loaded: LoadedModel, cases: dict[str, Case], references: dict[str, list[Reference]]
) -> dict[str, float]:
    found = {}
    schedules = script("schedules")
    with (
        schedules.in_force(schedules.SCHEDULES[schedule]),
        Engine(loaded.model, loaded.spec, SMALL, CONTEXT) as engine,
    ):
        assert engine.cache.has_device_steps
        for task, case in cases.items():
            (comparison,) = compare(engine, loaded, case, references[task], observe=False)
            found[task] = float(comparison.divergence.mean())
    return found


def test_answers_are_close_to_full_attention(loaded, cases, references):
    found = divergence("ahead", loaded, cases, references)
    assert 0.0 < sum(found.values()) / len(found) < BOUND, found
    assert found["fwe"] < BOUND_OF_FWE


@pytest.mark.parametrize("schedule", ["ahead, not turned", "ahead, first tokens may leave"])
def test_the_schedules_of_before_break_the_bound(loaded, cases, references, schedule):
    found = divergence(schedule, loaded, {"fwe": cases["fwe"]}, references)
    assert found["fwe"] > BOUND_OF_FWE
