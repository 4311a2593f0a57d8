"""Texts of which all rows are resident: steps need no index."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NoReturn
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from made_rows import PARAMS, feed, rows, two_layers, verify
from residents import check_rows, solver_threads
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention import cache as cache_module
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.factors import Moments
from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.projection import JointProjector, SolvedMaps
from lrqk_cli.config import KvDtype, LrqkConfig
from lrqk_cli.kernels.codes import unpack_codes

pytestmark = pytest.mark.usefixtures("solvers_end")

CONTEXT, LAYERS, HEADS, GROUP, WIDTH, DRAFTS = 120, 2, 2, 3, 8, 3
SPEC = two_layers(WIDTH)
# 40 rows are resident, and a step with its drafts fits after 36 tokens.
SOME_ROWS = LrqkConfig(hot=32, top_k=8, recent=8, rank=4, lookup=DRAFTS)
ROWS, LAST = 40, 36
# Rows in 8 bits beside those that the model has computed, which are of a standard normal distribution.
LARGEST_ROUNDING = 0.1


def step(cache: LrqkCache, params: AttentionParams = PARAMS) -> list[Tensor]:
    """Take a step as the engine does."""
    cache.prepare_step()
    cache.solve_soon()
    return feed(cache, [cache.position.length], params=params)


def segment(cache: LrqkCache, count: int, params: AttentionParams = PARAMS) -> list[Tensor]:
    first = cache.position.length
    with cache.prefilling():
        return feed(cache, range(first, first + count), params=params)


def step_until(cache: LrqkCache, length: int) -> None:
    while cache.position.length < length:
        step(cache)


def new_cache(
    on_device: bool = False, *, holds: bool = True, config: LrqkConfig = SOME_ROWS, **changes: Any
) -> LrqkCache:
    """Return a cache, ``on_device`` with the steps of a GPU on the plain references of their kernels.

    Without ``holds`` it prepares for the choice of rows at once. What is not defined yet is poisoned.
    """
    with patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: on_device):
        cache = LrqkCache(SPEC, replace(config, **changes), CONTEXT, torch.float32, torch.device("cpu"))
    if not holds:
        cache.holds_all = lambda _: False  # type: ignore[method-assign]
    for layer in cache.lrqk_layers:
        layer.hot.rows.fill_(torch.nan)
        layer.store.rows.view(-1).fill_(0)
        if layer.drafts is not None:
            layer.drafts.rows.fill_(torch.nan)
        if isinstance(layer.projector, JointProjector):
            for tensor in layer.projector.fitted():
                tensor.fill_(torch.nan)
    return cache


def check_codes(layer: LrqkLayer, expected: LowRankIndex) -> None:
    """Sums in another order may round to the next code, seldom."""
    length = layer.position.length
    assert torch.equal(layer.index.scale, expected.scale)
    ours, others = (unpack_codes(index.codes[:, :length]).float() for index in (layer.index, expected))
    most = 1.0 if not layer.index.codes.is_floating_point() else 2**-7 * others.abs().max()
    assert (ours - others).abs().max() <= most
    assert (ours == others).double().mean() > 0.98


def check_index(layer: LrqkLayer) -> None:
    """The index is that of all keys, by the maps and the scale in force."""
    length = layer.position.length
    index = LowRankIndex(SPEC, layer.config, CONTEXT, torch.device("cpu"))
    index.scale.copy_(layer.index.scale)
    for key, _ in layer.store.stream(0, length):
        index.write(0, layer.projector.project_keys(key))
    check_codes(layer, index)


def check_same_fit(layer: LrqkLayer, other: LrqkLayer) -> None:
    assert layer.prefill is None
    assert layer.fit.tokens == other.fit.tokens
    for part, expected in zip(layer.projector.fitted(), other.projector.fitted(), strict=True):
        assert torch.equal(part, expected)
    if layer.tail is not None:
        assert other.tail is not None
        assert torch.equal(layer.tail.slope, other.tail.slope)
        assert torch.equal(layer.tail.intercept, other.tail.intercept)
    check_codes(layer, other.index)


def check_same_residents(layer: LrqkLayer, other: LrqkLayer) -> None:
    length = layer.position.length
    assert torch.equal(layer.hot.resident_tokens(length), other.hot.resident_tokens(length))
    assert torch.equal(layer.hot.resident, other.hot.resident)
    for part, expected in zip(layer.hot.resident_rows(length), other.hot.resident_rows(length), strict=True):
        assert torch.equal(part, expected)


@contextmanager
def no_index() -> Iterator[None]:
    """Let everything fail that is needed only for the choice of rows."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("all rows are resident")

    with ExitStack() as stack:
        for owner, name in (
            (JointProjector, "solve"),
            (JointProjector, "step"),
            (LowRankIndex, "write"),
            (kernels, "score_tokens"),
            (kernels, "select_rows"),
        ):
            stack.enter_context(patch.object(owner, name, refuse))
        yield


@pytest.mark.parametrize(
    "changes",
    [{}, {"grouping": "head"}, {"tail": "none"}, {"tail": "mean"}, {"hot_policy": "exact", "top_k": 32}],
    ids=str,
)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("on_device", [False, True])
def test_nothing_is_solved_indexed_or_scored_while_a_text_fits(
    on_device: bool, softcap: float | None, changes: dict[str, object]
) -> None:
    params = AttentionParams(0.4, softcap, torch.linspace(-1.0, 1.0, HEADS * GROUP))
    cache, dense = new_cache(on_device, **changes), new_cache(attention="dense")
    with no_index():
        for count in (11, 1, 1, 5, 3, *[1] * 12, 2, 1, 1):
            play = step if count == 1 else segment
            arguments = (params,) if count == 1 else (count, params)
            found, expected = play(cache, *arguments), play(dense, *arguments)  # type: ignore[operator]
            if count > 1:
                cache.finish_prefill()
            for own, other in zip(found, expected, strict=True):
                torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
    assert cache.position.length == LAST + 1
    for layer in cache.lrqk_layers:
        assert layer.fit.tokens == 0
        assert layer.prefill is not None
        assert layer.prefill.is_held
        assert layer.prefill.indexed == 0
    check_rows(cache)


@pytest.mark.parametrize("on_device", [False, True])
def test_the_last_step_that_fits_is_full_attention_and_the_next_one_needs_an_index(on_device: bool) -> None:
    cache, dense = new_cache(on_device, lookup=0), new_cache(attention="dense")
    for each in (cache, dense):
        segment(each, 20)
    with no_index():
        while cache.position.length < ROWS:
            for own, other in zip(step(cache), step(dense), strict=True):
                torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
        with pytest.raises(AssertionError, match="resident"):
            step(cache)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"index_bits": 8},
        {"index_bits": 16},
        {"tail": "none"},
        {"tail": "mean"},
        {"grouping": "head"},
        {"kv_dtype": "int8"},
        {"kv_dtype": "int8", "grouping": "head"},
        {"hot_policy": "exact", "top_k": 32},
    ],
    ids=str,
)
@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("on_device", [False, True])
def test_an_answer_outgrows_the_hot_set_as_if_all_had_been_prepared(
    on_device: bool, drafts: bool, changes: dict[str, object]
) -> None:
    if drafts and "hot_policy" in changes:
        pytest.skip("this hot set takes no drafts")
    cache, at_once = new_cache(on_device, **changes), new_cache(on_device, holds=False, **changes)
    for each in (cache, at_once):
        segment(each, 13)
        segment(each, 12)
        step(each)
        if drafts:
            verify(each, 3)
            verify(each, 1)
        while cache.holds_all(each.position.length):
            if each is cache:
                assert all(layer.fit.tokens == 0 for layer in cache.lrqk_layers)
            verify(each, 1) if drafts else step(each)
        each.finish_prefill()
        each.settle()
    length = cache.position.length
    assert length == at_once.position.length
    assert LAST < length <= ROWS
    for layer, other in zip(cache.lrqk_layers, at_once.lrqk_layers, strict=True):
        assert layer.fit.tokens == 25
        check_index(layer)
        check_same_fit(layer, other)
        check_same_residents(layer, other)
    for _ in range(9):
        for own, other in zip(step(cache), step(at_once), strict=True):
            assert own.isfinite().all()
            torch.testing.assert_close(own, other, rtol=0.05, atol=0.05)
    check_rows(cache)
    for layer in cache.lrqk_layers:
        assert layer.fit.tokens == 25
        check_index(layer)


def test_a_segment_outgrows_the_hot_set_after_steps() -> None:
    """The tokens of the answer are indexed with those of the segments, by a fit to these."""
    cache, at_once = new_cache(), new_cache(holds=False)
    for each in (cache, at_once):
        segment(each, 20)
        step_until(each, 30)
        segment(each, 30)
        each.finish_prefill()
    for layer, other in zip(cache.lrqk_layers, at_once.lrqk_layers, strict=True):
        assert layer.fit.tokens == 50
        check_index(layer)
        check_same_fit(layer, other)
    check_rows(cache)


MOVES = st.one_of(
    st.tuples(st.just("segment"), st.integers(1, 9)),
    st.tuples(st.just("verify"), st.integers(0, DRAFTS)),
    st.tuples(st.sampled_from(["step", "point", "rewind", "finish"]), st.just(1)),
)


def check_exact(cache: LrqkCache, first: int, outputs: list[Tensor], wrong_from: int | None = None) -> None:
    """The outputs of the tokens from ``first`` on are those of full attention, by a float64 oracle."""
    count = outputs[0].shape[2]
    places = torch.arange(first, first + count)
    for number, layer in enumerate(cache.lrqk_layers):
        (key, value), *_ = layer.store.stream(0, first + count)
        for name, part in (("key", key), ("value", value)):
            expected = rows(SPEC, range(first + count), number, name, wrong_from)
            rounding = 0.0 if layer.store.scales is None else LARGEST_ROUNDING
            torch.testing.assert_close(part, expected, rtol=0, atol=rounding)
        query = rows(SPEC, range(first, first + count), number, "query", wrong_from)
        query = query.view(HEADS, GROUP, count, WIDTH).double()
        logits = query @ key.double().mT.unsqueeze(1) * PARAMS.scaling
        hidden = torch.arange(first + count) > places[:, None]
        weights = logits.masked_fill(hidden, float("-inf")).softmax(-1)
        expected = weights @ value.double().unsqueeze(1)
        torch.testing.assert_close(outputs[number].double(), expected, rtol=1e-5, atol=1e-5)


def move(cache: LrqkCache, kind: str, count: int) -> None:
    """Take a segment, a step or a verify step, and compare its outputs as long as all rows are resident."""
    cache.settle()
    first, fits = cache.position.length, cache.holds_all(cache.position.length)
    if kind == "segment" or first == 0:
        check_exact(cache, first, segment(cache, max(1, count)))
        return
    outputs = verify(cache, count) if kind == "verify" else step(cache)
    wrong_from = first + 1 + count if kind == "verify" else None
    if fits:
        check_exact(cache, first, outputs, wrong_from)
        for layer in cache.lrqk_layers:
            assert layer.hot.candidates(cache.position.length) <= layer.hot.size
            assert layer.prefill is not None
    else:
        assert all(output.isfinite().all() for output in outputs)
        assert all(layer.prefill is None for layer in cache.lrqk_layers)


@settings(deadline=None, max_examples=100)
@given(
    moves=st.lists(MOVES, max_size=14),
    hot=st.integers(4, 60),
    recent=st.integers(1, 9),
    grouping=st.sampled_from(["kv", "head"]),
    kv_dtype=st.sampled_from(["bf16", "int8"]),
    on_device=st.booleans(),
)
def test_any_sequence_is_full_attention_as_long_as_all_rows_fit(
    moves: list[tuple[str, int]], hot: int, recent: int, grouping: str, kv_dtype: KvDtype, on_device: bool
) -> None:
    changes = {"hot": hot, "top_k": 4, "recent": recent, "grouping": grouping, "kv_dtype": kv_dtype}
    cache, points = new_cache(on_device, **changes), []
    for kind, count in moves:
        if kind == "point":
            points.append(cache.rewind_point())
        elif kind == "rewind":
            if points:
                cache.rewind(points[-1])
        elif kind == "finish":
            cache.finish_prefill()
        elif cache.position.length < CONTEXT - 20:
            move(cache, kind, count)
    move(cache, "step", 1)
    check_rows(cache)
    while cache.position.length < min(recent + hot + 3, CONTEXT - 5):
        move(cache, "step", 1)
    check_rows(cache)
    for layer in cache.lrqk_layers:
        if layer.prefill is None:
            assert layer.fit.tokens > 0
            # Maps of fewer tokens have directions in which codes are rounding errors alone.
            if layer.fit.tokens > 2 * WIDTH:
                check_index(layer)
    if points:
        cache.rewind(points[0])
        move(cache, "step", 1)
        check_rows(cache)


@pytest.mark.parametrize("grouping", ["kv", "head"])
def test_both_kinds_of_steps_demand_the_same_rows(grouping: str) -> None:
    found = []
    for on_device in (False, True):
        cache, expected = new_cache(on_device, grouping=grouping), 0
        sets = HEADS * GROUP if grouping == "head" else HEADS
        segment(cache, 6)
        for kind in ("step",) * 5 + ("verify",) * 4 + ("step",) * 4:
            candidates = max(0, cache.position.length + 1 - SOME_ROWS.recent)
            expected += LAYERS * sets * min(SOME_ROWS.top_k, candidates)
            verify(cache, 1) if kind == "verify" else step(cache)
        assert cache.holds_all(cache.position.length)
        stats = cache.counters.take()
        assert stats.rows_wanted == expected > 0
        assert stats.rows_fetched == 0
        assert cache.counters.take().rows_wanted == 0
        found.append(stats.rows_wanted)
    assert found[0] == found[1]


@pytest.mark.parametrize("on_device", [False, True])
def test_sources_are_those_of_steps_with_an_index(on_device: bool) -> None:
    """Over two turns; the answer of the second one outgrows the hot set, and its sums go on."""
    cache, at_once = new_cache(on_device, index_bits=16), new_cache(on_device, holds=False, index_bits=16)
    for each in (cache, at_once):
        each.track_sources(True)

    def check() -> None:
        for each in (cache, at_once):
            assert each.source_weights is not None
        found, expected = (torch.tensor(each.source_weights) for each in (cache, at_once))
        assert found.sum() > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    for count, stop in ((12, 16), (9, LAST)):
        for each in (cache, at_once):
            segment(each, count)
            step_until(each, stop)
            verify(each, 0)
            each.settle()
        check()
        assert all(layer.fit.tokens == 0 for layer in cache.lrqk_layers)
    for _ in range(3):
        for each in (cache, at_once):
            step(each)
        check()
    assert all(layer.fit.tokens == 21 for layer in cache.lrqk_layers)


def test_a_step_that_warms_up_is_full_attention_too() -> None:
    """It chooses rows by maps that are not defined, and all rows are resident."""
    cache, dense, scored = new_cache(True), new_cache(attention="dense"), []
    score = kernels.score_tokens

    def note(*arguments: Any, **options: Any) -> None:
        scored.append(1)
        score(*arguments, **options)

    for each in (cache, dense):
        segment(each, 20)
    with patch.object(kernels, "score_tokens", note):
        with cache.warming_up():
            found = [step(cache)]
            assert cache.is_choosing
        found += [step(cache), verify(cache, 0)]
    assert not cache.is_choosing
    assert len(scored) == LAYERS
    for outputs in found:
        for own, other in zip(outputs, step(dense), strict=True):
            torch.testing.assert_close(own[:, :, :1], other, rtol=1e-5, atol=1e-5)
    assert all(layer.fit.tokens == 0 for layer in cache.lrqk_layers)
    check_rows(cache)


@pytest.fixture
def solves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """With a link, and five tokens for the solves; return the name of the thread of each solve."""
    threads, solve = list[str](), JointProjector.solve

    def note(projector: JointProjector, moments: Moments) -> SolvedMaps:
        threads.append(threading.current_thread().name)
        return solve(projector, moments)

    monkeypatch.setattr(LrqkCache, "has_link", True)
    monkeypatch.setattr(cache_module, "_SOLVE_BEFORE", 5)
    monkeypatch.setattr(JointProjector, "solve", note)
    return threads


def begun(on_device: bool = False, **changes: object) -> LrqkCache:
    """Return a cache whose factors are being solved for in the background."""
    cache = new_cache(on_device, **changes)
    segment(cache, 20)
    step_until(cache, LAST - 4)
    assert solver_threads() == []
    step(cache)
    assert solver_threads() != []
    return cache


@pytest.mark.parametrize("tail", ["linear", "none"])
@pytest.mark.parametrize("on_device", [False, True])
def test_factors_are_solved_for_shortly_before_they_are_needed(
    solves: list[str], on_device: bool, tail: str
) -> None:
    cache = begun(on_device, tail=tail)
    at_once = new_cache(on_device, holds=False, tail=tail)
    step_until(cache, LAST + 1)
    assert all(layer.fit.tokens == 0 for layer in cache.lrqk_layers)
    step(cache)
    assert solver_threads() == []
    assert len(solves) == LAYERS
    assert all(name.startswith("lrqk-solver") for name in solves)
    segment(at_once, 20)
    step_until(at_once, LAST + 2)
    for layer, other in zip(cache.lrqk_layers, at_once.lrqk_layers, strict=True):
        assert layer.fit.tokens == 20
        check_index(layer)
        check_same_fit(layer, other)
    step_until(cache, ROWS + 5)
    assert solver_threads() == []
    check_rows(cache)


@pytest.mark.parametrize("is_prefill", [False, True])
def test_a_solve_is_dropped_if_a_segment_comes_first(solves: list[str], is_prefill: bool) -> None:
    """The fit is that of the longer text, as in a cache that solves for nothing in the background."""
    cache = begun()
    with patch.object(LrqkCache, "has_link", False):
        reference = new_cache()
        segment(reference, 20)
        step_until(reference, cache.position.length)
    for each in (cache, reference):
        first = each.position.length
        segment(each, 3) if is_prefill else feed(each, range(first, first + 3))
        assert all(layer.fit.tokens == 0 for layer in each.lrqk_layers)
    assert not is_prefill or solver_threads() == []
    step_until(cache, ROWS + 3)
    assert solver_threads() == []
    assert len(solves) >= LAYERS
    with patch.object(LrqkCache, "has_link", False):
        step_until(reference, ROWS + 3)
    for layer, other in zip(cache.lrqk_layers, reference.lrqk_layers, strict=True):
        assert layer.fit.tokens == 23
        check_index(layer)
        check_same_fit(layer, other)
    check_rows(cache)


def test_an_interrupt_leaves_no_plan_of_another_text() -> None:
    cache = new_cache(on_device=True)
    segment(cache, 60)
    plan = cache._steps[0]._plan  # type: ignore[attr-defined]
    while not plan.leaving[:, :20].any():
        step(cache)
    cache.reset()
    segment(cache, 30)
    interrupted = patch.object(LrqkCache, "_refresh_steps", side_effect=KeyboardInterrupt)
    with interrupted, pytest.raises(KeyboardInterrupt):
        cache.prepare_step()
    for length in range(30, 34):
        check_exact(cache, length, step(cache))


def test_threads_end_when_all_layers_are_solved_for(solves: list[str]) -> None:
    """The conversation may pause here for long."""
    cache = begun()
    while len(cache._early._begun) < LAYERS:
        step(cache)
    for solve in cache._early._begun.values():
        solve.result()
    interval = sys.getswitchinterval()
    step(cache)
    assert solver_threads() == []
    assert sys.getswitchinterval() > interval
    step_until(cache, ROWS + 2)
    assert len(solves) == LAYERS
    assert all(name.startswith("lrqk-solver") for name in solves)
    assert all(layer.fit.tokens == 20 for layer in cache.lrqk_layers)


@pytest.mark.usefixtures("solves")
@pytest.mark.parametrize("on_device", [False, True])
def test_a_prompt_that_outgrows_the_hot_set_is_in_the_fit(on_device: bool) -> None:
    """It adds less than an eighth, and all layers have been solved for without it by then."""

    def read(has_link: bool) -> LrqkCache:
        with patch.object(LrqkCache, "has_link", has_link):
            cache = new_cache(on_device)
            segment(cache, 31)
            step_until(cache, LAST - 2)
            assert len(cache._early._begun) == (LAYERS if has_link else 0)
            for solve in cache._early._begun.values():
                solve.result()
            with cache.prefilling(ends=True):
                feed(cache, range(LAST - 2, LAST + 1))
                cache.finish_prefill()
        return cache

    for layer, other in zip(read(True).lrqk_layers, read(False).lrqk_layers, strict=True):
        assert layer.fit.tokens == 34
        check_same_fit(layer, other)
        check_same_residents(layer, other)


@pytest.mark.usefixtures("solves")
@pytest.mark.parametrize("on_device", [False, True])
def test_a_reset_ends_solves(on_device: bool) -> None:
    cache, threads = begun(on_device), torch.get_num_threads()
    cache.reset()
    assert solver_threads() == []
    assert torch.get_num_threads() == threads
    segment(cache, 30)
    step_until(cache, ROWS + 2)
    assert all(layer.fit.tokens == 30 for layer in cache.lrqk_layers)
    check_rows(cache)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_rewind_ends_solves(solves: list[str], on_device: bool) -> None:
    cache = new_cache(on_device)
    segment(cache, 20)
    step_until(cache, 25)
    point = cache.rewind_point()
    step_until(cache, LAST - 3)
    assert solver_threads() != []
    cache.rewind(point)
    assert solver_threads() == []
    segment(cache, 4)
    step_until(cache, ROWS + 2)
    assert len(solves) <= 2 * LAYERS
    for layer in cache.lrqk_layers:
        assert layer.fit.tokens == 24
        check_index(layer)
    # Back to a time without an index.
    cache.rewind(point)
    assert all(layer.fit.tokens == 0 for layer in cache.lrqk_layers)
    with no_index():
        for _ in range(3):
            first = cache.position.length
            check_exact(cache, first, step(cache))
    check_rows(cache)


@pytest.mark.parametrize("hot_policy", ["sticky", "exact"])
def test_the_alternating_solver_is_never_held(hot_policy: str) -> None:
    """It adapts its factors in every step."""
    cache = new_cache(solver="als", hot_policy=hot_policy, top_k=32)
    assert not any(cache.holds_all(length) for length in range(CONTEXT))
    segment(cache, 10)
    cache.finish_prefill()
    step(cache)
    for layer in cache.lrqk_layers:
        assert layer.prefill is None
        assert layer.fit.tokens == 10
    check_rows(cache)
