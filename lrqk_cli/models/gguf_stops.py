"""The tokens that end an answer, by the header of a GGUF file, which has no list of them."""

from __future__ import annotations

from gguf import TokenType

from lrqk_cli.models.gguf_reader import HeaderValues

# Texts that end an answer in some family: llama.cpp's special_eog_ids in src/llama-vocab.cpp, but for its
# marks around files of code, which no model's own generation config has.
_ENDS = frozenset(
    {
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"),
        *("<|end_of_text|>", "<end_of_turn>", "<eos>", "<turn|>", "<|tool_response>", "<EOT>", "_<EOT>"),
        *("[EOT]", "[EOS]", "<end_of_utterance>", "<｜end▁of▁sentence｜>", "[e~["),
    }
)
# Gemma's vocabulary has this one as a tag of HTML, user defined.
_CONTROL_ENDS = _ENDS | {"</s>"}
# In gpt-oss these end an answer, and <|end|> a message within it, such as its reasoning.
_MESSAGE_END, _ANSWER_ENDS = "<|end|>", frozenset({"<|return|>", "<|call|>"})


def stop_tokens(header: HeaderValues) -> list[int]:
    """Return the ids of the tokens that end an answer, that of EOS first.

    They are those that the header names as the end of a sequence, a turn or a message, and control tokens
    with well-known texts.
    """
    control, own = (header.tokens_of(kind) for kind in (TokenType.CONTROL, TokenType.USER_DEFINED))
    ends = {text: number for text, number in own.items() if text in _ENDS}
    if header.vocabulary_kind == "gemma4":  # the end of a text is an ordinary token there
        normal = header.tokens_of(TokenType.NORMAL)
        ends |= {text: normal[text] for text in normal.keys() & {"<eos>"}}
    ends |= {text: number for text, number in control.items() if text in _CONTROL_ENDS}
    named = [number for kind in ("eos", "eot", "eom") if (number := header.token(kind)) is not None]
    found = dict.fromkeys([*named, *sorted(ends.values())])
    if ends.keys() >= _ANSWER_ENDS and _MESSAGE_END in ends:
        del found[ends[_MESSAGE_END]]
    return list(found)
