"""Plans fit by their own estimate, keep what was asked for, and never get worse with more memory."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory import planner
from lrqk_cli.memory.accounting import weight_bytes
from lrqk_cli.memory.budget import Budget
from lrqk_cli.memory.estimate import estimate
from lrqk_cli.memory.plan import Plan
from lrqk_cli.memory.reserve import reserve
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models import catalog, shapes
from lrqk_cli.models.support import spec_from_config, with_form

GIB = 1 << 30
SPECS = {
    **{name: spec_from_config(shapes.shapes()[name], name) for name in ("llama-3.1-8b", "qwen2.5-1.5b")},
    "gemma-3-270m": spec_from_config(catalog.find("gemma-3-270m").config, "gemma-3-270m"),
}
specs = st.sampled_from(list(SPECS.values()))
# Whose weights stay plain numbers.
PLAIN = with_form(SPECS["llama-3.1-8b"], None)
contexts = st.integers(1, 1 << 19)
sizes = st.integers(0, 48 * GIB)
explicit = st.fixed_dictionaries(
    {},
    optional={
        "attention": st.sampled_from(["lrqk", "dense", "offload"]),
        "rank": st.sampled_from([16, 48]),
        "index_bits": st.sampled_from([4, 8, 16]),
        "hot": st.integers(2048, 9000),
        "top_k": st.integers(1, 2048),
        "segment": st.sampled_from([512, 3000, 16384]),
        "tail": st.sampled_from(["none", "mean"]),
        "hot_policy": st.sampled_from(["sticky", "exact"]),
        "grouping": st.sampled_from(["kv", "head"]),
    },
)


def quality(found: Plan, context: int) -> int:
    """Rows that stay on the device."""
    return max(context, 8192) if found.config.attention == "dense" else found.config.hot


@settings(max_examples=150, deadline=None)
@given(specs, contexts, sizes, sizes, explicit)
def test_a_plan_fits_and_keeps_what_was_asked(
    spec: ModelSpec, context: int, vram: int, ram: int, wanted: dict[str, Any]
) -> None:
    found = planner.find(spec, "bfloat16", context, vram, ram, wanted)
    if found is None:
        return
    assert found.estimate == estimate(found.spec, found.config, context, "bfloat16")
    assert found.estimate.total <= vram
    assert found.estimate.host_kv <= ram
    assert all(getattr(found.config, name) == value for name, value in wanted.items())
    if "hot" not in wanted and found.config.attention == "lrqk":
        assert found.config.hot % 64 == 0 or found.config.hot_policy != "sticky"
    if not {"hot", "top_k"} & wanted.keys() and found.config.hot_policy == "sticky":
        assert found.config.top_k == found.config.hot // 4


@settings(max_examples=150, deadline=None)
@given(specs, contexts, sizes, sizes)
def test_more_memory_never_means_coarser_weights_or_fewer_hot_rows_beside_the_same(
    spec: ModelSpec, context: int, one: int, other: int
) -> None:
    bounds = sorted((one, other))
    less, more = (planner.find(spec, "bfloat16", context, vram, 64 * GIB) for vram in bounds)
    if less is None:
        return
    assert more is not None
    finest_first = [None, "q8", "q4"]
    assert finest_first.index(more.form) <= finest_first.index(less.form)
    if more.form == less.form:
        assert quality(less, context) <= quality(more, context)


@settings(max_examples=40, deadline=None)
@given(specs, st.integers(1 << 10, 1 << 19), st.integers(1, 24 * GIB))
def test_a_refusal_names_a_context_that_fits(spec: ModelSpec, context: int, vram: int) -> None:
    if planner.find(spec, "bfloat16", context, vram, 64 * GIB):
        return
    with pytest.raises(OutOfMemoryError) as caught:
        planner.plan(spec, "bfloat16", context, vram, 64 * GIB)
    if "`context`" in caught.value.hint:
        nearest = int(caught.value.hint.split()[2])
        assert nearest < context
        assert planner.find(spec, "bfloat16", nearest, vram, 64 * GIB)
    else:
        assert caught.value.hint.startswith("Choose a smaller model")


@pytest.mark.parametrize("wanted", [{}, {"hot": 22_208}, {"rank": 16}], ids=str)
def test_a_refusal_names_the_least_that_is_needed(wanted: dict[str, Any]) -> None:
    spec = PLAIN
    with pytest.raises(OutOfMemoryError) as caught:
        planner.plan(spec, "bfloat16", 40_960, 15 * GIB, 64 * GIB, wanted)
    named = float(re.search(r"at least ([\d.]+) GiB", str(caught.value))[1])  # type: ignore[index]
    assert planner.find(spec, "bfloat16", 40_960, int((named + 0.01) * GIB), 64 * GIB, wanted)
    assert not planner.find(spec, "bfloat16", 40_960, int((named - 0.01) * GIB), 64 * GIB, wanted)


@pytest.mark.parametrize("vram", [None, 8 * GIB])
def test_rows_of_8_bits_are_offered_where_host_memory_is_short(vram: int | None) -> None:
    spec = SPECS["qwen2.5-1.5b"]
    exact = estimate(spec, LrqkConfig(), 32_768, "bfloat16").host_kv
    wanted: dict[str, Any] = {"attention": "lrqk"}
    ram = 3 * exact // 4 if vram else planner.plan(spec, "bfloat16", 32_768, None, 64 * GIB).estimate.on_host
    with pytest.raises(OutOfMemoryError, match="host memory") as caught:
        planner.plan(spec, "bfloat16", 32_768, vram, ram - 1, wanted)
    assert "`kv_dtype` int8" in caught.value.hint
    found = planner.plan(spec, "bfloat16", 32_768, vram, ram - 1, {**wanted, "kv_dtype": "int8"})
    assert found.config.kv_dtype == "int8"
    assert found.estimate.host_kv == exact * 260 // 512


@pytest.mark.parametrize("wanted", [{"kv_dtype": "int8"}, {"attention": "dense"}], ids=str)
def test_rows_of_8_bits_are_not_offered_where_they_do_not_help(wanted: dict[str, Any]) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        planner.plan(SPECS["qwen2.5-1.5b"], "bfloat16", 32_768, 2 * GIB, 1 << 20, wanted)
    assert "`kv_dtype`" not in caught.value.hint.split("Leave")[0]


def test_who_asks_for_rows_of_8_bits_gets_rows_in_host_memory() -> None:
    plan = partial(planner.plan, SPECS["qwen2.5-1.5b"], "bfloat16", 8192, 24 * GIB, 8 * GIB)
    found = plan({"kv_dtype": "int8"}).config
    assert (found.attention, found.kv_dtype) == ("lrqk", "int8")
    assert plan({"kv_dtype": "bf16"}).config.attention == "dense"


def test_full_attention_needs_no_approximation_where_it_fits() -> None:
    found = planner.plan(SPECS["qwen2.5-1.5b"], "bfloat16", 8192, 24 * GIB, 0)
    assert found.config.attention == "dense"
    assert found.segment == 8192


def test_lrqk_takes_over_where_the_rows_do_not_fit() -> None:
    found = planner.plan(SPECS["llama-3.1-8b"], "bfloat16", 65536, 22 * GIB, 64 * GIB)
    assert found.config.attention == "lrqk"
    assert (found.config.rank, found.config.index_bits) == (64, 4)
    assert found.config.hot >= 4096


def test_a_host_without_room_is_named() -> None:
    with pytest.raises(OutOfMemoryError, match="host memory"):
        planner.plan(PLAIN, "bfloat16", 131072, 22 * GIB, 4 * GIB)


def test_weights_that_never_fit_leave_only_another_type_or_model() -> None:
    spec = PLAIN
    with pytest.raises(OutOfMemoryError) as caught:
        planner.plan(spec, "float32", 8192, 20 * GIB, 64 * GIB)
    assert "`dtype` bfloat16" in caught.value.hint
    with pytest.raises(OutOfMemoryError) as caught:
        planner.plan(spec, "bfloat16", 8192, 8 * GIB, 64 * GIB)
    assert caught.value.hint.startswith("Choose a smaller model")
    assert caught.value.exit_code == 5


@given(specs, contexts, sizes, sizes)
@settings(deadline=None)
def test_weights_are_as_fine_as_leaves_room(spec: ModelSpec, context: int, vram: int, ram: int) -> None:
    found = planner.find(spec, "bfloat16", context, vram, ram)
    alone = [with_form(spec, form) for form in (None, "q8", "q4")]
    fits = [plan for one in alone if (plan := planner.find(one, "bfloat16", context, vram, ram))]
    good = [plan for plan in fits if quality(plan, context) >= 4096]
    assert found == (good[0] if good else fits[-1] if fits else None)


def test_four_bits_hold_a_text_that_sixteen_do_not() -> None:
    spec = SPECS["llama-3.1-8b"]
    forms = {vram: planner.plan(spec, "bfloat16", 131072, vram * GIB, 64 * GIB).form for vram in (8, 12, 24)}
    assert forms == {8: "q4", 12: "q8", 24: None}
    with pytest.raises(OutOfMemoryError):
        planner.plan(PLAIN, "bfloat16", 131072, 12 * GIB, 64 * GIB)


def test_a_cpu_has_plain_numbers() -> None:
    spec = SPECS["llama-3.1-8b"]
    assert planner.plan(spec, "bfloat16", 4096, None, 64 * GIB).form is None
    assert planner.find(spec, "bfloat16", 4096, None, 12 * GIB) is None


def test_what_is_not_packed_is_as_wide_as_its_type() -> None:
    spec = with_form(SPECS["llama-3.1-8b"], "q4")
    assert spec.packed is not None
    assert spec.packed.plain == 2 * (65 * 4096)  # the norms
    narrow, wide = (weight_bytes(spec, dtype) for dtype in ("bfloat16", "float32"))
    assert (narrow, wide) == (spec.packed.total, spec.packed.total + spec.packed.plain)


MIXTURE = replace(spec_from_config(shapes.shapes()["qwen3-30b-a3b"], "mixture"), may_offload=True)


def test_experts_stay_in_host_memory_only_where_nothing_else_fits() -> None:
    plans = [planner.plan(MIXTURE, "bfloat16", 32768, vram * GIB, 64 * GIB) for vram in (8, 16, 24, 48)]
    chosen = [(plan.form, plan.has_experts_on_host) for plan in plans]
    assert chosen == [("q4", True), ("q4", True), ("q4", False), ("q8", False)]
    small = plans[0].estimate
    assert small.total <= 8 * GIB
    assert small.host_weights > 15 * GIB
    assert small.beside_device == small.host_weights + small.host_kv
    with pytest.raises(OutOfMemoryError, match="host memory"):
        planner.plan(MIXTURE, "bfloat16", 32768, 8 * GIB, small.host_weights - 1)
    with pytest.raises(OutOfMemoryError, match="device memory") as caught:
        planner.plan(replace(MIXTURE, may_offload=False), "bfloat16", 32768, 8 * GIB, 64 * GIB)
    assert "`offload_weights`" in caught.value.hint


def test_room_for_more_text_moves_no_experts() -> None:
    least = planner.plan(MIXTURE, "bfloat16", 8192, 20 * GIB, 64 * GIB)
    assert not least.has_experts_on_host
    reserved = reserve(MIXTURE, "bfloat16", 8192, Budget(20 * GIB, 64 * GIB), grows=True)
    assert not reserved.has_experts_on_host
    apart = reserve(MIXTURE, "bfloat16", 8192, Budget(8 * GIB, 64 * GIB), grows=True)
    assert apart.has_experts_on_host
    assert apart.context > 32768
