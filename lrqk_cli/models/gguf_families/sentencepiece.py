"""SentencePiece vocabularies of GGUF files: blanks ahead of text, and the order of merges.

The rules are those of the models' own tokenizer.json, and of llama.cpp's ``src/llama-vocab.cpp``.
"""

from __future__ import annotations

from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer, decoders, normalizers

from lrqk_cli.models.gguf_reader import HeaderValues

_BLANK = "▁"
# Control tokens of Phi-3 after which blanks are no part of the text: all but these.
_KEEP_BLANKS = {"<unk>", "<s>", "<|endoftext|>"}
# Mistral's tokenizers with this control token put a blank at the start of a text alone; earlier ones, and all
# others of the kind, also behind control tokens. transformers reads every file as if it were of the former.
_ONLY_AT_START = "[INST]"
_GEMMA = {"gemma", "gemma2", "gemma3"}
_RUNS = f"{_BLANK}\n\t"


def with_own_pieces(parts: dict[str, Any], header: HeaderValues) -> dict[str, Any]:
    """Return a tokenizer's parts with the merges and the added tokens of its model.

    transformers adds tokens such as ``<s>`` behind a vocabulary without them; no model has rows for these.
    """
    known = len(header.tokens)
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["id"] < known]
    if header.architecture == "phi3":
        for token in parts["added_tokens"]:
            token["rstrip"] = token["content"] not in _KEEP_BLANKS
    if header.architecture == "gemma3":
        # Files have no merges, and transformers orders them by the ids of their tokens, as Gemma 2 does.
        merges: list[list[str]] = parts["model"]["merges"]
        runs = sorted(filter(_is_run, merges), key=lambda halves: (-len(halves[0]), -len(halves[1])))
        parts["model"]["merges"] = runs + [halves for halves in merges if not _is_run(halves)]
    return parts


def mend_blanks(tokenizer: Tokenizer, header: HeaderValues) -> None:
    """Let a tokenizer put a blank ahead of text where its model does, and none where its header says so."""
    if header.vocabulary_kind != "llama" or header.architecture in _GEMMA:
        return
    has_blank = header.tokenizer_flag("add_space_prefix") is not False
    if has_blank and _ONLY_AT_START in header.tokens_of(TokenType.CONTROL):
        return
    spelled = normalizers.Replace(" ", _BLANK)
    ahead = [normalizers.Prepend(_BLANK)] if has_blank else []
    tokenizer.normalizer = normalizers.Sequence([*ahead, spelled])
    tokenizer.pre_tokenizer = None
    if not has_blank:
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
        )


def _is_run(halves: list[str]) -> bool:
    return len(characters := {*halves[0], *halves[1]}) == 1 and characters.pop() in _RUNS
