"""``lrqk chat`` with families whose layers differ: hybrids, shared rows, compressed rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrqk_cli.models.classes import causal_model_class

pytestmark = pytest.mark.usefixtures("short_texts_are_stored")

FAMILIES = ["qwen3.5", "falcon-h1", "gemma4-shared", "deepseek-v3"]


@pytest.fixture(params=FAMILIES)
def folder(request, tiny_model, tmp_path) -> Path:
    """The folder of a random model with the tokenizer of the tiny Llama."""
    from tiny import tiny_model as random_model

    vocabulary = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    sizes = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": 0}
    if "gemma4" in request.param:
        sizes["vocab_size_per_layer_input"] = vocabulary
    model = random_model(request.param, **sizes)
    folder = tmp_path / request.param
    model.save_pretrained(folder)
    for file in tiny_model.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    for file in tiny_model.glob("*.jinja"):
        (folder / file.name).write_bytes(file.read_bytes())
    assert type(model) is causal_model_class(model.config)
    return folder


@pytest.fixture
def chat(run, folder, tmp_path):
    document = tmp_path / "report.txt"
    document.write_text("The plant at Brannock employs 412 people. " * 12, encoding="utf-8")

    def run_chat(*arguments, stdin=""):
        small = "--max-new-tokens", "12", "--segment", "32", "--dtype", "float32"
        result = run("chat", "--model", folder, document, *small, *arguments, stdin=stdin)
        assert result.code == 0, result.err
        return result

    return run_chat


def test_a_document_is_read_once_and_answers_stay(chat):
    first = json.loads(chat("--prompt", "How many?", "--json").out)
    again = json.loads(chat("--prompt", "How many?", "--json").out)
    assert again["answer"] == first["answer"]
    assert again["timing"]["prefill_tokens"] < 60 < first["timing"]["prefill_tokens"]
    unstored = json.loads(chat("--prompt", "How many?", "--json", "--no-cache").out)
    assert unstored["answer"] == first["answer"]


def test_a_turn_that_was_taken_back_leaves_no_trace(chat, tmp_path):
    """Questions of a file are asked one by one after the document: each is taken back before the next."""
    questions = tmp_path / "questions.txt"
    questions.write_text("How many?\nWhere?\nHow many?\n")
    lines = chat("--prompts-file", questions, "--json").out.splitlines()
    first, other, again = (json.loads(line)["answer"] for line in lines)
    assert again == first
    alone = json.loads(chat("--prompt", "Where?", "--json", "--no-cache").out)
    assert other == alone["answer"]
