"""Settings that follow from the memory there is, through ``lrqk chat``, ``bench`` and ``info``."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny import FAMILIES
from tiny import tiny_model as random_model

from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory.estimate import estimate
from lrqk_cli.models import shapes
from lrqk_cli.models.support import spec_from_config

GIB = 1 << 30
SHAPE = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
LEAST = LrqkConfig(hot=64, top_k=16, recent=16, rank=4, segment=1024)
FLAGS = ("--hot", 64, "--recent", 16, "--rank", 4)


@pytest.fixture
def family_folder(tiny_model, tmp_path):
    """The folder of a tiny model of a family, with the tokenizer of ``tiny_model``."""

    def make(family: str):
        vocabulary = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
        folder = tmp_path / family
        shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        model = random_model(
            family, vocab_size=vocabulary, bos_token_id=None, eos_token_id=0, pad_token_id=None
        )
        model.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_vram_is_all_the_tuning_that_a_chat_needs(run, family_folder, family):
    asked = ("chat", "--model", family_folder(family), "--prompt", "Where?", "--max-new-tokens", 3)
    result = run(*asked, "--vram", "12GiB", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["attention"]["attention"] == "dense"
    assert report["plan"]["why"] == "All rows fit on the device."
    assert report["plan"]["device_bytes"] <= report["plan"]["device_budget_bytes"] == 12 * GIB
    assert report["plan"]["context"] == 1024
    planned, *_, statistics = result.err.splitlines()
    assert planned.startswith("Planned: full attention · 1,024 tokens · ")
    assert " · full attention · " in statistics


def test_what_was_said_stays_and_is_shown(run, tiny_model, monkeypatch):
    monkeypatch.setenv("LRQK_RANK", "4")
    asked = ("chat", "--model", tiny_model, "--prompt", "Where?", "--max-new-tokens", 3, "--hot", 64)
    result = run(*asked, "--vram", "12GiB", "--json")
    assert result.code == 0, result.err
    settings = json.loads(result.out)["attention"]
    assert (settings["attention"], settings["hot"], settings["rank"]) == ("lrqk", 64, 4)
    assert settings["segment"] == 8192
    assert "LRQK, 64 hot rows, rank 4 in 4 bits" in result.err.splitlines()[-1]


def test_quiet_hides_the_plan(run, tiny_model):
    asked = ("chat", "--model", tiny_model, "--prompt", "Where?", "--max-new-tokens", 3)
    assert run(*asked, "--quiet").err == ""


@pytest.mark.parametrize("flags", [("--ctx", "4k"), ()])
def test_too_little_memory_is_told_before_weights_are_needed(run, tiny_model, tmp_path, flags):
    shutil.copy(tiny_model / "config.json", tmp_path)
    asked = ("chat", "--model", tmp_path, "--prompt", "Where?", *flags)
    result = run(*asked, "--vram", "400MiB")
    assert result.code == 5, result.err
    assert result.out == ""
    assert "device memory" in result.err
    assert "Hint: " in result.err
    enough = run(*asked, "--vram", "12GiB")
    assert enough.code == 4  # there are no weights and no tokenizer


def test_a_text_that_memory_cannot_hold_is_told_with_what_it_can(run, tiny_model, tmp_path):
    document = tmp_path / "long.txt"
    document.write_text("word " * 700)
    spec = spec_from_config(json.loads((tiny_model / "config.json").read_text()), "tiny")
    vram = estimate(spec, LEAST, 1024, "float32").total
    asked = ("chat", "--model", tiny_model, "--file", document, "--prompt", "Where?", "--dtype", "float32")
    result = run(*asked, *FLAGS, "--max-new-tokens", 4, "--vram", vram)
    assert result.code == 5, result.err
    assert "memory holds 1,024 of them at most" in result.err
    assert "--pages" in result.err


def test_a_bench_measures_what_fits_and_refuses_one_step_beyond(run, monkeypatch):
    monkeypatch.setattr(shapes, "shapes", lambda: {"tiny": SHAPE})
    vram = estimate(spec_from_config(SHAPE, "tiny"), LEAST, 300 + 4, "float32").total
    asked = ("bench", "--shape", "tiny", "--dtype", "float32", "--new-tokens", 3, "--repeat", 1, *FLAGS)
    asked += ("--modes", "lrqk", "--vram", vram, "--output", "json")
    both = run(*asked, "--ctx", "300,301")
    assert both.code == 5
    report = json.loads(both.out)
    fits, beyond = report["results"]
    assert fits["error"] is None
    assert len(fits["decode_samples_ms"]) == 3
    assert beyond["error"].startswith("does not fit: tiny with a context of 305 tokens needs at least")
    assert report["complete"] is False
    assert "Hint: Choose --" in both.err
    assert run(*asked, "--ctx", "300").code == 0
    nothing = run(*asked, "--ctx", "301")
    assert (nothing.code, nothing.out) == (5, "")


def test_a_bench_of_full_attention_alone_plans_for_it(run, monkeypatch):
    monkeypatch.setattr(shapes, "shapes", lambda: {"tiny": SHAPE})
    asked = ("bench", "--shape", "tiny", "--ctx", "100", "--new-tokens", 3, "--repeat", 1, "--output", "json")
    report = json.loads(run(*asked, "--modes", "dense", "--vram", "1GiB").out)
    assert report["modes"]["dense"]["attention"] == "dense"
    assert report["modes"]["dense"]["segment"] == 8192


def test_variations_vary_what_was_planned(run, tiny_model):
    asked = ("bench", "--suite", "fidelity", "--model", tiny_model, "--ctx", "200", "--samples", 1)
    asked += ("--new-tokens", 2, "--modes", "lrqk", "--vary", "tail=none", "--vram", "1GiB", "--hot", 64)
    result = run(*asked, "--output", "json", "--quiet")
    assert result.code == 0, result.err
    modes = json.loads(result.out)["modes"]
    assert modes["lrqk"]["segment"] == modes["tail=none"]["segment"] == 8192
    assert modes["tail=none"]["hot"] == 64


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--model", "no-such-model"), ("no model 'no-such-model'",)),
        (("--model", "llama-3.1-8b", "--vram", "lots"), ("'--vram'", "'lots'", "12GiB")),
        (("--model", "llama-3.1-8b", "--ram", "-3"), ("'--ram'",)),
        (("--model", "llama-3.1-8b", "--ctx", "12q"), ("'--ctx'", "64k")),
        (("--model", "llama-3.1-8b", "--ctx", "1m"), ("1,048,576", "131,072")),
        (("--model", "llama-3.1-8b", "--dtype", "float8"), ("float8",)),
    ],
)
def test_nonsense_is_told_in_a_sentence(run, flags, words):
    result = run("info", *flags)
    assert result.code in (2, 4)
    assert result.out == ""
    assert "Traceback" not in result.err
    assert all(word in result.err for word in words), result.err


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "jamba", "num_hidden_layers": 8}, "recurrent state"),
        ({"model_type": "mamba"}, "no layer with attention"),
        ({"model_type": "deepseek_v32"}, "index"),
        ({"hidden_size": 64}, "model_type"),
        ({**SHAPE, "hidden_size": 0}, "hidden_size"),
        ({**SHAPE, "num_attention_heads": "four"}, "num_attention_heads"),
    ],
)
@pytest.mark.parametrize("command", ["info", "chat"])
def test_a_config_that_cannot_be_accounted_for_names_what_is_wrong(run, tmp_path, config, word, command):
    (tmp_path / "config.json").write_text(json.dumps(config))
    prompt = ("--prompt", "x") if command == "chat" else ()
    result = run(command, "--model", tmp_path, *prompt)
    assert result.code == 4, result.err
    assert result.out == ""
    assert word in result.err.lower()
    assert "Hint: " in result.err
