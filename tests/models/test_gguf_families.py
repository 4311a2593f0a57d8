"""GGUF files that lrqk reads by tables of its own, beside the models that were converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from converted import CONVERSIONS, converted
from gguf_files import write_gguf
from torch import nn
from transformers import PreTrainedModel

from lrqk_cli.errors import ModelError
from lrqk_cli.models import gguf
from lrqk_cli.models.arranged_linear import ArrangedLinear
from lrqk_cli.models.describe import describe
from lrqk_cli.models.gguf_families import FAMILIES
from lrqk_cli.models.gguf_index import read_index
from lrqk_cli.models.gguf_weights import survey
from lrqk_cli.models.packed_layers import PackedLinear, PackedModule
from lrqk_cli.models.support import spec_from_config

# The loader leans on how transformers builds these models.
pytestmark = pytest.mark.short

CPU = torch.device("cpu")
# Matrices that stay plain numbers although their rows are long enough: routers and gates, which llama.cpp
# does not quantise, and latent attention's, whose keys a file has in columns.
PLAIN = {"shared_expert_gate", "proj", "kv_b_proj"}


def loaded(file: Path, folder: Path, *, packed: bool) -> PreTrainedModel:
    folder.mkdir(exist_ok=True)
    assert gguf.prepare(file, folder, {}, lambda *_: None)
    return gguf.load(file, folder, gguf.read_config(file), {"": CPU}, torch.float32, packed=packed)


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    found: torch.Tensor = model(torch.arange(3, 43).unsqueeze(0), use_cache=False).logits
    return found


def test_all_families_are_converted_here() -> None:
    assert {conversion.architecture for conversion in CONVERSIONS.values()} | {"nemotron_h"} == set(FAMILIES)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_file_gives_the_model_that_was_converted(name: str, tmp_path: Path) -> None:
    model, file = converted(name, tmp_path / "tiny.gguf")
    found = loaded(file, tmp_path / "made", packed=True)
    torch.testing.assert_close(logits(found), logits(model), atol=1e-4, rtol=1e-4)
    expected, described = spec_from_config(model.config, str(file)), describe(str(file)).spec
    assert described.layer_kinds == expected.layer_kinds
    assert (described.num_parameters, described.states) == (expected.num_parameters, expected.states)
    assert not any(parameter.requires_grad for parameter in found.parameters())


@pytest.mark.parametrize("name", CONVERSIONS)
def test_matrices_stay_packed(name: str, tmp_path: Path) -> None:
    model, file = converted(name, tmp_path / "tiny.gguf", "Q8_0")
    found = loaded(file, tmp_path / "made", packed=True)
    plain = [path for path, module in found.named_modules() if type(module) in (nn.Linear, nn.Embedding)]
    assert {path.rpartition(".")[2] for path in plain} <= PLAIN
    # Blocks of keys or experts that the file has in columns are rounded otherwise.
    if name != "gpt-oss" and not any(path.endswith("kv_b_proj") for path in plain):
        torch.testing.assert_close(logits(found), logits(model), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        logits(found), logits(loaded(file, tmp_path / "plain", packed=False)), atol=1e-4, rtol=1e-4
    )
    weights = gguf.prepared_index(tmp_path / "made").weights
    packed = {
        module.packed.data_ptr(): module.packed
        for module in found.modules()
        if isinstance(module, PackedModule)
    }
    kept = [tensor for key, tensor in found.state_dict().items() if not key.endswith("packed")]
    assert weights.total == sum(each.nbytes for each in packed.values()) + sum(
        each.nbytes // 2 for each in kept
    )


def test_matrices_of_a_layer_that_is_one_in_the_model_keep_their_own_types(tmp_path: Path) -> None:
    _, file = converted("qwen3-next", tmp_path / "tiny.gguf", "Q8_0", attn_qkv="Q5_0", attn_gate="Q4_1")
    packed, plain = (loaded(file, tmp_path / "made", packed=flag) for flag in (True, False))
    layer = packed.model.layers[0].linear_attn.in_proj_qkvz
    assert isinstance(layer, ArrangedLinear)
    assert [part.matrix.format.name for part in layer.parts if isinstance(part, PackedLinear)] == [
        "Q5_0",
        "Q4_1",
    ]
    torch.testing.assert_close(logits(packed), logits(plain), atol=1e-4, rtol=1e-4)


def test_a_scale_that_a_file_lacks_is_missed(tmp_path: Path) -> None:
    model, file = converted("gemma4", tmp_path / "tiny.gguf")
    index = read_index(file)
    cut = tuple(tensor for tensor in index.tensors if tensor.name != "blk.1.layer_output_scale.weight")
    lacking = survey(type(index)(index.architecture, cut), model.config).lacking
    assert lacking == ("model.layers.1.layer_scalar",)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("mistral4", {}, "architecture mistral4"),
        ("qwen35", {"ssm.state_size": None}, "its header does not say ssm.state_size"),
        ("qwen35", {"block_count": 1 << 31}, "num_hidden_layers is 2147483648"),
        ("qwen35", {"ssm.group_count": 1 << 30}, "linear_num_key_heads is 1073741824"),
        ("qwen35", {"ssm.time_step_rank": 0}, "zero"),
        ("qwen35", {"rope.scaling.type": "longrope"}, "RoPE scaling of the kind longrope"),
        (
            "qwen35",
            {"attention.recurrent_layers": [True]},
            "attention.recurrent_layers of 1 layers, not of 2",
        ),
        ("qwen35", {}, "it lacks model.layers.0.input_layernorm.weight"),
    ],
)
def test_other_headers_are_refused_in_a_sentence(
    architecture: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    values = {
        "block_count": 2,
        "context_length": 2048,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "full_attention_interval": 2,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": 8,
        "rope.freq_base": 10000.0,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 32,
        "ssm.group_count": 2,
        "ssm.time_step_rank": 4,
        "ssm.inner_size": 128,
        **changes,
    }
    stated = {key: value for key, value in values.items() if value is not None}
    tensors = [("token_embd.weight", torch.zeros(264, 64)), ("output_norm.weight", torch.ones(64))]
    file = write_gguf(tmp_path / "tiny.gguf", architecture, stated, tensors)
    with pytest.raises(ModelError, match=message):
        gguf.prepare(file, tmp_path, {}, lambda *_: None)
