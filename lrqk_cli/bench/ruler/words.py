"""Words that prompts are made of; chosen by hand for this project."""

from __future__ import annotations

import random
from functools import cache
from importlib.resources import files


@cache
def word_list(name: str) -> tuple[str, ...]:
    """Return ``adjectives``, ``nouns`` or ``verbs``, sorted."""
    return tuple((files(__package__) / "wordlists" / f"{name}.txt").read_text(encoding="utf-8").split())


@cache
def single_words() -> tuple[str, ...]:
    """Return all different words, sorted."""
    return tuple(sorted({*word_list("adjectives"), *word_list("nouns"), *word_list("verbs")}))


@cache
def compounds() -> tuple[str, ...]:
    """Return words made of two nouns, such as ``lanternriver``: enough of them for any context."""
    nouns = word_list("nouns")
    return tuple(sorted({first + second for first in nouns for second in nouns if first != second}))


def word_pair(rng: random.Random) -> str:
    """Return an adjective and a noun, such as ``quiet-harbour``, one of about 60,000."""
    return f"{rng.choice(word_list('adjectives'))}-{rng.choice(word_list('nouns'))}"
