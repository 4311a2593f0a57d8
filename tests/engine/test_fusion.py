"""Fused operations inside a model, on the CPU through their references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packed import pack
from tiny import FAMILIES, random_tokens, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, OlmoConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from lrqk_cli import kernels
from lrqk_cli.engine.fused_linears import Residuals, Vectors
from lrqk_cli.engine.fusion import fused
from lrqk_cli.kernels.gemv import reference

# Whose norms and rotations are those that ours know.
FUSED = {"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3"}
# Whose layers add what attention and MLP return to what came in; Gemma's normalise it before.
ADDING = {"llama", "qwen2", "qwen3", "mistral", "mistral-sliding", "phi3", "qwen3-moe"}
ADDING |= {"qwen3-next", "qwen3.5", "qwen3.5-moe"}


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(tokens.unsqueeze(0)).logits
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_the_same_and_the_model_is_left_as_it_was(family: str) -> None:
    model = tiny_model(family)
    before = [dict(vars(module)) for module in model.modules()]
    for count in (1, 4, 9):
        tokens = random_tokens(count)
        expected = logits(model, tokens)
        with fused(model):
            found = logits(model, tokens)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert [dict(vars(module)) for module in model.modules()] == before


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_a_few_tokens_of_packed_weights_share_the_products(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the tokens of a verify step: with their residuals, and each converted to fixed point once."""
    model = tiny_model(family, hidden_size=64, intermediate_size=96)
    pack(model, "q8")
    counts: list[tuple[int, ...]] = []
    multiply = kernels.packed_gemv

    def count(matrices: Any, vector: Any, out: torch.Tensor, **named: Any) -> None:
        counts.append(tuple(out.shape))
        multiply(matrices, vector, out, **named)

    monkeypatch.setattr(kernels, "packed_gemv", count)
    tokens = random_tokens(4)
    expected = logits(model, tokens)
    with fused(model):
        counts.clear()
        found = logits(model, tokens)
        assert counts
        assert all(shape[0] == 4 for shape in counts)
        counts.clear()
        logits(model, tokens[:1])
        assert all(len(shape) == 1 for shape in counts)
        counts.clear()
        logits(model, random_tokens(9))
        assert not counts
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_known_is_replaced(family: str) -> None:
    model = tiny_model(family)
    with fused(model):
        replaced = {type(module).__name__ for module in model.modules() if "forward" in vars(module)}
    assert any("Norm" in name for name in replaced)
    assert "Linear" in replaced
    if any(name in family for name in FUSED) and family != "mistral4":
        assert any("Attention" in name for name in replaced)
        # That of a mixture is none of its own.
        assert any("MLP" in name for name in replaced) is (family != "qwen3-moe")
    assert any("DecoderLayer" in name for name in replaced) is (family in ADDING)


def test_what_computes_something_else_is_left_alone() -> None:
    class Scale(nn.Module):
        """Looks like a normalisation, and is none."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))
            self.eps = 1e-5

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows * self.weight

    class NotQuiteLinear(nn.Linear):
        """As layers with adapters are."""

    modules = nn.ModuleList([Scale(), nn.LayerNorm(8), NotQuiteLinear(8, 8)])
    with fused(modules):  # type: ignore[arg-type]
        assert not any("forward" in vars(module) for module in modules)


def test_what_somebody_else_has_replaced_is_left_alone() -> None:
    model = tiny_model("llama")
    norm = model.get_decoder().norm
    own = norm.forward
    norm.forward = own
    with fused(model):
        assert norm.forward is own
    assert "forward" in vars(norm)


def test_weights_that_come_when_they_are_used_are_left_to_who_brings_them() -> None:
    model = tiny_model("llama")
    mlp = model.get_decoder().layers[0].mlp
    mlp.gate_proj.forward = mlp.gate_proj.forward
    with fused(model):
        assert "forward" not in vars(mlp)
        assert "forward" in vars(mlp.up_proj)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_queries_keys_and_values_of_a_token_are_one_product(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def gemv(weights: tuple[torch.Tensor, ...], *rest: torch.Tensor, **named: Any) -> None:
        calls.append((len(weights), named["residual"] is not None))
        reference.gemv(weights, *rest, **named)

    model = tiny_model(family)
    with fused(model):
        monkeypatch.setattr(kernels, "gemv", gemv)
        logits(model, random_tokens(1))
    layers = model.config.num_hidden_layers
    # The products of a layer's output and of its MLP are single, and added to what came before; the logits
    # are single too.
    assert sorted(calls) == [(1, False)] + [(1, True)] * (2 * layers) + [(3, False)] * layers


def test_a_layer_that_is_not_called_as_most_are_is_left_alone() -> None:
    # Its norms have no weights.
    config = OlmoConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tokens = random_tokens(1).clamp_max(96)
    expected = logits(model, tokens)
    with fused(model):
        assert not any("forward" in vars(layer) for layer in model.model.layers)
        torch.testing.assert_close(logits(model, tokens), expected, atol=1e-5, rtol=1e-5)


def test_a_residual_does_not_outlive_a_failure() -> None:
    residuals, layer = Residuals(), torch.nn.Linear(2, 2)

    def fail() -> torch.Tensor:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        residuals.add(torch.ones(2), layer, fail)
    assert residuals.take(layer, torch.ones(2)) is None


def test_a_token_that_was_converted_is_not_converted_again() -> None:
    vectors = Vectors()
    output = torch.randn(2, 2, 32)
    space = vectors.space_for(output)
    assert vectors.of(output.view(1, 1, 128)) is space
    # Neither a part of it nor another one is the same.
    assert vectors.of(output[0]) is not space
    assert vectors.of(output.clone()) is not space


def test_a_layer_whose_part_returns_something_else_adds_for_itself() -> None:
    class Scaled(LlamaMLP):
        """What it returns is not what its last product does."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scaled: torch.Tensor = super().forward(x) * 2
            return scaled

    model = tiny_model("llama")
    first, second = model.model.layers
    first.mlp.__class__ = Scaled
    tokens = random_tokens(1)
    expected = logits(model, tokens)
    with fused(model):
        assert "forward" not in vars(first)
        assert "forward" in vars(second)
        torch.testing.assert_close(logits(model, tokens), expected, atol=1e-5, rtol=1e-5)
