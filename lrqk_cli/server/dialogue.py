"""A request's messages as a conversation, which goes on with the one that the engine holds if they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Entry, Exchange
from lrqk_cli.chat.events import Reply
from lrqk_cli.chat.protocols import ChatFormat, DocumentLike


@dataclass(frozen=True, slots=True)
class Turn:
    """Documents, a question about them and perhaps its answer."""

    documents: tuple[DocumentLike, ...]
    question: str
    answer: str | None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What a client has sent.

    Attributes:
        system: the system text; None for the template's own default.
        turns: the last one has no answer yet.
    """

    system: str | None
    turns: tuple[Turn, ...]

    @property
    def question(self) -> str:
        """The question to answer."""
        return self.turns[-1].question


def continued(
    standing: Conversation, dialogue: Dialogue, prompt_of: Callable[[str | None], ChatFormat]
) -> Conversation:
    """Return the conversation of a dialogue up to its last question, which the caller asks.

    Entries that ``standing`` has too are the same objects, with their tokens and rewind points.

    Args:
        prompt_of: returns the chat format with a system text.
    """
    if standing.prompt.system == dialogue.system:
        conversation = standing.copy()
    else:
        conversation = Conversation(prompt_of(dialogue.system))
    wanted = list(_parts(dialogue))
    shared = 0
    for entry, part in zip(conversation.entries, wanted, strict=False):
        if not _is_same(entry, part):
            break
        shared += 1
    if shared < len(conversation.entries):
        conversation.cut(conversation.entries[shared])
    for part in wanted[shared:]:
        _append(conversation, part)
    return conversation


_Part = DocumentLike | tuple[str, str]


def _parts(dialogue: Dialogue) -> Iterator[_Part]:
    """Yield all documents, and the questions that have answers, in their order."""
    for turn in dialogue.turns:
        yield from turn.documents
        if turn.answer is not None:
            yield turn.question, turn.answer


def _is_same(entry: Entry, part: _Part) -> bool:
    if isinstance(entry, Exchange):
        return entry.answer is not None and (entry.question, entry.answer.text) == part
    # Two that a client has read are the same if their texts are; uploaded ones have an identity.
    return isinstance(entry, DocumentEntry) and (entry.document is part or entry.document == part)


def _append(conversation: Conversation, part: _Part) -> None:
    if not isinstance(part, tuple):
        conversation.add_document(part)
        return
    question, answer = part
    exchange = conversation.add_question(question)
    tokens = conversation.prompt.text(answer, conversation.prompt.answered())
    conversation.finish(exchange, tokens)
    exchange.answer = Reply(answer, "stop", len(tokens))
