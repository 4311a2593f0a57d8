"""Common words and frequent words: which words of a long list appear most often."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Sequence

from lrqk_cli.bench.ruler.sample import Build, Count, Sample, fill
from lrqk_cli.bench.ruler.words import compounds, single_words

_COMMON = 10
_COMMON_MAX_NEW_TOKENS = 120
# From this context on, words of the list are repeated more often, and so are those of the example.
_LONG = 4096

_CODED_LETTERS = 6
_CODED_ANSWERS = 3
_CODED_MAX_NEW_TOKENS = 50
# The most frequent coded word stands for noise and is not asked for.
_CODED_NOISE = "..."
_CONTEXT_PER_CODED_WORD = 50
# With fewer words the fourth and the fifth could appear equally often.
_FEWEST_CODED = 200


def common_words(name: str, key: str, context: int, count: Count) -> Sample:
    """Return a sample of the common-words task: 10 words appear in a list 30 times, all others 3 times.

    Below 4,096 tokens they appear 6 times and once. The words are single words if there are enough of them
    for the context, else compounds such as ``lanternriver``.

    Raises:
        ContextLengthError: the context is too short.
    """
    build, most = _common_builder(name, key, context, single_words())
    if count(build(most)) <= context:
        build, most = _common_builder(name, key, context, compounds())
    return fill(build, count, context, 1, most)


def _common_builder(name: str, key: str, context: int, pool: Sequence[str]) -> tuple[Build, int]:
    """Return the builder of a sample, and the most units of haystack; a unit is one more uncommon word."""
    rng = random.Random(key)
    often, seldom = (30, 3) if context >= _LONG else (6, 1)
    example_words, example_often, example_seldom = (40, 10, 3) if context >= _LONG else (20, 3, 1)
    # A list has fewer different words than the context has tokens.
    words = rng.sample(pool, min(len(pool), context))
    common, rest = _apart(words, _COMMON)
    example_common, rest = _apart(rest, _COMMON)
    others = example_words - _COMMON
    example_uncommon, uncommon = rest[:others], rest[others:]
    example_list = _numbered_list(rng, example_common, example_often, example_uncommon, example_seldom)
    question, prefix = _common_question(example_list)
    shown = f"{question} {prefix} {_numbered(example_common)}"

    def build(units: int) -> Sample:
        rng = random.Random(f"{key}:list")
        question, prefix = _common_question(_numbered_list(rng, common, often, uncommon[:units], seldom))
        return Sample(name, f"{shown}\n\n{question}", prefix, tuple(common), _COMMON_MAX_NEW_TOKENS)

    return build, len(uncommon)


def _apart(words: Sequence[str], number: int) -> tuple[list[str], list[str]]:
    """Return ``number`` words, and the rest without words that are part of one of these or contain it.

    Scoring searches the answer for the words, so ``car`` must not be found in ``carpet``.
    """
    chosen: list[str] = []
    rest: list[str] = []
    for word in words:
        if any(word in other or other in word for other in chosen):
            continue
        (chosen if len(chosen) < number else rest).append(word)
    return chosen, rest


def _numbered_list(
    rng: random.Random, common: Sequence[str], often: int, uncommon: Sequence[str], seldom: int
) -> str:
    words = [*common] * often + [*uncommon] * seldom
    rng.shuffle(words)
    return _numbered(words)


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))


def _common_question(words: str) -> tuple[str, str]:
    question = (
        "Here is a numbered list of words. Some of the words stand in it more often than the others. "
        f"Remember those.\n{words}\n"
        f"Question: Which {_COMMON} words are the most common ones in the list above?"
    )
    return question, f"Answer: The {_COMMON} words that stand in the list most often are:"


def frequent_words_builder(name: str, key: str, context: int) -> tuple[Build, int]:
    """Return the builder of a sample of the frequent-words task, and the fewest units; a unit is a word.

    The frequencies of the coded words fall with the square of their rank.

    Args:
        key: seed of every random choice.
    """
    size = max(2 * _CODED_ANSWERS, (context - _CODED_MAX_NEW_TOKENS) // _CONTEXT_PER_CODED_WORD)
    rng = random.Random(key)
    coded: dict[str, None] = {}
    while len(coded) < size - 1:
        coded["".join(rng.choices(string.ascii_lowercase, k=_CODED_LETTERS))] = None
    ranked = [_CODED_NOISE, *coded]

    def build(units: int) -> Sample:
        first = units / (math.pi**2 / 6)
        words = [word for rank, word in enumerate(ranked, 1) for _ in range(int(first / rank**2))]
        random.Random(f"{key}:order").shuffle(words)
        prompt = (
            "Read the coded text below and count how often each coded word appears in it. Find the three "
            f"coded words that appear most often. {' '.join(words)}\n"
            "Question: Which three words appear most often in the coded text above? "
            f"Ignore the dots '{_CODED_NOISE}', and give no explanation."
        )
        prefix = "Answer: In the coded text above, the three words that appear most often are:"
        return Sample(name, prompt, prefix, tuple(ranked[1 : 1 + _CODED_ANSWERS]), _CODED_MAX_NEW_TOKENS)

    return build, _FEWEST_CODED
