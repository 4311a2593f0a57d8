"""Writes GGUF files with a tiny byte-level vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packed import quantised
from tokenizers import pre_tokenizers

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Tiny.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and "
    "enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN_ADDED = ["<think>", "</think>", "<tool_call>"]
# All tokens but those of ``PLAIN_ADDED``, which follow them. No merges lead to the last one.
VOCABULARY = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "!!", "??", "!?!"]
# Of a SentencePiece vocabulary: bytes, words that merges lead to, and runs of one character.
PIECES = [
    *("<unk>", "<s>", "</s>"),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *("▁Hi", "Hi", "▁▁", "▁▁▁▁", "\n\n", "▁", "\n", *"abcdefghijklmnopqrstuvwxyzHIN[]/:<>|.?!"),
]


def write_gguf(
    path: Path,
    architecture: str,
    values: Mapping[str, Any],
    tensors: Iterable[tuple[str, torch.Tensor]],
    kind: str | None = None,
    *,
    split: str | None = None,
    added: Mapping[str, int] | None = None,
    ends: Mapping[str, int] | None = None,
    begins: bool | None = None,
    **others: str | None,
) -> Path:
    """Write a file of an architecture with this vocabulary.

    Args:
        values: of the header, by their keys without the architecture.
        kind: ggml's name of the type of matrices whose rows are long enough; None for plain numbers.
        split: llama.cpp's name of how text is split before it is encoded.
        added: the types of tokens that follow this vocabulary.
        ends: the ids of special tokens, by the names of their keys, also in place of this vocabulary's.
        begins: whether a text begins with the token of ``bos``; None for a header that does not say so.
        others: of matrices by these names, without their layer.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    adders = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        list: writer.add_array,
    }
    for key, value in values.items():
        add: Any = adders.get(type(value), writer.add_string)
        add(f"{architecture}.{key}", value)
    _add_vocabulary(writer, added or {})
    for end, number in {"bos": 1, "eos": 2, "unknown": 0, "padding": 0, **(ends or {})}.items():
        writer.add_uint32(f"tokenizer.ggml.{end}_token_id", number)
    if begins is not None:
        writer.add_add_bos_token(begins)
    if split is not None:
        writer.add_tokenizer_pre(split)
    for name, tensor in tensors:
        numbers = np.ascontiguousarray(tensor.detach().numpy())
        own = others.get(name.split(".")[-2], kind) if "." in name else None
        if own is None or not is_quantised(name, tensor):
            writer.add_tensor(name, numbers)
        else:
            writer.add_tensor(name, quantised(own, numbers), raw_dtype=GGMLQuantizationType[own])
    _write(writer)
    return path


def write_pieces(
    path: Path,
    architecture: str,
    *,
    added: Mapping[str, int] | None = None,
    pieces: Sequence[str] | None = None,
    kind: str = "llama",
    template: str | None = None,
    **flags: bool,
) -> Path:
    """Write a file without weights, with a tiny SentencePiece vocabulary.

    Args:
        added: the types of tokens that follow ``PIECES``.
        pieces: in their place, by the same types.
        kind: of the vocabulary.
        flags: of the header, such as ``add_space_prefix``.
    """
    from gguf import GGUFWriter, TokenType

    tokens = [*(pieces or PIECES), *(added or {})]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    kinds += [TokenType.NORMAL] * (len(PIECES) - len(kinds))
    writer = GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types([*kinds, *(added or {}).values()])
    for end, number in {"unknown": 0, "bos": 1, "eos": 2}.items():
        writer.add_uint32(f"tokenizer.ggml.{end}_token_id", number)
    for name, flag in flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", flag)
    if kind == "gemma4":
        writer.add_token_merges(["H i"])
    if template is not None:
        writer.add_chat_template(template)
    _write(writer)
    return path


def _write(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def is_quantised(name: str, tensor: torch.Tensor) -> bool:
    """Return whether llama.cpp quantises a tensor: not routers, norms and kernels of convolutions."""
    is_matrix = tensor.dim() > 1 and tensor.shape[-1] % 32 == 0 and name.endswith(".weight")
    return is_matrix and "gate_inp" not in name and "norm" not in name


def _add_vocabulary(writer: Any, added: Mapping[str, int]) -> None:
    from gguf import TokenType

    tokens = VOCABULARY + PLAIN_ADDED
    kinds = [TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    kinds[-len(PLAIN_ADDED) :] = [TokenType.USER_DEFINED] * len(PLAIN_ADDED)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, *added])
    writer.add_token_types([*kinds, *added.values()])
    writer.add_token_merges(["! !", "? ?"])
    writer.add_chat_template(CHATML)
