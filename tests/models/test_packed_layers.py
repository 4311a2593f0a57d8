"""Packed layers in models of every family, plain and with fused operations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from packed import quantised, unpacked
from tiny import FAMILIES, random_tokens, tiny_model
from torch import nn
from transformers import PreTrainedModel

from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.fusion import fused
from lrqk_cli.engine.generate import Engine
from lrqk_cli.formats import FORMATS
from lrqk_cli.models import packed_layers
from lrqk_cli.models.packed_layers import PackedEmbedding, PackedLinear
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kinds", [("Q8_0",), ("Q4_1", "Q5_0", "Q4_0", "Q5_1"), ("MXFP4", "IQ4_NL")])
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


def test_a_packed_mlp_and_its_attention_are_fused() -> None:
    _, packed = pair("llama", ("Q4_1", "Q5_0"))
    with fused(packed):
        layer = packed.model.layers[0]
        for module in (layer.mlp, layer.self_attn, layer.self_attn.q_proj, layer.input_layernorm):
            assert "forward" in vars(module)
