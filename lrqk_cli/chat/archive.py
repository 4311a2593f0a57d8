"""Saved conversations: files with all texts, which can be continued later, also with another model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Exchange
from lrqk_cli.chat.events import AnswerEnd, Reply
from lrqk_cli.chat.printable import to_json
from lrqk_cli.chat.private_files import make_private_folder, write_private
from lrqk_cli.chat.protocols import ChatFormat, DocumentLike
from lrqk_cli.chat.saved_settings import read_settings, read_value
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.events import FinishReason
from lrqk_cli.errors import UsageError
from lrqk_cli.system_errors import reason_of
from lrqk_cli.user_folders import user_folder

_FORMAT, _VERSION = "lrqk-conversation", 1
_DAMAGED_HINT = "Load another one: /load alone lists them."
_ENDS = (*get_args(FinishReason), "interrupted")
# Ids of tokens fit in 31 bits.
_LARGEST_TOKEN = (1 << 31) - 1
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class SavedSection:
    """A piece of a document's text; see ``SectionLike``."""

    text: str
    page: int | None
    by_ocr: bool = False


@dataclass(frozen=True, slots=True)
class SavedDocument:
    """A document of a saved conversation; see ``DocumentLike``."""

    title: str
    path: str
    parts: tuple[SavedSection, ...]

    def sections(self) -> tuple[SavedSection, ...]:
        """Its sections in order."""
        return self.parts


@dataclass(frozen=True, slots=True)
class SavedExchange:
    """A question and its answer.

    Attributes:
        tokens: those between the question and the next entry, which spell the answer; None if not known.
    """

    question: str
    answer: Reply | None
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """A saved conversation.

    Attributes:
        model: the name by which the user called the model.
        system: the system text; None for the chat template's own.
        generation: sampling settings of its answers.
        attention: the settings that were in force; empty if a server had its own.
        entries: documents and exchanges, in order.
        tokenizer: what identifies the tokenizer of the answers' tokens; None if there are none.
        endpoint: the address of the server that answered last; None for a model that lrqk loaded itself.
        wanted: fields of ``LrqkConfig`` that the user set; the others are chosen anew when it goes on.
    """

    model: str
    system: str | None
    generation: GenerationConfig
    attention: dict[str, Any]
    entries: tuple[SavedDocument | SavedExchange, ...]
    tokenizer: str | None = None
    endpoint: str | None = None
    wanted: Mapping[str, Any] = field(default_factory=dict)

    @property
    def documents(self) -> list[SavedDocument]:
        """Its documents, in order."""
        return [entry for entry in self.entries if isinstance(entry, SavedDocument)]

    @property
    def said(self) -> list[str]:
        """Its questions and answers, in order."""
        return [
            text
            for entry in self.entries
            if isinstance(entry, SavedExchange)
            for text in (entry.question, entry.answer.text if entry.answer is not None else "")
        ]

    def restore(self, prompt: ChatFormat, tokenizer: str | None = None) -> Conversation:
        """Return the conversation as tokens in a model's chat format.

        Answers keep the tokens they were given in, which another encoding of their text may not equal, if
        these are of the same tokenizer. Tokens that do not spell the answer, or are control tokens, are not
        taken from a file; the text is encoded instead.

        Args:
            tokenizer: what identifies the tokenizer of ``prompt``; None encodes all answers again.
        """
        is_same = tokenizer is not None and tokenizer == self.tokenizer
        conversation = Conversation(prompt.with_system(self.system))
        for entry in self.entries:
            if isinstance(entry, SavedDocument):
                conversation.add_document(entry)
                continue
            exchange = conversation.add_question(entry.question)
            exchange.answer = entry.answer
            text = entry.answer.text if entry.answer is not None else ""
            if is_same and entry.tokens is not None and prompt.spells(entry.tokens, text):
                conversation.finish(exchange, entry.tokens)
            else:
                conversation.finish(exchange, prompt.text(text, prompt.answered()))
        return conversation


def make_archive(
    conversation: Conversation,
    model: str,
    generation: GenerationConfig,
    config: LrqkConfig | None,
    tokenizer: str | None = None,
    endpoint: str | None = None,
    wanted: Mapping[str, Any] | None = None,
) -> Archive:
    """Return a conversation in the form in which it is saved.

    Args:
        config: the settings in force; None if a server has its own.
        tokenizer: what identifies the conversation's tokenizer; None leaves out the answers' tokens.
        endpoint: the address of the server that answers.
        wanted: the settings that the user set, by field of ``LrqkConfig``.
    """
    entries = list[SavedDocument | SavedExchange]()
    for entry in conversation.entries:
        if isinstance(entry, DocumentEntry):
            entries.append(saved_document(entry.document))
        elif isinstance(entry, Exchange):
            tokens = tuple(conversation.answer_tokens(entry)) if tokenizer is not None else None
            entries.append(SavedExchange(entry.question, entry.answer, tokens))
    system = conversation.prompt.system
    attention = asdict(config) if config is not None else {}
    wanted = wanted or {}
    return Archive(model, system, generation, attention, tuple(entries), tokenizer, endpoint, wanted)


def saved_document(document: DocumentLike) -> SavedDocument:
    """Return a document in the form in which it is saved."""
    parts = tuple(SavedSection(part.text, part.page, part.by_ocr) for part in document.sections())
    return SavedDocument(document.title, str(document.path), parts)


def saved_path(name: str) -> Path:
    """Return the path of a conversation that was saved under a plain name."""
    return _folder() / f"{name}.json"


def saved_names() -> dict[str, float]:
    """Return the names of saved conversations, the newest first, and when they were saved (POSIX time)."""
    try:
        times = {path.stem: path.stat().st_mtime for path in _folder().glob("*.json")}
    except OSError:
        return {}
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def save(archive: Archive, path: Path) -> None:
    """Write a conversation to a file that only its owner can read.

    Raises:
        UsageError: the file cannot be written.
    """
    if path.parent == _folder():
        make_private_folder(path.parent)
    write_private(path, archive_json(archive))


def archive_json(archive: Archive) -> str:
    """Return the text of a file that ``load`` reads."""
    plain = {"format": _FORMAT, "version": _VERSION, **asdict(archive)}
    return to_json(plain, indent=1) + "\n"


def load(path: Path) -> Archive:
    """Read a saved conversation.

    Raises:
        UsageError: there is no such file, or it is not a saved conversation.
    """
    hint = "Name a conversation that was saved with /save; /load alone lists them."
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a file.", hint)
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.parent == _folder():
            raise UsageError(f"No conversation was saved as {path.stem}.", hint) from error
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.", hint) from error
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict) or plain.get("format") != _FORMAT:
        raise UsageError(f"{path} is not a saved conversation.", hint)
    version = plain.get("version")
    if version != _VERSION:
        other = f" (format {version})" if isinstance(version, int) else ""
        raise UsageError(f"{path} was saved by another version of lrqk{other}.", "Update lrqk.")
    return read_archive(plain, str(path), _DAMAGED_HINT)


def read_archive(plain: dict[str, Any], where: str, hint: str) -> Archive:
    """Return the archive of which ``plain`` has the fields, as in the JSON file.

    Args:
        where, hint: of the error.

    Raises:
        UsageError: a field is missing, or holds something else.
    """
    try:
        return _read_archive(plain)
    except UsageError as error:
        raise UsageError(f"{where} is damaged: {error.message}", hint) from None
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{where} is damaged: {reason}.", hint) from error


def _folder() -> Path:
    return user_folder("state") / "chats"


def _read_archive(plain: dict[str, Any]) -> Archive:
    system = None if plain["system"] is None else _of(str, plain, "system")
    return Archive(
        model=_of(str, plain, "model"),
        system=system,
        generation=_read_generation(_of(dict, plain, "generation")),
        attention=_of(dict, plain, "attention"),
        entries=tuple(_read_entry(entry) for entry in _objects(plain, "entries")),
        tokenizer=None if plain.get("tokenizer") is None else _of(str, plain, "tokenizer"),
        endpoint=None if plain.get("endpoint") is None else _of(str, plain, "endpoint"),
        wanted=read_settings(_wanted(plain)),
    )


def _wanted(plain: dict[str, Any]) -> dict[str, Any]:
    if "wanted" in plain:
        return _of(dict, plain, "wanted")
    # Earlier versions wrote what was in force. Of that, nothing but the user chose the type of the rows.
    kv_dtype = plain["attention"].get("kv_dtype", LrqkConfig().kv_dtype)
    return {} if kv_dtype == LrqkConfig().kv_dtype else {"kv_dtype": kv_dtype}


def _read_generation(plain: dict[str, Any]) -> GenerationConfig:
    plain = {"think": 0, **plain}  # earlier versions did not write it
    kinds = get_type_hints(GenerationConfig)
    return GenerationConfig(**{name: read_value(name, plain[name], kind) for name, kind in kinds.items()})


def _read_entry(plain: dict[str, Any]) -> SavedDocument | SavedExchange:
    if "question" in plain:
        answer = None if plain["answer"] is None else _read_reply(_of(dict, plain, "answer"))
        return SavedExchange(_of(str, plain, "question"), answer, _read_tokens(plain))
    sections = tuple(_read_section(part) for part in _objects(plain, "parts"))
    return SavedDocument(_of(str, plain, "title"), _of(str, plain, "path"), sections)


def _read_tokens(plain: dict[str, Any]) -> tuple[int, ...] | None:
    if plain.get("tokens") is None:
        return None
    values: list[Any] = _of(list, plain, "tokens")
    if not all(type(value) is int and 0 <= value <= _LARGEST_TOKEN for value in values):
        raise ValueError("'tokens' has a value that is no token")
    return tuple(values)


def _read_section(plain: dict[str, Any]) -> SavedSection:
    page = None if plain["page"] is None else _of(int, plain, "page")
    # Earlier versions did not write it.
    by_ocr = _of(bool, {"by_ocr": False, **plain}, "by_ocr")
    return SavedSection(_of(str, plain, "text"), page, by_ocr)


def _read_reply(plain: dict[str, Any]) -> Reply:
    end = _of(str, plain, "finish_reason")
    if end not in _ENDS:
        raise ValueError("'finish_reason' says nothing that is known")
    return Reply(_of(str, plain, "text"), cast(AnswerEnd, end), _of(int, plain, "new_tokens"))


def _objects(plain: dict[str, Any], name: str) -> list[dict[str, Any]]:
    values: list[Any] = _of(list, plain, name)
    return [_of(dict, {name: value}, name) for value in values]


def _of(kind: Callable[..., _Value], plain: dict[str, Any], name: str) -> _Value:
    value = plain[name]
    # ``isinstance`` would take a bool for an int.
    if type(value) is not kind:
        raise TypeError(f"'{name}' has a value of a wrong kind")
    return cast(_Value, value)
