"""Finds how a chat template marks the reasoning of a model, by what it renders."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Marks of templates that only cut reasoning off, and so never render it.
_TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|channel>thought", "<channel|>"))


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """The text around reasoning, where a model may reason.

    Attributes:
        start: what the model writes before its reasoning; empty if the template has begun the reasoning.
        end: the text between reasoning and answer.
        answer: what the model writes before an answer without reasoning, often nothing.
        are_kept: whether the template keeps the reasoning of earlier turns.
        are_expected: whether the model is to reason; otherwise it only might.
    """

    start: str
    end: str
    answer: str
    are_kept: bool
    are_expected: bool


def rendered_marks(turn: str, reasoning: str, answer: str) -> tuple[str, str] | None:
    """Return the text before and after reasoning in a rendered turn; None if it does not show the reasoning.

    Args:
        turn: from the end of a question.
        reasoning, answer: the placeholders in it.
    """
    before, _, rest = turn.partition(reasoning)
    end, found, _ = rest.partition(answer)
    return (before, end) if found and end.strip() and turn.count(reasoning) == 1 else None


def empty_thought(on: str, off: str, control_words: re.Pattern[str] | None) -> tuple[str, str] | None:
    """Return the text around reasoning where a template switches it off by an empty thought; else None.

    Args:
        on, off: from the end of a question to the start of its answer, with and without reasoning.
    """
    if control_words is None or not off.startswith(on):
        return None
    words = [*control_words.finditer(off, len(on))]
    return (off[: words[-1].start()], off[words[-1].start() :]) if len(words) > 1 else None


def mentioned_tags(template: str, on: str) -> tuple[str, str] | None:
    """Return the text around reasoning by the tags that a template mentions; None without such tags.

    Args:
        on: from the end of a question to the start of its answer, with reasoning.
    """
    for start, end in _TAGS:
        if end in template:
            return on if on.rstrip().endswith(start) else on + start, f"\n{end}\n\n"
    return None


def marks_after(
    closing: str, around: tuple[str, str], answered: str, *, are_kept: bool, thinks: bool
) -> ReasoningMarks | None:
    """Return the marks that a model writes after ``closing``; None if the template has ended the thought.

    Args:
        closing: from the end of a question to the start of its answer.
        around: from the end of a question to its reasoning, and from there to the answer.
        answered: from the end of a question to an answer in an earlier turn.
        are_kept: see ``ReasoningMarks``.
        thinks: whether reasoning is asked for.
    """
    before, end = around
    answer = answered.removeprefix(closing) if answered.startswith(closing) else ""
    is_open = before.rstrip() == closing.rstrip()
    if not is_open and not before.startswith(closing):
        return None
    start = "" if is_open else before.removeprefix(closing)
    return ReasoningMarks(start, end, answer, are_kept, thinks or is_open or bool(answer.strip()))
