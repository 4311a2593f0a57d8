"""Whether a text fits in the context, and what of it would."""

from __future__ import annotations

from collections.abc import Sequence

from lrqk_cli.chat.events import DocumentUse, PageSpan
from lrqk_cli.documents.document import format_numbers
from lrqk_cli.errors import ContextLengthError

# Tokens that a document's header may gain when it names the pages that were chosen.
_HEADER_GROWTH = 16


def check_fit(
    needed: int,
    room: int,
    context: int,
    documents: Sequence[DocumentUse],
    pages: Sequence[PageSpan],
) -> None:
    """Refuse a text that is longer than the context.

    Args:
        needed: tokens of the whole text, question included.
        room: tokens kept for the answer.
        context: tokens that the context holds.
        documents, pages: what of the text could still be left out.

    Raises:
        ContextLengthError: with both numbers, and the pages that would fit.
    """
    if needed + room <= context:
        return
    kept = f" and {room:,} for the answer" if room > 1 else ""
    message = f"The text needs {needed:,} tokens{kept}, but the context holds {context:,}."
    over = needed + room - context
    raise ContextLengthError(message, _what_fits(over, documents, pages))


def _what_fits(over: int, documents: Sequence[DocumentUse], pages: Sequence[PageSpan]) -> str:
    """The hint: leave out the last ``over`` tokens of the documents, counted in whole pages."""
    if not documents:
        return "Begin a new chat, or raise --ctx if the model allows it."
    end = documents[-1].end
    whole = [document.title for document in documents if end - document.end >= over]
    index = len(whole)
    cut = documents[index]
    own_pages = [span for span in pages if span.document == index]
    # A page fits if what follows it is enough to leave out; the marks of its document stay.
    mark = cut.end - own_pages[-1].end + _HEADER_GROWTH if own_pages else 0
    fitting = [span.page for span in own_pages if end - span.end - mark >= over]
    numbers = format_numbers(fitting).replace(" ", "")
    parts = list(whole)
    if fitting:
        noun = "page" if len(fitting) == 1 else "pages"
        parts.append(f"{noun} {numbers} of {cut.title}")
    if len(documents) == 1 and fitting:
        return f"Only {parts[0]} would fit: try --pages {numbers}, or raise --ctx."
    if parts:
        return f"Only {' and '.join(parts)} would fit: leave out the rest, or raise --ctx."
    share = max(0, 1 - over / cut.tokens)
    return f"About the first {share:.0%} of {cut.title} would fit: shorten it, or raise --ctx."
