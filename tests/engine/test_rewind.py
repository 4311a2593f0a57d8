"""Rewind points: what came after one leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any
from unittest.mock import patch

import pytest
import torch
from failing import failing_at
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_tokens, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.attention.hot_set import HotSet
from lrqk_cli.attention.rewind_points import LrqkRewindPoint
from lrqk_cli.config import AlsConfig, GenerationConfig, LrqkConfig
from lrqk_cli.engine.decode import FixedStep
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.rewind_points import EngineRewindPoint
from lrqk_cli.errors import UsageError
from lrqk_cli.models.support import spec_from_config

TOLERANCE = 1e-4
CONTEXT = 600
PROBE = (5, 11, 42)

# A hot set of 24 rows under texts of up to some hundred, so that what is resident matters.
SMALL: dict[str, Any] = {"hot": 24, "top_k": 8, "recent": 8, "rank": 8, "segment": 16}
METHODS: dict[str, dict[str, Any]] = {
    "lrqk": {},
    "mean-16-bits": {"tail": "mean", "index_bits": 16},
    "head-8-bits": {"grouping": "head", "index_bits": 8, "tail": "none"},
    "als-exact": {"solver": "als", "hot_policy": "exact", "grouping": "head", "als": AlsConfig("topcol")},
    "refetch": {"solver": "als", "hot_policy": "refetch", "index_bits": 16},
    "dense": {"attention": "dense"},
    "offload": {"attention": "offload"},
}
CASES = [
    *(("llama", method) for method in METHODS),
    ("gemma3", "lrqk"),
    ("gpt-oss", "lrqk"),
    ("gemma3", "dense"),
    ("qwen3.5", "lrqk"),
    ("gemma4-shared", "lrqk"),
]


@dataclass(frozen=True)
class Turn:
    """A prefill of ``prompt`` tokens, cut short after ``segments`` if given, then ``answer`` tokens."""

    seed: int
    prompt: int
    answer: int
    segments: int | None = None


@cache
def model_of(family: str) -> PreTrainedModel:
    return tiny_model(family)


def new_engine(family: str, method: str) -> Engine:
    model = model_of(family)
    return Engine(
        model, spec_from_config(model.config, "tiny"), LrqkConfig(**{**SMALL, **METHODS[method]}), CONTEXT
    )


def take(engine: Engine, turn: Turn) -> None:
    list(islice(engine.prefill(random_tokens(turn.prompt, turn.seed).tolist()), turn.segments))
    if turn.answer:
        list(engine.generate(GenerationConfig(max_new_tokens=turn.answer), stop_ids=()))


def probe(engine: Engine) -> Tensor:
    """Return the logits of the next tokens; they belong to the conversation from then on."""
    found = []
    for token in PROBE:
        found.append(engine.next_logits().clone())
        engine.append(token)
    return torch.stack(found)


def fresh(family: str, method: str, turns: Sequence[Turn]) -> Tensor:
    with Engine.__enter__(new_engine(family, method)) as engine:
        for turn in turns:
            take(engine, turn)
        return probe(engine)


turns = st.builds(
    Turn,
    seed=st.integers(1, 50),
    prompt=st.integers(2, 70),
    answer=st.integers(0, 12),
    segments=st.none() | st.integers(1, 3),
)
# None takes back to a point: the number says how many turns are forgotten.
actions = st.lists(turns | st.integers(1, 3), min_size=2, max_size=7)


@pytest.mark.parametrize(("family", "method"), CASES)
# The same examples in every run: a text of repeated tokens can have rows of equal merit, of which the place
# of a tensor in memory chooses one, by the last bit of a product.
@settings(max_examples=15, deadline=None, derandomize=True)
@given(first=turns, actions=actions)
def test_what_was_taken_back_leaves_no_trace(
    family: str, method: str, first: Turn, actions: list[Turn | int]
) -> None:
    kept, points = [first], list[EngineRewindPoint]()
    with new_engine(family, method) as engine:
        take(engine, first)
        for action in actions:
            if isinstance(action, Turn):
                points.append(engine.rewind_point())
                take(engine, action)
                kept.append(action)
            elif points:
                forgotten = min(action, len(points))
                engine.rewind(points[-forgotten])
                del points[-forgotten:], kept[-forgotten:]
        found = probe(engine)
    torch.testing.assert_close(found, fresh(family, method, kept), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("method", ["lrqk", "als-exact"])
def test_a_fit_that_was_replaced_is_in_force_again(method: str) -> None:
    """The second turn is longer than the first, so the index is fitted and built anew in between."""
    first, second, third = Turn(1, 60, 6), Turn(2, 150, 4), Turn(3, 20, 6)
    with new_engine("llama", method) as engine:
        take(engine, first)
        point = engine.rewind_point()
        layer = point.cache.layers[0]
        assert isinstance(layer, LrqkRewindPoint)
        take(engine, second)
        assert engine.cache.attention_layers[0].rewind_point().fit is not layer.fit  # type: ignore[attr-defined]
        for _ in range(2):  # a point may be used again
            engine.rewind(point)
            take(engine, third)
        found = probe(engine)
    torch.testing.assert_close(found, fresh("llama", method, [first, third]), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_steps_with_lengths_on_the_device_are_taken_back_too(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their kernels' references run on a CPU."""
    monkeypatch.setattr(FixedStep, "_capture", lambda _: None)  # there are no graphs on a CPU

    def build() -> Engine:
        with patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: True):
            return new_engine(family, "lrqk")

    first, second, third = Turn(1, 60, 8), Turn(2, 90, 8), Turn(3, 20, 8)
    with build() as engine, torch.no_grad():
        take(engine, first)
        point = engine.rewind_point()
        take(engine, second)
        engine.rewind(point)
        take(engine, third)
        found = probe(engine)
    with build() as engine, torch.no_grad():
        take(engine, first)
        take(engine, third)
        expected = probe(engine)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_the_state_itself_is_the_same_bit_for_bit() -> None:
    with new_engine("llama", "lrqk") as engine:
        take(engine, Turn(1, 100, 8))
        point, layer = engine.rewind_point(), engine.cache.attention_layers[1]
        parts = layer.hot.rows, layer.hot.slot_token, layer.hot.resident, layer.index.scale, layer.tail.slope  # type: ignore[attr-defined]
        length = engine.cache.position.length
        before = [part.clone() for part in (*parts, layer.index.codes[:, :length])]  # type: ignore[attr-defined]
        take(engine, Turn(2, 200, 8))
        engine.rewind(point)
        after = (*parts, layer.index.codes[:, :length])  # type: ignore[attr-defined]
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old, new)


def wrong_rows(engine: Engine) -> int:
    """Count the hot slots whose row is not that of their token."""
    wrong = 0
    for layer in engine.cache.lrqk_layers:
        hot, rows = layer.hot, layer.store.rows
        for head, slots in enumerate(hot.slot_token):
            filled = (slots >= 0).nonzero().flatten()
            found = hot.rows[head, hot.recent.size + filled]
            wrong += int((found != rows[head, slots[filled]]).flatten(1).any(1).sum())
    return wrong


@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupted_rewind_is_completed(call: int) -> None:
    found = []
    for is_interrupted in (False, True):
        with new_engine("llama", "lrqk") as engine:
            take(engine, Turn(1, 100, 6))
            point = engine.rewind_point()
            take(engine, Turn(2, 130, 30))
            if is_interrupted:
                interrupted = patch.object(HotSet, "_refetch", failing_at(call, HotSet._refetch))
                with interrupted, pytest.raises(KeyboardInterrupt):
                    engine.rewind(point)
            else:
                engine.rewind(point)
            assert engine.length == point.length
            assert engine.cache.position.length <= point.length
            assert wrong_rows(engine) == 0
            found.append(probe(engine))
    assert torch.equal(*found)


@pytest.mark.parametrize("call", [1, 2])
def test_after_an_interrupted_rewind_of_a_cache_an_earlier_point_has_its_rows(call: int) -> None:
    with new_engine("llama", "lrqk") as engine:
        take(engine, Turn(1, 100, 6))
        early = engine.rewind_point()
        take(engine, Turn(2, 80, 26))
        late = engine.rewind_point()
        take(engine, Turn(3, 130, 30))
        interrupted = patch.object(HotSet, "_refetch", failing_at(call, HotSet._refetch))
        with interrupted, pytest.raises(KeyboardInterrupt):
            engine.cache.rewind(late.cache)
        assert engine.cache.is_torn
        engine.rewind(early)
        assert not engine.cache.is_torn
        assert wrong_rows(engine) == 0
        take(engine, Turn(4, 20, 4))
        found = probe(engine)
    expected = fresh("llama", "lrqk", [Turn(1, 100, 6), Turn(4, 20, 4)])
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_the_next_token_follows_a_rewind_point_without_another_prefill() -> None:
    with new_engine("llama", "lrqk") as engine:
        take(engine, Turn(1, 50, 0))
        point, expected = engine.rewind_point(), engine.next_logits().clone()
        take(engine, Turn(2, 30, 5))
        engine.rewind(point)
        assert torch.equal(engine.next_logits(), expected)
        assert engine.length == 50


def test_a_rewind_point_that_was_left_behind_is_refused() -> None:
    with new_engine("llama", "lrqk") as engine, new_engine("llama", "lrqk") as other:
        take(engine, Turn(1, 30, 2))
        early = engine.rewind_point()
        take(engine, Turn(2, 30, 2))
        late = engine.rewind_point()
        engine.rewind(early)
        with pytest.raises(UsageError, match="is gone"):
            engine.rewind(late)
        with pytest.raises(UsageError):
            other.rewind(early)
        engine.reset()
        with pytest.raises(UsageError):
            engine.rewind(early)


def test_rewind_points_are_small_beside_the_cache() -> None:
    with new_engine("llama", "lrqk") as engine:
        take(engine, Turn(1, 500, 0))
        point = engine.rewind_point()
        sums = engine.cache.attention_layers[0].projector.summed()  # type: ignore[attr-defined]
        slots = 2 * 24 * 4
        assert point.nbytes == 2 * (sum(part.nbytes for part in sums) + slots) + 97 * 4


def test_a_prefill_that_is_not_settled_is_by_the_first_step() -> None:
    prompt = random_tokens(80, 4).tolist()
    with new_engine("llama", "lrqk") as engine, new_engine("llama", "lrqk") as other:
        list(engine.prefill(prompt[:50], finishes=False))
        list(engine.prefill(prompt[50:]))
        list(other.prefill(prompt))
        torch.testing.assert_close(probe(engine), probe(other), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("changes", [{"top_k": 20}, {"tail": "none"}, {"tail": "mean", "top_k": 3}])
def test_settings_that_change_on_the_way_act_from_the_next_step(changes: dict[str, Any]) -> None:
    """Two engines that come to the same settings by different ways agree, and differ from before."""
    spec = spec_from_config(model_of("llama").config, "tiny")
    start, other = LrqkConfig(**SMALL), LrqkConfig(**{**SMALL, **changes})
    prompt = random_tokens(200, 7).tolist()
    found = []
    for first, second in ((start, start), (start, other), (other, other)):
        with Engine(model_of("llama"), spec, first, CONTEXT) as engine:
            list(engine.prefill(prompt))
            point = engine.rewind_point()
            probe(engine)
            engine.adjust(second)
            engine.rewind(point)
            found.append(probe(engine))
            assert engine.config.top_k == second.top_k
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("standing", "changes", "name"),
    [
        ({}, {"hot": 32}, "`hot`"),
        ({}, {"index_bits": 8}, "`index_bits`"),
        ({"hot_policy": "exact"}, {"top_k": 6}, "`top_k`"),
    ],
)
def test_a_setting_that_needs_a_new_cache_is_refused(
    standing: dict[str, Any], changes: dict[str, Any], name: str
) -> None:
    spec = spec_from_config(model_of("llama").config, "tiny")
    before = {**SMALL, **standing}
    with Engine(model_of("llama"), spec, LrqkConfig(**before), CONTEXT) as engine:
        with pytest.raises(UsageError) as refusal:
            engine.adjust(LrqkConfig(**{**before, **changes}))
        assert name in refusal.value.message
