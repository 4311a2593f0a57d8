"""The observer of decode steps, against the definitions."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from tiny import random_tokens, tiny_model

from lrqk_cli import attach
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.observe import LayerObserver, Observed
from lrqk_cli.config import LrqkConfig
from lrqk_cli.upstream import cache_argument

STEPS = 5


@torch.no_grad()
def observe(family: str, settings: LrqkConfig, device: str = "cpu", seed: int = 0) -> list[Observed]:
    model = tiny_model(family).to(device)
    tokens = random_tokens(200 + STEPS, seed).to(device)
    with attach(model, settings, context=256) as cache:
        model(tokens[:200].unsqueeze(0), **{cache_argument(): cache})
        numbers = [
            n for n in range(cache.spec.num_layers) if isinstance(cache.attention_layers[n], LrqkLayer)
        ]
        observers = [LayerObserver(cache, number) for number in numbers]
        for token in tokens[200:]:
            model(token.view(1, 1), **{cache_argument(): cache})
        return [observer.take() for observer in observers]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt-oss"])
@pytest.mark.parametrize("grouping", ["kv", "head"])
def test_with_everything_resident_nothing_is_lost(family, grouping):
    found = observe(family, LrqkConfig(hot=256, top_k=64, recent=16, grouping=grouping))
    assert found
    for layer in found:
        assert layer.captured_mass.shape == (STEPS, 4)
        torch.testing.assert_close(layer.captured_mass, torch.ones(STEPS, 4))
        assert layer.output_error.shape == (STEPS,)
        assert layer.output_error.max() < 1e-5


def test_dropping_the_tail_loses_what_the_residents_do_not_hold():
    """Without the other rows, ``o* = m·o + (1 − m)·o_tail``: little mass lost is little error."""
    settings = LrqkConfig(hot=48, top_k=32, recent=16, rank=8, tail="none")
    for small, large in zip(
        observe("llama", settings),
        observe("llama", LrqkConfig(hot=160, top_k=128, recent=16, rank=8, tail="none")),
        strict=True,
    ):
        assert 0.0 < small.captured_mass.min() < large.captured_mass.min() < 1.0
        assert small.output_error.mean() > large.output_error.mean() > 0.0


def test_the_mass_is_the_sum_of_the_exact_weights_of_the_residents():
    model = tiny_model("llama")
    tokens = random_tokens(201)
    with torch.no_grad(), attach(model, LrqkConfig(hot=40, top_k=32, recent=8), context=256) as cache:
        model(tokens[:200].unsqueeze(0), **{cache_argument(): cache})
        layer = cache.attention_layers[0]
        assert isinstance(layer, LrqkLayer)
        asked = []
        observer = LayerObserver(cache, 0)
        cache.observers[0] = lambda *step: (asked.append(step), observer(*step))
        model(tokens[200].view(1, 1), **{cache_argument(): cache})
        (query, params, _), keys = asked[0], layer.store.rows[:, :201, 0]
        logits = query.squeeze(2) @ keys.mT * params.scaling
        weights = logits.softmax(-1)
        resident = layer.hot.resident_tokens(201).unsqueeze(1).expand(-1, 2, -1)
        expected = weights.gather(2, resident).sum(-1).flatten()
    torch.testing.assert_close(observer.take().captured_mass[0], expected)
    assert observer.take().output_error.numel() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("grouping", ["kv", "head"])
def test_a_gpu_finds_what_a_cpu_finds(grouping):
    settings = LrqkConfig(hot=48, top_k=32, recent=16, rank=8, index_bits=8, grouping=grouping)
    masses, errors = list[torch.Tensor](), list[torch.Tensor]()
    for seed in range(8):
        # The steps of a GPU, which choose by bins of scores, on the plain references of its kernels.
        with patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: True):
            on_cpu = observe("llama", settings, seed=seed)
        for expected, found in zip(on_cpu, observe("llama", settings, "cuda", seed), strict=True):
            assert found.captured_mass.device.type == "cpu"
            masses.append((found.captured_mass - expected.captured_mass).abs().flatten())
            errors.append((found.output_error - expected.output_error).abs())
    # Where scores are at the border of two bins, rounding decides which row is resident: a few per cent of
    # the mass in single steps, and next to nothing in most.
    mass, error = torch.cat(masses), torch.cat(errors)
    assert mass.median() <= 5e-3
    assert mass.max() <= 3e-2
    assert error.median() <= 1e-2
    assert error.max() <= 6e-2


def test_a_layer_that_is_left_alone_is_not_kept_in_memory():
    with attach(tiny_model("llama"), LrqkConfig(hot=64, top_k=16), context=64) as cache:
        observer = LayerObserver(cache, 0)
        assert cache.observers == {0: observer}
        observer.detach()
        assert cache.observers == {}
