"""The pages that answers rest on, as pictures or as text around the passage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lrqk_cli.chat.conversation import Conversation, DocumentEntry
from lrqk_cli.chat.events import SourcePage
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.documents.document import PAGE_MARK
from lrqk_cli.documents.drawing import WEB_CANVAS, Canvas, Mark, PageDrawing, can_draw, core_of
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.reader_process import ReaderProcess
from lrqk_cli.documents.source import SourceFile
from lrqk_cli.errors import DocumentError

# Characters of a page on each side of a passage.
_AROUND = 400

# The path of a document, and the number of a page in it.
Place = tuple[str, int]


@dataclass(frozen=True)
class Excerpt:
    """A passage with the text around it, which is empty if the passage was not found."""

    before: str
    passage: str
    after: str


class Illustrations:
    """The pictures of the pages that answers rest on, each drawn once.

    Args:
        limits: of the process that draws.
        on_page: called before each page with the number of pages that are drawn, and of all.
        canvas: what each page is drawn on.

    Attributes:
        drawings: pictures by the document's path and the number of the page; pages that cannot be drawn are
            missing.
    """

    def __init__(
        self,
        sources: Iterable[SourcePage],
        limits: ReadLimits,
        on_page: Callable[[int, int], None] = lambda *_: None,
        canvas: Canvas = WEB_CANVAS,
    ) -> None:
        self.drawings = dict[Place, PageDrawing]()
        self._passages = _passages(sources)
        if can_draw():
            self._draw(limits, on_page, canvas)

    def marks(self, place: Place, passage: str) -> Sequence[Mark]:
        """Return where a passage is on its page."""
        return self.drawings[place].marks[self._passages[place].index(passage)]

    def _draw(self, limits: ReadLimits, on_page: Callable[[int, int], None], canvas: Canvas) -> None:
        with ReaderProcess(limits) as process:
            # Document by document, because each stays open for its pages.
            for done, (place, passages) in enumerate(sorted(self._passages.items())):
                on_page(done, len(self._passages))
                path, page = place
                source = SourceFile(Path(path), Path(path).name, b"")
                # Its text is shown instead: it may have been deleted or fetched, or be no PDF file.
                with suppress(DocumentError):
                    self.drawings[place] = process.draw(source, page, passages, canvas)


def _passages(sources: Iterable[SourcePage]) -> dict[Place, list[str]]:
    """Return the passages on each page."""
    found = dict[Place, list[str]]()
    for source in sources:
        if source.page is not None:
            passages = found.setdefault((source.document.path, source.page), [])
            if source.passage not in passages:
                passages.append(source.passage)
    return found


def documents_by_path(conversation: Conversation) -> dict[str, DocumentLike]:
    """Return the documents of a conversation by their paths."""
    entries = (entry for entry in conversation.entries if isinstance(entry, DocumentEntry))
    return {entry.use.path: entry.document for entry in entries}


def excerpt(document: DocumentLike | None, page: int | None, passage: str) -> Excerpt:
    """Return a passage within the text of its page, without the marks that a prompt has."""
    sections = document.sections()[1:-1] if document is not None else ()
    texts = [
        section.text.removeprefix(PAGE_MARK.format(page)) for section in sections if section.page == page
    ]
    text = " ".join(" ".join(texts).split())
    core = core_of(passage)
    place = text.find(core)
    if place < 0 or not core:
        return Excerpt("", passage, "")
    before, after = text[:place], text[place + len(core) :]
    start, end = ("…" if len(text) > _AROUND else "" for text in (before, after))
    return Excerpt(start + before[-_AROUND:], core, after[:_AROUND] + end)
