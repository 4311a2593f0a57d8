"""An engine whose model fails on the way."""

from __future__ import annotations

import pytest
import torch
from tiny import random_tokens, tiny_model

from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import LrqkError, ModelError, OutOfMemoryError
from lrqk_cli.models.support import spec_from_config

GREEDY = GenerationConfig(max_new_tokens=6)
SETTINGS = LrqkConfig(hot=32, top_k=8, recent=8, rank=8, segment=32)


@pytest.fixture
def engine():
    model = tiny_model("llama")
    with Engine(model, spec_from_config(model.config, "tiny"), SETTINGS, 512) as made:
        yield made


def answer(engine: Engine, prompt: list[int], generation: GenerationConfig = GREEDY) -> list[int]:
    for _ in engine.prefill(prompt):
        pass
    return [step.token for step in engine.generate(generation, ())]


def fail_in(engine: Engine, layer: int, error: Exception, after: int) -> torch.utils.hooks.RemovableHandle:
    """Let a layer of the model raise when it is called for the so-manyth time."""
    calls = iter(range(1000))

    def hook(*_: object) -> None:
        if next(calls) == after:
            raise error

    return engine.model.model.layers[layer].mlp.register_forward_hook(hook)


# Segments are three; then come the steps.
@pytest.mark.parametrize("after", [0, 1, 2, 4], ids=["first segment", "second", "last", "a decode step"])
def test_after_memory_ran_out_the_engine_is_empty_and_goes_on(engine: Engine, after: int) -> None:
    prompt = random_tokens(90).tolist()
    expected = answer(engine, prompt)
    engine.reset()
    handle = fail_in(engine, 1, torch.OutOfMemoryError("CUDA out of memory."), after)
    with pytest.raises(OutOfMemoryError):
        answer(engine, prompt)
    handle.remove()
    assert engine.length == engine.cache.get_seq_length() == 0
    assert answer(engine, prompt) == expected


@pytest.mark.parametrize("solver", ["joint", "als"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_numbers_that_are_not_finite_are_one_error(solver: str, temperature: float, penalty: float) -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj.weight.data[3, 3] = float("nan")
    settings = LrqkConfig(hot=32, top_k=8, recent=8, rank=8, segment=32, solver=solver)
    generation = GenerationConfig(max_new_tokens=3, temperature=temperature, repetition_penalty=penalty)
    with (
        Engine(model, spec_from_config(model.config, "tiny"), settings, 512) as engine,
        pytest.raises(ModelError, match="not finite"),
    ):
        answer(engine, random_tokens(90).tolist(), generation)


def test_logits_that_overflow_in_a_step_are_an_error(engine: Engine) -> None:
    for _ in engine.prefill(random_tokens(40).tolist()):
        pass
    steps = engine.generate(GREEDY, ())
    next(steps)
    engine.model.lm_head.weight.data[5] = float("inf")
    with pytest.raises(ModelError, match="not finite"):
        list(steps)


def test_a_token_that_the_model_does_not_know_is_refused(engine: Engine) -> None:
    with pytest.raises(LrqkError, match="makes the token 97, and the model knows 97"):
        list(engine.prefill([5, 97, 6]))
    assert engine.length == 0
