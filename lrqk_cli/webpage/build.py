"""Builds one page of a conversation, which needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Exchange
from lrqk_cli.chat.events import SourcePage, Strip
from lrqk_cli.chat.export import ENDINGS, name_document
from lrqk_cli.chat.printable import printable
from lrqk_cli.documents.document import format_numbers
from lrqk_cli.documents.drawing import Mark, PageDrawing
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.webpage.illustrations import Excerpt, Illustrations, documents_by_path, excerpt
from lrqk_cli.webpage.prose import to_html

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Picture:
    """A page's picture, which the file holds once; others refer to its ``id``."""

    id: str
    drawing: PageDrawing

    @property
    def address(self) -> str:
        """An address that is the picture."""
        return f"data:image/webp;base64,{b64encode(self.drawing.image).decode('ascii')}"


@dataclass(frozen=True)
class ShownSource:
    """A page that an answer rests on: a picture with marks, or else an excerpt."""

    id: str
    label: str
    share: float
    passage: str
    picture: Picture | None
    marks: Sequence[Mark]
    excerpt: Excerpt | None


@dataclass(frozen=True)
class Cell:
    """A part of a document in a strip.

    Attributes:
        heat: in [0, 1], relative to the hottest part.
        pages: that it touches, in words; empty for a document without pages.
        target: the ``id`` of the source on these pages; None without one.
    """

    heat: float
    pages: str
    target: str | None


@dataclass(frozen=True)
class ShownTurn:
    """A question and its answer; ``strips`` are the titles of documents with their cells."""

    number: int
    question: str
    answer: Markup | None
    ending: str | None
    sources: Sequence[ShownSource]
    strips: Sequence[tuple[str, Sequence[Cell]]]


def to_page(
    conversation: Conversation,
    model: str,
    limits: ReadLimits,
    on_page: Callable[[int, int], None] = lambda *_: None,
) -> str:
    """Return HTML of a conversation: questions, answers, and below each the pages that it rests on.

    Args:
        limits: of the process that draws pages.
        on_page: see ``Illustrations``.
    """
    found = [exchange.sources.pages for exchange in conversation.exchanges if exchange.sources is not None]
    builder = _Builder(conversation, Illustrations(chain.from_iterable(found), limits, on_page))
    parts: list[str | ShownTurn] = []
    for number, entry in enumerate(conversation.entries, 1):
        if isinstance(entry, DocumentEntry):
            parts.append(printable(name_document(entry)))
        elif isinstance(entry, Exchange):
            parts.append(builder.turn(entry, number))
    return _rendered(
        "conversation",
        title=printable(f"A conversation with {model}"),
        system=printable(conversation.prompt.system or ""),
        parts=parts,
        pictures=builder.pictures.values(),
    )


def to_source_page(conversation: Conversation, source: SourcePage, limits: ReadLimits) -> str:
    """Return HTML of one page that an answer of a conversation rests on.

    Args:
        limits: of the process that draws it.
    """
    builder = _Builder(conversation, Illustrations([source], limits))
    shown = builder.source(source, "source")
    return _rendered("source", title=shown.label, source=shown, pictures=builder.pictures.values())


def _rendered(name: str, **values: object) -> str:
    return _templates().get_template(f"{name}.html.jinja").render(values)


@cache
def _templates() -> Environment:
    loader = PackageLoader("lrqk_cli.webpage", "")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


class _Builder:
    """Builds turns with their sources."""

    def __init__(self, conversation: Conversation, drawn: Illustrations) -> None:
        self._conversation, self._drawn = conversation, drawn
        self._documents = documents_by_path(conversation)
        self.pictures = {
            place: Picture(f"page-{number}", drawing)
            for number, (place, drawing) in enumerate(drawn.drawings.items(), 1)
        }

    def turn(self, exchange: Exchange, number: int) -> ShownTurn:
        """Return how a turn is shown; ``number`` is its place in the conversation."""
        reply, found = exchange.answer, exchange.sources
        pages = [] if found is None else found.pages
        shown = [self.source(source, f"source-{number}-{place}") for place, source in enumerate(pages, 1)]
        targets = {
            (source.document.path, source.page): each.id for source, each in zip(pages, shown, strict=True)
        }
        strips = [] if found is None else found.strips
        return ShownTurn(
            number,
            printable(exchange.question),
            None if reply is None else to_html(reply.text.strip()),
            None if reply is None else ENDINGS.get(reply.finish_reason),
            shown,
            [(printable(strip.document.title), self._cells(strip, targets)) for strip in strips],
        )

    def source(self, source: SourcePage, identity: str) -> ShownSource:
        """Return how a source is shown; ``identity`` becomes its ``id``."""
        path, page, passage = source.document.path, source.page, source.passage
        picture = None if page is None else self.pictures.get((path, page))
        marks: Sequence[Mark] = ()
        if picture is not None and page is not None:
            marks = self._drawn.marks((path, page), passage)
        around = None if picture else excerpt(self._documents.get(path), page, passage)
        label = printable(source.document.title) + ("" if page is None else f", page {page}")
        return ShownSource(identity, label, source.share, printable(passage), picture, marks, around)

    def _cells(self, strip: Strip, targets: dict[tuple[str, int | None], str]) -> list[Cell]:
        path, count, most = strip.document.path, len(strip.heat), max(strip.heat, default=0.0)
        pages_of = self._pages_of_parts(path, count)
        cells = []
        for heat, pages in zip(strip.heat, pages_of, strict=True):
            named = f"page {format_numbers(pages)}" if pages else ""
            target = next((targets[path, page] for page in pages if (path, page) in targets), None)
            cells.append(Cell(heat / most if most else 0.0, named, target))
        return cells

    def _pages_of_parts(self, path: str, count: int) -> list[list[int]]:
        """Return the pages that each of some equal parts of a document touches, where it now stands."""
        conversation = self._conversation
        for index, use in enumerate(conversation.documents):
            if use.path == path:
                spans = [span for span in conversation.page_spans if span.document == index]
                edges = [use.start + use.tokens * part // count for part in range(count + 1)]
                return [
                    [span.page for span in spans if span.start < end and span.end > start]
                    for start, end in pairwise(edges)
                ]
        return [[]] * count
