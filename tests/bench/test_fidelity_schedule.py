"""Answers by the schedule of a GPU, forced on a CPU, on a task where it counts which rows are chosen.

Factors are fitted ahead of the last segment, hot sets are seeded within it, and steps choose rows by bins of
their scores. In float32, which leaves no noise.
"""

from __future__ import annotations

import pytest
import torch
from measurements import script

from lrqk_cli.bench.fidelity.cases import Case, CaseSize, PromptInputs, ruler_cases
from lrqk_cli.bench.fidelity.measure import Reference, compare, full_attention
from lrqk_cli.bench.ruler.essay import Essay
from lrqk_cli.bench.ruler.tasks import TaskInputs
from lrqk_cli.config import LrqkConfig, default_top_k
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.loading import LoadedModel, choose_device, load, resolve
from lrqk_cli.models.prompt import ChatPrompt

pytestmark = pytest.mark.model

CONTEXT, STEPS, TASK = 5120, 24, "fwe"
SMALL = LrqkConfig(rank=32, hot=384, top_k=default_top_k(384), segment=640)
# Seen: 0.0039; 0.0037 where factors are fitted when the text has ended; 0.0100 where sums are not turned, as
# up to commit d559b00.
BOUND = 0.0065


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load(resolve("smollm2-135m"), choose_device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def case(loaded: LoadedModel) -> Case:
    material = PromptInputs(ChatPrompt(loaded.tokenizer), [], TaskInputs(Essay.made_up()))
    return ruler_cases(TASK, 0, material, CaseSize(CONTEXT, STEPS, turns=1, samples=1))[0]


@pytest.fixture(scope="module")
def references(loaded: LoadedModel, case: Case) -> list[Reference]:
    settings = LrqkConfig(attention="dense", segment=SMALL.segment)
    with Engine(loaded.model, loaded.spec, settings, CONTEXT) as engine:
        return full_attention(engine, loaded, case, STEPS)


def divergence(schedule: str, loaded: LoadedModel, case: Case, references: list[Reference]) -> float:
    schedules = script("schedules")
    with (
        schedules.in_force(schedules.SCHEDULES[schedule]),
        Engine(loaded.model, loaded.spec, SMALL, CONTEXT) as engine,
    ):
        assert engine.cache.has_device_steps
        (comparison,) = compare(engine, loaded, case, references, observe=False)
        return float(comparison.divergence.mean())


def test_answers_are_close_to_full_attention(loaded, case, references):
    assert 0.0 < divergence("ahead", loaded, case, references) < BOUND


@pytest.mark.parametrize("schedule", ["ahead, not turned", "ahead, first tokens may leave"])
def test_the_schedules_of_before_break_the_bound(loaded, case, references, schedule):
    assert divergence(schedule, loaded, case, references) > BOUND
