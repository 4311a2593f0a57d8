"""The tokens of GGUF files whose names are not spelled in letters for bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import TokenType
from gguf_files import PLAIN_ADDED, VOCABULARY, write_gguf
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lrqk_cli.models.gguf_reader import HeaderValues
from lrqk_cli.models.gguf_tokenizer import read_tokenizer

pytestmark = pytest.mark.short

BEGIN, END, USER = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>"
FIRST = len(VOCABULARY) + len(PLAIN_ADDED)
ADDED = {BEGIN: FIRST, END: FIRST + 1, USER: FIRST + 2, "  ": FIRST + 3}


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerBase:
    """That of a file as of DeepSeek, saved and loaded."""
    kinds = [TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.USER_DEFINED]
    file = write_gguf(
        tmp_path / "tiny.gguf",
        "deepseek2",
        {},
        [],
        split="deepseek-v3",
        added=dict(zip(ADDED, kinds, strict=True)),
        ends={"bos": ADDED[BEGIN], "eos": ADDED[END]},
    )
    read_tokenizer(file, HeaderValues(file)).save_pretrained(tmp_path / "saved")
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tmp_path / "saved")
    return found


def test_tokens_have_the_ids_of_the_file(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.encode(f"{BEGIN}{END}{USER}  ") == [*ADDED.values()]
    assert tokenizer.decode([*ADDED.values()]) == f"{BEGIN}{END}{USER}  "
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (ADDED[BEGIN], ADDED[END])
    assert tokenizer.chat_template


def test_no_token_lies_behind_the_vocabulary(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer) == FIRST + len(ADDED)
    assert max(tokenizer.encode("<|im_start|> It's <|endoftext|> ½ <think>")) < FIRST


def test_control_tokens_alone_are_special(tokenizer: PreTrainedTokenizerBase) -> None:
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    assert {BEGIN, END, "<|im_end|>"} <= special
    assert not special & {USER, "  ", "<think>"}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        *((name, ["!?!"]) for name in ("llama-bpe", "falcon3", "lfm2", "minicpm5", "tekken", "youtu")),
        *((name, ["!", "?", "!"]) for name in ("qwen2", "glm4", "gpt-4o", "smollm", None)),
    ],
)
def test_a_piece_that_is_a_token_is_taken_whole_where_the_model_does(
    split: str | None, expected: list[str], tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", "llama", {}, [], split=split)
    made = read_tokenizer(file, HeaderValues(file))
    made.save_pretrained(tmp_path / "saved")
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert tokenizer.tokenize("!?!") == expected
        assert tokenizer.tokenize("!!") == ["!!"]
        assert tokenizer.tokenize("!?!!") == ["!", "?", "!!"]


@pytest.mark.parametrize("begins", [True, False, None])
def test_a_text_begins_with_the_token_of_the_file(begins: bool | None, tmp_path: Path) -> None:
    added = {BEGIN: TokenType.CONTROL}
    file = write_gguf(
        tmp_path / "tiny.gguf", "deepseek2", {}, [], split="deepseek-v3", added=added,
        ends={"bos": FIRST}, begins=begins,
    )  # fmt: skip
    made = read_tokenizer(file, HeaderValues(file))
    made.save_pretrained(tmp_path / "saved")
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        plain = tokenizer.encode("!!", add_special_tokens=False)
        assert tokenizer.encode("!!") == ([FIRST, *plain] if begins else plain)
