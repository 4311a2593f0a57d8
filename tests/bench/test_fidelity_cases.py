"""Conversations of the fidelity suite: their length, their turns and what they ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from lrqk_cli.bench.fidelity.cases import Case, CaseSize, PromptInputs, qa_cases, ruler_cases, text_cases
from lrqk_cli.bench.qa.data import AskedDocument, DocumentQuestion, DocumentSet
from lrqk_cli.bench.ruler.essay import Essay
from lrqk_cli.bench.ruler.tasks import TaskInputs, make_sample
from lrqk_cli.errors import ContextLengthError, UsageError


class Letters:
    """A chat format whose tokens are letters."""

    def opening(self) -> list[int]:
        return self.text("<user>")

    def closing(self) -> list[int]:
        return self.text("<model>")

    def between(self) -> list[int]:
        return self.text("<end><user>")

    def text(self, text: str, after: Sequence[int] = ()) -> list[int]:
        return [ord(letter) for letter in text]


def material(letters: int = 0) -> PromptInputs:
    prompt: Any = Letters()
    text = [ord("a") + number % 26 for number in range(letters)]
    return PromptInputs(prompt, text, TaskInputs(Essay.made_up()))


def read(case: Case) -> list[str]:
    return ["".join(map(chr, turn)) for turn in case.turns]


def length(case: Case, shape: CaseSize) -> int:
    return sum(map(len, case.turns)) + shape.turns * shape.new_tokens


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_text_fills_the_context_with_all_turns_and_answers(turns):
    shape = CaseSize(context=2000, new_tokens=50, turns=turns, samples=3)
    cases = text_cases(material(9000), shape)
    assert [length(case, shape) for case in cases] == [2000] * 3
    first, *later = read(cases[0])
    assert first.startswith("<user>abc")
    assert "summary" in first
    assert len(later) == turns - 1
    for text, following in pairwise(later):
        assert text.startswith("<end><user>")
        assert text.endswith("<model>")
        assert text != following


def test_stretches_are_spread_over_the_whole_text():
    shape = CaseSize(context=1000, new_tokens=10, turns=1, samples=2)
    text = material(5000)
    first, last = (case.turns[0] for case in text_cases(text, shape))
    body = len(first) - len(text.prompt.opening())
    assert first[6:100] == text.text[:94]
    request = first[6:].index(ord("\n"))
    assert last[6 : 6 + request] == text.text[-request:]
    assert body > request


@pytest.mark.parametrize("shape", [CaseSize(9000, 10, 1, 1), CaseSize(100, 50, 2, 1)])
def test_a_context_that_the_text_cannot_fill_is_refused(shape):
    with pytest.raises(UsageError, match="cannot be filled"):
        text_cases(material(5000), shape)


@pytest.mark.parametrize("task", ["niah_multikey_3", "niah_single_2", "vt", "fwe"])
@pytest.mark.parametrize("turns", [1, 3])
def test_ruler_fills_the_context_but_for_a_unit(task, turns):
    shape = CaseSize(context=12_000, new_tokens=60, turns=turns, samples=2)
    cases = ruler_cases(task, 0, material(), shape)
    assert len({tuple(case.turns[0]) for case in cases}) == 2
    for case in cases:
        assert len(case.turns) == turns
        assert 0.9 * 12_000 < length(case, shape) <= 12_000


@pytest.mark.parametrize("task", ["niah_multikey_1", "niah_multikey_2", "niah_multikey_3"])
def test_a_later_turn_asks_for_another_key_of_the_same_text(task):
    (case,) = ruler_cases(task, 0, material(), CaseSize(12_000, 60, 3, 1))
    first, *later = read(case)
    keys = [turn.split(" that the text above mentions?")[0].rsplit(" ", 1)[1] for turn in (first, *later)]
    assert len(set(keys)) == 3
    for turn, key in zip(later, keys[1:], strict=True):
        assert first.count(f"for {key} is: ") == 1
        assert turn.endswith(f" for {key} that the text above mentions is")


def test_a_task_that_knows_no_other_question_goes_on_in_general():
    (case,) = ruler_cases("vt", 0, material(), CaseSize(12_000, 60, 3, 1))
    _, second, third = read(case)
    assert "text above" in second
    assert second != third


def test_the_prompts_are_those_of_the_ruler_suite():
    shape = CaseSize(12_000, 128, 1, 1)
    (case,) = ruler_cases("niah_single_1", 7, material(), shape)

    def count(sample: Any) -> int:
        return len(f"<user>{sample.prompt_text}<model>{sample.answer_prefix}") + 128

    sample = make_sample("niah_single_1", 0, 12_000, 7, TaskInputs(Essay.made_up()), count)
    assert read(case) == [f"<user>{sample.prompt_text}<model>{sample.answer_prefix}"]


def test_a_context_too_short_for_a_task_is_refused():
    with pytest.raises(ContextLengthError):
        ruler_cases("niah_multikey_3", 0, material(), CaseSize(200, 60, 1, 1))


def sets() -> list[DocumentSet]:
    def document(name: str, letters: int, questions: int) -> AskedDocument:
        asked = (DocumentQuestion(f"{name}{number}?", ("yes",), "f1") for number in range(questions))
        return AskedDocument(name * letters, tuple(asked))

    return [
        DocumentSet("tales", (document("A", 100, 2), document("B", 3000, 1))),
        DocumentSet("talks", (document("C", 200, 3),)),
    ]


def test_questions_are_of_all_sets_in_turn_and_of_each_document_first():
    shape = CaseSize(context=1500, new_tokens=50, turns=1, samples=5)
    cases = qa_cases(replace(material(), sets=sets()), shape)
    asked = [read(case)[0].partition("Question: ")[2].partition("?")[0] for case in cases]
    assert asked == ["A0", "C0", "B0", "A1", "C1"]
    assert all(case.task == "qa" for case in cases)
    assert "A" * 100 in read(cases[0])[0]
    # The second one of the first set is cut to what the context holds.
    assert [length(case, shape) < 1500 for case in cases] == [True, True, False, True, True]
    assert length(cases[2], shape) == 1500


def test_further_turns_ask_the_next_questions_of_the_same_document():
    shape = CaseSize(context=1500, new_tokens=50, turns=3, samples=2)
    first, second = (read(case) for case in qa_cases(replace(material(), sets=sets()), shape))
    assert [text.count("A1?") for text in first] == [0, 1, 0]
    assert first[2].startswith("<end><user>")
    assert "A0?" in first[2]
    assert ["C1?" in second[1], "C2?" in second[2]] == [True, True]


def test_questions_that_leave_no_room_are_refused():
    shape = CaseSize(context=250, new_tokens=50, turns=2, samples=1)
    with pytest.raises(ContextLengthError, match="no room"):
        qa_cases(replace(material(), sets=sets()), shape)
