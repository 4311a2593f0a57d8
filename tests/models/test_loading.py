from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from lrqk_cli.errors import ModelError, OutOfMemoryError, UnsupportedModelError, UsageError
from lrqk_cli.models import catalog, devices, files
from lrqk_cli.models.describe import describe
from lrqk_cli.models.loading import choose_device, choose_dtype, load, load_spec, load_tokenizer, resolve
from lrqk_cli.models.support import spec_from_config, with_form

CPU = torch.device("cpu")


def _change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_name_is_an_alias_a_folder_a_file_or_a_hub_id(tiny_folder: Path, tmp_path: Path):
    gguf = tmp_path / "model.GGUF"
    gguf.touch()
    assert resolve(catalog.DEFAULT_MODEL).entry is catalog.find(catalog.DEFAULT_MODEL)
    assert (resolve(str(tiny_folder)).kind, resolve(str(tiny_folder)).path) == ("folder", tiny_folder)
    assert (resolve(str(gguf)).kind, resolve(str(gguf)).path) == ("gguf", gguf)
    assert resolve("owner/model-1.5_b").kind == "hub"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("qwen2.5-coder-05b", "There is no model", "qwen2.5-coder-0.5b"),
        ("some words", "There is no model", "owner/name"),
        ("./nowhere", "There is no file or folder", "path"),
        ("models/nowhere.gguf", "There is no file or folder", "path"),
        ("", "There is no model", "owner/name"),
    ],
)
def test_nonsense_is_answered_with_a_hint(name: str, message: str, hint: str):
    if name:
        with pytest.raises(ModelError, match=message) as caught:
            resolve(name)
        assert hint in caught.value.hint


def test_folders_without_a_model_and_other_files_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"not a \.gguf file"):
        resolve(str(tmp_path / "notes.txt"))


def test_a_folder_loads_on_the_cpu(tiny_folder: Path, tiny_llama: transformers.LlamaForCausalLM):
    loaded = load(resolve(str(tiny_folder)), CPU, torch.float32)
    tokens = torch.arange(3, 60).unsqueeze(0)
    torch.testing.assert_close(loaded.model(tokens).logits, tiny_llama(tokens).logits)
    assert {parameter.device for parameter in loaded.model.parameters()} == {CPU}
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.dtype is loaded.model.dtype is torch.float32
    # The config's EOS and the end of turn, and the tokenizer's EOS.
    assert loaded.stop_ids == {0, 2}
    assert loaded.spec == with_form(load_spec(resolve(str(tiny_folder)))[1], None)
    assert loaded.spec.num_parameters == sum(p.numel() for p in loaded.model.parameters())


def test_a_gguf_file_loads_and_its_header_says_the_same(
    tiny_gguf: Path,
    tiny_llama: transformers.LlamaForCausalLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    source = resolve(str(tiny_gguf))
    spec = load_spec(source)[1]
    assert not (tmp_path / "cache").exists()
    loaded = load(source, CPU, torch.float32)
    assert spec == spec_from_config(tiny_llama.config, str(tiny_gguf))
    assert loaded.spec == with_form(spec, None)
    tokens = torch.arange(3, 60).unsqueeze(0)
    torch.testing.assert_close(loaded.model(tokens).logits, tiny_llama(tokens).logits, atol=1e-5, rtol=1e-5)


def _multimodal(
    tmp_path: Path, tiny_folder: Path
) -> tuple[Path, transformers.Gemma3ForConditionalGeneration]:
    text = {
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 16,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    folder = tmp_path / "multimodal"
    whole.save_pretrained(folder)
    for file in tiny_folder.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder, whole


def test_the_text_part_of_a_multimodal_checkpoint_loads(tmp_path: Path, tiny_folder: Path):
    folder, whole = _multimodal(tmp_path, tiny_folder)
    loaded = load(resolve(str(folder)), CPU, torch.float32)
    assert type(loaded.model) is transformers.Gemma3ForCausalLM
    tokens = torch.arange(3, 60).unsqueeze(0)
    torch.testing.assert_close(loaded.model(tokens).logits, whole(tokens).logits)


_WHOLE = {
    "qwen3.5": (
        "Qwen3_5",
        {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 16},
    ),
    "qwen3.5-moe": (
        "Qwen3_5Moe",
        {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 16},
    ),
    "gemma4-shared": (
        "Gemma4",
        {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8},
    ),
    "mistral4": (
        "Mistral3",
        {
            "model_type": "pixtral",
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
    ),
}


@pytest.mark.parametrize("family", _WHOLE)
def test_vision_towers_are_not_loaded(family: str, tmp_path: Path, tiny_folder: Path):
    name, vision = _WHOLE[family]
    text = tiny_model(family, vocab_size=264).config
    config = getattr(transformers, f"{name}Config")(
        text_config=text.to_dict(),
        vision_config={"hidden_size": 16, "intermediate_size": 16, **vision},
        tie_word_embeddings=text.tie_word_embeddings,
    )
    torch.manual_seed(0)
    whole = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    folder = tmp_path / "multimodal"
    whole.save_pretrained(folder)
    for file in tiny_folder.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    loaded = load(resolve(str(folder)), CPU, torch.float32)
    assert files.has_other_parts(resolve(str(folder)))
    assert not files.has_other_parts(resolve(str(tiny_folder)))
    assert type(loaded.model).__name__.endswith("ForCausalLM")
    assert not any("vis" in name for name, _ in loaded.model.named_modules())
    tokens = torch.arange(3, 60).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(tokens).logits, whole(tokens).logits)


def test_too_little_memory_is_refused_with_the_numbers_before_loading(tiny_folder: Path):
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(OutOfMemoryError, match=r"in float32, and cpu has 0\.98 KiB for them"):
        load(resolve(str(tiny_folder)), CPU, torch.float32, max_device_bytes=1000)


def test_missing_weights_are_named(tiny_folder: Path):
    file = tiny_folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights, such as model\.layers\.1\.mlp\.up_proj"):
        load(resolve(str(tiny_folder)), CPU, torch.float32)


def test_damaged_weights_are_a_plain_error(tiny_folder: Path):
    file = tiny_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="is damaged"):
        load(resolve(str(tiny_folder)), CPU, torch.float32)


def test_no_weights_and_no_tokenizer_are_plain_errors(tiny_folder: Path):
    for file in tiny_folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load(resolve(str(tiny_folder)), CPU, torch.float32)
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(resolve(str(tiny_folder)), CPU, torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "secret", "auto_map": {"AutoConfig": "code.Config"}}, "code from its own repository"),
        ({"model_type": "unheard-of"}, "cannot be loaded"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"quantization_config": "x"}, "quantization_config is 'x'"),
        ({"quantization_config": {}}, "quantization_config is {}"),
        ({"quantization_config": {"quant_method": None}}, "quantization_config is {'quant_method': None}"),
    ],
    ids=["remote code", "unknown kind", "wrong type", "no layers", "no map", "empty map", "no method"],
)
def test_a_config_that_cannot_be_used_is_a_plain_error(
    tiny_folder: Path, changes: dict[str, object], message: str
):
    _change_config(tiny_folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_spec(resolve(str(tiny_folder)))


@pytest.mark.parametrize(
    "kernels",
    [
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": {"": "owner/kernel"}},
        {"experts_implementation": "owner/kernel"},
        {"_experts_implementation": "owner/kernel"},
        {"attn_implementation": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["llama", "granite"])
def test_a_config_does_not_choose_the_code_that_attends(
    tiny_folder: Path, kernels: dict[str, object], family: str
):
    # One family is described by its layout, the other by building the model without weights.
    _change_config(tiny_folder, model_type=family, architectures=None)
    source = resolve(str(tiny_folder))
    expected, spec = load(source, CPU, torch.float32).model, load_spec(source)[1]
    _change_config(tiny_folder, **kernels)
    assert load_spec(source)[1] == describe(str(tiny_folder)).spec == spec
    model = load(source, CPU, torch.float32).model
    assert model.config._attn_implementation == expected.config._attn_implementation
    tokens = torch.arange(3, 60).unsqueeze(0)
    assert torch.equal(model(tokens).logits, expected(tokens).logits)


def test_nor_does_that_of_a_multimodal_checkpoint(tmp_path: Path, tiny_folder: Path):
    folder = _multimodal(tmp_path, tiny_folder)[0]
    _change_config(folder, attn_implementation="owner/kernel")
    assert load(resolve(str(folder)), CPU, torch.float32).model.config._attn_implementation == "sdpa"


def test_a_tokenizer_is_not_blamed_for_a_config(tiny_folder: Path):
    _change_config(tiny_folder, rms_norm_eps=None)
    with pytest.raises(ModelError, match="'rms_norm_eps' expected float"):
        load_tokenizer(resolve(str(tiny_folder)))


def test_nor_for_a_lack_of_memory(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(OutOfMemoryError):
        load_tokenizer(resolve(str(tiny_folder)))


def test_a_config_that_is_no_json_is_a_plain_error(tiny_folder: Path):
    (tiny_folder / "config.json").write_text("{")
    with pytest.raises(ModelError):
        load_spec(resolve(str(tiny_folder)))


def test_an_unsupported_feature_stops_the_load(tiny_folder: Path):
    _change_config(tiny_folder, model_type="bloom")
    with pytest.raises(UnsupportedModelError):
        load(resolve(str(tiny_folder)), CPU)


def test_offline_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids fetching it"):
        load_spec(resolve("owner/model"))


def test_a_hub_id_is_fetched_into_the_hubs_own_cache(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda _: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, file, **__: str(tiny_folder / file))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tiny_folder))
    assert load(resolve("owner/model"), CPU, torch.float32).spec.name == "owner/model"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError, "is gated"),
        (errors.RepositoryNotFoundError, "There is no model"),
        (errors.RevisionNotFoundError, "no such revision"),
        (errors.RemoteEntryNotFoundError, "lacks a file that lrqk needs"),
        (errors.LocalEntryNotFoundError, "cannot be reached"),
        (errors.HfHubHTTPError, "could not be fetched"),
    ],
)
def test_what_the_hub_answers_becomes_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], message: str
):
    def fail(*_: object, **__: object) -> None:
        # Built without its constructor, which wants a response of the hub's own HTTP client.
        raise error.__new__(error)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda _: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ModelError, match=message) as caught:
        load_spec(resolve("owner/model"))
    assert "owner/model" in caught.value.message
    assert caught.value.hint


def test_a_repository_of_the_catalog_is_fetched_once_into_lrqks_cache(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path
):
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    entry = catalog.CatalogEntry(
        alias="hosted",
        description="",
        license="",
        context=256,
        size_bytes=1,
        huggingface=catalog.HubRepository("owner/hosted", "v1"),
        config={**json.loads((tiny_folder / "config.json").read_text())},
    )
    monkeypatch.setattr(catalog, "catalog", lambda: {"hosted": entry})
    asked = []

    def snapshot(repository: str, *, revision: str, local_dir: Path, **_: object) -> str:
        asked.append((repository, revision))
        shutil.copytree(tiny_folder, local_dir)
        return str(local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for _ in range(2):
        assert load(resolve("hosted"), CPU, torch.float32).spec.name == "hosted"
    assert asked == [("owner/hosted", "v1")]


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu", "xla"])
def test_devices_that_are_not_there_are_refused(name: str):
    with pytest.raises(UsageError, match=name):
        choose_device(name)


def test_the_dtype_follows_the_device(monkeypatch: pytest.MonkeyPatch):
    assert choose_dtype("fp16", CPU) is torch.float16
    with pytest.raises(UsageError, match="int3"):
        choose_dtype("int3", CPU)
    monkeypatch.setattr(devices, "_cpu_has_fast_bfloat16", lambda: False)
    assert choose_dtype(None, CPU, torch.float16) is torch.float32
    monkeypatch.setattr(devices, "_cpu_has_fast_bfloat16", lambda: True)
    assert choose_dtype(None, CPU) is torch.bfloat16

    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    assert choose_dtype(None, gpu, torch.float32) is torch.bfloat16
    assert choose_dtype(None, gpu, torch.float16) is torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert choose_dtype(None, gpu, torch.bfloat16) is torch.float16
