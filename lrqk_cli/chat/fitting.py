"""Checks that a text fits in the context, and names the part of it that would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lrqk_cli.chat.conversation import DocumentEntry
from lrqk_cli.chat.events import DocumentUse, PageSpan
from lrqk_cli.documents.document import format_numbers
from lrqk_cli.errors import ContextLengthError
from lrqk_cli.models import store
from lrqk_cli.models.catalog import catalog

# Tokens that a document's header may gain when it lists the selected pages.
_HEADER_GROWTH = 16


def check_fit(
    needed: int,
    room: int,
    context: int,
    limit: int,
    documents: Sequence[DocumentUse],
    pages: Sequence[PageSpan],
) -> None:
    """Refuse a text that is longer than the context.

    Args:
        needed: tokens of the whole text, question included.
        room: tokens kept for the answer.
        context: tokens that the context holds.
        limit: tokens that it could hold with this model.
        documents, pages: parts of the text that the user could leave out.

    Raises:
        ContextLengthError: names both numbers, the pages that would fit, and a context or model for all.
    """
    if needed + room <= context:
        return
    kept = f" and {room:,} for the answer" if room > 1 else ""
    message = f"The text needs {needed:,} tokens{kept}, but the context holds {context:,}."
    if not documents and needed < min(room, context):  # it is the answer that takes the room
        what_fits, undo = f"Lower `max_new_tokens` to {context - needed}", ""
    else:
        what_fits = _what_fits(needed + room - context, documents, pages)
        undo = "" if documents else " `undo` takes back the last one."
    raise ContextLengthError(message, f"{what_fits}{_where_all_fits(needed + room, limit)}.{undo}")


def check_entries(needed: int, room: int, context: int, limit: int, entries: Sequence[DocumentEntry]) -> None:
    """Do so for documents of a conversation that the user could leave out; see ``check_fit``."""
    pages = [replace(span, document=index) for index, entry in enumerate(entries) for span in entry.pages]
    check_fit(needed, room, context, limit, [entry.use for entry in entries], pages)


def _what_fits(over: int, documents: Sequence[DocumentUse], pages: Sequence[PageSpan]) -> str:
    """Advise to leave out the last ``over`` tokens of the documents, counted in whole pages."""
    if not documents:
        return "Leave out earlier questions or shorten this one"
    end = documents[-1].end
    whole = [document.title for document in documents if end - document.end >= over]
    index = len(whole)
    cut = documents[index]
    own_pages = [span for span in pages if span.document == index]
    # A page fits if leaving out all that follows it is enough; the marks of its document stay.
    mark = cut.end - own_pages[-1].end + _HEADER_GROWTH if own_pages else 0
    fitting = [span.page for span in own_pages if end - span.end - mark >= over]
    numbers = format_numbers(fitting).replace(" ", "")
    parts = list(whole)
    if fitting:
        noun = "page" if len(fitting) == 1 else "pages"
        parts.append(f"{noun} {numbers} of {cut.title}")
    if len(documents) == 1 and fitting:
        return f"Only {parts[0]} would fit: try `pages` {numbers}"
    if parts:
        return f"Only {' and '.join(parts)} would fit: leave out the rest"
    share = 1 - (over - (end - cut.end)) / cut.tokens
    if share <= 0:
        return "Not even the question would fit: shorten it or lower `max_new_tokens`"
    much = f"About the first {share:.0%}" if share >= 0.01 else "Less than 1%"
    return f"{much} of {cut.title} would fit: shorten it"


def _where_all_fits(total: int, limit: int) -> str:
    """Complete the hint with the context, or the model of the catalog, that holds ``total`` tokens."""
    if total <= limit:
        return f", or raise `context` to {total}"
    larger = [entry for entry in catalog().values() if entry.context >= total]
    if not larger:
        return "; no model of the catalog holds all of it"
    best = min(larger, key=lambda entry: (store.path(entry.alias) is None, entry.context))
    return f", or choose `model` {best.alias}, which holds {best.context:,} tokens"
