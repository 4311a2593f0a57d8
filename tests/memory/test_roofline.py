"""What a decode step reads, and how fast memory could deliver it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import tiny_model

from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory import accounting
from lrqk_cli.memory.roofline import Bandwidth, StepBytes, step_bytes
from lrqk_cli.models.matrices import EXPERT_WEIGHTS
from lrqk_cli.models.support import spec_from_config, with_form


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_reads_all_weights_but_an_embedding_of_its_own(tied: bool) -> None:
    model = tiny_model("llama", tie_word_embeddings=tied)
    spec = spec_from_config(model.config, "llama")
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert spec.num_parameters_read == everything - (0 if tied else 97 * 32)


def test_each_mode_has_bytes_of_its_own() -> None:
    spec = spec_from_config(tiny_model("gemma3").config, "gemma3")
    assert spec.num_parameters_read is not None
    weights = 4 * spec.num_parameters_read
    settings = LrqkConfig(hot=32, top_k=16, recent=8, rank=4)
    found = {
        mode: step_bytes(spec, replace(settings, attention=mode), 500, "float32")
        for mode in ("lrqk", "dense", "offload")
    }
    sizes = accounting.kv_bytes(spec, settings, 500, "float32")
    rows = 500 * 2 * 2 * 16 * 4  # one full layer, 2 KV heads, K and V of 16 floats
    window = 24 * 2 * 2 * 16 * 4
    assert found["lrqk"] == StepBytes(weights + sizes.index + sizes.hot + window, 0)
    assert found["dense"] == StepBytes(weights + rows + window, 0)
    assert found["offload"] == StepBytes(weights + window, rows)


@pytest.mark.parametrize("family", ["gpt-oss", "qwen3-moe"])
def test_only_the_experts_of_a_token_are_read(family: str) -> None:
    model = tiny_model(family, intermediate_size=64)
    spec = spec_from_config(model.config, family)
    layers = [layer.mlp.experts for layer in model.model.layers]
    held = sum(getattr(experts, name).numel() for experts in layers for name in EXPERT_WEIGHTS)
    read = held * model.config.num_experts_per_tok // layers[0].num_experts
    embedded = model.model.embed_tokens.weight.numel()
    assert spec.num_parameters_read == spec.num_parameters - embedded - held + read


def test_experts_in_host_memory_cross_the_link() -> None:
    config = tiny_model("qwen3-moe", hidden_size=64).config
    spec = with_form(spec_from_config(config, "qwen3-moe"), "q8")
    assert spec.packed is not None
    here, apart = (
        step_bytes(each, LrqkConfig(), 500, "float32") for each in (spec, spec.with_experts_on_host())
    )
    assert here is not None
    assert apart is not None
    assert apart.total == here.total
    assert apart.link == spec.packed.experts_read == round(spec.packed.experts / 3) > here.link == 0


def test_a_token_may_go_to_all_experts() -> None:
    spec = spec_from_config(tiny_model("qwen3-moe", num_experts_per_tok=6).config, "qwen3-moe")
    embedded = 97 * 32
    assert spec.num_parameters_read == spec.num_parameters - embedded


def test_experts_that_are_not_known_have_no_roofline() -> None:
    spec = replace(spec_from_config(tiny_model("gpt-oss").config, "gpt-oss"), num_parameters_read=None)
    assert step_bytes(spec, LrqkConfig(), 500, "float32") is None


def test_the_slower_of_memory_and_link_is_the_limit() -> None:
    bytes_ = StepBytes(device=300, link=10)
    assert bytes_.tokens_per_second(Bandwidth(100, 5)) == pytest.approx(1 / 3)
    assert bytes_.tokens_per_second(Bandwidth(100, 2)) == pytest.approx(1 / 5)
    assert bytes_.tokens_per_second(Bandwidth(100, None)) == pytest.approx(100 / 310)
