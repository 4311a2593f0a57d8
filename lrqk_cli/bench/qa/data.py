"""Documents with questions, in the JSONL forms of L-Eval and LongBench."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lrqk_cli.errors import DocumentError
from lrqk_cli.system_errors import reason_of

Metric = Literal["choice", "f1", "rouge_l"]

# LongBench's sets whose metric is here (Bai et al., "LongBench", 2024, table 1).
_LONGBENCH: Mapping[str, Metric] = {
    "narrativeqa": "f1",
    "qasper": "f1",
    "multifieldqa_en": "f1",
    "hotpotqa": "f1",
    "2wikimqa": "f1",
    "musique": "f1",
    "triviaqa": "f1",
    "gov_report": "rouge_l",
    "qmsum": "rouge_l",
    "multi_news": "rouge_l",
    "samsum": "rouge_l",
}
# What L-Eval calls its ways to evaluate (An et al., "L-Eval", 2024).
_LEVAL: Mapping[str, Metric] = {"exam": "choice", "f1": "f1", "rouge": "rouge_l", "LLM": "f1", "human": "f1"}
_HINT = "Give --qa-data a JSONL file of L-Eval or LongBench."


@dataclass(frozen=True, slots=True)
class DocumentQuestion:
    """A question and the answers that count as right.

    Attributes:
        metric: how an answer is scored.
    """

    text: str
    answers: tuple[str, ...]
    metric: Metric


@dataclass(frozen=True, slots=True)
class AskedDocument:
    """A document and its questions."""

    text: str
    questions: tuple[DocumentQuestion, ...]


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """The documents of a file; the set has its name."""

    name: str
    documents: tuple[AskedDocument, ...]


def read_set(path: Path) -> DocumentSet:
    """Read a file of one JSON object a line, a document each; questions about the same text are put together.

    Raises:
        DocumentError: the file cannot be read, has neither form, or has a set whose metric is not here.
    """
    documents = dict[str, list[DocumentQuestion]]()
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    text, questions = _read_line(path, number, line)
                    documents.setdefault(text, []).extend(questions)
    except OSError as error:
        raise DocumentError(
            f"'{path}' cannot be read: {reason_of(error)}.", "Check the path after --qa-data."
        ) from None
    except UnicodeDecodeError:
        raise DocumentError(f"'{path}' is not text in UTF-8.", _HINT) from None
    if not any(documents.values()):
        raise DocumentError(f"'{path}' has no questions.", _HINT)
    asked = [AskedDocument(text, tuple(questions)) for text, questions in documents.items() if questions]
    return DocumentSet(path.stem, tuple(asked))


def _read_line(path: Path, number: int, line: str) -> tuple[str, list[DocumentQuestion]]:
    try:
        plain = json.loads(line)
        return _leval(plain) if "instructions" in plain else _longbench(plain)
    except _UnknownSet as error:
        raise DocumentError(f"'{path}' has the set '{error}', whose metric is not here.", _HINT) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DocumentError(f"Line {number} of '{path}' is in neither form.", _HINT) from None


class _UnknownSet(Exception):  # noqa: N818 - becomes a DocumentError
    """The name of a set whose metric is not known."""


def _leval(plain: Mapping[str, Any]) -> tuple[str, list[DocumentQuestion]]:
    metric = _LEVAL.get(plain["evaluation"])
    if metric is None:
        raise _UnknownSet(str(plain.get("source", plain["evaluation"])))
    pairs = zip(_strings(plain["instructions"]), _strings(plain["outputs"]), strict=True)
    return _string(plain["input"]), [DocumentQuestion(asked, (answer,), metric) for asked, answer in pairs]


def _longbench(plain: Mapping[str, Any]) -> tuple[str, list[DocumentQuestion]]:
    name = _string(plain["dataset"])
    metric = _LONGBENCH.get(name.removesuffix("_e"))
    if metric is None:
        raise _UnknownSet(name)
    asked = _string(plain["input"]) or "Write a one-page summary of the text."
    return _string(plain["context"]), [DocumentQuestion(asked, tuple(_strings(plain["answers"])), metric)]


def _strings(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [_string(item) for item in value]


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
