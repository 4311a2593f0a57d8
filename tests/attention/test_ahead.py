"""Factors that are fitted before the last segment, and an index that grows with the segments."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from tiny import random_tokens, tiny_model

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.factors import Moments
from lrqk_cli.attention.hook import attached, attention_modules
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.projection import JointProjector
from lrqk_cli.attention.rotation import Growth, Rotation, growth
from lrqk_cli.attention.solving import ahead_task
from lrqk_cli.attention.unfinished import UnfinishedPrefill
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.decode import forward
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.prefill import run_segments
from lrqk_cli.memory import activations
from lrqk_cli.models.support import spec_from_config

SEGMENTS = (40, 40, 40, 30)


def as_it_is(width: int) -> Growth:
    """What comes as if it were not turned: the text so far counts alone."""
    return Growth(0, 0, (0.0,), (torch.eye(width, dtype=torch.float64),))


def fit_now(layer: LrqkLayer) -> None:
    layer.begin_segment()
    solve = ahead_task(layer, as_it_is(layer.spec.head_dim))
    assert solve is not None
    solve()()


def check_index(layer: LrqkLayer) -> None:
    """The index is that of all keys, by the maps and the scale in force."""
    length = layer.position.length
    built = layer.index.codes[:, :length].clone()
    layer.index.codes.zero_()
    keys = torch.cat([key.clone() for key, _ in layer.store.stream(0, length)], 1)
    layer.index.write(0, layer.projector.project_keys(keys))
    assert torch.equal(layer.index.codes[:, :length], built)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_last_segment_builds_the_index(family: str) -> None:
    model = tiny_model(family)
    spec = spec_from_config(model.config, family)
    settings = LrqkConfig(rank=4, hot=32, top_k=8, recent=8)
    cache = LrqkCache(spec, settings, 200, model.dtype, torch.device("cpu"))
    with attached(model):
        for number, segment in enumerate(random_tokens(sum(SEGMENTS)).split(SEGMENTS)):
            layers = [layer for layer in cache.layers if isinstance(layer, LrqkLayer)]
            if number == len(SEGMENTS) - 1:
                for layer in layers:
                    fit_now(layer)
            with cache.prefilling():
                forward(model, cache, segment)
        for layer in layers:
            assert layer.prefill.indexed == sum(SEGMENTS)
            layer.finish_prefill()
            check_index(layer)


@pytest.mark.parametrize("indexed", [0, 25, 64, 119])
def test_the_last_segment_indexes_what_is_not_indexed_yet(
    indexed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from the middle of a chunk, as after segments of another length."""
    monkeypatch.setattr(activations, "STREAM_ROWS", 16)
    model = tiny_model("llama")
    settings = LrqkConfig(rank=4, hot=32, top_k=8, recent=8, kv_dtype="int8")
    cache = LrqkCache(
        spec_from_config(model.config, "llama"), settings, 200, model.dtype, torch.device("cpu")
    )
    *first, last = random_tokens(sum(SEGMENTS)).split(SEGMENTS)
    with attached(model):
        for segment in first:
            with cache.prefilling():
                forward(model, cache, segment)
        for layer in cache.lrqk_layers:
            fit_now(layer)
            keys = torch.cat([key.clone() for key, _ in layer.store.stream(0, 120)], 1)
            layer.index.write(0, layer.projector.project_keys(keys[:, :indexed]))
            layer.prefill.indexed = indexed
        with cache.prefilling():
            forward(model, cache, last)
    for layer in cache.lrqk_layers:
        assert layer.prefill.indexed == sum(SEGMENTS)
        check_index(layer)


def test_a_text_that_grows_far_beyond_is_fitted_anew() -> None:
    model = tiny_model("llama")
    settings = LrqkConfig(rank=4, hot=32, top_k=8, recent=8)
    cache = LrqkCache(
        spec_from_config(model.config, "llama"), settings, 200, model.dtype, torch.device("cpu")
    )
    with attached(model):
        tokens = random_tokens(150)
        layer = cache.attention_layers[0]
        assert isinstance(layer, LrqkLayer)
        for segment in tokens.split((20, 130)):
            with cache.prefilling():
                forward(model, cache, segment)
            if layer.position.length == 20:
                fit_now(layer)
                before = layer.projector.key_map.clone()
        cache.finish_prefill()
        check_index(layer)
        assert not torch.equal(layer.projector.key_map, before)


@pytest.mark.parametrize(
    ("first", "then", "is_anew"),
    # An eighth more at most; a prompt of nine segments of ten is fitted ahead, to 70 tokens and 20 foreseen.
    [(80, 10, False), (80, 11, True), (90, 11, False), (90, 12, True)],
)
def test_a_fit_serves_an_eighth_more_than_it_was_made_for(
    first: int, then: int, is_anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LrqkCache, "has_link", first == 90)
    model = tiny_model("llama")
    settings = LrqkConfig(rank=4, hot=16, top_k=8, recent=8)
    cache = LrqkCache(
        spec_from_config(model.config, "llama"), settings, 200, model.dtype, torch.device("cpu")
    )
    tokens = random_tokens(first + then)
    layer = cache.attention_layers[0]
    assert isinstance(layer, LrqkLayer)
    with attached(model):
        list(run_segments(model, cache, tokens[:first], 10))
        before = layer.projector.key_map.clone()
        assert layer.fit.tokens == first
        list(run_segments(model, cache, tokens[first:], 10))
    assert layer.position.length == first + then
    check_index(layer)
    assert (not torch.equal(layer.projector.key_map, before)) is is_anew
    assert layer.fit.tokens == (first + then if is_anew else first)


def test_a_note_of_an_earlier_prompt_is_not_what_the_newest_segment_has_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A note stays where a fit has sufficed; then text follows that is not settled, and a short prompt."""
    newest: list[tuple[float, int]] = []

    def note(moments: Moments, before: Moments, growth: Growth) -> Moments:
        newest.append((moments.count - before.count, growth.segment))
        return grown(moments, before, growth)

    grown = Moments.grown
    monkeypatch.setattr(Moments, "grown", note)
    monkeypatch.setattr(LrqkCache, "has_link", True)
    model = tiny_model("llama")
    settings = LrqkConfig(rank=4, hot=16, top_k=8, recent=8)
    spec = spec_from_config(model.config, "llama")
    cache = LrqkCache(spec, settings, 700, model.dtype, torch.device("cpu"))
    tokens = random_tokens(630)
    layer = cache.attention_layers[0]
    assert isinstance(layer, LrqkLayer)
    with attached(model):
        for start, stop, finishes in ((0, 400, True), (400, 440, True), (440, 590, False), (590, 630, True)):
            list(run_segments(model, cache, tokens[start:stop], 32, finishes=finishes))
    assert layer.fit.tokens == 630
    assert newest
    assert all(added == segment for added, segment in newest)


def test_answers_are_not_observed_and_do_not_outgrow_a_fit() -> None:
    model = tiny_model("llama")
    settings = LrqkConfig(rank=4, hot=16, top_k=8, recent=8)
    with Engine(model, spec_from_config(model.config, "llama"), settings, 200) as engine:
        layer = engine.cache.attention_layers[0]
        assert isinstance(layer, LrqkLayer)
        list(engine.prefill(random_tokens(100).tolist()))
        before = layer.projector.key_map.clone()
        for token in random_tokens(30, seed=1).tolist():
            engine.append(token)
            engine.next_logits()
        list(engine.prefill(random_tokens(10, seed=2).tolist()))
        assert torch.equal(layer.projector.key_map, before)
        list(engine.prefill(random_tokens(10, seed=3).tolist()))
        assert layer.fit.tokens == 120
        assert layer.position.length == 150
        check_index(layer)
        assert not torch.equal(layer.projector.key_map, before)


def prefilled(segments: int, *, stop: int | None = None) -> LrqkLayer:
    """Prefill in segments of 10, at most ``stop`` of them; return the first layer."""
    model = tiny_model("llama")
    settings = LrqkConfig(rank=4, hot=16, top_k=8, recent=8)
    cache = LrqkCache(
        spec_from_config(model.config, "llama"), settings, 200, model.dtype, torch.device("cpu")
    )
    with attached(model):
        run = run_segments(model, cache, random_tokens(90)[: 10 * segments], 10)
        list(islice(run, stop))
        run.close()
    layer = cache.attention_layers[0]
    assert isinstance(layer, LrqkLayer)
    assert isinstance(layer.projector, JointProjector)
    return layer


@pytest.mark.parametrize(("segments", "fitted"), [(9, 70), (8, 60), (7, 70), (4, 40), (3, 30)])
def test_factors_are_solved_for_while_the_last_segment_but_one_computes(
    segments: int, fitted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = prefilled(fitted // 10)
    before = prefilled(fitted // 10 - 1) if fitted > 10 else None
    monkeypatch.setattr(LrqkCache, "has_link", True)
    threads = torch.get_num_threads()
    layer = prefilled(segments)
    assert torch.get_num_threads() == threads
    assert layer.fit.tokens == 10 * segments
    assert layer.position.length == 10 * segments
    # They are those of the text as it was to be expected, and the index is made by them.
    moments = alone.projector.grams.moments()
    if before is not None and fitted < layer.position.length:
        model = tiny_model("llama")
        rotation = Rotation(model, alone.spec, attention_modules(model), (10, 20))
        foreseen = growth(rotation, 0, layer.position.length - fitted, 10)
        assert foreseen is not None
        moments = moments.grown(before.projector.grams.moments(), foreseen)
    check_index(layer)
    key_map = layer.projector.key_map.clone()
    deviations = layer.projector.solve(moments).install()
    torch.testing.assert_close(key_map, layer.projector.key_map)
    torch.testing.assert_close(layer.index.scale, 3.0 * deviations / 7)


def test_hot_sets_seeded_within_the_last_segment_are_those_of_settling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LrqkCache, "has_link", True)
    within: list[bool] = []
    seed, prefilling = LrqkLayer._seed_hot_set, LrqkCache.prefilling

    def note(layer: LrqkLayer, prefill: UnfinishedPrefill, length: int) -> None:
        within.append(length > layer.position.length)
        seed(layer, prefill, length)

    monkeypatch.setattr(LrqkLayer, "_seed_hot_set", note)
    early = prefilled(9)
    layers = len(within)
    monkeypatch.setattr(LrqkCache, "prefilling", lambda cache, **_: prefilling(cache))
    late = prefilled(9)
    assert within == [True] * layers + [False] * layers
    assert torch.equal(early.hot.slot_token, late.hot.slot_token)
    assert torch.equal(early.hot.rows, late.hot.rows)


def test_a_prefill_that_is_stopped_meanwhile_leaves_the_fit_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LrqkCache, "has_link", True)
    threads = torch.get_num_threads()
    layer = prefilled(9, stop=8)
    assert torch.get_num_threads() == threads
    assert (layer.position.length, layer.fit.tokens, layer.prefill.indexed) == (80, 0, 0)
    layer.finish_prefill()
    assert layer.fit.tokens == 80
    assert layer.prefill is None
    check_index(layer)
