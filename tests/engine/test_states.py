"""States of convolutions and recurrences: an interrupted call leaves none of its tokens in them."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from failing import failing_at
from tiny import random_tokens, tiny_model
from transformers import PreTrainedModel

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import OutOfMemoryError, UnsupportedModelError
from lrqk_cli.memory import accounting
from lrqk_cli.models.support import spec_from_config

HYBRIDS = ["qwen3.5", "falcon-h1", "lfm2", "granite-hybrid", "nemotron-h"]
PROMPT = random_tokens(60, 3).tolist()


def new_engine(model: PreTrainedModel) -> Engine:
    config = LrqkConfig(hot=24, top_k=8, recent=8, rank=8, segment=16)
    return Engine(model, spec_from_config(model.config, "tiny"), config, 200)


@pytest.mark.parametrize("family", HYBRIDS)
@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupted_segment_is_read_again_from_the_states_before_it(family: str, call: int) -> None:
    model = tiny_model(family)
    with new_engine(model) as engine, new_engine(model) as other:
        layers = sum(kind != "none" for kind in engine.spec.layer_kinds)
        with (
            patch.object(LrqkCache, "attend", failing_at((call - 1) * layers + layers, LrqkCache.attend)),
            pytest.raises(KeyboardInterrupt),
        ):
            list(engine.prefill(PROMPT))
        read = engine.length
        assert read == (call - 1) * 16
        list(engine.prefill(PROMPT[read:]))
        list(other.prefill(PROMPT))
        torch.testing.assert_close(engine.next_logits(), other.next_logits(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", HYBRIDS)
def test_an_interrupted_step_leaves_no_trace(family: str) -> None:
    model = tiny_model(family)
    with new_engine(model) as engine, new_engine(model) as other:
        for each in (engine, other):
            list(each.prefill(PROMPT))
            each.append(5)
        with (
            patch.object(LrqkCache, "attend", failing_at(1, LrqkCache.attend)),
            pytest.raises(KeyboardInterrupt),
        ):
            engine.next_logits()
        assert torch.equal(engine.next_logits(), other.next_logits())


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_step_that_is_interrupted_between_layers_empties_the_engine(family: str) -> None:
    """The first layers have moved a row from the recent window into the hot set, which a repeat would not."""
    greedy, model = GenerationConfig(max_new_tokens=3), tiny_model(family)
    with new_engine(model) as engine, new_engine(model) as other:
        layers = sum(kind != "none" for kind in engine.spec.layer_kinds)
        list(engine.prefill(PROMPT))
        interrupted = patch.object(LrqkCache, "attend", failing_at(layers + 2, LrqkCache.attend))
        with interrupted, pytest.raises(KeyboardInterrupt):
            list(engine.generate(greedy, stop_ids=()))
        assert (engine.length, engine.cache.position.length, engine.logits) == (0, 0, None)
        found = []
        for each in (engine, other):
            list(each.prefill(PROMPT))
            found.append([step.token for step in each.generate(greedy, stop_ids=())])
        assert found[0] == found[1]
        assert torch.equal(engine.next_logits(), other.next_logits())


def test_a_failure_of_a_single_step_empties_the_engine() -> None:
    with new_engine(tiny_model("llama")) as engine:
        list(engine.prefill(PROMPT))
        engine.append(5)
        failing = patch.object(LrqkCache, "attend", side_effect=torch.OutOfMemoryError("CUDA out of memory."))
        with failing, pytest.raises(OutOfMemoryError):
            engine.next_logits()
        assert engine.length == 0


@pytest.mark.parametrize("family", HYBRIDS)
def test_states_take_the_bytes_that_are_counted(family: str) -> None:
    with new_engine(tiny_model(family)) as engine:
        list(engine.prefill(PROMPT))
        found = [part for state in engine.cache.states for part in state.tensors.values()]
        assert sum(part.nbytes for part in found) == accounting.state_bytes(engine.spec, "float32") > 0
        addresses = [part.data_ptr() for part in found]
        engine.reset()
        list(engine.prefill(PROMPT))
        again = [part for state in engine.cache.states for part in state.tensors.values()]
        assert addresses == [part.data_ptr() for part in again]


def test_a_model_without_attention_is_refused() -> None:
    config = tiny_model("lfm2").config.to_dict() | {"layer_types": ["conv", "conv"]}
    with pytest.raises(UnsupportedModelError, match="no layer with attention"):
        spec_from_config(config, "tiny")
