"""Marks where decode steps are replayed from a CUDA graph, and rows are in pinned memory."""

from __future__ import annotations

import pytest
import torch
from tiny import random_tokens, tiny_model

from lrqk_cli.config import AttentionMode, GenerationConfig, KvDtype, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.support import spec_from_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ANSWER = GenerationConfig(max_new_tokens=20)


def take(engine: Engine, count: int, seed: int) -> None:
    list(engine.prefill(random_tokens(count, seed).tolist()))
    list(engine.generate(ANSWER, stop_ids=()))


def probe(engine: Engine) -> torch.Tensor:
    found = []
    for token in range(3, 11):
        found.append(engine.next_logits().float().clone())
        engine.append(token)
    return torch.stack(found)


@pytest.mark.parametrize(
    ("attention", "kv_dtype"), [("lrqk", "bf16"), ("dense", "bf16"), ("offload", "bf16"), ("lrqk", "int8")]
)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt-oss"])
def test_a_turn_that_was_taken_back_leaves_no_trace(
    family: str, attention: AttentionMode, kv_dtype: KvDtype
) -> None:
    """The second turn is long enough for another fit; the graph stays, and is used again."""
    model = tiny_model(family).to("cuda")
    spec = spec_from_config(model.config, "tiny")
    settings = LrqkConfig(attention, hot=40, top_k=16, recent=8, rank=8, segment=64, kv_dtype=kv_dtype)
    with Engine(model, spec, settings, 1200) as engine, Engine(model, spec, settings, 1200) as fresh:
        take(engine, 150, 1)
        point = engine.rewind_point()
        take(engine, 500, 2)
        graph = engine._decoder._plain._graph
        engine.rewind(point)
        take(engine, 70, 3)
        assert engine._decoder._plain._graph is graph
        take(fresh, 150, 1)
        take(fresh, 70, 3)
        assert engine.tokens == fresh.tokens
        torch.testing.assert_close(probe(engine), probe(fresh), atol=1e-4, rtol=0)


@pytest.mark.parametrize("changes", [{"top_k": 30}, {"tail": "none"}])
def test_settings_that_change_on_the_way_act_in_captured_steps(changes: dict[str, object]) -> None:
    model = tiny_model("llama").to("cuda")
    spec = spec_from_config(model.config, "tiny")
    base = {"hot": 40, "top_k": 16, "recent": 8, "rank": 8}
    before, after = LrqkConfig(**base), LrqkConfig(**{**base, **changes})  # type: ignore[arg-type]
    found = []
    for first in (before, after):
        with Engine(model, spec, first, 600) as engine:
            list(engine.prefill(random_tokens(300, 1).tolist()))
            point = engine.rewind_point()
            probe(engine)
            engine.adjust(after)
            engine.rewind(point)
            found.append(probe(engine))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=0)


def test_misses_are_counted_layer_by_layer() -> None:
    model = tiny_model("llama").to("cuda")
    spec = spec_from_config(model.config, "tiny")
    with Engine(model, spec, LrqkConfig(hot=40, top_k=16, recent=8, rank=8), 600) as engine:
        take(engine, 300, 1)
        misses = engine.layer_misses()
        assert len(misses) == spec.num_layers
        # Not quite their mean: what a layer demands ends with a whole bin of scores.
        assert sum(misses) / len(misses) == pytest.approx(engine.totals.miss_rate, rel=0.02)
