"""The tokenizer of a GGUF file: that of transformers, with the tokens and the splitting of its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf import TokenType

from lrqk_cli.models.gguf_families.sentencepiece import mend_blanks, with_own_pieces
from lrqk_cli.models.gguf_families.splits import BOS_FIRST, split_as_named
from lrqk_cli.models.gguf_reader import HeaderValues, lent_header

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ADDED = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_tokenizer(file: Path, header: HeaderValues) -> PreTrainedTokenizerBase:
    """Return the tokenizer in the header of a GGUF file.

    It is of no model's own class: such a class would split text in its own way when it is loaded again.

    Raises:
        ModelError: it is not known how the tokenizer splits text.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    with lent_header(file):
        found: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
            str(file.parent), gguf_file=file.name
        )
    parts: dict[str, Any] = json.loads(found.backend_tokenizer.to_str())
    # It begins texts with the number that transformers has found for BOS; add_bos_token makes another below.
    parts["post_processor"] = None
    is_byte_level = header.vocabulary_kind == "gpt2"
    parts = _with_own_tokens(parts, header) if is_byte_level else with_own_pieces(parts, header)
    backend = Tokenizer.from_str(json.dumps(parts))
    if is_byte_level:
        split_as_named(backend, header, file.name)
    else:
        mend_blanks(backend, header)
    named = {name: header.token(kind) for name, kind in _NAMED.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=found.chat_template,
        add_bos_token=found.add_bos_token or _begins_with_bos(header),
        add_eos_token=found.add_eos_token,
        **{name: header.tokens[number] for name, number in named.items() if number is not None},
    )


def _with_own_tokens(parts: dict[str, Any], header: HeaderValues) -> dict[str, Any]:
    """Return a byte-level tokenizer's parts with the added tokens of its file.

    transformers spells tokens such as DeepSeek's ``<｜end▁of▁sentence｜>`` in letters for bytes, as if they
    were pieces of words. It finds none with the file's spelling then, and adds another behind the vocabulary,
    for which a model has no row. The same holds for ``<|endoftext|>`` in files without it.
    """
    texts = header.tokens
    added = {
        number: special for kind, special in _ADDED.items() for number in header.tokens_of(kind).values()
    }
    vocabulary: dict[str, int] = parts["model"]["vocab"]
    parts["model"]["vocab"] = {
        texts[number] if number in added else token: number for token, number in vocabulary.items()
    }
    parts["added_tokens"] = [
        {"id": number, "content": texts[number], "special": special, **_PLAIN}
        for number, special in sorted(added.items())
    ]
    return parts


def _begins_with_bos(header: HeaderValues) -> bool:
    """Return whether llama.cpp begins a text with BOS although transformers does not.

    transformers leaves it to the chat template with Gemma 4, and where a header does not say; a text without
    a template has none then.
    """
    is_unsaid = header.tokenizer_flag("add_bos_token") is None
    return header.vocabulary_kind == "gemma4" or (is_unsaid and header.pre_tokenizer in BOS_FIRST)
