"""A conversation as a file, texts included, so that it can go on later, also with another model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Exchange
from lrqk_cli.chat.events import AnswerEnd, Reply
from lrqk_cli.chat.protocols import PromptFormat
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.events import FinishReason
from lrqk_cli.errors import UsageError

_FORMAT, _VERSION = "lrqk-conversation", 1
_ENDS = (*get_args(FinishReason), "interrupted")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class SavedSection:
    """A piece of a document's text; see ``SectionLike``."""

    text: str
    page: int | None


@dataclass(frozen=True, slots=True)
class SavedDocument:
    """A document as it stood in the conversation; see ``DocumentLike``."""

    title: str
    path: str
    parts: tuple[SavedSection, ...]

    def sections(self) -> tuple[SavedSection, ...]:
        """Its text in order."""
        return self.parts


@dataclass(frozen=True, slots=True)
class SavedExchange:
    """A question and its answer."""

    question: str
    answer: Reply | None


@dataclass(frozen=True, slots=True)
class Archive:
    """A saved conversation.

    Attributes:
        model: what its user called the model.
        system: the system text; None if the template's own stood there.
        generation: how its answers were drawn.
        attention: the settings that were in force.
        entries: documents and exchanges, in order.
    """

    model: str
    system: str | None
    generation: GenerationConfig
    attention: dict[str, Any]
    entries: tuple[SavedDocument | SavedExchange, ...]

    def restore(self, prompt: PromptFormat) -> Conversation:
        """Return the conversation in a model's chat format."""
        conversation = Conversation(prompt.with_system(self.system))
        for entry in self.entries:
            if isinstance(entry, SavedDocument):
                conversation.add_document(entry)
            else:
                conversation.add_question(entry.question).answer = entry.answer
                conversation.tokens += prompt.text(entry.answer.text) if entry.answer is not None else []
        return conversation


def make_archive(
    conversation: Conversation, model: str, generation: GenerationConfig, settings: LrqkConfig
) -> Archive:
    """Return what is to be saved of a conversation."""
    entries = list[SavedDocument | SavedExchange]()
    for entry in conversation.entries:
        if isinstance(entry, DocumentEntry):
            parts = tuple(SavedSection(part.text, part.page) for part in entry.document.sections())
            entries.append(SavedDocument(entry.use.title, entry.use.path, parts))
        elif isinstance(entry, Exchange):
            entries.append(SavedExchange(entry.question, entry.answer))
    return Archive(model, conversation.prompt.system, generation, asdict(settings), tuple(entries))


def save(archive: Archive, path: Path) -> None:
    """Write a conversation that only its owner can read.

    Raises:
        UsageError: the file cannot be written.
    """
    plain = {"format": _FORMAT, "version": _VERSION, **asdict(archive)}
    write_private(path, json.dumps(plain, ensure_ascii=False, indent=1) + "\n")


def load(path: Path) -> Archive:
    """Read a saved conversation.

    Raises:
        UsageError: there is no such file, or it is none.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}.", "Name a conversation that was saved with /save."
        ) from error
    except ValueError:
        plain = None
    if not isinstance(plain, dict) or plain.get("format") != _FORMAT:
        raise UsageError(f"{path} is not a saved conversation.", "Name a file that was written by /save.")
    if plain.get("version") != _VERSION:
        raise UsageError(
            f"{path} was saved by another version of lrqk (format {plain.get('version')}).", "Update lrqk."
        )
    try:
        return _read_archive(plain)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error}.", "Save the conversation again.") from error


def write_private(path: Path, text: str) -> None:
    """Write a file, whole or not at all, with mode 0600.

    Raises:
        UsageError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(
            os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UsageError(f"{path} cannot be written: {error.strerror}.", "Choose another place.") from error


def _read_archive(plain: dict[str, Any]) -> Archive:
    system = None if plain["system"] is None else _of(str, plain["system"])
    entries: list[Any] = _of(list, plain["entries"])
    return Archive(
        model=_of(str, plain["model"]),
        system=system,
        generation=GenerationConfig(**_of(dict, plain["generation"])),
        attention=_of(dict, plain["attention"]),
        entries=tuple(_read_entry(_of(dict, entry)) for entry in entries),
    )


def _read_entry(plain: dict[str, Any]) -> SavedDocument | SavedExchange:
    if "question" in plain:
        answer = plain["answer"]
        return SavedExchange(_of(str, plain["question"]), None if answer is None else _read_reply(answer))
    parts: list[Any] = _of(list, plain["parts"])
    sections = tuple(_read_section(_of(dict, part)) for part in parts)
    return SavedDocument(_of(str, plain["title"]), _of(str, plain["path"]), sections)


def _read_section(plain: dict[str, Any]) -> SavedSection:
    page = plain["page"]
    return SavedSection(_of(str, plain["text"]), None if page is None else _of(int, page))


def _read_reply(plain: dict[str, Any]) -> Reply:
    end = plain["finish_reason"]
    if end not in _ENDS:
        raise ValueError(f"there is no ending '{end}'")
    return Reply(_of(str, plain["text"]), cast(AnswerEnd, end), _of(int, plain["new_tokens"]))


def _of(kind: Callable[..., _Value], value: object) -> _Value:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not a {getattr(kind, '__name__', 'value')}")
    return cast(_Value, value)
