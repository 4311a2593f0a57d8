"""The tokens that end the answers of a model from a GGUF file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from converted import converted
from gguf import TokenType
from gguf_files import PLAIN_ADDED, VOCABULARY, write_gguf
from transformers import GenerationConfig, LlamaForCausalLM

from lrqk_cli.models import gguf, gguf_weights, store
from lrqk_cli.models.gguf_reader import HeaderValues
from lrqk_cli.models.gguf_stops import stop_tokens
from lrqk_cli.models.loading import load, resolve

FIRST = len(VOCABULARY) + len(PLAIN_ADDED)
CONTROL, USER, NORMAL = TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.NORMAL


def stops(folder: Path, added: dict[str, int], **ends: int) -> list[str]:
    """Return the texts of the tokens that end an answer, but for the two of the tiny vocabulary."""
    file = write_gguf(folder / "tiny.gguf", "llama", {}, [], added=added, ends=ends)
    texts = [*VOCABULARY, *PLAIN_ADDED, *added]
    found = [texts[number] for number in stop_tokens(HeaderValues(file))]
    # EOS comes first: readers that take one token take that.
    assert found[0] == "<|im_end|>"
    assert "<|endoftext|>" in found
    return sorted({*found} - {"<|im_end|>", "<|endoftext|>"})


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        pytest.param({}, [], id="chatml"),
        pytest.param(
            {"<|eot_id|>": CONTROL, "<|eom_id|>": CONTROL, "<|python_tag|>": CONTROL},
            ["<|eom_id|>", "<|eot_id|>"],
            id="llama 3",
        ),
        pytest.param({"<|end|>": USER, "<|user|>": USER}, ["<|end|>"], id="phi 3"),
        pytest.param(
            dict.fromkeys(("<|start|>", "<|end|>", "<|message|>", "<|return|>", "<|call|>"), CONTROL),
            ["<|call|>", "<|return|>"],
            id="gpt-oss, whose messages end within an answer",
        ),
        pytest.param(
            {"<eos>": CONTROL, "<end_of_turn>": CONTROL, "</s>": USER, "<s>": USER},
            ["<end_of_turn>", "<eos>"],
            id="gemma 3, which has a tag of HTML",
        ),
        pytest.param({"</s>": CONTROL}, ["</s>"], id="mistral"),
        pytest.param({"<|eot_id|>": NORMAL}, [], id="text that looks like a mark"),
        pytest.param({"<|fim_pad|>": CONTROL, "<|file_sep|>": CONTROL}, [], id="marks of files of code"),
    ],
)
def test_control_tokens_end_an_answer_by_their_names(
    added: dict[str, int], expected: list[str], tmp_path: Path
) -> None:
    assert stops(tmp_path, added) == expected


def test_the_header_names_tokens_that_end_an_answer(tmp_path: Path) -> None:
    added = {"<|user|>": NORMAL, "<|observation|>": CONTROL}
    found = stops(tmp_path, added, eot=FIRST, eom=FIRST + 1)
    assert found == ["<|observation|>", "<|user|>"]


def test_a_model_stops_where_its_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    _, file = converted("glm4-moe-lite", tmp_path / "tiny.gguf", ends={"eot": 7})
    loaded = load(resolve(str(file)), torch.device("cpu"), torch.float32)
    assert loaded.stop_ids == {2, 7, 0}
    assert loaded.model.generation_config.eos_token_id == [2, 7, 0]


def test_unpacked_weights_stop_where_the_file_says(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = gguf_weights.survey
    monkeypatch.setattr(gguf_weights, "survey", lambda *args: replace(survey(*args), lacking=("a weight",)))
    assert not gguf.prepare(tiny_gguf, tmp_path, {}, lambda *_: None)
    assert GenerationConfig.from_pretrained(str(tmp_path)).eos_token_id == [2, 0]


def test_a_published_configuration_says_where_its_model_stops(
    tiny_gguf: Path, tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    assert gguf.prepare(tiny_gguf, tmp_path, tiny_llama.config.to_dict(), lambda *_: None)
    assert GenerationConfig.from_pretrained(str(tmp_path)).eos_token_id == 2


def test_files_that_were_prepared_before_are_prepared_anew(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "_PREPARED_FORMAT", 4)
    store.prepare_gguf(tiny_gguf)
    monkeypatch.undo()
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    assert store.prepared_folder(tiny_gguf) is None
