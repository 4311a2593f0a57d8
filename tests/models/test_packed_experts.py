"""Experts of packed weights, beside transformers' own with the numbers that these stand for."""

from __future__ import annotations

import pytest
import torch
import transformers
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from packed import unpacked
from tiny import random_tokens, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lrqk_cli.formats import FORMATS
from lrqk_cli.kernels.packed import empty_host_matrix
from lrqk_cli.models import packed_experts
from lrqk_cli.models.gguf_parts import expert_parts, make_room, put_part
from lrqk_cli.models.matrices import EXPERT_WEIGHTS, is_packable_experts
from lrqk_cli.models.packed_experts import PackedExperts, put_packed
from lrqk_cli.models.repack import repack

KINDS = {"gate_up_proj": "Q5_1", "down_proj": "Q8_0"}


def mixtral() -> PreTrainedModel:
    config = transformers.MixtralConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def build(family: str) -> PreTrainedModel:
    return mixtral() if family == "mixtral" else tiny_model(family, intermediate_size=64)


@torch.no_grad()
def pair(family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return a model whose experts have numbers of packed weights, and the same one packed."""
    plain, packed = build(family), build(family)
    for path, module in list(plain.named_modules()):
        if not is_packable_experts(module):
            continue
        for name in EXPERT_WEIGHTS:
            weight: nn.Parameter = getattr(module, name)
            numbers = weight.mT if module.is_transposed else weight
            rows = numbers.reshape(-1, numbers.shape[-1])
            blocks = torch.from_numpy(quantize(rows.numpy(), GGMLQuantizationType[KINDS[name]]))
            numbers.copy_(unpacked(KINDS[name], blocks).view(numbers.shape))
            matrix = repack(FORMATS[KINDS[name]], blocks, rows.shape[1])
            put_packed(packed, f"{path}.{name}", matrix, torch.float32)
    return plain, packed


def experts_of(model: PreTrainedModel) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, PackedExperts)]


@pytest.mark.parametrize("family", ["gpt-oss", "qwen3-moe", "mixtral"])
@torch.no_grad()
def test_a_packed_mixture_is_that_of_its_unpacked_experts(family: str) -> None:
    plain, packed = pair(family)
    assert len(experts_of(packed)) == 2
    # As many weights as before, under the same names but for those that are packed.
    names = {name for name, _ in plain.named_parameters()}
    gone = {name for name in names if name.endswith(EXPERT_WEIGHTS)}
    assert {name for name, _ in packed.named_parameters()} == names - gone
    for count in (1, 40):
        tokens = random_tokens(count).unsqueeze(0)
        torch.testing.assert_close(packed(tokens).logits, plain(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("family", ["gpt-oss", "qwen3-moe", "mixtral"])
@torch.no_grad()
def test_few_tokens_have_the_same_results_by_both_ways(family: str, count: int) -> None:
    # The first is a GPU's, by the references of its kernels.
    _, packed = pair(family)
    (experts, _) = experts_of(packed)
    tokens = torch.randn(count, packed.config.hidden_size, generator=torch.Generator().manual_seed(1))
    chosen = torch.tensor([[2, 0], [1, 2], [0, 1]])[:count]
    weights = torch.tensor([[0.7, 0.3], [0.1, 0.9], [0.5, 0.2]])[:count]
    expected = experts.apply_by_expert(tokens, chosen, weights)
    found = experts.apply_to_few(tokens, chosen, weights)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_mark_for_no_expert_adds_nothing() -> None:
    _, packed = pair("qwen3-moe")
    (experts, _) = experts_of(packed)
    tokens = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    chosen, weights = torch.tensor([[2, 6], [6, 6], [5, 1]]), torch.full((3, 2), 0.5)
    result = experts(tokens, chosen, weights)
    assert (result[1] == 0).all()
    alone = experts(tokens[:1], torch.tensor([[2]]), weights[:1, :1])
    torch.testing.assert_close(result[:1], alone)


@torch.no_grad()
def test_tokens_that_all_want_the_same_expert_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, packed = pair("qwen3-moe")
    (experts, _) = experts_of(packed)
    tokens = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    chosen = torch.tensor([[3, 1]]).expand(50, 2).contiguous()
    weights = torch.rand(50, 2, generator=torch.Generator().manual_seed(2))
    expected = experts(tokens, chosen, weights)
    monkeypatch.setattr(packed_experts, "_LEAST_PART", 7)
    torch.testing.assert_close(experts(tokens, chosen, weights), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["Q5_1", "F32"])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("family", ["gpt-oss", "qwen3-moe", "mixtral"])
@torch.no_grad()
def test_parts_of_a_file_find_their_places(family: str, is_packed: bool, kind: str) -> None:
    # Gate and up take turns in some models, whose weights are transposed, and follow one another in others.
    model, made = build(family), build(family)
    weights = dict(model.named_parameters())
    format = FORMATS.get(kind)
    parts = expert_parts(made, ())
    assert len(parts) == 2 * (6 if family == "gpt-oss" else 3)
    for part in {part.name: part for part in parts.values()}.values():
        kept = format if is_packed and not part.is_bias else None
        make_room(made, part, kept, torch.device("cpu"), torch.float32)
    for part in parts.values():
        whole = weights[part.name].mT if part.is_transposed else weights[part.name]
        own = whole[:, part.place]
        assert tuple(own.shape) == part.shape
        if format is None or part.is_bias:
            put_part(made, part, None, own.clone())
            continue
        rows = own.reshape(-1, own.shape[-1])
        blocks = torch.from_numpy(quantize(rows.contiguous().numpy(), GGMLQuantizationType[kind]))
        put_part(made, part, format, blocks)
        own.copy_(unpacked(kind, blocks).view(own.shape))
    tokens = random_tokens(20).unsqueeze(0)
    torch.testing.assert_close(made(tokens).logits, model(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["gpt-oss", "qwen3-moe"])
@torch.no_grad()
def test_a_gpu_reads_experts_in_host_memory(family: str) -> None:
    here, apart = (pair(family)[1] for _ in range(2))
    for module in experts_of(apart):
        for name in EXPERT_WEIGHTS:
            matrix = getattr(module, name).matrix
            pinned = empty_host_matrix(matrix.format, matrix.rows, matrix.width, pinned=True)
            pinned.data.copy_(matrix.data)
            module.put(name, pinned, on_host=True)
    for model in (here, apart):
        model.to("cuda")
    assert experts_of(apart)[0].gate_up_proj.packed.device.type == "cpu"
    for count in (1, 40):
        tokens = random_tokens(count).unsqueeze(0).cuda()
        torch.testing.assert_close(apart(tokens).logits, here(tokens).logits, atol=0, rtol=0)
