"""The prompts of the QA suite: a document first, then one of its questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lrqk_cli.bench.qa.data import AskedDocument, DocumentQuestion, Metric
from lrqk_cli.models.prompt import ChatPrompt

INTRODUCTION = "Read this text. A question about it follows.\n\n"
# How the answer shall look, and the most tokens that it may have.
_FORMS: Mapping[Metric, tuple[str, int]] = {
    "choice": ("Answer with the letter of the right option alone, such as (A).", 8),
    "f1": ("Answer from the text, in as few words as possible.", 96),
    "rouge_l": ("Answer from the text.", 256),
}
# The fewest tokens of a document that are worth reading.
_LEAST_TOKENS = 64


@dataclass(frozen=True, slots=True)
class DocumentPrompt:
    """The tokens of a document and of its questions, which fit into the context together.

    Attributes:
        head: up to the end of the document; ``questions`` follow it, one at a time.
        is_cut: whether the document lost its middle.
    """

    head: list[int]
    questions: list[list[int]]
    is_cut: bool


def answer_room(question: DocumentQuestion) -> int:
    """Return the most tokens that an answer may have."""
    return _FORMS[question.metric][1]


def document_prompt(
    document: AskedDocument,
    context: int,
    prompt: ChatPrompt,
    room_after: Callable[[DocumentQuestion], int] = answer_room,
) -> DocumentPrompt | None:
    """Return the tokens of a document and its questions; None if a question is too long.

    A document that is too long keeps its beginning and its end, as in LongBench.

    Args:
        room_after: returns the tokens to leave free after a question.
    """
    asked = [question_tokens(question, prompt) for question in document.questions]
    opening = prompt.opening()
    start = [*opening, *prompt.text(INTRODUCTION, opening)]
    longest = max(
        len(tokens) + room_after(question) for tokens, question in zip(asked, document.questions, strict=True)
    )
    room, text = context - len(start) - longest, prompt.text(document.text, start)
    if room < min(_LEAST_TOKENS, len(text)):
        return None
    is_cut = len(text) > room
    if is_cut:
        text = text[: room - room // 2] + text[len(text) - room // 2 :]
    return DocumentPrompt([*start, *text], asked, is_cut)


def question_tokens(question: DocumentQuestion, prompt: ChatPrompt) -> list[int]:
    """Return the tokens of a question that follows a document or an answer's end."""
    form, _ = _FORMS[question.metric]
    return asked_tokens(f"{question.text.strip()}\n{form}", prompt)


def asked_tokens(question: str, prompt: ChatPrompt) -> list[int]:
    """Return the tokens of a question's text after a document, up to where the answer begins."""
    return [*prompt.text(f"\n\nQuestion: {question}"), *prompt.closing()]
