"""Shapes of published models, and random weights in them."""

from __future__ import annotations

import pytest
import torch

from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.kernels.unpack_rows.reference import unpack_rows
from lrqk_cli.memory import probe
from lrqk_cli.memory.accounting import weight_bytes
from lrqk_cli.models import shapes
from lrqk_cli.models.packed_experts import PackedExperts
from lrqk_cli.models.packed_layers import PackedModule
from lrqk_cli.models.support import spec_from_config

# As published with the weights; tied embeddings counted once.
PUBLISHED = {
    "gpt-oss-20b": 20_914_757_184,
    "qwen3.5-27b": 26_895_998_464,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "mistral-7b": 7_248_023_552,
    "mistral-nemo-12b": 12_247_782_400,
    "qwen3-30b-a3b": 30_532_122_624,
}
TINY = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "tie_word_embeddings": True,
}


@pytest.fixture
def tiny_shape(monkeypatch):
    monkeypatch.setattr(shapes, "shapes", lambda: {"tiny": TINY})


def build(context: int = 2048) -> shapes.RandomModel:
    return shapes.build("tiny", context, torch.device("cpu"), torch.bfloat16)


def test_every_shape_has_its_published_number_of_parameters():
    counted = {
        name: spec_from_config(shapes.shape_config(name), name).num_parameters for name in shapes.shapes()
    }
    assert counted == PUBLISHED


def test_random_weights_are_normal_and_everything_else_is_as_a_model_begins(tiny_shape):
    torch.manual_seed(0)
    model = build().model
    embeddings = model.get_input_embeddings().weight
    shared = embeddings.float().mean(0)
    assert shared.std().item() == pytest.approx(0.04, rel=0.3)
    for name, parameter in model.named_parameters():
        assert parameter.dtype is torch.bfloat16
        assert not parameter.requires_grad
        if parameter.dim() > 1:
            own = parameter.float() - (shared if parameter is embeddings else 0.0)
            assert own.std().item() == pytest.approx(0.02, rel=0.1), name
        else:
            assert bool((parameter == 1).all()), name
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not model.training
    direct = type(model)(shapes.shape_config("tiny"))
    buffers = dict(model.named_buffers())
    assert buffers
    for name, expected in direct.named_buffers():
        assert torch.equal(buffers[name], expected), name


@pytest.mark.parametrize("form", ["q8", "q4"])
def test_packed_weights_are_drawn_as_plain_ones_and_take_what_was_foretold(tiny_shape, form):
    torch.manual_seed(0)
    made = shapes.build("tiny", 512, torch.device("cpu"), torch.bfloat16, form=form)
    model = made.model
    matrices = {
        path: module.matrix for path, module in model.named_modules() if isinstance(module, PackedModule)
    }
    assert len(matrices) == 2 * 7 + 2
    taken = {matrix.data.data_ptr(): matrix.data.nbytes for matrix in matrices.values()}
    plain = sum(parameter.nbytes for parameter in model.parameters())
    assert made.spec.packed is not None
    assert made.spec.packed.total == sum(taken.values()) + plain
    assert matrices["lm_head"].data.data_ptr() == matrices["model.embed_tokens"].data.data_ptr()
    for path, matrix in matrices.items():
        weights = torch.empty(matrix.rows, matrix.width)
        unpack_rows(weights, matrix, torch.arange(matrix.rows))
        shared = weights.mean(0) if path in ("lm_head", "model.embed_tokens") else torch.zeros(1)
        assert (weights - shared).std().item() == pytest.approx(0.02, rel=0.1), path
        assert shared.abs().max() > 0.04 or shared.numel() == 1
    logits = model(torch.arange(20).unsqueeze(0)).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize("experts_on_host", [False, True])
def test_a_packed_mixture_is_drawn_too(monkeypatch: pytest.MonkeyPatch, experts_on_host: bool) -> None:
    shape = {
        **shapes.shapes()["qwen3-30b-a3b"],
        "vocab_size": 97,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_experts": 16,
        "moe_intermediate_size": 32,
    }
    monkeypatch.setattr(shapes, "shapes", lambda: {"tiny": shape})
    torch.manual_seed(0)
    place = torch.device("cpu"), torch.bfloat16
    made = shapes.build("tiny", 512, *place, form="q4", experts_on_host=experts_on_host)
    matrices = [module.matrix for module in made.model.modules() if isinstance(module, PackedModule)]
    # Four matrices of attention and two of experts a layer, embeddings and output head.
    assert len(matrices) == 2 * 6 + 2
    plain = sum(parameter.nbytes for parameter in made.model.parameters())
    assert made.spec.packed is not None
    assert made.spec.packed.total == sum(matrix.data.nbytes for matrix in matrices) + plain
    experts = [module for module in made.model.modules() if isinstance(module, PackedExperts)]
    of_experts = sum(part.packed.nbytes for each in experts for part in each.children())
    assert made.spec.packed.on_host == (of_experts if experts_on_host else 0)
    rotation = sum(buffer.nbytes for buffer in made.model.model.rotary_emb.buffers())
    assert weight_bytes(made.spec, "bfloat16") == made.model.get_memory_footprint() - rotation
    for part in ("gate_up_proj", "down_proj"):
        matrix = getattr(experts[1], part).matrix
        weights = torch.empty(matrix.rows, matrix.width)
        unpack_rows(weights, matrix, torch.arange(matrix.rows))
        assert weights.std().item() == pytest.approx(0.02, rel=0.1)
    assert made.model(torch.arange(20).unsqueeze(0)).logits.isfinite().all()


def test_positions_reach_the_context(tiny_shape):
    assert build(2048).spec.max_context == 2048
    assert build(100).spec.max_context == 512


def test_an_unknown_shape_is_told_with_the_nearest():
    with pytest.raises(UsageError, match=r"llama-3\.1-7b") as caught:
        shapes.shape_config("llama-3.1-7b")
    assert "llama-3.1-8b" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        shapes.check_shape("zzz")
    assert "mistral-7b" in caught.value.hint


def test_weights_that_do_not_fit_are_refused_before_anything_is_made(tiny_shape, monkeypatch):
    monkeypatch.setattr(probe, "free_device_bytes", lambda _: 1000)
    with pytest.raises(OutOfMemoryError, match="'tiny' need"):
        build()


@pytest.mark.parametrize("name", shapes.shapes())
def test_no_shape_has_windows_that_its_model_has_not(name: str) -> None:
    spec = spec_from_config(shapes.shape_config(name), name)
    others = {"gpt-oss-20b": {"sliding"}, "qwen3.5-27b": {"none"}}
    assert set(spec.layer_kinds) == {"full"} | others.get(name, set())
