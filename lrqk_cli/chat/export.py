"""Exports of a conversation: Markdown to read, JSON to process. Documents appear by name only."""

from __future__ import annotations

from lrqk_cli.chat import printable
from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Exchange

ENDINGS = {
    "length": "The answer stopped at the limit of new tokens.",
    "context": "The answer stopped because the context was full.",
    "interrupted": "The answer was interrupted.",
}


def to_markdown(conversation: Conversation, model: str) -> str:
    """Return Markdown with the questions as quotes and the answers unchanged."""
    parts = [f"# A conversation with {model}"]
    if conversation.prompt.system:
        parts.append(f"Instructions: {conversation.prompt.system}")
    for entry in conversation.entries:
        if isinstance(entry, DocumentEntry):
            parts.append(f"*{name_document(entry)}*")
        elif isinstance(entry, Exchange):
            parts += ["## Question", _quoted(entry.question), "## Answer"]
            if entry.answer is not None:
                parts.append(entry.answer.text.strip())
                if ending := ENDINGS.get(entry.answer.finish_reason):
                    parts.append(f"*{ending}*")
    return printable.printable("\n\n".join(part for part in parts if part) + "\n")


def name_document(entry: DocumentEntry) -> str:
    """Return a line that names a document, with its size."""
    pages = f", {entry.use.pages:,} pages" if entry.pages else ""
    return f"{entry.use.title}{pages}, {entry.use.tokens:,} tokens"


def to_json(conversation: Conversation, model: str) -> str:
    """Return one object: model, system text, and a list of documents and messages in order."""
    items = list[dict[str, object]]()
    for entry in conversation.entries:
        if isinstance(entry, DocumentEntry):
            use = entry.use
            items.append(
                {
                    "role": "document",
                    "path": use.path,
                    "title": use.title,
                    "pages": use.pages,
                    "tokens": use.tokens,
                }
            )
        elif isinstance(entry, Exchange):
            items.append({"role": "user", "content": entry.question})
            if entry.answer is not None:
                answer = entry.answer
                items.append(
                    {"role": "assistant", "content": answer.text, "finish_reason": answer.finish_reason}
                )
    plain = {"model": model, "system": conversation.prompt.system, "messages": items}
    return printable.to_json(plain, indent=2) + "\n"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
