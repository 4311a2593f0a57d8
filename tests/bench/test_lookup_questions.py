"""The prompts of the lookup suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lrqk_cli.bench.lookup.questions import lookup_prompt
from lrqk_cli.bench.lookup.results import copied_share

WORDS = [f"word{number}" for number in range(900)]


class Characters:
    """A chat template and a tokenizer of one token a character."""

    def opening(self) -> list[int]:
        return [1, 2]

    def closing(self) -> list[int]:
        return [3]

    def text(self, text: str, after: Sequence[int] = ()) -> list[int]:
        return [ord(letter) for letter in text]


def spelled(tokens: list[int]) -> str:
    return "".join(map(chr, tokens))


@pytest.mark.parametrize("room", [3000, 5000, 20_000])
def test_the_document_fits_and_its_questions_are_about_it(room: int) -> None:
    prompt: Any = Characters()
    found = lookup_prompt(" ".join(WORDS), 3, prompt, room)
    assert found is not None
    longest = max(len(tokens) for _, tokens in found.questions)
    assert len(found.head) + longest <= room
    document = spelled(found.head)
    assert (WORDS[-1] in document) == (room == 20_000)
    for question, tokens in found.questions:
        assert question.text in spelled(tokens)
        assert question.opening + question.source in document
        if question.kind != "free":
            assert spelled(tokens).endswith(question.opening)
            # Else a model would copy what follows the words in the question.
            assert question.opening not in question.text
    assert document.count("\n| ") == 11  # the heading and ten lines


def test_a_seed_makes_the_table_and_too_little_text_is_refused() -> None:
    prompt: Any = Characters()
    texts = [lookup_prompt(" ".join(WORDS), seed, prompt, 20_000) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert lookup_prompt(" ".join(WORDS), 0, prompt, 900) is None
    assert lookup_prompt("too short", 0, prompt, 900) is None


def test_a_passage_begins_where_the_words_are_not_broken_by_gaps() -> None:
    words = [part for word in WORDS[:500] for part in (word, "", "")] + WORDS[500:]
    prompt: Any = Characters()
    found = lookup_prompt(" ".join(words), 3, prompt, 20_000)
    assert found is not None
    openings = [question.opening for question, _ in found.questions if question.kind == "quote"]
    assert openings[0].split()[0] == "word500"
    assert all("  " not in opening for opening in openings)


def test_the_share_of_an_answer_that_is_copied() -> None:
    assert copied_share("one two\nthree four", "one  two three five") == len("one two three f") / 18
    assert copied_share("", "one") == copied_share("two", "one") == 0.0
    assert copied_share(" one", "one two") == 1.0
