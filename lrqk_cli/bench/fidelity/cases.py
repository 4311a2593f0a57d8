"""Prompts to compare on: a summary of a text, a task of RULER, or a question; and further turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from lrqk_cli.bench.qa.data import AskedDocument, DocumentQuestion, DocumentSet
from lrqk_cli.bench.qa.prompts import document_prompt, question_tokens
from lrqk_cli.bench.ruler.sample import Sample, encode
from lrqk_cli.bench.ruler.tasks import TASKS, TaskInputs, make_sample
from lrqk_cli.errors import ContextLengthError, UsageError

if TYPE_CHECKING:
    from lrqk_cli.models.prompt import ChatPrompt

TEXT = "text"
# Questions about documents that people wrote.
QA = "qa"
ALL_TASKS = (TEXT, *TASKS, QA)

_REQUEST = "\n\nWrite a detailed summary of the text above: who and what it is about, with names and numbers."
# The requests of later turns repeat if there are more turns than requests.
_TEXT_FOLLOW_UPS = (
    "Name the three people, places or things that the text mentions most often, and what it says of each.",
    "Quote one sentence from the middle of the text word for word, and explain what it refers to.",
    "What does the text say at its very end, and how does that follow from what came before?",
)
_TASK_FOLLOW_UPS = (
    "Quote the first and the last sentence of the text above word for word.",
    "Describe how the text above is built, part by part, with an example of each part.",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One conversation to compare on.

    Attributes:
        task: kind of prompt; results are per task.
        turns: the tokens before each answer: first the whole prompt, then the tokens between the end of an
            answer and the beginning of the next.
    """

    task: str
    turns: tuple[Sequence[int], ...]


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """The sources of the prompts.

    Attributes:
        prompt: the model's chat format.
        text: tokens of the whole text for ``text``.
        sources: for the tasks of RULER; sets: for ``qa``.
    """

    prompt: ChatPrompt
    text: Sequence[int]
    sources: TaskInputs
    sets: Sequence[DocumentSet] = ()


@dataclass(frozen=True, slots=True)
class CaseSize:
    """The size of the cases of a task.

    Attributes:
        context: tokens that all turns and their answers fill together.
        new_tokens: room for each answer.
        turns: user turns.
        samples: cases.
    """

    context: int
    new_tokens: int
    turns: int
    samples: int


def text_cases(material: PromptInputs, shape: CaseSize) -> list[Case]:
    """Return prompts that ask for a summary of a passage; the passages are spread evenly over the text.

    Passages overlap if the text is short.

    Raises:
        UsageError: the text is shorter than one passage, or the context is too small for any.
    """
    prompt, text = material.prompt, material.text
    before, after = prompt.opening(), prompt.text(_REQUEST) + prompt.closing()
    later = [_later_turn(prompt, _nth(_TEXT_FOLLOW_UPS, turn)) for turn in range(shape.turns - 1)]
    taken = len(before) + len(after) + sum(map(len, later)) + shape.turns * shape.new_tokens
    length = shape.context - taken
    if length < 1 or length > len(text):
        raise UsageError(
            f"A context of {shape.context:,} tokens cannot be filled from a text of {len(text):,} tokens.",
            "Give a longer --text, or another --ctx.",
        )
    step = (len(text) - length) / max(1, shape.samples - 1)
    starts = [round(number * step) for number in range(shape.samples)]
    return [Case(TEXT, ([*before, *text[start : start + length], *after], *later)) for start in starts]


def ruler_cases(task: str, seed: int, material: PromptInputs, shape: CaseSize) -> list[Case]:
    """Return prompts of a RULER task, as in the RULER suite except for the room for answers.

    Raises:
        ContextLengthError: the context is too short for the task.
    """

    def turns(sample: Sample) -> list[list[int]]:
        later = (_ruler_turn(material.prompt, sample, turn) for turn in range(shape.turns - 1))
        return [encode(material.prompt, sample), *later]

    def count(sample: Sample) -> int:
        return sum(map(len, turns(sample))) + shape.turns * shape.new_tokens

    samples = (
        make_sample(task, number, shape.context, seed, material.sources, count)
        for number in range(shape.samples)
    )
    return [Case(task, tuple(turns(sample))) for sample in samples]


def qa_cases(material: PromptInputs, shape: CaseSize) -> list[Case]:
    """Return prompts of documents with their questions: of the sets in turn, each document once if it can be.

    A document that is too long loses its middle.

    Raises:
        ContextLengthError: questions leave no room for their document.
    """
    prompt = material.prompt
    documents = [document for row in zip_longest(*(s.documents for s in material.sets)) for document in row]
    known = [document for document in documents if document is not None]
    cases = []
    for number in range(shape.samples):
        document = known[number % len(known)]
        first = number // len(known)
        asked = [_nth_question(document, first + turn) for turn in range(shape.turns)]
        later = [_qa_turn(prompt, question) for question in asked[1:]]
        room = sum(map(len, later)) + shape.turns * shape.new_tokens
        one = replace(document, questions=(asked[0],))
        found = document_prompt(one, shape.context, prompt, lambda _, room=room: room)  # type: ignore[misc]
        if found is None:
            raise ContextLengthError(
                f"{QA} leaves no room for a document in a context of {shape.context:,} tokens.",
                "Raise --ctx.",
            )
        cases.append(Case(QA, ([*found.head, *found.questions[0]], *later)))
    return cases


def _nth_question(document: AskedDocument, number: int) -> DocumentQuestion:
    return document.questions[number % len(document.questions)]


def _qa_turn(prompt: ChatPrompt, question: DocumentQuestion) -> list[int]:
    return [*prompt.between(), *question_tokens(question, prompt)]


def _ruler_turn(prompt: ChatPrompt, sample: Sample, turn: int) -> list[int]:
    """Return the sample's follow-up question for a turn, else a general question about the text."""
    if turn < len(sample.follow_ups):
        question, answer_prefix = sample.follow_ups[turn]
        return _later_turn(prompt, question) + prompt.text(answer_prefix)
    return _later_turn(prompt, _nth(_TASK_FOLLOW_UPS, turn))


def _later_turn(prompt: ChatPrompt, text: str) -> list[int]:
    return prompt.between() + prompt.text(text) + prompt.closing()


def _nth(requests: Sequence[str], number: int) -> str:
    return requests[number % len(requests)]
