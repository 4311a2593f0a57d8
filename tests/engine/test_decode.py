"""The decoder where steps are on the device, here through their plain references, and layers are observed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny import random_tokens, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.attention import cache
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.observe import LayerObserver
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine import decode
from lrqk_cli.engine.decode import FixedStep
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.support import spec_from_config

pytestmark = pytest.mark.short

PROMPT = random_tokens(120, seed=1).tolist()
ANSWER = random_tokens(8, seed=2).tolist()
FEW_ROWS = LrqkConfig(hot=32, top_k=12, recent=8, rank=8)
ALL_ROWS = LrqkConfig(hot=160, top_k=40, recent=8, rank=8)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give caches steps on the device; return at which lengths a capture was asked for, which then fails."""
    asked: list[int] = []

    def capture(step: FixedStep) -> None:
        asked.append(step._cache.get_seq_length())
        step._can_capture = False

    monkeypatch.setattr(cache, "has_device_steps", lambda *_: True)
    monkeypatch.setattr(FixedStep, "_capture", capture)
    return asked


@contextmanager
def prefilled(family: str, settings: LrqkConfig, *, finishes: bool = True) -> Iterator[Engine]:
    model = tiny_model(family)
    spec = spec_from_config(model.config, "tiny")
    with Engine(model, spec, settings, context=160) as engine:
        list(engine.prefill(PROMPT, finishes=finishes))
        yield engine


def observers(engine: Engine) -> list[LayerObserver]:
    numbers = range(engine.spec.num_layers)
    cache = engine.cache
    return [
        LayerObserver(cache, number)
        for number in numbers
        if isinstance(cache.attention_layers[number], LrqkLayer)
    ]


def logits(engine: Engine, tokens: list[int]) -> Tensor:
    found = []
    for token in tokens:
        engine.append(token)
        found.append(engine.next_logits().clone())
    return torch.stack(found)


def expected(family: str, settings: LrqkConfig) -> Tensor:
    """Return the logits of steps whose lengths are on the host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "has_device_steps", lambda *_: False)
        with prefilled(family, settings) as engine:
            assert not engine.cache.has_device_steps
            return logits(engine, ANSWER)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_observed_steps_are_on_the_device_and_are_not_captured(family: str, captures: list[int]) -> None:
    with prefilled(family, FEW_ROWS) as engine:
        assert engine.cache.has_device_steps
        seen = observers(engine)
        found = logits(engine, ANSWER)
    assert captures == []
    assert all(observer.take().output_error.shape == (len(ANSWER),) for observer in seen)
    with prefilled(family, FEW_ROWS) as engine:
        alone = logits(engine, ANSWER)
    assert captures == [len(PROMPT) + 1]
    torch.testing.assert_close(found, alone, atol=0, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt-oss"])
def test_a_step_on_the_device_that_loses_nothing_is_seen_to_lose_nothing(
    family: str, captures: list[int]
) -> None:
    with prefilled(family, ALL_ROWS) as engine:
        seen = observers(engine)
        logits(engine, ANSWER)
    for observer in seen:
        found = observer.take()
        torch.testing.assert_close(found.captured_mass, torch.ones_like(found.captured_mass))
        assert found.output_error.max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("before", [0, 3])
def test_the_device_goes_on_where_observers_leave(family: str, before: int, captures: list[int]) -> None:
    """With all rows resident every kind of step is exact, and a wrong position is not."""
    with prefilled(family, ALL_ROWS) as engine:
        found = [logits(engine, ANSWER[:before])] if before else []
        seen = observers(engine)
        found.append(logits(engine, ANSWER[before:5]))
        for observer in seen:
            observer.detach()
        found.append(logits(engine, ANSWER[5:]))
        assert engine.cache.has_device_steps
        assert int(engine.cache.position.tensor) == engine.cache.get_seq_length()
    # The second step on the device is the one to be captured.
    assert captures == [len(PROMPT) + (1 if before else 6)]
    torch.testing.assert_close(torch.cat(found), expected(family, ALL_ROWS), atol=1e-4, rtol=0)


def test_a_prefill_that_leaves_settling_to_the_first_step_counts_on_the_device(captures: list[int]) -> None:
    with prefilled("llama", ALL_ROWS, finishes=False) as engine:
        found = logits(engine, ANSWER)
    torch.testing.assert_close(found, expected("llama", ALL_ROWS), atol=1e-4, rtol=0)


def test_a_step_is_captured_once_a_step_of_its_kind_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text fits the hot set and may outgrow it, so that both kinds are compiled before a capture."""
    events, newest_logits = list[str](), decode.newest_logits

    def note(event: str, choosing: bool) -> None:
        events.append(f"{event} {'choosing' if choosing else 'holding all'}")

    def run(model: PreTrainedModel, cache: LrqkCache, *inputs: Tensor) -> Tensor:
        found = newest_logits(model, cache, *inputs)
        if len(inputs[0]) == 1:
            note("ran", cache.is_choosing)
        return found

    def capture(step: FixedStep) -> None:
        note("captured", step._cache.is_choosing)
        step._can_capture = False

    monkeypatch.setattr(cache, "has_device_steps", lambda *_: True)
    monkeypatch.setattr(decode, "newest_logits", run)
    monkeypatch.setattr(FixedStep, "_capture", capture)
    settings = LrqkConfig(hot=140, top_k=40, recent=8, rank=8, lookup=0)
    each = ["ran choosing", "ran holding all", "captured holding all", "ran holding all"]
    with prefilled("llama", settings) as engine:
        logits(engine, ANSWER[:3])
        assert events == each
        # Fewer hot rows, for example, make other kernels.
        engine._decoder.forget_graphs()
        logits(engine, ANSWER[3:6])
        assert events == 2 * each
