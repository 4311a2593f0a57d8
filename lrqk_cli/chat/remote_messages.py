"""A conversation as the messages of the OpenAI protocol."""

from __future__ import annotations

from typing import Any

from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Exchange
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.models.prompt import encodable


def messages_of(conversation: Conversation, *, sends_documents: bool) -> list[dict[str, Any]]:
    """Return the messages up to the last question; equal conversations have equal messages at the front.

    Args:
        conversation: ends with a question.
        sends_documents: send documents as such, which lrqk's own server takes; otherwise they are text before
            the question of their turn.
    """
    messages = list[dict[str, Any]]()
    if (system := conversation.prompt.system) is not None:
        messages.append({"role": "system", "content": encodable(system)})
    documents = list[DocumentLike]()
    for entry in conversation.entries:
        if isinstance(entry, DocumentEntry):
            documents.append(entry.document)
        elif isinstance(entry, Exchange):
            parts = _parts(documents, entry.question) if sends_documents else _text(documents, entry.question)
            messages.append({"role": "user", "content": parts})
            documents = []
            if entry.answer is not None:
                messages.append({"role": "assistant", "content": encodable(entry.answer.text)})
    return messages


def _text(documents: list[DocumentLike], question: str) -> str:
    sections = [section.text for document in documents for section in document.sections()]
    return encodable("".join([*sections, question]))


def _parts(documents: list[DocumentLike], question: str) -> list[dict[str, Any]]:
    """Return the parts of a turn, see ``server.requests.DocumentPart``."""
    parts: list[dict[str, Any]] = [
        {
            "type": "document",
            "title": encodable(document.title),
            "sections": [
                {"text": encodable(section.text), "page": section.page} for section in document.sections()
            ],
        }
        for document in documents
    ]
    return [*parts, {"type": "text", "text": encodable(question)}]
