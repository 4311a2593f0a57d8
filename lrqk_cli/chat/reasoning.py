"""Separates the reasoning of a model from its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lrqk_cli.models.prompt import ChatPrompt
    from lrqk_cli.models.reasoning import ReasoningMarks

# Tokens in which a model begins with a mark of reasoning, if it does.
_MOST_UNDECIDED = 32

Phase = Literal["undecided", "reasoning", "answer"]


class ReasoningSplitter:
    """Finds the end of the reasoning in what a model generates.

    Marks are looked for in the text and not among the tokens: a mark may be several tokens, and share its
    first or last one with other text.

    Args:
        prompt: the chat format.
        marks: those of the format.

    Attributes:
        phase: what comes next; ``undecided`` before the model has begun with reasoning or with an answer.
        answer: its tokens among those taken; empty before it begins.
        is_marked: the answer comes after a mark.
    """

    def __init__(self, prompt: ChatPrompt, marks: ReasoningMarks) -> None:
        self.phase: Phase = "undecided" if marks.start else "reasoning"
        self.answer: list[int] = []
        self.is_marked = False
        self._prompt = prompt
        self._start, self._end, self._direct = marks.start.strip(), marks.end.strip(), marks.answer.strip()
        self._stream = prompt.marked_stream()
        self._undecided: list[int] = []
        self._text = ""  # what is not yet known to be reasoning
        self._has_text = False

    def push(self, token: int) -> str:
        """Take one token ahead of the answer; return the reasoning that is now known, often empty.

        The whole reasoning has no blanks at its ends.
        """
        self._text += self._stream.push(token)
        if self.phase == "undecided":
            self._undecided.append(token)
            self._decide()
        return self._take_reasoning() if self.phase == "reasoning" else ""

    def finish(self) -> tuple[str, str]:
        """Go over to the answer; return the rest of the reasoning, and the part of its end mark after it."""
        if self.phase == "undecided":
            self._begin_answer(self._undecided)
            return "", ""
        self._text += self._stream.flush()
        place = len(self._text) - self._begun_end()
        rest, written = self._text[:place], self._text[place:]
        self._begin_after_mark("")
        return self._known(rest.rstrip()), written

    def _decide(self) -> None:
        text = self._text.lstrip()
        if text.startswith(self._start):
            self.phase, self._text = "reasoning", text.removeprefix(self._start)
        elif self._direct and text.startswith(self._direct):
            self._begin_after_mark(text.removeprefix(self._direct))
        elif len(self._undecided) >= _MOST_UNDECIDED or not (
            self._start.startswith(text) or self._direct.startswith(text)
        ):
            self._begin_answer(self._undecided)

    def _take_reasoning(self) -> str:
        reasoning, found, rest = self._text.partition(self._end)
        if found:
            self._begin_after_mark(rest)
        else:
            reasoning = self._text[: len(self._text) - self._begun_end()]
        reasoning = reasoning.rstrip()
        self._text = self._text[len(reasoning) :]
        return self._known(reasoning)

    def _begin_after_mark(self, rest: str) -> None:
        """Begin the answer with ``rest``, which came in the same token as the end of a mark."""
        self.is_marked = True
        rest = rest.lstrip()
        self._begin_answer(self._prompt.text(rest) if rest else [])

    def _begin_answer(self, tokens: list[int]) -> None:
        self.phase, self.answer = "answer", tokens

    def _begun_end(self) -> int:
        """Return how many characters at the end of the text may begin the end mark."""
        longest = min(len(self._end) - 1, len(self._text))
        return next((size for size in range(longest, 0, -1) if self._text.endswith(self._end[:size])), 0)

    def _known(self, reasoning: str) -> str:
        if not self._has_text:
            reasoning = reasoning.lstrip()
        self._has_text |= bool(reasoning)
        return reasoning
