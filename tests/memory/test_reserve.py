"""How much context is reserved where nobody says, and what memory counts as free."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory import budget as budgets
from lrqk_cli.memory import planner, probe
from lrqk_cli.memory.budget import Budget, find_budget, host_budget
from lrqk_cli.memory.machine import Machine
from lrqk_cli.memory.reserve import reserve
from lrqk_cli.models import shapes
from lrqk_cli.models.support import spec_from_config

GIB = 1 << 30
LLAMA_3B = spec_from_config(shapes.shapes()["llama-3.2-3b"], "llama-3.2-3b")
LLAMA_8B = spec_from_config(shapes.shapes()["llama-3.1-8b"], "llama-3.1-8b")
CUDA = torch.device("cuda", 0)


def test_five_pages_simply_work_on_a_small_card() -> None:
    """Of a model whose limit, 128K, would neither fit the card nor leave the machine any memory."""
    five_pages = 4000
    once = reserve(LLAMA_3B, "bfloat16", five_pages, Budget(8 * GIB, 12 * GIB), grows=False)
    assert once.context == 4096
    assert once.config.attention == "dense"
    chat = reserve(LLAMA_3B, "bfloat16", five_pages, Budget(8 * GIB, 12 * GIB), grows=True)
    assert 4096 <= chat.context < LLAMA_3B.max_context
    assert chat.config == once.config
    assert chat.why == once.why


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1 << 17), st.integers(16 * GIB, 40 * GIB), st.integers(1 * GIB, 40 * GIB))
def test_room_for_more_costs_no_quality_and_half_of_the_host_memory_at_most(
    needed: int, vram: int, ram: int
) -> None:
    budget = Budget(vram, ram)
    try:
        once = reserve(LLAMA_8B, "bfloat16", needed, budget, grows=False)
    except OutOfMemoryError:
        return
    chat = reserve(LLAMA_8B, "bfloat16", needed, budget, grows=True)
    assert needed <= once.context <= chat.context <= LLAMA_8B.max_context
    assert chat.config == once.config
    assert chat.estimate.total <= vram
    assert chat.estimate.host_kv <= max(ram // 2, once.estimate.host_kv)
    assert once.context == min(-(-needed // 1024) * 1024, LLAMA_8B.max_context)


def test_a_text_beyond_the_models_limit_gets_the_limit() -> None:
    assert reserve(LLAMA_3B, "bfloat16", 10**6, Budget(None, 99 * GIB), grows=False).context == 131072


def test_a_cpu_gets_the_defaults_and_counts_everything_as_host_memory() -> None:
    plan = reserve(LLAMA_3B, "float32", 4000, Budget(None, 40 * GIB), grows=True)
    assert (plan.config.attention, plan.config.hot, plan.segment) == ("lrqk", 8384, 512)
    assert plan.context % 1024 == 0
    assert plan.estimate.on_host <= 40 * GIB
    beyond = planner.find(LLAMA_3B, "float32", plan.context + 1024, None, 40 * GIB)
    assert beyond is None
    with pytest.raises(OutOfMemoryError, match="host memory") as caught:
        planner.plan(LLAMA_3B, "float32", 131072, None, 8 * GIB)
    assert caught.value.hint.startswith(("Choose `dtype`", "Choose a smaller"))


def test_full_attention_gives_way_where_it_reads_more_than_twice_the_bytes() -> None:
    """Llama 3.2 3B: weights of 6 GiB, KV rows of 14 GiB at 128K."""
    short, long = (
        planner.plan(LLAMA_3B, "bfloat16", context, 80 * GIB, 80 * GIB) for context in (16384, 131072)
    )
    assert short.config.attention == "dense"
    assert long.config.attention == "lrqk"
    assert long.config.hot == 8384
    # Without host memory there is no choice.
    assert planner.plan(LLAMA_3B, "bfloat16", 131072, 80 * GIB, GIB).config.attention == "dense"


def test_what_is_free_leaves_an_eighth_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "free_host_bytes", lambda **_: 16 * GIB)
    assert host_budget() == 14 * GIB
    assert host_budget(15 * GIB) == 15 * GIB
    assert host_budget(99 * GIB) == 16 * GIB
    assert find_budget(torch.device("cpu")) == (None, 14 * GIB)
    assert find_budget(torch.device("cpu"), 12 * GIB, GIB) == (12 * GIB, GIB)


def test_vram_limits_what_is_free_and_promises_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Machine("cuda:0", "GPU", 24 * GIB, 20 * GIB, has_bfloat16=True, bandwidth=None)
    monkeypatch.setattr(budgets.machine, "detect_machine", lambda: seen)
    assert find_budget(CUDA).vram == 20 * GIB
    assert find_budget(CUDA, 12 * GIB).vram == 12 * GIB
    assert find_budget(CUDA, 30 * GIB).vram == 20 * GIB
    monkeypatch.setattr(budgets.machine, "detect_machine", lambda: None)
    monkeypatch.setattr(probe, "free_device_bytes", lambda _: 7 * GIB)
    assert find_budget(CUDA).vram == 7 * GIB
    assert find_budget(torch.device("cuda", 1), 9 * GIB).vram == 7 * GIB
