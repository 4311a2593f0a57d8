"""How the tokenizers of GGUF files split text before they encode it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from converted import converted
from gguf_files import write_gguf
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from lrqk_cli.errors import ModelError
from lrqk_cli.models import gguf
from lrqk_cli.models.gguf_families import splits
from lrqk_cli.models.gguf_reader import HeaderValues
from lrqk_cli.models.gguf_tokenizer import read_tokenizer
from lrqk_cli.models.loading import load_tokenizer, resolve

# Both tables and the reader of headers are transformers' own way of doing it.
pytestmark = pytest.mark.short

TEXT = "It's MyWord 12345一二a!?\n\nI'LL"
TEXTS = [
    TEXT,
    "  two blanks,\ttab \n  \n and the end  ",
    "x² + 3½ = 10,000.00 $5 <=> ~`code`",
    "Don't, I'm, we'LL; ça coûte 12€ — „so“",
    "日本語のテキスト。한국어 12 العربية ١٢٣ हिन्दी",
    "if (a[0] != b->c) {\r\n    return a_b1;\r\n}",
]


def pieces(tokenizer: PreTrainedTokenizerBase, text: str = TEXT) -> list[str]:
    found = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [text[start:end] for _, (start, end) in found]


def split_by(name: str | None, tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedTokenizerBase:
    file = write_gguf(folder / "tiny.gguf", "llama", {}, [], split=name)
    splits.split_as_named(tokenizer.backend_tokenizer, HeaderValues(file), file.name)
    return tokenizer


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("gpt-2 mellum a.x-4.0", "It|'s| MyWord| 12345|一二a|!?|\n|\n|I|'|LL"),
        ("starcoder smollm refact command-r", "It|'s| MyWord| |1|2|3|4|5|一二a|!?|\n|\n|I|'|LL"),
        ("llama-bpe glm4 chatglm-bpe falcon-h1 lfm2 dbrx", "It|'s| MyWord| |123|45|一二a|!?\n\n|I|'LL"),
        ("qwen2 hunyuan stablelm2 qwen35", "It|'s| MyWord| |1|2|3|4|5|一二a|!?\n\n|I|'LL"),
        ("seed-coder", "It|'s| MyWord| |1|2|3|4|5|一二a|!?|\n\n|I|'LL"),
        ("minicpm5", "It|'s| MyWord| |123|45|一二a|!?\n\n|I|'LL"),
        ("tekken", "It|'s| My|Word| |1|2|3|4|5|一二a|!?\n\n|I|'LL"),
        ("gpt-4o llama4 kanana2", "It's| My|Word| |123|45|一二a|!?\n\n|I'LL"),
        ("youtu", "It's| My|Word| |1|2|3|4|5|一二|a|!?\n\n|I'LL"),
        ("kimi-k2", "It's| My|Word| |123|45|一二|a|!?\n\n|I'LL"),
        ("deepseek-llm", "It|'|s| MyWord| |12345|一二|a|!?|\n|\n|I|'|LL"),
        ("deepseek-coder", "It|'|s| MyWord| |1|2|3|4|5|一二|a|!?|\n|\n|I|'|LL"),
        ("deepseek-v3 hunyuan-dense joyai-llm", "It|'s| MyWord| |123|45|一二|a|!?\n\n|I|'LL"),
        ("viking", "It's| MyWord| |1|2|3|4|5|一二a|!?\n\n|I'LL"),
        ("default", "It|'|s| MyWord| |123|45|一二a|!?|\n|\n|I|'|LL"),
    ],
)
def test_text_is_split_as_the_header_names_it(
    names: str, expected: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    for name in names.split():
        assert pieces(split_by(name, tokenizer, tmp_path)) == expected.split("|"), name


def test_a_file_without_a_name_is_split_by_llama_cpps_default(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    unnamed = pieces(split_by(None, tokenizer, tmp_path))
    assert unnamed == pieces(split_by("default", tokenizer, tmp_path))


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("gpt-2", [GPT2]),
        ("starcoder", [DIGITS, GPT2]),
        (
            "deepseek-coder",
            [
                *(
                    pre_tokenizers.Split(Regex(split), "isolated")
                    for split in (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")
                ),
                DIGITS,
                BYTES,
            ],
        ),
    ],
)
def test_splits_are_those_of_the_published_steps(
    name: str,
    steps: list[pre_tokenizers.PreTokenizer],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    published = pre_tokenizers.Sequence(steps)
    own = split_by(name, tokenizer, tmp_path).backend_tokenizer.pre_tokenizer
    for text in TEXTS:
        assert own.pre_tokenize_str(text) == published.pre_tokenize_str(text)


def test_what_transformers_knows_is_split_as_it_does() -> None:
    # The one that is missing belongs to a model of embeddings.
    known = GGUF_PRE_TOKENIZER_SPLITS.keys() - {"jina-v5-nano"}
    assert {name: (GGUF_PRE_TOKENIZER_SPLITS[name],) for name in known} == {
        name: splits._BY_NAME[name] for name in known
    }


def test_no_piece_loses_a_character(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    for name in splits._BY_NAME:
        split_by(name, tokenizer, tmp_path)
        assert ["".join(pieces(tokenizer, text)) for text in TEXTS] == TEXTS


@pytest.mark.parametrize("name", ["deepseek-coder", "kimi-k2"])
def test_a_prepared_tokenizer_keeps_the_splitting(
    name: str, mixture_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    files = [mixture_gguf(split=name), converted("glm4-moe-lite", tmp_path / "own.gguf", split=name)[1]]
    for file in files:
        assert "12345" not in "|".join(pieces(load_tokenizer(resolve(str(file)))))


def test_an_unknown_splitting_is_refused_before_any_work(
    mixture_gguf: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(gguf, "_unpacked", refuse)
    file = mixture_gguf(split="no\nsuch" + 100 * "!")
    (tmp_path / "made").mkdir()
    with pytest.raises(
        ModelError, match=r"'tiny-mixture.gguf' splits text in a way .* 'no\\nsuch!+'"
    ) as caught:
        gguf.prepare(file, tmp_path / "made", {}, lambda *_: None)
    assert "safetensors" in caught.value.hint
    assert len(caught.value.message) < 200
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize(
    ("name", "architecture", "same"),
    [
        ("qwen2", "qwen2", True),
        ("qwen35", "llama", True),
        (None, "qwen2", True),
        ("llama-bpe", "llama", False),
    ],
)
def test_accents_are_composed_where_the_model_does(
    name: str | None, architecture: str, same: bool, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", architecture, {}, [], split=name)
    tokenizer = read_tokenizer(file, HeaderValues(file))
    assert (tokenizer.encode("cafe\u0301") == tokenizer.encode("caf\u00e9")) is same


def test_files_of_qwen_that_are_older_than_names_are_split_as_its_model_does(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", "qwen2", {}, [])
    found = pieces(read_tokenizer(file, HeaderValues(file)))
    assert found == ["It", "'s", " MyWord", " ", "1", "2", "3", "4", "5", "一二a", "!?\n\n", "I", "'LL"]
