"""Solves that begin while the last segment is read, and hot slots that are filled from segments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from residents import check_rows, solver_threads
from tiny import random_tokens, tiny_model
from torch import Tensor

from lrqk_cli.attention import solving
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.hook import attached
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.hot_set import HotSet
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.solving import EarlySolves
from lrqk_cli.attention.tail import TailFit, ValueTail
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.decode import forward
from lrqk_cli.engine.prefill import run_segments
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.solver_pool import SolverPool

pytestmark = pytest.mark.usefixtures("solvers_end")

SIZES = {"rank": 4, "hot": 32, "top_k": 8, "recent": 8}
CPU = torch.device("cpu")


def new_cache(family: str = "llama", **changes: object) -> LrqkCache:
    model = tiny_model(family)
    config = LrqkConfig(**{**SIZES, **changes})  # type: ignore[arg-type]
    return LrqkCache(spec_from_config(model.config, family), config, 220, model.dtype, CPU)


def prefill(cache: LrqkCache, tokens: Tensor, segment: int, family: str = "llama") -> LrqkCache:
    model = tiny_model(family)
    with attached(model):
        list(run_segments(model, cache, tokens, segment))
    return cache


@contextmanager
def link(is_there: bool = True) -> Iterator[None]:
    with patch.object(LrqkCache, "has_link", is_there):
        yield


@contextmanager
def late() -> Iterator[None]:
    """No solve begins before the end of the text."""
    with patch.object(EarlySolves, "begin", lambda *_: None):
        yield


@contextmanager
def not_between_layers() -> Iterator[None]:
    """No layer is finished before the last has attended, however fast it is solved for."""
    with patch.object(EarlySolves, "finish_solved", lambda *_: None):
        yield


@contextmanager
def at_once() -> Iterator[None]:
    """A layer is solved for before the next one attends."""

    def submit(_: SolverPool[object], task: Callable[[], object]) -> Future[object]:
        future = Future[object]()
        future.set_result(task())
        return future

    with patch.object(SolverPool, "submit", submit):
        yield


@contextmanager
def streamed() -> Iterator[None]:
    """Free hot slots and the index are filled from the store alone, after the text."""

    def append_segment(hot: HotSet, length: int, filled: int, key: Tensor, value: Tensor) -> int:
        hot.recent.append(length, key, value)
        return filled

    with patch.object(HotSet, "append_segment", append_segment):
        yield


def state(layer: LrqkLayer) -> dict[str, Tensor]:
    """All that a prefill leaves for decode steps."""
    length = layer.position.length
    key, value = layer.hot.resident_rows(length)
    found = {
        "tokens": layer.hot.resident_tokens(length),
        "resident": layer.hot.resident[:, :length],
        "keys": key,
        "values": value,
        "codes": layer.index.codes[:, :length],
        "scale": layer.index.scale,
        "covered": torch.tensor(layer.fit.tokens),
    }
    found |= {f"map {number}": part for number, part in enumerate(layer.projector.fitted())}
    if layer.tail is not None:
        found |= {"slope": layer.tail.slope, "intercept": layer.tail.intercept}
    return found


def check_same(ours: LrqkCache, other: LrqkCache) -> None:
    assert ours.position.length == other.position.length
    assert ours.lrqk_layers
    for layer, reference in zip(ours.lrqk_layers, other.lrqk_layers, strict=True):
        assert layer.prefill is None
        found, expected = state(layer), state(reference)
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tail": "mean"},
        {"tail": "none"},
        {"grouping": "head"},
        {"grouping": "head", "tail": "mean"},
        {"kv_dtype": "int8"},
        {"kv_dtype": "int8", "grouping": "head"},
        {"index_bits": 16},
        {"hot_policy": "exact"},
        {"solver": "als"},
    ],
    ids=str,
)
# With 108 all rows but the few that have no slot are resident.
@pytest.mark.parametrize("hot", [32, 108])
@pytest.mark.parametrize("segment", [120, 40, 45, 7])
@pytest.mark.parametrize("is_at_once", [True, False])
def test_a_prefill_leaves_the_same_whenever_it_is_solved(
    is_at_once: bool, segment: int, hot: int, changes: dict[str, object]
) -> None:
    changes = {**changes, "hot": hot}
    tokens = random_tokens(120)
    # Texts of three segments are not fitted ahead, which would give other maps.
    with link(segment in (45, 7)), late():
        reference = prefill(new_cache(**changes), tokens, segment)
    with link(), at_once() if is_at_once else nullcontext():
        ours = prefill(new_cache(**changes), tokens, segment)
    check_same(ours, reference)
    check_rows(ours)


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("grouping", ["kv", "head"])
@pytest.mark.parametrize("hot", [32, 138])
def test_rows_that_are_at_hand_are_those_of_the_store(hot: int, grouping: str, kv_dtype: str) -> None:
    changes = {"hot": hot, "grouping": grouping, "kv_dtype": kv_dtype, "index_bits": 16}
    tokens = random_tokens(150)
    with streamed():
        reference = prefill(new_cache(**changes), tokens, 60)
    ours = prefill(new_cache(**changes), tokens, 60)
    for layer, other in zip(ours.lrqk_layers, reference.lrqk_layers, strict=True):
        found, expected = state(layer), state(other)
        # Products over other parts of the text may differ in their last bit, and so may rounded codes.
        torch.testing.assert_close(found.pop("codes"), expected.pop("codes"), atol=1e-6, rtol=2**-7)
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("family", ["gemma3", "gpt-oss", "qwen3"])
def test_models_with_sliding_layers_and_sinks(family: str) -> None:
    tokens = random_tokens(110)
    reference = prefill(new_cache(family), tokens, 60, family)
    with link():
        ours = prefill(new_cache(family), tokens, 60, family)
    check_same(ours, reference)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "changes", [{}, {"tail": "mean"}, {"grouping": "head"}, {"kv_dtype": "int8"}], ids=str
)
@pytest.mark.parametrize("hot", [32, 108])
@pytest.mark.parametrize("segment", [120, 40, 7])
def test_a_solve_on_a_gpu_waits_for_its_own_sums(segment: int, hot: int, changes: dict[str, object]) -> None:
    model, tokens = tiny_model("llama").to("cuda"), random_tokens(120).to("cuda")
    config = LrqkConfig(**{**SIZES, **changes, "hot": hot})  # type: ignore[arg-type]
    spec = spec_from_config(model.config, "llama")
    caches = []
    for begins in (late, nullcontext):
        caches.append(LrqkCache(spec, config, 220, model.dtype, torch.device("cuda")))
        with attached(model), begins():
            list(run_segments(model, caches[-1], tokens, segment))
    check_same(caches[1], caches[0])
    check_rows(caches[1])


def test_an_appended_text_and_the_steps_between() -> None:
    found = []
    for is_there in (True, False):
        cache, model = new_cache(hot=64), tiny_model("llama")
        logits = []
        with link(is_there), attached(model):
            for start, stop in ((0, 60), (63, 66), (70, 100)):
                logits += [part for _, part in run_segments(model, cache, random_tokens(120)[start:stop], 60)]
                for token in random_tokens(3, seed=stop):
                    logits.append(forward(model, cache, token.view(1)))
        cache.finish_prefill()
        check_rows(cache)
        found.append((cache, torch.stack(logits)))
    check_same(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_the_first_layers_are_indexed_while_the_last_is_solved_for() -> None:
    """The last layer's solve waits until the first layer is done."""
    is_first_done, waited = threading.Event(), []
    solve, finish = ValueTail.solve, LrqkLayer.finish_prefill
    cache = new_cache()
    first, last = cache.lrqk_layers

    def wait(tail: ValueTail, *arguments: Tensor) -> TailFit:
        if tail is last.tail:
            waited.append(is_first_done.wait(30))
        return solve(tail, *arguments)  # type: ignore[arg-type]

    def note(layer: LrqkLayer) -> None:
        finish(layer)
        if layer is first:
            assert layer.prefill is None
            is_first_done.set()

    with link(), patch.object(ValueTail, "solve", wait), patch.object(LrqkLayer, "finish_prefill", note):
        prefill(cache, random_tokens(60), 60)
    assert waited == [True]


def test_layers_are_finished_while_later_ones_attend() -> None:
    attend, fill = LrqkLayer.attend_segment, LrqkLayer._seed_hot_set
    cache, calls = new_cache(), []

    def note(name: str, method: Callable[..., object]) -> Callable[..., object]:
        def called(layer: LrqkLayer, *arguments: object) -> object:
            calls.append((name, cache.lrqk_layers.index(layer)))
            return method(layer, *arguments)

        return called

    with (
        link(),
        at_once(),
        patch.object(LrqkLayer, "attend_segment", note("attend", attend)),
        patch.object(LrqkLayer, "_seed_hot_set", note("seed", fill)),
    ):
        prefill(cache, random_tokens(60), 60)
    assert calls == [("attend", 0), ("seed", 0), ("attend", 1), ("seed", 1)]


def test_the_host_does_not_wait_for_a_solve_between_layers() -> None:
    """It waits for the device alone, which has attended some layers before."""
    goes_on, waited = threading.Event(), list[int]()
    solve, finish = ValueTail.solve, LrqkCache.finish_prefill

    def wait(tail: ValueTail, *arguments: object) -> TailFit:
        assert goes_on.wait(30)
        return solve(tail, *arguments)  # type: ignore[arg-type]

    def note(cache: LrqkCache) -> None:
        goes_on.set()
        finish(cache)

    def arrival(_: torch.device) -> Callable[[], object]:
        number = len(made)
        made.append(number)
        return lambda: waited.append(number)

    made = list[int]()
    with (
        link(),
        patch.object(solving, "_LAYERS_QUEUED", 1),
        patch.object(solving, "arrival", arrival),
        patch.object(ValueTail, "solve", wait),
        patch.object(LrqkCache, "finish_prefill", note),
    ):
        prefill(new_cache(), random_tokens(60), 60)
    # Of each layer's two, the first is for its task, in another thread, and the second for the host.
    assert [number for number in waited if number % 2] == [1]


@pytest.mark.parametrize("goes_on", ["step", "segment"])
@pytest.mark.parametrize("segment", [50, 9])
def test_a_layer_that_was_finished_in_a_segment_that_did_not_end(segment: int, goes_on: str) -> None:
    """Its hot set has rows of tokens that are not in the text."""
    model, tokens = tiny_model("llama"), random_tokens(130)
    cache = prefill(new_cache(), tokens[:60], 60)
    with link(), attached(model), at_once():
        with failing(LrqkLayer, "attend_segment", Stop(), after=1), pytest.raises(Stop):
            list(run_segments(model, cache, random_tokens(40, seed=1), segment))
        assert cache.position.length == 60
        if goes_on == "step":
            forward(model, cache, tokens[60:61])
        else:
            list(run_segments(model, cache, tokens[60:], 70))
            check_rows(cache)  # before a step the recent window would have to be read again
    for layer in cache.lrqk_layers:
        assert int(layer.hot.slot_token.max()) < layer.hot.candidates(cache.position.length)


def test_resident_keys_do_not_cross_the_link() -> None:
    stream, lengths = RowStore.stream, []

    def note(store: RowStore, start: int, stop: int, segment: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        if not during:
            lengths.append(max(0, stop - start))
        return stream(store, start, stop, segment)

    # With 92 all rows are resident, and the next one will have no slot.
    for hot, expected in ((92, 0), (32, 2 * 100)):
        during: list[bool] = []
        cache, model = new_cache(hot=hot), tiny_model("llama")
        lengths.clear()
        with attached(model), patch.object(RowStore, "stream", note):
            during.append(True)
            with cache.prefilling():
                forward(model, cache, random_tokens(100))
            during.clear()
            cache.finish_prefill()
        assert all(layer.fit.tokens == 100 for layer in cache.lrqk_layers)
        assert sum(lengths) == expected


class Stop(BaseException):
    """Something that nothing catches, as Ctrl-C."""


@contextmanager
def failing(owner: type, name: str, error: BaseException, *, after: int) -> Iterator[None]:
    """Let a method fail from its call number ``after`` on."""
    method, calls = getattr(owner, name), iter(range(1000))

    def called(*arguments: object) -> object:
        if next(calls) >= after:
            raise error
        return method(*arguments)

    with patch.object(owner, name, called):
        yield


PLACES = {
    "after the model": (LrqkCache, "finish_prefill", 0),
    "before the first layer": (LrqkLayer, "finish_prefill", 0),
    "between layers": (LrqkLayer, "finish_prefill", 1),
    "between solve and index": (LrqkLayer, "_keys_to_index", 1),
    "in a task": (ValueTail, "solve", 0),
    "before a tail is in force": (ValueTail, "install", 0),
}


@pytest.mark.parametrize("goes_on", ["step", "segment"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [Stop(), RuntimeError("fails")], ids=["stop", "failure"])
def test_what_comes_after_an_interrupt_is_as_without_it(
    error: BaseException, place: str, goes_on: str
) -> None:
    model, tokens = tiny_model("llama"), random_tokens(101)

    def last(cache: LrqkCache) -> Tensor:
        if goes_on == "step":
            return forward(model, cache, tokens[100:])
        return [logits for _, logits in run_segments(model, cache, random_tokens(40, seed=1), 40)][-1]

    owner, name, after = PLACES[place]
    cache, reference = new_cache(), new_cache()
    with attached(model):
        with link(), not_between_layers():
            with failing(owner, name, error, after=after), pytest.raises(type(error)):
                list(run_segments(model, cache, tokens[:100], 50))
            assert solver_threads() == []
            assert cache.position.length == 100
            logits = last(cache)
        with late():
            with patch.object(LrqkCache, "finish_prefill", lambda _: None):
                list(run_segments(model, reference, tokens[:100], 50))
            if place in ("between layers", "between solve and index") and goes_on == "segment":
                reference.lrqk_layers[0].finish_prefill()  # this one was ready for steps by then
            expected = last(reference)
    cache.finish_prefill()
    reference.finish_prefill()
    assert torch.equal(logits, expected)
    check_same(cache, reference)
    check_rows(cache)


def test_a_closed_prefill_leaves_no_threads() -> None:
    model, cache = tiny_model("llama"), new_cache()
    with link(), not_between_layers(), attached(model):
        run = run_segments(model, cache, random_tokens(100), 50)
        next(run)
        run.close()
        assert solver_threads() == []
        with cache.prefilling(ends=True):
            forward(model, cache, random_tokens(50, seed=1))
            assert solver_threads() != []
        assert solver_threads() == []
        assert all(layer.is_unsolved for layer in cache.lrqk_layers)
        forward(model, cache, random_tokens(1))
    assert all(layer.fit.tokens == 100 for layer in cache.lrqk_layers)


@pytest.mark.parametrize("change", ["segment", "rewind", "reset", "tail"])
def test_a_solve_of_a_layer_that_has_changed_is_not_installed(change: str) -> None:
    model, cache = tiny_model("llama"), new_cache()
    layer = cache.lrqk_layers[0]
    early = EarlySolves()
    with attached(model):
        start = cache.rewind_point()
        with cache.prefilling():
            forward(model, cache, random_tokens(50))
        early.begin(layer)
        assert layer in early
        match change:
            case "segment":
                with cache.prefilling():
                    forward(model, cache, random_tokens(30))
            case "rewind":
                cache.rewind(start)
            case "reset":
                cache.reset()
            case "tail":
                cache.adjust(LrqkConfig(**SIZES, tail="mean"))  # type: ignore[arg-type]
        early.install(layer)
        assert layer.fit.tokens == 0
        assert layer.prefill is None or not layer.prefill.is_solved
        early.close()


def test_the_newest_segment_of_a_layer_is_solved_for() -> None:
    model, tokens = tiny_model("llama"), random_tokens(100)
    cache, reference = new_cache(), new_cache()
    with link(), attached(model), cache.prefilling(ends=True):
        for segment in tokens.split(50):
            forward(model, cache, segment)
        cache.finish_prefill()
    with attached(model):
        for segment in tokens.split(50):
            with reference.prefilling():
                forward(model, reference, segment)
        reference.finish_prefill()
    check_same(cache, reference)


def test_nothing_is_begun_where_nothing_is_to_be_solved() -> None:
    cache = prefill(new_cache(tail="none"), random_tokens(100), 100)
    begun: list[LrqkLayer] = []

    def note(layer: LrqkLayer) -> object:
        begun.append(layer)
        return task(layer)

    task = solving.final_task
    model = tiny_model("llama")
    with link(), attached(model), patch.object(solving, "final_task", note), cache.prefilling(ends=True):
        forward(model, cache, random_tokens(5))
        assert solver_threads() == []
        cache.finish_prefill()
    assert begun == cache.lrqk_layers
    assert all(layer.fit.tokens == 100 and layer.prefill is None for layer in cache.lrqk_layers)


HEADS, GROUP, WIDTH, CONTEXT = 2, 2, 4, 90
SPEC = ModelSpec("t", "t", ("full",), HEADS * GROUP, HEADS, WIDTH, 16, 24, 97, CONTEXT, CONTEXT, 1)
PARAMS = AttentionParams(scaling=0.5)


def rows(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(HEADS, GROUP, count, WIDTH, generator=random)
    key, value = torch.randn(2, HEADS, count, WIDTH, generator=random)
    return query, key, value


def read(cache: LrqkCache, data: tuple[Tensor, Tensor, Tensor], cuts: list[int], ends: bool) -> None:
    with cache.prefilling(ends=ends):
        for start, stop in pairwise(cuts):
            query, key, value = (part[..., start:stop, :] for part in data)
            cache.attend(0, query, key, value, PARAMS)
        if ends:
            cache.finish_prefill()


def fixed_scores(layer: LrqkLayer, _: Tensor, __: AttentionParams, length: int) -> Tensor:
    """Scores that do not depend on how sums were rounded."""
    sets = layer.hot.rows.shape[0]
    return torch.rand(sets, CONTEXT, generator=torch.Generator().manual_seed(7))[:, :length]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    hot=st.integers(1, 90),
    recent=st.integers(1, 40),
    grouping=st.sampled_from(["kv", "head"]),
    kv_dtype=st.sampled_from(["bf16", "int8"]),
    is_there=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_slots_do_not_depend_on_the_segments(
    lengths: list[int], hot: int, recent: int, grouping: str, kv_dtype: str, is_there: bool
) -> None:
    total = sum(lengths)
    cuts = [sum(lengths[:number]) for number in range(len(lengths) + 1)]
    config = LrqkConfig(
        hot=hot, top_k=min(hot, 4), recent=recent, rank=4, grouping=grouping, kv_dtype=kv_dtype
    )
    data = rows(total)
    found = []
    with link(is_there), patch.object(LrqkLayer, "_seed_scores", fixed_scores):
        for parts in (cuts, [0, total]):
            cache = LrqkCache(SPEC, config, CONTEXT, torch.float32, CPU)
            read(cache, data, parts, True)
            check_rows(cache)
            found.append(cache.lrqk_layers[0])
    ours, whole = found
    assert torch.equal(ours.hot.slot_token, whole.hot.slot_token)
    assert torch.equal(ours.hot.resident, whole.hot.resident)
    if kv_dtype == "bf16":  # the scales of other rows are those of the first segment
        assert torch.equal(ours.hot.resident_rows(total)[0], whole.hot.resident_rows(total)[0])
        assert torch.equal(ours.hot.resident_rows(total)[1], whole.hot.resident_rows(total)[1])


@given(
    before=st.integers(0, 30),
    lost=st.integers(1, 30),
    again=st.integers(0, 20),
    hot=st.integers(1, 60),
    recent=st.integers(1, 10),
)
@settings(deadline=None, max_examples=60)
def test_slots_are_right_after_a_segment_that_was_interrupted_behind_a_layer(
    before: int, lost: int, again: int, hot: int, recent: int
) -> None:
    """The layer has kept rows of a segment whose tokens the cache does not have."""
    again += recent  # the window is lost, too, up to a segment of its length
    config = LrqkConfig(hot=hot, top_k=min(hot, 4), recent=recent, rank=4)
    cache = LrqkCache(SPEC, config, CONTEXT, torch.float32, CPU)
    layer = cache.lrqk_layers[0]
    data = rows(before + again)
    if before:
        read(cache, data, [0, before], False)
    with cache.prefilling():
        layer.attend_segment(*rows(lost, seed=1), PARAMS)
    read(cache, data, [before, before + again], True)
    check_rows(cache)


@pytest.mark.parametrize(("hot", "is_held"), [(100, True), (71, False)])
def test_slots_are_streamed_where_rows_are_missing(hot: int, is_held: bool) -> None:
    """After a restore without a state no slot is filled."""
    cache, model = new_cache(hot=hot), tiny_model("llama")
    with attached(model):
        with cache.prefilling():
            forward(model, cache, random_tokens(60))
        for layer in cache.lrqk_layers:
            assert layer.prefill is not None
            assert layer.prefill.filled == 52
            layer.hot.clear()
            layer.prefill.filled = 0
        with cache.prefilling():
            forward(model, cache, random_tokens(20))
        assert [layer.prefill and layer.prefill.filled for layer in cache.lrqk_layers] == [0, 0]
        cache.finish_prefill()
    assert all((layer.prefill is not None) is is_held for layer in cache.lrqk_layers)
    check_rows(cache)
