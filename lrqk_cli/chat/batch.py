"""Many questions from a file, each asked by itself after the same documents, which are read once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrqk_cli.documents.locations import STDIN
from lrqk_cli.errors import UsageError
from lrqk_cli.system_errors import reason_of

_HINT = 'Write one question a line, as text or such as {"id": "q1", "prompt": "Who wrote it?"}.'


@dataclass(frozen=True, slots=True)
class BatchQuestion:
    """A line of the file.

    Attributes:
        id: identifies the answer; the number of the line where the line has no ``id``.
        prompt: the question.
        fields: the whole line; the answer's line repeats it.
    """

    id: str
    prompt: str
    fields: dict[str, Any]


def read_questions(path: Path) -> list[BatchQuestion]:
    """Read a file with one question a line: a JSON object with ``prompt`` and optionally ``id``, or a text.

    A text may be a JSON string. Empty lines are skipped. The path ``-`` is standard input.

    Raises:
        UsageError: the file cannot be read, a line is broken JSON or has no question, or two lines have the
            same id.
    """
    where = "standard input" if path == STDIN else str(path)
    try:
        data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
        lines = _lines(data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n"))
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"The questions in {where} cannot be read: {reason}.", _HINT) from error
    questions = [_question(line, number, where) for number, line in enumerate(lines, 1) if line.strip()]
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise UsageError(f"Two questions of {where} have the id '{question.id}'.", "Give each its own.")
        seen.add(question.id)
    if not questions:
        raise UsageError(f"There are no questions in {where}.", _HINT)
    return questions


def _lines(text: str) -> list[str]:
    """Split at line breaks alone; ``splitlines`` also splits at characters that JSON strings may have."""
    return text.split("\n")


def _question(line: str, number: int, where: str) -> BatchQuestion:
    text = line.strip()
    try:
        said = json.loads(text) if text.startswith(("{", '"')) else text
    except ValueError:
        if text.startswith("{"):
            raise UsageError(f"Line {number} of {where} is not valid JSON.", _HINT) from None
        said = text  # plain text that begins with a quotation mark
    fields = said if isinstance(said, dict) else {"prompt": said}
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(f"Line {number} of {where} has no question.", _HINT)
    return BatchQuestion(str(fields.get("id", number)), prompt.strip(), {"id": number, **fields})


class AnswersFile:
    """A JSONL file to which answers are appended, one line at a time.

    An incomplete last line, which a crash leaves behind, is removed.

    Args:
        path: the file; it need not exist.

    Raises:
        UsageError: the file cannot be read or written, or holds lines that are not answers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._failures(), path.open("a+b") as file:
            file.seek(0)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            text = whole.decode("utf-8")
            # To write the rest anew would need space, which a full disk may not give again.
            file.truncate(len(whole))
        self.answered = frozenset(self._ids(_lines(text)[:-1]))

    def _ids(self, lines: Iterable[str]) -> Iterable[str]:
        for number, line in enumerate(lines, 1):
            try:
                plain = json.loads(line)
                identity, has_answer = str(plain["id"]), "answer" in plain
            except (ValueError, KeyError, TypeError):
                raise UsageError(
                    f"Line {number} of {self._path} is no answer, so nothing is appended.",
                    "Choose another file.",
                ) from None
            if has_answer:
                yield identity

    def add(self, line: str) -> None:
        """Append a line and write it to the file at once.

        Raises:
            UsageError: it cannot be written.
        """
        with self._failures(), self._path.open("ab") as file:
            file.write(f"{line}\n".encode())

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, UnicodeDecodeError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else "it is not UTF-8"
            raise UsageError(
                f"Answers cannot be kept in {self._path}: {reason}.", "Choose another file."
            ) from error


def unanswered(questions: Sequence[BatchQuestion], answers: AnswersFile | None) -> list[BatchQuestion]:
    """Return the questions that have no answer yet."""
    return [item for item in questions if answers is None or item.id not in answers.answered]
