"""One prompt of a task, and the function that fills it up to a context length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrqk_cli.errors import ContextLengthError

if TYPE_CHECKING:
    from lrqk_cli.models.prompt import ChatPrompt


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and its correct answer.

    Attributes:
        task: such as ``niah_single_1``.
        prompt_text: the user turn.
        answer_prefix: the beginning of the assistant's turn, which the model continues.
        references: strings that the answer should contain.
        max_new_tokens: tokens to generate at most.
        follow_ups: further questions that the same text answers, each with its answer prefix.
    """

    task: str
    prompt_text: str
    answer_prefix: str
    references: tuple[str, ...]
    max_new_tokens: int
    follow_ups: tuple[tuple[str, str], ...] = ()


# Builds a sample with so many units of haystack; counts the tokens of a sample and the room for its answer.
Build = Callable[[int], Sample]
Count = Callable[[Sample], int]

# Until a haystack is too long, it grows by no more than this factor at a time.
_GROWTH = 4


def fill(build: Build, count: Count, context: int, fewest: int, most: int | None = None) -> Sample:
    """Return a sample that fills ``context`` tokens to within about one unit of haystack, never more.

    Args:
        build: must give about proportionally more tokens for more units.
        fewest, most: units of haystack; ``most`` None means any number.

    Raises:
        ContextLengthError: not even ``fewest`` units fit.
    """
    low, best = fewest, build(fewest)
    used = count(best)
    if used > context:
        raise ContextLengthError(
            f"{best.task} needs at least {used:,} tokens, and the context has {context:,}.", "Raise --ctx."
        )
    high = None if most is None else most + 1
    guess = 2 * fewest
    while True:
        guess = min(guess, _GROWTH * low) if high is None else min(guess, high - 1)
        if guess <= low:
            return best
        sample = build(guess)
        tokens = count(sample)
        per_unit = max((tokens - used) / (guess - low), 1e-3)
        if tokens <= context:
            low, used, best = guess, tokens, sample
        else:
            high = guess
        guess = low + int((context - used) / per_unit)


def encode(prompt: ChatPrompt, sample: Sample) -> list[int]:
    """Return the tokens of a sample: the user turn, the assistant's tag and the answer prefix."""
    opening, closing = prompt.opening(), prompt.closing()
    asked, answer = prompt.text(sample.prompt_text, opening), prompt.text(sample.answer_prefix, closing)
    return [*opening, *asked, *closing, *answer]
