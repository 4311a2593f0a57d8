"""Models from GGUF files, packed and unpacked, beside what transformers reads from the same file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel, Qwen3MoeForCausalLM

from lrqk_cli.errors import ModelError, OutOfMemoryError
from lrqk_cli.formats import FORMATS
from lrqk_cli.memory.accounting import weight_bytes
from lrqk_cli.model_spec import WeightBytes
from lrqk_cli.models import files, gguf, loading, store
from lrqk_cli.models.gguf_index import load_index, read_index
from lrqk_cli.models.gguf_weights import survey
from lrqk_cli.models.loading import load, resolve
from lrqk_cli.models.packed_experts import PackedExperts
from lrqk_cli.models.packed_layers import PackedEmbedding, PackedLinear, PackedModule
from lrqk_cli.models.weights import check_finite

# The loader leans on how transformers reads such files.
pytestmark = pytest.mark.short

CPU = torch.device("cpu")
KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "IQ4_NL", "BF16", "F16")
Quantised = Callable[[str], Path]


def loaded(file: Path, model: PreTrainedModel, folder: Path, *, packed: bool) -> PreTrainedModel:
    folder.mkdir(exist_ok=True)
    assert gguf.prepare(file, folder, {}, lambda *_: None)
    return gguf.load(file, folder, model.config, {"": CPU}, torch.float32, packed=packed)


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: int) -> torch.Tensor:
    found: torch.Tensor = model(torch.arange(3, 3 + tokens).unsqueeze(0)).logits
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_the_one_that_transformers_reads(
    kind: str, quantised_gguf: Quantised, tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = quantised_gguf(kind)
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file=file.name, dtype=torch.float32)
    plain, packed = (loaded(file, tiny_llama, tmp_path / "made", packed=p) for p in (False, True))
    modules = {type(module) for module in packed.modules()}
    assert ({PackedLinear, PackedEmbedding} <= modules) is (kind in FORMATS)
    for tokens in (1, 40):
        expected = logits(theirs, tokens)
        torch.testing.assert_close(logits(plain, tokens), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits(packed, tokens), expected, atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in packed.parameters())


@pytest.mark.parametrize(
    ("kinds", "is_packed"),
    [
        ({"kind": "Q8_0", "ffn_down_exps": "Q5_0"}, True),
        ({"kind": "Q4_1", "ffn_up_exps": "Q5_1"}, False),  # gate and up share a matrix in a model
        ({"kind": "Q8_0", "ffn_down_exps": "F16"}, False),
    ],
)
def test_experts_are_those_that_transformers_reads(
    kinds: dict[str, str], is_packed: bool, mixture_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    file = mixture_gguf(**kinds)
    # transformers does not read how large experts are.
    config = gguf.read_config(file)
    assert config.moe_intermediate_size == 32
    theirs = AutoModelForCausalLM.from_pretrained(
        str(tmp_path), gguf_file=file.name, dtype=torch.float32, config=config
    )
    plain, packed = (loaded(file, theirs, tmp_path / "made", packed=p) for p in (False, True))
    experts = [module for module in packed.modules() if isinstance(module, PackedExperts)]
    assert (len(experts) == 2) is is_packed
    for tokens in (1, 40):
        expected = logits(theirs, tokens)
        torch.testing.assert_close(logits(plain, tokens), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits(packed, tokens), expected, atol=1e-4, rtol=1e-4)
    found = gguf.prepared_index(tmp_path / "made").weights
    assert found is not None
    matrices = [module.packed.nbytes for module in packed.modules() if isinstance(module, PackedModule)]
    assert found.total == sum(matrices) + sum(parameter.nbytes // 2 for parameter in packed.parameters())
    if is_packed:
        held = sum(module.packed.nbytes for each in experts for module in each.children())
        embedding = packed.get_input_embeddings().packed.nbytes
        assert found.read == found.total - held + round(held / 3) - embedding
        assert found.experts == held
        assert found.experts_read == round(held / 3)


def test_packed_experts_may_stay_in_host_memory(
    mixture_gguf: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    source = resolve(str(mixture_gguf("Q8_0")))
    here, apart = (load(source, CPU, torch.float32, form="gguf", experts_on_host=on) for on in (False, True))
    assert apart.spec.packed is not None
    moved = here.model.get_memory_footprint() - apart.model.get_memory_footprint()
    assert moved == apart.spec.packed.on_host > 0
    (first, _) = (module for module in apart.model.modules() if isinstance(module, PackedExperts))
    # They are no part of what moves to a device.
    assert dict(first.named_buffers()) == {}
    torch.testing.assert_close(logits(apart.model, 20), logits(here.model, 20), atol=0, rtol=0)


def test_gate_and_up_of_experts_may_be_one_tensor(
    tiny_mixture: Qwen3MoeForCausalLM, mixture_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    found = {}
    for is_joined in (False, True):
        file = mixture_gguf("Q5_0", is_joined=is_joined)
        for packed in (False, True):
            model = loaded(file, tiny_mixture, tmp_path / f"made-{is_joined}", packed=packed)
            found[is_joined, packed] = logits(model, 20)
    for packed in (False, True):
        torch.testing.assert_close(found[True, packed], found[False, packed], atol=0, rtol=0)


def test_experts_that_a_file_lacks_are_named(
    tiny_mixture: Qwen3MoeForCausalLM, mixture_gguf: Callable[..., Path]
) -> None:
    index = read_index(mixture_gguf("Q8_0"))
    for part, lacking in (("up", "gate_up_proj"), ("down", "down_proj")):
        cut = tuple(tensor for tensor in index.tensors if tensor.name != f"blk.1.ffn_{part}_exps.weight")
        found = survey(type(index)(index.architecture, cut), tiny_mixture.config).lacking
        assert found == (f"model.layers.1.mlp.experts.{lacking}",)


def test_packed_weights_take_what_was_foretold(
    quantised_gguf: Quantised, tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = quantised_gguf("Q4_1")
    model = loaded(file, tiny_llama, tmp_path / "made", packed=True)
    index = load_index(tmp_path / "made" / gguf.INDEX)
    assert (
        index.weights
        == gguf.prepared_index(tmp_path / "made").weights
        == survey(read_index(file), tiny_llama.config).weights
    )
    packed = {
        module.packed.data_ptr(): module.packed.nbytes
        for module in model.modules()
        if hasattr(module, "packed")
    }
    # What is not packed is foretold in 16 bits.
    plain = sum(parameter.nbytes // 2 for parameter in model.parameters())
    assert index.weights == WeightBytes("gguf", *[sum(packed.values()) + plain] * 2, plain)


def test_a_file_that_lacks_weights_is_refused(
    quantised_gguf: Quantised, tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = quantised_gguf("Q8_0")
    index = read_index(file)
    cut = [tensor for tensor in index.tensors if tensor.name != "blk.1.ffn_up.weight"]
    assert survey(type(index)(index.architecture, tuple(cut)), tiny_llama.config).lacking == (
        "model.layers.1.mlp.up_proj.weight",
    )
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="is not a GGUF model"):
        gguf.prepare(file, tmp_path, {}, lambda *_: None)


def test_weights_can_be_spread_over_devices(
    quantised_gguf: Quantised, tiny_llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    file = quantised_gguf("Q4_0")
    whole = load(resolve(str(file)), CPU, torch.float32)
    monkeypatch.setattr(
        loading, "_placement", lambda *_: {"device_map": "auto", "max_memory": {"cpu": 1 << 30}}
    )
    spread = load(resolve(str(file)), CPU, torch.float32, offload_weights=True)
    assert set(spread.model.hf_device_map.values()) == {"cpu"}
    torch.testing.assert_close(logits(spread.model, 20), logits(whole.model, 20))


def test_packed_weights_are_loaded_and_counted_on_demand(
    quantised_gguf: Quantised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    source = resolve(str(quantised_gguf("Q5_1")))
    plain, packed = (load(source, CPU, torch.float32, form=form) for form in (None, "gguf"))
    assert plain.spec.packed is None
    assert packed.spec.packed is not None
    assert packed.spec.packed.total < plain.spec.num_parameters * 2
    torch.testing.assert_close(logits(packed.model, 20), logits(plain.model, 20), atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(loading, "_room", lambda *_: weight_bytes(packed.spec, "float32"))
    load(source, CPU, torch.float32, form="gguf")
    monkeypatch.setattr(loading, "_room", lambda *_: weight_bytes(packed.spec, "float32") - 1)
    with pytest.raises(OutOfMemoryError, match="The weights of"):
        load(source, CPU, torch.float32, form="gguf")


def test_scales_that_are_no_numbers_are_refused(
    quantised_gguf: Quantised, tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    model = loaded(quantised_gguf("Q8_0"), tiny_llama, tmp_path / "made", packed=True)
    check_finite("tiny", model)
    model.model.layers[1].self_attn.k_proj.matrix.floats[3, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="k_proj of layer 1 holds values"):
        check_finite("tiny", model)


@pytest.mark.parametrize(
    ("kinds", "named"), [(("Q4_K", "F32"), []), (("Q4_K", "IQ4_XS", "BF16"), ["IQ4_XS"])]
)
def test_types_without_a_kernel_are_named(
    kinds: tuple[str, ...],
    named: list[str],
    quantised_gguf: Quantised,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    source = resolve(str(quantised_gguf("Q8_0")))
    assert files.unpacked_types(source) == []
    folder = store.prepare_gguf(Path(source.name))
    assert files.unpacked_types(source) == []
    index = load_index(folder / gguf.INDEX)
    tensors = tuple(replace(tensor, type=kind) for tensor, kind in zip(index.tensors, kinds, strict=False))
    replace(index, tensors=tensors).save(folder / gguf.INDEX)
    assert files.unpacked_types(source) == named
