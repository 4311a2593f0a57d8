"""The scripts that measure what no suite of ``lrqk bench`` does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from measurements import script
from tiny import VOCABULARY, random_tokens, tiny_model

from lrqk_cli.bench.fidelity import measure
from lrqk_cli.bench.fidelity.cases import Case
from lrqk_cli.bench.fidelity.measure import Reference
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.support import spec_from_config


@pytest.mark.parametrize("name", script("schedules").SCHEDULES)
def test_every_schedule_can_be_put_in_force(name: str) -> None:
    schedules = script("schedules")
    model = tiny_model("llama")
    settings = LrqkConfig(rank=8, hot=64, top_k=16, recent=8, segment=40)
    conversation = Case("text", (random_tokens(190).tolist(),))
    reference = Reference(tuple(random_tokens(3, 1).tolist()), torch.zeros(3, VOCABULARY).log_softmax(-1))
    loaded: Any = SimpleNamespace(stop_ids=frozenset())
    spec = spec_from_config(model.config, "tiny")
    with schedules.in_force(schedules.SCHEDULES[name]), Engine(model, spec, settings, 200) as engine:
        (found,) = measure.compare(engine, loaded, conversation, [reference], observe=False)
        assert engine.length == 193
    assert found.divergence.isfinite().all()
    # Nothing of it stays.
    assert LrqkConfig().sink_tokens > 0


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_turned_model_computes_the_same_from_other_numbers(family: str) -> None:
    weights = script("weights")
    model = tiny_model(family, tie_word_embeddings=True)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(0.5, 1.5)
    tokens = random_tokens(50).unsqueeze(0)
    before = weights.log_probabilities(model, tokens)
    matrix = model.model.layers[1].mlp.up_proj.weight.clone()
    weights.turn(model)
    torch.testing.assert_close(weights.log_probabilities(model, tokens), before, atol=1e-4, rtol=1e-4)
    assert (model.model.layers[1].mlp.up_proj.weight - matrix).norm() > matrix.norm()
    weights.packed(model, "q8", weights.ours)
    after = weights.log_probabilities(model, tokens)
    assert "| lrqk | q8 | 0.0" in weights.line("lrqk", "q8", before, after)
    assert not torch.equal(after, before)
