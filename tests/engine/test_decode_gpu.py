"""Decode steps replayed from a CUDA graph, beside the same steps run one kernel after another."""

from __future__ import annotations

import pytest
import torch
from packed import pack
from tiny import FAMILIES, random_tokens, tiny_model
from transformers import PreTrainedModel

from lrqk_cli.config import GenerationConfig, LrqkConfig, ModelSpec
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.loading import load, resolve
from lrqk_cli.models.support import spec_from_config

# Which experts a token goes to is read back in every step, which a graph cannot do, unless they are packed.
STAYS_EAGER = {"gpt-oss", "qwen3-moe"}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def greedy(
    model: PreTrainedModel,
    spec: ModelSpec,
    settings: LrqkConfig,
    turns: list[list[int]],
    count: int,
    *,
    capture: bool,
    stays_eager: bool = False,
) -> list[int]:
    """Return the greedy tokens of all turns."""
    tokens = []
    generation = GenerationConfig(max_new_tokens=count)
    with Engine(model, spec, settings, context=sum(map(len, turns)) + len(turns) * count) as engine:
        engine._decoder._can_capture &= capture
        for turn in turns:
            list(engine.prefill(turn))
            tokens += [step.token for step in engine.generate(generation, stop_ids=())]
        assert engine._decoder.is_captured == (capture and not stays_eager)
    return tokens


@pytest.mark.parametrize("attention", ["lrqk", "dense"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_graph_gives_the_tokens_of_single_kernels(family: str, attention: str) -> None:
    model = tiny_model(family).to("cuda")
    spec = spec_from_config(model.config, "tiny")
    settings = LrqkConfig(attention=attention, hot=40, top_k=16, recent=8, rank=8)  # type: ignore[arg-type]
    turns = [random_tokens(150, seed=1).tolist(), random_tokens(70, seed=2).tolist()]
    replayed = greedy(model, spec, settings, turns, 24, capture=True, stays_eager=family in STAYS_EAGER)
    assert replayed == greedy(model, spec, settings, turns, 24, capture=False)


@pytest.mark.parametrize("family", sorted(STAYS_EAGER))
def test_packed_experts_are_replayed_too(family: str) -> None:
    model = tiny_model(family, intermediate_size=64)
    pack(model, "q8")
    model = model.to("cuda")
    spec = spec_from_config(model.config, "tiny")
    settings = LrqkConfig(hot=40, top_k=16, recent=8, rank=8)
    turns = [random_tokens(150, seed=1).tolist(), random_tokens(70, seed=2).tolist()]
    replayed = greedy(model, spec, settings, turns, 24, capture=True)
    assert replayed == greedy(model, spec, settings, turns, 24, capture=False)


@pytest.mark.model
def test_a_real_model_gives_the_same_256_tokens() -> None:
    loaded = load(resolve("smollm2-135m"))
    turns = [random_tokens(3000, seed=3).tolist()]
    settings = LrqkConfig(hot=512, top_k=128)
    replayed = greedy(loaded.model, loaded.spec, settings, turns, 256, capture=True)
    assert replayed == greedy(loaded.model, loaded.spec, settings, turns, 256, capture=False)
