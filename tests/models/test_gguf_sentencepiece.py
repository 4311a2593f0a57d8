"""SentencePiece vocabularies of GGUF files: blanks, merges, and added tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from gguf import TokenType
from gguf_files import PIECES, write_pieces
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lrqk_cli.models.gguf_reader import HeaderValues
from lrqk_cli.models.gguf_stops import stop_tokens
from lrqk_cli.models.gguf_tokenizer import read_tokenizer
from lrqk_cli.models.prompt import ChatPrompt, Detokenizer

pytestmark = pytest.mark.short

CONTROL, NORMAL = TokenType.CONTROL, TokenType.NORMAL
# As of Mistral 7B v0.1: marks of turns are plain text.
MISTRAL = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no such role') }}"
    "{% elif m.role == 'user' %}[I] {{ m.content }} [/I]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
# As of TinyLlama: the mark of an answer ends a line.
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role[0] }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|a|>\n{% endif %}"
)


def read(folder: Path, architecture: str = "llama", **options: object) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a file, saved and loaded."""
    file = write_pieces(folder / "tiny.gguf", architecture, **options)  # type: ignore[arg-type]
    read_tokenizer(file, HeaderValues(file)).save_pretrained(folder / "saved")
    found: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(folder / "saved")
    return found


def spelled(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return " ".join(map(str, tokenizer.convert_ids_to_tokens([*tokens])))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hi", "▁Hi"),
        (" Hi", "▁ ▁Hi"),
        ("Hi Hi  Hi", "▁Hi ▁Hi ▁ ▁Hi"),
        ("Hi</s>Hi", "▁Hi </s> ▁Hi"),
        ("<s>[I] Hi", "<s> ▁ [ I ] ▁Hi"),
        ("    ", "▁▁▁▁ ▁"),
        ("é", "▁ <0xC3> <0xA9>"),
    ],
)
def test_text_gets_a_blank_ahead_of_it_and_behind_control_tokens(
    text: str, expected: str, tmp_path: Path
) -> None:
    tokenizer = read(tmp_path)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert spelled(tokens, tokenizer) == expected
    assert tokenizer.encode(text) == [1, *tokens]
    if "<" not in text:
        assert tokenizer.decode(tokens) == text


def test_a_header_says_that_text_gets_no_blank(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, add_space_prefix=False)
    for text, expected in {"Hi Hi": "Hi ▁Hi", " Hi</s>Hi": "▁Hi </s> Hi"}.items():
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert spelled(tokens, tokenizer) == expected
        assert tokenizer.decode(tokens) == text


def test_mistrals_later_vocabularies_put_a_blank_at_the_start_alone(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, added={"[INST]": CONTROL})
    assert spelled(tokenizer.encode("Hi[INST]Hi", add_special_tokens=False), tokenizer) == "▁Hi [INST] Hi"
    assert spelled(tokenizer.encode("[INST] Hi", add_special_tokens=False), tokenizer) == "[INST] ▁Hi"


def test_phi_3s_marks_take_the_blanks_behind_them(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, "phi3", added={"<|user|>": CONTROL, "<|endoftext|>": CONTROL})
    tokens = tokenizer.encode("<|user|>\nHi<|endoftext|>\nHi", add_special_tokens=False)
    assert spelled(tokens, tokenizer) == "<|user|> ▁Hi <|endoftext|> ▁ \n Hi"


def test_gemmas_runs_of_one_character_are_merged_from_the_longest_on(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, "gemma3", add_space_prefix=False)
    tokens = tokenizer.encode("        Hi\n\n\nHi", add_special_tokens=False)
    assert spelled(tokens, tokenizer) == "▁▁▁▁ ▁▁▁▁ Hi \n\n \n Hi"


def test_gemma_4_begins_with_bos_and_ends_with_an_ordinary_token(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, "gemma4", kind="gemma4", added={"<eos>": NORMAL}, add_bos_token=True)
    assert tokenizer.encode("Hi")[0] == 1
    header = HeaderValues(tmp_path / "tiny.gguf")
    assert len(PIECES) in stop_tokens(header)
    file = write_pieces(tmp_path / "other.gguf", "llama", added={"<eos>": NORMAL})
    assert len(PIECES) not in stop_tokens(HeaderValues(file))


@pytest.mark.parametrize("template", [MISTRAL, ZEPHYR])
@pytest.mark.parametrize("system", [None, "be [brief]."])
def test_pieces_of_a_conversation_join_to_what_the_template_renders(
    template: str, system: str | None, tmp_path: Path
) -> None:
    tokenizer = read(tmp_path, template=template)
    prompt = ChatPrompt(tokenizer, system)
    tokens = prompt.opening()
    tokens += prompt.text("Hi all", tokens) + prompt.closing()
    tokens += prompt.text("a Hi", tokens) + prompt.between()
    tokens += prompt.text("no: Hi", tokens) + prompt.closing()
    # A model of Mistral's says a blank first.
    said = {"role": "assistant", "content": " a Hi" if template is MISTRAL else "a Hi"}
    messages = [{"role": "user", "content": "Hi all"}, said, {"role": "user", "content": "no: Hi"}]
    if system is not None and template is ZEPHYR:
        messages.insert(0, {"role": "system", "content": system})
    elif system is not None:
        messages[0] = {"role": "user", "content": f"{system}\n\nHi all"}
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = tokenizer.encode(rendered, add_special_tokens=False)
    assert spelled(tokens, tokenizer) == spelled(expected, tokenizer)


def test_a_control_word_in_a_text_gets_no_blank_within(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, template=MISTRAL)
    tokens = ChatPrompt(tokenizer).text("Hi</s> Hi<s>")
    assert not {1, 2} & {*tokens}
    assert tokenizer.decode(tokens) == "Hi</s> Hi<s>"


def test_a_text_that_goes_on_keeps_its_blank(tmp_path: Path) -> None:
    tokenizer = read(tmp_path)
    said = tokenizer.encode("Hi é Hi", add_special_tokens=False)
    for goes_on, expected in ((False, "Hi é Hi"), (True, " Hi é Hi")):
        stream = Detokenizer(tokenizer, goes_on=goes_on)
        assert "".join([*map(stream.push, said), stream.flush()]) == expected


def test_a_character_that_is_cut_is_one_unknown_one(tmp_path: Path) -> None:
    tokenizer = read(tmp_path)
    stream = Detokenizer(tokenizer, goes_on=True)
    assert (stream.push(PIECES.index("<0xF0>")), stream.flush()) == ("", "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("added", [{}, {"[INST]": CONTROL}])
@pytest.mark.parametrize("text", ["Hi", " Hi", "   a: Hi", "\nHi", "\n\nHi", "Hi </s> <s>"])
@pytest.mark.parametrize("template", [MISTRAL, ZEPHYR, MISTRAL.replace("[I]", "[INST]")])
def test_text_keeps_the_blanks_that_it_begins_with(
    template: str, text: str, added: dict[str, int], tmp_path: Path
) -> None:
    tokenizer = read(tmp_path, template=template, added=added)
    prompt = ChatPrompt(tokenizer)
    opening, closing = prompt.opening(), prompt.closing()
    tokens = [*opening, *prompt.text(text, opening), *closing]
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # Control words are none in a text, and no token is made of a line's end of each.
    if "</s>" not in text and not (template is ZEPHYR and text[0] == "\n"):
        expected = tokenizer.encode(rendered, add_special_tokens=False)
        assert spelled(tokens, tokenizer) == spelled(expected, tokenizer)
    # A line of an answer begins with no blank of the vocabulary's own.
    answer = prompt.text(text, closing)
    stream = Detokenizer(tokenizer, goes_on=prompt.goes_on(closing))
    assert "".join([*map(stream.push, answer), stream.flush()]) == text
    assert prompt.spells(answer, text)


def test_no_token_lies_behind_the_vocabulary(tmp_path: Path) -> None:
    pieces = [piece.replace("<s>", "<begin>") for piece in PIECES]
    tokenizer = read(tmp_path, pieces=pieces)
    assert len(tokenizer) == len(PIECES)
    assert tokenizer.bos_token == "<begin>"
    assert max(tokenizer.encode("a<s>a")) < len(PIECES)
