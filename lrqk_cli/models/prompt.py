"""Splits chat templates into pieces of tokens, and decodes tokens to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lrqk_cli.errors import ModelError, UsageError
from lrqk_cli.models.pieces import PieceEncoder
from lrqk_cli.models.plain_marks import break_mark, plain_marks
from lrqk_cli.models.template import read_template

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

# A plain dialogue for base models, whose tokenizers have no template.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}User:\n{{ message.content }}"
    "{% else %}Assistant:\n{{ message.content }}{% endif %}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)


class ChatPrompt:
    """The pieces of a model's chat template as token ids.

    A conversation is ``opening() + text(…) + closing()``, then the answer without its stop token, then
    ``between() + text(…) + closing()``, and so on. When an answer with reasoning is finished, ``answered()``
    and the answer alone take the place of ``closing()`` and all that was generated. Only the template's own
    pieces can contain control tokens; ``text`` and the system text cannot, nor imitate marks of turns that
    are plain text. A tokenizer without a template gets ``PLAIN_TEMPLATE``.

    Args:
        system: the system text; None for the template's own default. If a template has no system role, the
            text is put before the first user content.
        thinks: let the model reason; otherwise it does not if the template can switch that off.

    Attributes:
        reasoning: how the model marks reasoning; None if it does not reason.
        counts_exactly: the tokens are those that the model reads.

    Raises:
        ModelError: the template cannot be rendered, or there are several and none is the default.
        UsageError: ``thinks``, and the template has no reasoning.
    """

    counts_exactly = True

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, system: str | None = None, *, thinks: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._pieces = PieceEncoder(tokenizer)
        self.system = system
        self.thinks = thinks
        self._template = _template_of(tokenizer)
        self._control_words = _control_words(tokenizer, self._template)
        text = read_template(self._template, tokenizer.special_tokens_map, self._control_words, thinks=thinks)
        if thinks and not text.can_think:
            raise UsageError(
                "This model does not reason: its chat template has no place for it.",
                "Leave `think` off, or choose a model that reasons.",
            )
        start, middle = text.around_system or ("", "")
        self.reasoning = text.marks
        self._marks = plain_marks([text.closing, text.between], [start, middle], self._control_words)
        self._around_system_text = {*self._control(start), *self._control(middle)}
        self._closing = self._control(text.closing)
        self._answered = self._control(text.answered)
        self._between = self._control(self._pieces.before_text(text.between))
        self._opening = self._bos()
        before = text.before if system is None or text.around_system is None else start
        self._opening += self._pieces.first(self._pieces.before_text(before))
        if system is not None and text.around_system is None:
            self._opening += self.text(f"{system}\n\n", self._opening)
        elif system is not None:
            self._opening += self.text(system, self._opening)
            self._opening += self._control(self._pieces.before_text(middle))

    def with_system(self, system: str | None) -> ChatPrompt:
        """Return the same format with another system text."""
        return ChatPrompt(self._tokenizer, system, thinks=self.thinks)

    def with_thinking(self, thinks: bool) -> ChatPrompt:
        """Return the same format with reasoning on or off."""
        return ChatPrompt(self._tokenizer, self.system, thinks=thinks)

    def opening(self) -> list[int]:
        """Everything before the first user content, the system text included."""
        return list(self._opening)

    def closing(self) -> list[int]:
        """From the end of a user content to where the answer begins."""
        return list(self._closing)

    def answered(self) -> list[int]:
        """From the end of a user content to the answer of an earlier turn, whose reasoning is left out."""
        return list(self._answered)

    def reasoning_end(self, written: str = "") -> list[int]:
        """Everything between reasoning and answer, but for what the model has ``written`` of it already."""
        if self.reasoning is None:
            return []
        end = self.reasoning.end
        return self._control(end.lstrip().removeprefix(written) if written else end)

    def reasoning_start(self) -> list[int]:
        """What a model writes ahead of reasoning, or of an answer if it is not to reason; often nothing."""
        if self.reasoning is None:
            return []
        mark = self.reasoning.start if self.thinks else self.reasoning.answer
        return self._control(mark) if mark.strip() else []

    def answer_start(self) -> list[int]:
        """The blanks between the end mark of reasoning and the answer."""
        end = self.reasoning.end if self.reasoning else ""
        return self._control(end[len(end.rstrip()) :])

    def between(self) -> list[int]:
        """From the end of an answer, its end tag included, to where the next user content begins."""
        return list(self._between)

    def text(self, text: str, after: Sequence[int] = ()) -> list[int]:
        """Encode untrusted text; text that looks like a control token becomes ordinary tokens.

        Text that looks like a plain-text turn mark of the template gets an invisible character. Lone
        surrogates, which stand for undecodable bytes and which no tokenizer takes, become U+FFFD.

        Args:
            after: the tokens that it follows; see ``goes_on``.
        """
        text = encodable(text)
        if self._marks is not None:
            text = self._marks.sub(break_mark, text)
        # Encode the halves of a control word separately: neither is a control token.
        words = self._control_words.finditer(text) if self._control_words else ()
        cuts = [0, *(word.start() + 1 for word in words), len(text)]
        tokens, goes_on = list[int](), self.goes_on(after)
        for start, end in pairwise(cuts):
            tokens += self._pieces.text(text[start:end], blank=start == 0 and not goes_on)
        return tokens

    def goes_on(self, tokens: Sequence[int]) -> bool:
        """Return whether text behind these tokens begins with no blank of the vocabulary's own."""
        return self._pieces.goes_on(tokens)

    def marked_stream(self) -> Detokenizer:
        """Return a decoder that shows control tokens too: the marks of reasoning may be such."""
        return Detokenizer(self._tokenizer, shows_special=True)

    def spells(self, tokens: Sequence[int], text: str) -> bool:
        """Whether tokens, which may come from a file, are an answer of exactly this text.

        They are not if one is unknown to the tokenizer, is special, or is a control token around turns. Other
        control tokens, such as ``</think>``, are a part of the text that a model writes.
        """
        known, control = len(self._tokenizer), self._turn_tokens()
        if any(not 0 <= token < known or token in control for token in tokens):
            return False
        stream = Detokenizer(self._tokenizer, goes_on=self.goes_on(self._answered))
        return "".join([*map(stream.push, tokens), stream.flush()]) == text

    def _turn_tokens(self) -> set[int]:
        """Return special tokens, and control tokens that the template puts around turns."""
        around = {
            *self._opening,
            *self._closing,
            *self._answered,
            *self._between,
            *self._around_system_text,
        }
        control = _control_tokens(self._tokenizer, self._template)
        special = {number for number, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        return special | (control.keys() & around)

    def _bos(self) -> list[int]:
        """The BOS token for the plain template; a chat template writes its own."""
        bos = self._tokenizer.bos_token_id
        if self._tokenizer.chat_template or bos is None:
            return []
        return [bos] if self._tokenizer.encode("a")[:1] == [bos] else []

    def _control(self, piece: str) -> list[int]:
        """Encode a piece of the template behind text."""
        return self._pieces.further(piece)


def encodable(text: str) -> str:
    """Return a text with U+FFFD in place of lone surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Detokenizer:
    """Decodes generated ids to text one by one; leaves out special tokens unless it ``shows_special`` ones.

    Holds text back while its last character is incomplete: a character may take several tokens.

    Args:
        goes_on: the tokens go on with a text: a first blank is a part of it, and not the one that some
            vocabularies begin a text with.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, goes_on: bool = False, shows_special: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._shows_special = shows_special
        # Any text ahead will do, but for one whose last character could be joined by a token.
        self._ids: list[int] = tokenizer.encode("a", add_special_tokens=False) if goes_on else []
        # Tokens before _read have been returned. Tokens from _context on are decoded again with each new one,
        # because the text of a token may depend on its neighbours.
        self._context = 0
        self._read = len(self._ids)

    def push(self, token: int) -> str:
        """Add one token; return the newly complete text, which may be empty."""
        self._ids.append(token)
        fresh = self._fresh()
        if not fresh or fresh.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return fresh

    def flush(self) -> str:
        """Return the text still held back, at the end of an answer."""
        fresh = self._fresh()
        self._context = self._read = len(self._ids)
        return fresh

    def _fresh(self) -> str:
        return self._decode(self._ids[self._context :])[
            len(self._decode(self._ids[self._context : self._read])) :
        ]

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=not self._shows_special, clean_up_tokenization_spaces=False
            )
        )


def stop_ids(
    tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None = None
) -> frozenset[int]:
    """The tokens that end an answer.

    They are the EOS ids of the generation config, the tokenizer's EOS, and the token with which the chat
    template ends an assistant's turn, if it is a control token.

    Raises:
        ModelError: the generation config names something else than tokens.
    """
    eos = generation_config.eos_token_id if generation_config is not None else None
    named = eos if isinstance(eos, list) else [eos]
    if not all(token is None or isinstance(token, int) for token in named):
        raise ModelError(
            f"The model's settings for generation say that eos_token_id is {eos!r:.40}, which is no token.",
            "Give it the number of a token, or a list of such numbers, in generation_config.json.",
        )
    ids = {token for token in named if token is not None}
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        end_of_turn = ChatPrompt(tokenizer).between()[:1]
        ids.update(token for token in end_of_turn if token in tokenizer.added_tokens_decoder)
    return frozenset(ids)


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template; of several, the one that is called default."""
    template: object = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise ModelError(
                f"None of the model's chat templates is the default one: {', '.join(sorted(template)):.80}.",
                "Call the one to use 'default' in its tokenizer_config.json.",
            )
        template = template["default"]
    return str(template) if template else PLAIN_TEMPLATE


def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> dict[int, str]:
    """Return id -> text of special tokens, and of added tokens that the template contains."""
    return {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content in template and not token.content.isspace())
    }


def _control_words(tokenizer: PreTrainedTokenizerBase, template: str) -> re.Pattern[str] | None:
    """A pattern for control tokens."""
    words = _control_tokens(tokenizer, template).values()
    longest_first = sorted((word for word in words if len(word) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
