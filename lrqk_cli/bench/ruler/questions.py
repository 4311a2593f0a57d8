"""Question answering: real questions, whose documents are mixed with others of the same collection."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from lrqk_cli.bench.ruler.sample import Build, Sample
from lrqk_cli.errors import DocumentError
from lrqk_cli.system_errors import reason_of

QA_FORMS = {"qa_1": "SQuAD", "qa_2": "HotpotQA"}

_MAX_NEW_TOKENS = 32
_INSTRUCTION = "Answer the question from the documents. Give the answer alone and no other words."


@dataclass(frozen=True, slots=True)
class QaQuestion:
    """A question.

    Attributes:
        answers: alternatives; any of them is correct.
        needed: numbers of the documents that hold the answer, or that always come with it.
        related: numbers of documents on the same subject, which come before any others.
    """

    text: str
    answers: tuple[str, ...]
    needed: tuple[int, ...]
    related: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class QaData:
    """Questions and all documents of a collection."""

    questions: tuple[QaQuestion, ...]
    documents: tuple[str, ...]


def read_qa(path: Path) -> tuple[str, QaData]:
    """Read a file in the form of SQuAD (``qa_1``) or of HotpotQA (``qa_2``).

    Raises:
        DocumentError: the file cannot be read, has neither form, or has no question that can be answered.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DocumentError(
            f"'{path}' cannot be read: {reason_of(error)}.", "Check the path after --qa-data."
        ) from None
    except ValueError:
        content = None
    task = "qa_1" if isinstance(content, dict) else "qa_2"
    try:
        data = _squad(content) if task == "qa_1" else _hotpotqa(content)
    except (KeyError, TypeError, ValueError):
        raise DocumentError(
            f"'{path}' is neither in the form of SQuAD nor of HotpotQA.",
            "Give --qa-data one of their JSON files.",
        ) from None
    if not data.questions:
        raise DocumentError(f"No question in '{path}' can be answered.", "Give --qa-data another file.")
    return task, data


def question_builder(name: str, key: str, seed: int, index: int, data: QaData) -> tuple[Build, int]:
    """Return the builder of a sample, and the fewest units of haystack; a unit is a document.

    ``seed`` decides the order of the questions, which repeat if there are fewer of them than samples.

    Args:
        key: seed of every other random choice.
    """
    order = random.Random(f"{seed}:{name}").sample(range(len(data.questions)), len(data.questions))
    question = data.questions[order[index % len(order)]]
    rng = random.Random(key)
    taken = {*question.needed, *question.related}
    others = [number for number in range(len(data.documents)) if number not in taken]
    related = rng.sample(question.related, len(question.related))
    ranked = [*question.needed, *related, *rng.sample(others, len(others))]

    def build(units: int) -> Sample:
        chosen = list(islice(cycle(ranked), units))
        random.Random(f"{key}:order").shuffle(chosen)
        documents = "\n\n".join(
            f"Document {place}:\n{data.documents[number]}" for place, number in enumerate(chosen, 1)
        )
        prompt = (
            f"{_INSTRUCTION}\n\nThese are the documents.\n\n{documents}\n\n{_INSTRUCTION}\n\n"
            f"Question: {question.text}"
        )
        return Sample(name, prompt, "Answer:", question.answers, _MAX_NEW_TOKENS)

    return build, len(question.needed)


def _squad(content: Any) -> QaData:
    articles = [article["paragraphs"] for article in content["data"]]
    documents = sorted({paragraph["context"] for article in articles for paragraph in article})
    number = {text: at for at, text in enumerate(documents)}
    questions = []
    for article in articles:
        of_article = dict.fromkeys(number[paragraph["context"]] for paragraph in article)
        for paragraph in article:
            own = number[paragraph["context"]]
            related = tuple(other for other in of_article if other != own)
            for asked in paragraph["qas"]:
                texts = (answer["text"] for answer in asked["answers"])
                answers = tuple(dict.fromkeys(text for text in texts if text))
                if answers and not asked.get("is_impossible", False):
                    questions.append(QaQuestion(asked["question"], answers, (own,), related))
    return QaData(tuple(questions), tuple(documents))


def _hotpotqa(content: Any) -> QaData:
    if not isinstance(content, list):
        raise TypeError
    articles = [[f"{title}\n{''.join(parts)}" for title, parts in asked["context"]] for asked in content]
    documents = sorted({text for article in articles for text in article})
    number = {text: at for at, text in enumerate(documents)}
    questions = tuple(
        QaQuestion(
            asked["question"], (asked["answer"],), tuple(dict.fromkeys(number[text] for text in article))
        )
        for asked, article in zip(content, articles, strict=True)
        if asked["answer"]
    )
    return QaData(questions, tuple(documents))
