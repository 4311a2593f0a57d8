"""The tracker of attention, against exact attention in float64."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from tiny import random_tokens, tiny_model
from torch import Tensor, nn

from lrqk_cli import attach
from lrqk_cli.attention.sources import retrieving_layers
from lrqk_cli.config import LrqkConfig
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.upstream import cache_argument

PROMPT, STEPS = 200, 6
EVERYTHING = {"hot": 256, "top_k": 64, "recent": 16}


def run(model: nn.Module, settings: LrqkConfig, *, on_device: bool = False) -> tuple[list[float], list[int]]:
    """Return the weights of a prompt in two segments with some steps, and the layers that were tracked.

    ``on_device`` takes the steps whose lengths live on the device, by the kernels' references.
    """
    tokens = random_tokens(PROMPT + STEPS)
    with (
        patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: on_device),
        torch.no_grad(),
        attach(model, settings, context=256) as cache,
    ):
        cache.track_sources(True)
        model(tokens[:150].unsqueeze(0), **{cache_argument(): cache})
        model(tokens[150:PROMPT].unsqueeze(0), **{cache_argument(): cache})
        for token in tokens[PROMPT:]:
            model(token.view(1, 1), **{cache_argument(): cache})
        weights = cache.source_weights
        assert weights is not None
        return weights, retrieving_layers(cache.spec)


@torch.no_grad()
def exact_weights(model: nn.Module, layers: list[int]) -> Tensor:
    """Return what the prompt's last token and all after it put on each token, by eager attention."""
    tokens = random_tokens(PROMPT + STEPS)
    model = model.double()
    model.set_attn_implementation("eager")
    attentions = model(tokens.unsqueeze(0), output_attentions=True, use_cache=False).attentions
    return sum(attentions[layer][0, :, PROMPT - 1 :].sum((0, 1)) for layer in layers)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize(
    "settings",
    [
        LrqkConfig(attention="dense"),
        LrqkConfig(attention="offload"),
        LrqkConfig(**EVERYTHING),
        LrqkConfig(**EVERYTHING, grouping="head"),
        LrqkConfig(**EVERYTHING, solver="als", tail="none"),
    ],
    ids=["dense", "offload", "lrqk", "head", "als"],
)
def test_weights_are_exact_where_every_row_is_attended(family, settings):
    model = tiny_model(family)
    weights, layers = run(model, settings)
    expected = exact_weights(model, layers)
    assert abs(sum(weights) - (1 + STEPS) * 4 * len(layers)) < 1e-3
    torch.testing.assert_close(torch.tensor(weights).double(), expected, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("settings", [LrqkConfig(attention="dense"), LrqkConfig(**EVERYTHING)])
def test_steps_on_the_device_note_the_same(family, settings):
    model = tiny_model(family)
    weights, layers = run(model, settings, on_device=True)
    expected = exact_weights(model, layers)
    torch.testing.assert_close(torch.tensor(weights).double(), expected, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("on_device", [False, True])
def test_few_residents_share_all_the_weight(on_device):
    """What is not resident has none, and the sum is that of full attention."""
    settings = LrqkConfig(hot=24, top_k=8, recent=8, rank=4)
    weights, layers = run(tiny_model("llama"), settings, on_device=on_device)
    assert abs(sum(weights) - (1 + STEPS) * 4 * len(layers)) < 1e-3
    # Two KV heads, each with its own rows, which may change in every step.
    assert 0 < sum(weight > 0 for weight in weights) <= 2 * (32 + 9 * STEPS)


def test_a_new_prompt_begins_anew_and_nothing_is_noted_when_off():
    model, tokens = tiny_model("llama"), random_tokens(120)
    with torch.no_grad(), attach(model, LrqkConfig(**EVERYTHING), context=256) as cache:
        assert cache.source_weights is None
        model(tokens[:60].unsqueeze(0), **{cache_argument(): cache})
        model(tokens[60:61].unsqueeze(0), **{cache_argument(): cache})
        cache.track_sources(True)
        for count in (61, 110):
            model(tokens[count : count + 8].unsqueeze(0), **{cache_argument(): cache})
            model(tokens[count + 8 : count + 9].unsqueeze(0), **{cache_argument(): cache})
            assert cache.source_weights is not None
            assert abs(sum(cache.source_weights) - 2 * 4 * len(retrieving_layers(cache.spec))) < 1e-3
            if count == 61:
                model(tokens[70:110].unsqueeze(0), **{cache_argument(): cache})
        cache.track_sources(False)
        assert cache.source_weights is None


def spec_with(kinds: tuple[str, ...]) -> ModelSpec:
    return ModelSpec("t", "t", kinds, 4, 2, 16, 96, 64, 97, 512, 512, 1, 24)  # type: ignore[arg-type]


def test_layers_of_the_third_quarter_are_metered_and_no_sliding_one():
    assert retrieving_layers(spec_with(("full",) * 24)) == [12, 13, 14, 15, 16, 17]
    assert retrieving_layers(spec_with(("full",) * 2)) == [1]
    assert retrieving_layers(spec_with(("full",))) == [0]
    assert retrieving_layers(spec_with(("sliding", "full") * 8)) == [9, 11]
    assert retrieving_layers(spec_with(("sliding",) * 2)) == []
    gemma = spec_from_config(
        tiny_model(
            "gemma3", num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2
        ).config,
        "gemma3",
    )
    assert retrieving_layers(gemma) == [3]
