"""Makes a dialogue of a request's messages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from lrqk_cli.chat.archive import SavedDocument, SavedSection
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.documents import Document
from lrqk_cli.errors import UsageError
from lrqk_cli.server.dialogue import Dialogue, Turn
from lrqk_cli.server.requests import DocumentPart, FileReference, Message, TextPart
from lrqk_cli.server.uploads import UploadedFiles

_SYSTEM = ("system", "developer")


def dialogue_of(messages: Sequence[Message], files: UploadedFiles, owner: str) -> Dialogue:
    """Return the dialogue of a request's messages.

    Successive messages of one side are one; system messages must come first.

    Raises:
        UsageError: the messages have no such order, or do not end with a question.
        NoSuchFileError: a message refers to a file that its owner does not have.
        DocumentError: the content of a document cannot be read.
    """
    system, rest = list[str](), list(messages)
    while rest and rest[0].role in _SYSTEM:
        system.append(_text(rest.pop(0)))
    turns = list[Turn]()
    texts, documents, answers = list[str](), list[DocumentLike](), list[str]()
    for message in rest:
        if message.role in _SYSTEM:
            raise UsageError("A system message stands within the conversation.", "Put it first.")
        if message.role == "assistant":
            if not texts and not documents:
                raise UsageError("An answer stands before any question.", "Begin with a user message.")
            answers.append(_text(message))
            continue
        if answers:
            turns.append(Turn(tuple(documents), "\n\n".join(texts), "\n\n".join(answers)))
            texts, documents, answers = [], [], []
        documents += _documents(message, files, owner)
        if text := _text(message):
            texts.append(text)
    if answers or not texts:
        raise UsageError("The messages do not end with a question.", "Let the last message be a user's text.")
    turns.append(Turn(tuple(documents), "\n\n".join(texts), None))
    return Dialogue("\n\n".join(system) if system else None, tuple(turns))


def _text(message: Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    if message.role != "user" and not all(isinstance(part, TextPart) for part in message.content):
        raise UsageError("A document stands in a message that is not a user's.", "Send it as the user.")
    return "\n\n".join(part.text for part in message.content if isinstance(part, TextPart))


def _documents(message: Message, files: UploadedFiles, owner: str) -> list[DocumentLike]:
    parts = message.content if isinstance(message.content, list) else ()
    return [
        _read_by_client(part) if isinstance(part, DocumentPart) else _document(part.file, files, owner)
        for part in parts
        if not isinstance(part, TextPart)
    ]


def _read_by_client(part: DocumentPart) -> SavedDocument:
    sections = tuple(SavedSection(section.text, section.page) for section in part.sections)
    return SavedDocument(part.title, part.title, sections)


def _document(given: FileReference, files: UploadedFiles, owner: str) -> Document:
    if (given.file_id is None) == (given.file_data is None):
        raise UsageError(
            "A file part needs either file_id or file_data.", "Upload the file, or send its content."
        )
    if given.file_id is not None:
        return files.get(owner, given.file_id).document
    data = given.file_data or ""
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(
            "The file_data of a file part is not base64.", "Send a data URL or plain base64."
        ) from None
    return files.inline(owner, given.filename or "document.txt", content)
