"""Verify steps on a GPU, replayed from a graph of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from packed import pack
from tiny import random_tokens, tiny_model
from transformers import PreTrainedModel

from lrqk_cli.config import GenerationConfig, KvDtype, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.support import spec_from_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CONTEXT = 900
LONG = GenerationConfig(max_new_tokens=256)
REPEATING = random_tokens(40, seed=5).tolist() * 10
ALL_ROWS = LrqkConfig(hot=CONTEXT, top_k=16, recent=8, rank=8)


def model_on_gpu(family: str = "llama", weights: str | None = None) -> PreTrainedModel:
    model = tiny_model(family, intermediate_size=64)
    if weights is not None:
        pack(model, weights)
    return model.to("cuda")


def answers(
    model: PreTrainedModel, config: LrqkConfig, generation: GenerationConfig = LONG, accepted: int = 100
) -> list[list[int]]:
    """Return the answers to two turns; their verify steps are captured where there are drafts.

    Args:
        accepted: drafts that must be accepted with lookup.
    """
    found = []
    with Engine(model, spec_from_config(model.config, "tiny"), config, CONTEXT) as engine:
        for turn in (REPEATING[:300], random_tokens(30, seed=6).tolist()):
            list(engine.prefill(turn))
            found.append([step.token for step in engine.generate(generation, ())][:256])
        assert (engine.totals.drafts_accepted >= accepted) == (config.lookup > 0)
        if config.lookup:
            assert engine._decoder._verify is not None
            assert engine._decoder._verify.is_captured
    return found


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("weights", [None, "q8"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_answers_are_the_same_with_and_without(family: str, weights: str | None, kv_dtype: KvDtype) -> None:
    model, config = model_on_gpu(family, weights), replace(ALL_ROWS, kv_dtype=kv_dtype)
    assert answers(model, config) == answers(model, replace(config, lookup=0))


@pytest.mark.parametrize("grouping", ["kv", "head"])
def test_answers_of_a_small_hot_set_go_on(grouping: str) -> None:
    """What a verify step makes resident differs, so answers may; they are whole, and their rows right."""
    config = replace(ALL_ROWS, hot=64, grouping=grouping)
    assert [len(answer) for answer in answers(model_on_gpu(), config)] == [256, 256]


def test_drawn_tokens_are_the_same() -> None:
    model, drawn = model_on_gpu(), replace(LONG, temperature=0.2, seed=3)
    without = answers(model, replace(ALL_ROWS, lookup=0), drawn)
    # Drawn answers seldom repeat themselves.
    assert answers(model, ALL_ROWS, drawn, accepted=4) == without
