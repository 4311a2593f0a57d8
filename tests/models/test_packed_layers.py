"""Packed layers in models of every family, plain and with fused operations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from decode_step import DEVICES
from packed import matrix_of, quantised, unpacked
from tiny import FAMILIES, KNOWN, random_tokens, tiny_model
from torch import nn
from transformers import PreTrainedModel

from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.fusion import fused
from lrqk_cli.engine.generate import Engine
from lrqk_cli.formats import FORMATS
from lrqk_cli.models import packed_layers
from lrqk_cli.models.packed_layers import PackedEmbedding, PackedLinear, multiply_packed
from lrqk_cli.models.repack import repack
from lrqk_cli.models.support import spec_from_config

PROMPT, ANSWER, CONTEXT = 60, 12, 96
SETTINGS = LrqkConfig(hot=64, top_k=16, recent=8, rank=8)


@torch.no_grad()
def pair(family: str, kinds: Sequence[str]) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return a model of unpacked matrices, and the same one packed; types take turns."""
    plain, packed = (tiny_model(family, intermediate_size=64, tie_word_embeddings=False) for _ in range(2))
    for number, (name, module) in enumerate(list(plain.named_modules())):
        if not (type(module) is nn.Linear or isinstance(module, nn.Embedding)):
            continue
        if module.weight.shape[1] % 32:
            continue
        kind = kinds[number % len(kinds)]
        blocks = torch.from_numpy(quantised(kind, module.weight.numpy()))
        module.weight.copy_(unpacked(kind, blocks))
        matrix = repack(FORMATS[kind], blocks, module.weight.shape[1])
        scale = float(getattr(module, "embed_scale", 1.0))
        stand_in: nn.Module = PackedEmbedding(matrix, torch.float32, scale)
        if isinstance(module, nn.Linear):
            stand_in = PackedLinear(matrix, torch.float32, packed.get_submodule(name).bias)
        packed.set_submodule(name, stand_in)
    return plain, packed


def answer(model: PreTrainedModel) -> list[int]:
    """Return greedy tokens of a prompt, by the engine."""
    with Engine(model, spec_from_config(model.config, "tiny"), SETTINGS, CONTEXT) as engine:
        list(engine.prefill(random_tokens(PROMPT).tolist()))
        found = []
        for _ in range(ANSWER):
            found.append(int(engine.next_logits().argmax()))
            engine.append(found[-1])
    return found


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        *((family, ("Q4_1", "Q5_0", "Q4_0", "Q5_1")) for family in FAMILIES),
        *((family, kinds) for family in KNOWN for kinds in (("Q8_0",), ("MXFP4", "IQ4_NL"))),
    ],
)
def test_packed_and_unpacked_models_give_the_same_tokens(
    family: str, kinds: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some rows at a time, as with large matrices.
    monkeypatch.setattr(packed_layers, "UNPACKED_AT_ONCE", 5 * 32)
    plain, packed = pair(family, kinds)
    assert any(isinstance(module, PackedLinear) for module in packed.modules())
    expected = answer(plain)
    assert answer(packed) == expected
    with fused(packed):
        assert answer(packed) == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("count", [1, 3, packed_layers.FEW_TOKENS, packed_layers.FEW_TOKENS + 1])
def test_few_tokens_and_many_have_the_same_products(count: int, has_bias: bool, device: str) -> None:
    matrix, weights = matrix_of("Q5_0", 70, 96, size=0.1)
    bias = nn.Parameter(torch.linspace(-1, 1, 70)) if has_bias else None
    tokens = torch.randn(2, count, 96, generator=torch.Generator().manual_seed(0))[1:]
    expected = torch.nn.functional.linear(tokens, weights, bias).detach()
    layer = PackedLinear(matrix, torch.float32, bias).to(device)
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens.to(device)).cpu(), expected, atol=1e-4, rtol=1e-4)
        found = torch.full((count, 70), torch.nan, device=device)
        multiply_packed(tokens[0].to(device), layer.matrix, found, layer.bias)
    torch.testing.assert_close(found.cpu(), expected[0], atol=1e-4, rtol=1e-4)


def test_a_packed_mlp_and_its_attention_are_fused() -> None:
    _, packed = pair("llama", ("Q4_1", "Q5_0"))
    with fused(packed):
        layer = packed.model.layers[0]
        for module in (layer.mlp, layer.self_attn, layer.self_attn.q_proj, layer.input_layernorm):
            assert "forward" in vars(module)
