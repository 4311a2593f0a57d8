"""The tokenizer of a GGUF file: that of transformers, with the tokens and the splitting of its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf import TokenType

from lrqk_cli.models.gguf_families import FAMILIES
from lrqk_cli.models.gguf_families.splits import split_as_named
from lrqk_cli.models.gguf_reader import HeaderValues, lent_header

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ADDED = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_tokenizer(file: Path, header: HeaderValues) -> PreTrainedTokenizerBase:
    """Return the tokenizer in the header of a GGUF file.

    Raises:
        ModelError: it is not known how the tokenizer splits text.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # AutoTokenizer asks for a configuration first, by transformers' own tables.
    kind = PreTrainedTokenizerFast if header.architecture in FAMILIES else AutoTokenizer
    with lent_header(file):
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(str(file.parent), gguf_file=file.name)
    if header.vocabulary_kind == "gpt2":
        tokenizer = _with_own_tokens(tokenizer, header)
    split_as_named(tokenizer, header, file.name)
    return tokenizer


def _with_own_tokens(tokenizer: PreTrainedTokenizerBase, header: HeaderValues) -> PreTrainedTokenizerBase:
    """Return a byte-level tokenizer whose added tokens are those of its file.

    transformers spells tokens such as DeepSeek's ``<｜end▁of▁sentence｜>`` in letters for bytes, as if they
    were pieces of words. It finds none with the file's spelling then, and adds another behind the vocabulary,
    for which a model has no row. The same holds for ``<|endoftext|>`` in files without it.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    texts = header.tokens
    added = {
        number: special for kind, special in _ADDED.items() for number in header.tokens_of(kind).values()
    }
    found = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    if found == {number: texts[number] for number in added}:
        return tokenizer
    parts: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = parts["model"]["vocab"]
    parts["model"]["vocab"] = {
        texts[number] if number in added else token: number for token, number in vocabulary.items()
    }
    parts["added_tokens"] = [
        {"id": number, "content": texts[number], "special": special, **_PLAIN}
        for number, special in sorted(added.items())
    ]
    # It has the old number of the token that begins a text; the flags below make another.
    parts["post_processor"] = None
    named = {name: header.token(kind) for name, kind in _NAMED.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        chat_template=tokenizer.chat_template,
        add_bos_token=tokenizer.add_bos_token,
        add_eos_token=tokenizer.add_eos_token,
        **{name: texts[number] for name, number in named.items() if number is not None},
    )
