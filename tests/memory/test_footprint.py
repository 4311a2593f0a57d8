"""What a footprint counts, as values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory import planner
from lrqk_cli.memory.budget import Budget
from lrqk_cli.memory.estimate import estimate
from lrqk_cli.memory.footprint import CARDS, CONTEXTS, Footprint, FootprintRequest, footprint, longest_text
from lrqk_cli.memory.machine import Machine
from lrqk_cli.memory.roofline import Bandwidth, step_bytes
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.describe import describe_shape

GIB = 1 << 30
SPEC = describe_shape("llama-3.2-1b").with_weights("bf16", on_gpu=True)
ASKED = FootprintRequest("mine", None, LrqkConfig(), {}, None, None, vram=None, ram=64 * GIB)
CARD = Machine("cuda:0", "GPU", 24 * GIB, 20 * GIB, has_bfloat16=True, bandwidth=1e12)


def count(
    asked: FootprintRequest = ASKED, machine: Machine | None = None, spec: ModelSpec = SPEC
) -> Footprint:
    return footprint(asked, spec, spec, 8192, "bfloat16", machine)


def test_without_a_budget_the_settings_are_those_asked_for() -> None:
    found = count()
    needed = estimate(SPEC, ASKED.config, 8192, "bfloat16")
    assert (found.budget, found.longest_context, found.predicted, found.why) == (None, None, None, None)
    assert found.attention == ASKED.config
    assert found.device_memory == {**needed.items, "total": needed.total}
    assert found.host_memory.kv_rows == needed.host_kv
    assert (found.model, found.parameters, found.weights) == ("mine", SPEC.num_parameters, "bf16")


def test_the_budget_is_the_card_that_was_asked_about_or_what_is_free_here() -> None:
    here, there = count(machine=CARD), count(replace(ASKED, vram=12 * GIB), CARD)
    assert (here.budget, there.budget) == (20 * GIB, 12 * GIB)
    plan = planner.plan(SPEC, "bfloat16", 8192, 20 * GIB, 64 * GIB, {})
    assert (here.attention, here.why) == (plan.config, plan.why)
    assert here.longest_context == SPEC.max_context


def test_what_does_not_fit_is_shown_here_and_refused_for_a_card() -> None:
    found = count(machine=replace(CARD, free=GIB))
    assert found.attention == ASKED.config
    assert found.device_memory["total"] > found.budget == GIB
    assert found.longest_context == 0
    with pytest.raises(OutOfMemoryError):
        count(replace(ASKED, vram=GIB), CARD)


def test_a_speed_is_predicted_where_all_that_a_step_reads_is_known() -> None:
    predicted = count(machine=CARD).predicted
    read = step_bytes(SPEC, LrqkConfig(attention="dense"), 8192, "bfloat16")
    assert predicted is not None
    assert read is not None
    speed = read.tokens_per_second(Bandwidth(1e12, None))
    assert predicted.full_attention_decode_tokens_per_s == speed <= predicted.decode_tokens_per_s
    assert count(machine=CARD, spec=replace(SPEC, num_parameters_read=None)).predicted is None
    assert count(machine=replace(CARD, bandwidth=None)).predicted is None


def test_each_context_has_a_cell_on_each_card() -> None:
    cells = count().cards
    assert [(cell.device_bytes, cell.ctx) for cell in cells] == [
        (card * GIB, context) for card in CARDS for context in CONTEXTS
    ]
    for cell in cells:
        found = planner.find(SPEC, "bfloat16", cell.ctx, cell.device_bytes, 64 * GIB, {})
        assert cell.attention == (found and found.config.attention)
        assert (cell.hot is not None) == (cell.attention == "lrqk")
        assert (cell.weights is None) == (found is None)


def test_the_longest_text_fits_and_a_longer_one_does_not() -> None:
    budget = Budget(6 * GIB, 2 * GIB)
    found = longest_text(SPEC, "bfloat16", budget, {})
    longest = found.longest_context
    assert 0 < longest < found.max_context == SPEC.max_context
    assert planner.find(SPEC, "bfloat16", longest, *budget) is not None
    assert planner.find(SPEC, "bfloat16", longest + planner.CONTEXT_STEP, *budget) is None
    assert found.host_kv_rows is not None
    assert found.host_kv_rows <= 2 * GIB
    none = longest_text(SPEC, "bfloat16", Budget(GIB, GIB), {})
    assert (none.longest_context, none.host_kv_rows, none.is_comfortable) == (0, None, False)
