"""Checkpoints that are packed while they are loaded, beside the same matrices packed one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from packed import weight_at
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, KNOWN, random_tokens, tiny_model
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from lrqk_cli.config import WeightForm
from lrqk_cli.errors import ModelError, OutOfMemoryError, UsageError
from lrqk_cli.kernels.packed import PackedMatrix, on_host
from lrqk_cli.kernels.unpack_rows.reference import unpack_rows
from lrqk_cli.memory.accounting import weight_bytes
from lrqk_cli.models import on_load
from lrqk_cli.models.checkpoint import load_checkpoint
from lrqk_cli.models.describe import describe
from lrqk_cli.models.loading import load as load_model
from lrqk_cli.models.loading import resolve
from lrqk_cli.models.matrices import formats_of
from lrqk_cli.models.packed_layers import PackedModule
from lrqk_cli.models.quantise import quantise
from lrqk_cli.models.support import spec_from_config, with_form

CPU = torch.device("cpu")


def load(
    folder: Path, model: PreTrainedModel, form: WeightForm, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    options = {
        "config": type(model.config)(**model.config.to_dict()),
        "dtype": dtype,
        "device_map": {"": CPU},
    }
    return load_checkpoint("tiny", folder, options, form)


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    found: torch.Tensor = model(random_tokens(40).unsqueeze(0)).logits
    return found


@torch.no_grad()
def round_trip(model: PreTrainedModel, form: WeightForm) -> int:
    """Give the matrices of a model the numbers that packed ones stand for; return how many there are."""
    formats = formats_of(model, form, is_tied=bool(model.config.tie_word_embeddings))
    for path, format in formats.items():
        weight = weight_at(model, path)
        rows = weight.reshape(-1, weight.shape[-1])
        unpacked = torch.empty_like(rows)
        unpack_rows(unpacked, quantise(format, rows), torch.arange(len(rows)))
        weight.copy_(unpacked.view(weight.shape))
    return len(formats)


@pytest.mark.parametrize(
    ("family", "form"), [*((family, "q4") for family in FAMILIES), *((family, "q8") for family in KNOWN)]
)
def test_a_packed_model_is_that_of_its_packed_matrices(family: str, form: WeightForm, tmp_path: Path) -> None:
    # Rows of a block of 256 for all but the last matrix, of which 96 are three units.
    model = tiny_model(family, hidden_size=256, intermediate_size=96)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, model, form)
    modules = [module for module in loaded.modules() if isinstance(module, PackedModule)]
    count = round_trip(model, form)
    assert len(modules) == count + bool(model.config.tie_word_embeddings)
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("family", "form"), [*((family, "q4") for family in FAMILIES), *((family, "q8") for family in KNOWN)]
)
def test_weights_take_what_was_foretold(family: str, form: WeightForm, tmp_path: Path) -> None:
    model = tiny_model(family, hidden_size=64, intermediate_size=64)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, model, form, torch.bfloat16)
    packed = {
        module.packed.data_ptr(): module.packed.nbytes
        for module in loaded.modules()
        if isinstance(module, PackedModule)
    }
    found = sum(packed.values()) + sum(parameter.nbytes for parameter in loaded.parameters())
    spec = with_form(spec_from_config(model.config, family), form)
    # A router may stay in float32.
    assert found == pytest.approx(weight_bytes(spec, "bfloat16"), abs=2 * 4 * 64 * 2)


@pytest.mark.parametrize(("family", "mixtures"), [("qwen3-moe", 2), ("gpt-oss", 2), ("deepseek-v2", 1)])
def test_packed_experts_may_stay_in_host_memory(
    family: str, mixtures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[PackedMatrix] = []

    def noted(matrix: PackedMatrix) -> PackedMatrix:
        moved.append(matrix)
        return on_host(matrix)

    monkeypatch.setattr(on_load, "on_host", noted)
    model = tiny_model(family, hidden_size=64, intermediate_size=64)
    model.save_pretrained(tmp_path)
    config = {"config": model.config, "device_map": {"": CPU}, "dtype": torch.float32}
    here, apart = (
        load_checkpoint("tiny", tmp_path, {**config}, "q8", experts_on_host=on) for on in (False, True)
    )
    spec = with_form(spec_from_config(model.config, family), "q8")
    assert spec.packed is not None
    # The matrices of a dense MLP have the same names.
    assert len(moved) == 2 * mixtures
    assert here.get_memory_footprint() - apart.get_memory_footprint() == spec.packed.experts > 0
    torch.testing.assert_close(logits(apart), logits(here), atol=0, rtol=0)


def test_a_tied_checkpoint_may_hold_both_copies(tmp_path: Path) -> None:
    model = tiny_model("gemma3")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = load(tmp_path, model, "q8")
    embedding, output = loaded.get_input_embeddings(), loaded.get_output_embeddings()
    assert embedding.packed.data_ptr() == output.packed.data_ptr()
    round_trip(model, "q8")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)


def test_tied_ends_that_cannot_be_packed_stay_tied(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True, hidden_size=40, head_dim=8)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, model, "q4")
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    round_trip(model, "q4")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)


def test_a_missing_matrix_is_named(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.self_attn.v_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"lacks 1 of its weights, such as model\.layers\.1\.self_attn\.v_proj"
    ):
        load(tmp_path, model, "q4")


def test_a_matrix_of_another_shape_is_named(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.self_attn.v_proj.weight"
    tensors[name] = tensors[name][:8].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not have the shapes .*v_proj"):
        load(tmp_path, model, "q4")


@pytest.mark.parametrize(("method", "form"), [("awq", None), ("gptq", "q4"), ("mxfp4", "q8")])
def test_what_is_packed_already_is_refused_by_name(
    method: str, form: WeightForm | None, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    stated = json.loads(file.read_text()) | {"quantization_config": {"quant_method": method, "bits": 4}}
    file.write_text(json.dumps(stated))
    described = describe(str(tmp_path))
    assert described.spec.forms == ()
    if form is None:
        with pytest.raises(ModelError, match=f"packed by {method} already"):
            load_model(resolve(str(tmp_path)), CPU, torch.float32)
    else:
        with pytest.raises(UsageError, match="packed already"):
            described.with_weights(form, on_gpu=True)


def test_ends_that_differ_stay_apart_whatever_the_configuration_says(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = torch.randn_like(tensors["model.embed_tokens.weight"])
    save_file(tensors, file, metadata={"format": "pt"})
    expected = tiny_model("llama", tie_word_embeddings=False)
    expected.load_state_dict(tensors)
    loaded = load(tmp_path, model, "q8")
    difference = (logits(loaded) - logits(expected)).norm() / logits(expected).norm()
    assert difference < 0.02


def test_a_tied_checkpoint_may_hold_the_output_alone(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = load(tmp_path, model, "q8")
    round_trip(model, "q8")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_and_not_packed_away(value: float, tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj.weight.data[3, 5] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"damaged: model\.layers\.0\.mlp\.up_proj\.weight"):
        load(tmp_path, model, "q4")


def test_memory_that_runs_out_while_packing_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(on_load, "quantise", fail)
    with pytest.raises(OutOfMemoryError):
        load(tmp_path, model, "q4")


def test_other_embeddings_are_no_output_head(tmp_path: Path) -> None:
    """GPT-2 looks up positions, too."""
    config = GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, model, "q8")
    expected = logits(model)
    assert ((logits(loaded) - expected).norm() / expected.norm()) < 0.02
