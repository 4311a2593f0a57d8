"""Models that are damaged, or made to do harm: one sentence, an exit code, and no code of theirs is run."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

COMMANDS = {"info": (), "chat": ("--prompt", "x", "--max-new-tokens", 2)}
NEITHER = ("Traceback", "Unexpected")

SIZES = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


def assert_refused(result: Any, code: int = 4) -> None:
    assert (result.code, result.out) == (code, ""), result.err
    errors = [line for line in result.err.splitlines() if not line.startswith(("Planned", "Loading"))]
    assert errors[0].startswith("Error: ")
    assert not any(word in result.err for word in NEITHER)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("value", [0, -1, 10**15, 2**70, 1.5, "many", True, {}], ids=repr)
@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_no_model_has_is_named(run, changed_model, command: str, key: str, value: object):
    result = run(command, "--model", changed_model(**{key: value}), *COMMANDS[command])
    assert_refused(result)
    assert key in result.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float4"},
        {"torch_dtype": 5},
        {"num_hidden_layers": 10**9, "model_type": "gpt_neox"},
        {"rope_parameters": {"rope_type": "yarn", "factor": "x", "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 1e308, "rope_theta": 1e4}},
        {"rope_parameters": 5},
        {"model_type": "mistral", "sliding_window": -5},
        {"model_type": "gpt_oss", "num_local_experts": "x"},
        {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 9},
        {"num_attention_heads": 3},
        {"model_type": ["llama"]},
        {"text_config": {"num_hidden_layers": 10**9}},
    ],
    ids=str,
)
def test_a_config_that_makes_no_sense_is_refused(run, changed_model, command: str, changes: dict[str, Any]):
    assert_refused(run(command, "--model", changed_model(**changes), *COMMANDS[command]))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("text", ["[]", "5", "null", "{", "", '{"a": 1}', "[" * 100_000], ids=lambda t: t[:9])
def test_a_config_that_is_none_is_refused(run, changed_model, command: str, text: str):
    folder = changed_model()
    (folder / "config.json").write_text(text)
    assert_refused(run(command, "--model", folder, *COMMANDS[command]))


def test_shapes_that_are_not_the_configs_are_named(run, changed_model):
    result = run("chat", "--model", changed_model(intermediate_size=47), "--prompt", "x")
    assert_refused(result)
    assert "down_proj" in result.err


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whatever_stands_in_a_config_is_answered_plainly(run, tiny_model, tmp_path, data: st.DataObject):
    config = json.loads((tiny_model / "config.json").read_text())
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(config)), ANYTHING, min_size=1, max_size=2))
    folder = tmp_path / "drawn"
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    for command, arguments in COMMANDS.items():
        result = run(command, "--model", folder, *arguments)
        assert result.code in (0, 4, 5), result.err
        assert not any(word in result.err for word in NEITHER)


@pytest.fixture
def sharded(tiny_model, tmp_path, monkeypatch):
    """A copy of the tiny model whose weights an index names, and nothing that may unpickle."""

    def build(file: str) -> Path:
        folder = tmp_path / "sharded"
        shutil.copytree(tiny_model, folder)
        weights = folder / "model.safetensors"
        names = list(load_file(weights))
        weights.rename(folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, file)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", refuse)
    return build


def test_an_index_names_files_of_its_folder(run, sharded):
    folder = sharded("model-00001-of-00001.safetensors")
    assert run("chat", "--model", folder, *COMMANDS["chat"]).code == 0


@pytest.mark.parametrize(
    "where", ["../good/model.safetensors", "/{}/model.safetensors", "..\\good.safetensors"]
)
def test_an_index_that_leads_elsewhere_is_refused(run, sharded, tiny_model, tmp_path, where: str):
    shutil.copytree(tiny_model, tmp_path / "good")
    result = run("chat", "--model", sharded(where.format(tmp_path / "good")), *COMMANDS["chat"])
    assert_refused(result)
    assert "not a safetensors file of its folder" in result.err


@pytest.mark.parametrize("file", ["weights.bin", "pytorch_model.bin", "model.pt", "", 5, None])
def test_an_index_that_names_a_pickle_is_refused(run, sharded, file: Any):
    folder = sharded(file)
    for name in ("weights.bin", "pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(b"cos\nsystem\n")
    result = run("chat", "--model", folder, *COMMANDS["chat"])
    assert_refused(result)
    assert "not a safetensors file of its folder" in result.err


def test_a_config_that_names_another_index_is_not_followed(run, sharded):
    folder = sharded("weights.bin")
    (folder / "model.safetensors.index.json").rename(folder / "other.safetensors.index.json")
    (folder / "weights.bin").write_bytes(b"cos\nsystem\n")
    config = json.loads((folder / "config.json").read_text())
    config["transformers_weights"] = "other.safetensors.index.json"
    (folder / "config.json").write_text(json.dumps(config))
    result = run("chat", "--model", folder, *COMMANDS["chat"])
    assert_refused(result)
    assert "weights.bin, and lrqk reads safetensors only" in result.err


def test_a_folder_with_pickled_weights_alone_is_refused_by_name(run, sharded):
    folder = sharded("x.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    result = run("chat", "--model", folder, *COMMANDS["chat"])
    assert_refused(result)
    assert "pytorch_model.bin, and lrqk reads safetensors only" in result.err


def test_an_adapter_is_refused(run, changed_model):
    folder = changed_model()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "../other"}')
    result = run("chat", "--model", folder, *COMMANDS["chat"])
    assert_refused(result)
    assert "is an adapter" in result.err


@pytest.mark.parametrize("sampling", [(), ("--temperature", 1)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("attention", ["lrqk", "dense", "offload"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["embed_tokens", "layers.0.self_attn.k_proj", "layers.0.mlp.up_proj", "layers.1.mlp.up_proj"]
)
def test_weights_that_are_no_numbers_are_one_error(
    run, changed_model, name: str, attention: str, sampling: tuple[object, ...], value: float
):
    folder = changed_model()
    weights = load_file(folder / "model.safetensors")
    weights[f"model.{name}.weight"][7] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = run("chat", "--model", folder, "--attention", attention, *COMMANDS["chat"], *sampling)
    assert_refused(result)
    assert "not finite numbers" in result.err


def test_a_tokenizer_of_another_model_is_one_error(run, changed_model):
    folder = changed_model(vocab_size=100)
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:100].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = run("chat", "--model", folder, "--prompt", "\N{LATIN SMALL LETTER Y WITH DIAERESIS}")
    assert_refused(result)
    assert "the model knows 100" in result.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("length", [0, 3, 24, 40, 60])
def test_a_gguf_file_that_ends_too_early_is_refused(run, tmp_path, command: str, length: int):
    # Ten keys are announced; the first is whole.
    key = b"general.architecture"
    header = b"GGUF" + struct.pack("<IQQQ", 3, 1, 10, len(key)) + key + struct.pack("<IQ", 8, 5) + b"llama"
    file = tmp_path / "short.gguf"
    file.write_bytes(header[:length])
    assert_refused(run(command, "--model", file, *COMMANDS[command]))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("tensors", "keys"), [(2**60, 0), (0, 2**60), (2**64 - 1, 2**64 - 1), (1, 1)])
def test_a_gguf_file_with_absurd_counts_is_refused(run, tmp_path, command: str, tensors: int, keys: int):
    file = tmp_path / "absurd.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + bytes(4096))
    assert_refused(run(command, "--model", file, *COMMANDS[command]))
