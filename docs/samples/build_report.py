"""Sets report.md as report.pdf.

Needs two packages that lrqk itself does not: ``pip install reportlab markdown-it-py``.
The same source and the same reportlab give the same bytes: ``python docs/samples/build_report.py``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from reportlab.lib.colors import HexColor
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    NextPageTemplate,
    PageBreak,
    PageTemplate,
    Paragraph,
    Spacer,
)
from reportlab.platypus.tableofcontents import TableOfContents

HERE = Path(__file__).parent
PAGE = (176 * mm, 250 * mm)  # ISO B5
MARGIN = 22 * mm
WIDTH = PAGE[0] - 2 * MARGIN

INK = HexColor("#1d2730")
NAVY = HexColor("#12385c")
TEAL = HexColor("#2a7f9e")
PALE = HexColor("#eef4f7")
RULE = HexColor("#b9c9d3")

BODY = ParagraphStyle("body", fontName="Times-Roman", fontSize=11.3, leading=16, textColor=INK, spaceAfter=8)
QUOTE = ParagraphStyle(
    "quote",
    BODY,
    fontName="Times-Italic",
    fontSize=13,
    leading=18,
    textColor=TEAL,
    leftIndent=14,
    rightIndent=14,
    spaceBefore=4,
    spaceAfter=11,
)
HEADINGS = {
    "h2": ParagraphStyle(
        "chapter", fontName="Helvetica-Bold", fontSize=20, leading=24, textColor=NAVY, spaceAfter=14
    ),
    "h3": ParagraphStyle(
        "section",
        fontName="Helvetica-Bold",
        fontSize=11.5,
        leading=15,
        textColor=TEAL,
        spaceBefore=8,
        spaceAfter=4,
        keepWithNext=True,
    ),
}
COVER_TITLE = ParagraphStyle(
    "cover-title", fontName="Helvetica-Bold", fontSize=34, leading=40, textColor=NAVY, spaceAfter=10
)
COVER_TEXT = ParagraphStyle("cover-text", BODY, fontName="Helvetica", fontSize=13, leading=19, textColor=NAVY)
COVER_NOTE = ParagraphStyle("cover-note", BODY, fontSize=9.5, leading=13, textColor=HexColor("#ffffff"))


@dataclass(frozen=True)
class Row:
    """One row of a table: its cells, its weight, and the PDF bookmark that it leads to."""

    cells: list[str]
    bold: bool = False
    shaded: bool = False
    link: str | None = None


class Rows(Flowable):
    """A ruled table of one-line cells.

    Each row is one text object, so that text extraction gives a label and its values on one line;
    reportlab's own Table writes every cell apart.
    """

    def __init__(self, rows: list[Row], numeric: list[bool], size: float, pitch: float) -> None:
        super().__init__()
        self.rows, self.numeric, self.size, self.pitch = rows, numeric, size, pitch
        self.spaceBefore, self.spaceAfter = 5, 11

    def wrap(self, width: float, _height: float) -> tuple[float, float]:
        """The space taken: the full width, and ``pitch`` a row."""
        self.width, self.height = width, self.pitch * len(self.rows)
        return self.width, self.height

    def draw(self) -> None:
        """Draws the rows with the rules between them, the outer two heavier."""
        for number, row in enumerate(self.rows):
            bottom = self.height - (number + 1) * self.pitch
            if row.shaded:
                self.canv.setFillColor(PALE)
                self.canv.rect(0, bottom, self.width, self.pitch, stroke=0, fill=1)
            if row.link:
                self.canv.linkRect("", row.link, (0, bottom, self.width, bottom + self.pitch), relative=1)
            self._write(row, bottom + (self.pitch - self.size * 0.7) / 2)
            self._rule(bottom, heavy=number == len(self.rows) - 1)
        self._rule(self.height, heavy=True)

    def _write(self, row: Row, baseline: float) -> None:
        font = "Helvetica-Bold" if row.bold else "Helvetica"
        line = self.canv.beginText()
        line.setFont(font, self.size)
        line.setFillColor(INK)
        for (left, right), numeric, cell in zip(self._columns(), self.numeric, row.cells, strict=True):
            taken = stringWidth(cell, font, self.size)
            if taken > right - left:
                raise ValueError(f"report.md has a table cell that is too wide: {cell!r}")
            line.setTextOrigin(right - taken if numeric else left, baseline)
            line.textOut(cell)
        self.canv.drawText(line)

    def _columns(self) -> Iterator[tuple[float, float]]:
        """Left and right edge of each column: numbers narrow, text sharing the rest."""
        narrow, padding, edge = 28 * mm, 4, 0.0
        wide = (self.width - narrow * sum(self.numeric)) / (len(self.numeric) - sum(self.numeric))
        for numeric in self.numeric:
            width = narrow if numeric else wide
            yield edge + padding, edge + width - padding
            edge += width

    def _rule(self, height: float, heavy: bool) -> None:
        self.canv.setStrokeColor(NAVY if heavy else RULE)
        self.canv.setLineWidth(0.9 if heavy else 0.35)
        self.canv.line(0, height, self.width, height)


class Contents(TableOfContents):
    """The chapters and their pages, set as :class:`Rows`."""

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        """Sets the entries that the previous pass over the document has found."""
        rows = [Row([title, str(page)], link=key) for _level, title, page, key in self._lastEntries]
        self._table = Rows(rows, [False, True], size=10.5, pitch=8 * mm)
        return self._table.wrap(width, height)

    def drawOn(self, canvas: Canvas, x: float, y: float, _sW: float = 0) -> None:  # noqa: N802 (reportlab's name)
        """Draws the table of the last :meth:`wrap`."""
        self._table.drawOn(canvas, x, y, _sW)


class Report(BaseDocTemplate):
    """A cover, then pages with a footer; chapters enter the contents and the PDF outline."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            str(path),
            pagesize=PAGE,
            invariant=1,
            title="Tarnholt Instruments plc: Annual Report 2024",
            author="Tarnholt Instruments plc (invented)",
            lang="en-GB",
        )
        cover = Frame(MARGIN, 22 * mm, WIDTH, PAGE[1] - 58 * mm, 0, 0, 0, 0)
        text = Frame(MARGIN, 24 * mm, WIDTH, PAGE[1] - 44 * mm, 0, 0, 0, 0)
        # The footer is drawn when its page ends: readers that follow the drawing order meet it last.
        self.addPageTemplates(
            [
                PageTemplate("cover", [cover], onPage=_draw_cover),
                PageTemplate("text", [text], onPageEnd=_draw_footer),
            ]
        )

    def afterFlowable(self, flowable: Flowable) -> None:  # noqa: N802 (reportlab's name)
        """Registers a chapter with the contents and the outline as its heading is drawn."""
        style = getattr(flowable, "style", None)
        if style is not HEADINGS["h2"]:
            return
        title = flowable.getPlainText()
        key = f"page-{self.page}"
        self.canv.bookmarkPage(key)
        self.canv.addOutlineEntry(title, key)
        if title != "Contents":
            self.notify("TOCEntry", (0, title, self.page, key))


def _draw_cover(canvas: Canvas, _document: BaseDocTemplate) -> None:
    canvas.saveState()
    for base, height, colour in (
        (105, 9, "#d5e5ec"),
        (88, 8, "#8fbccd"),
        (70, 7, "#2a7f9e"),
        (50, 6, "#12385c"),
    ):
        wave = canvas.beginPath()
        wave.moveTo(0, 0)
        for step in range(177):
            wave.lineTo(step * mm, (base + height * math.sin(step / 26 + base)) * mm)
        wave.lineTo(PAGE[0], 0)
        wave.close()
        canvas.setFillColor(HexColor(colour))
        canvas.drawPath(wave, stroke=0, fill=1)
    canvas.restoreState()


def _draw_footer(canvas: Canvas, document: BaseDocTemplate) -> None:
    canvas.saveState()
    canvas.setStrokeColor(RULE)
    canvas.setLineWidth(0.5)
    canvas.line(MARGIN, 17 * mm, PAGE[0] - MARGIN, 17 * mm)
    title, number = "Tarnholt Annual Report 2024", f"Page {document.page}"
    line = canvas.beginText(MARGIN, 13 * mm)
    line.setFont("Helvetica", 8)
    line.setFillColor(NAVY)
    line.textOut(title)
    line.setTextOrigin(PAGE[0] - MARGIN - stringWidth(number, "Helvetica", 8), 13 * mm)
    line.textOut(number)
    canvas.drawText(line)
    canvas.restoreState()


def _markup(inline: SyntaxTreeNode) -> str:
    """The inline content of a block as reportlab's paragraph markup."""
    tags = {"strong": "b", "em": "i"}
    parts = []
    for child in inline.children:
        if child.type == "text":
            parts.append(html.escape(child.content, quote=False))
        elif child.type == "softbreak":
            parts.append(" ")
        elif child.type in tags:
            parts.append(f"<{tags[child.type]}>{_markup(child)}</{tags[child.type]}>")
        else:
            raise ValueError(f"report.md uses {child.type!r}, which the layout does not know")
    return "".join(parts)


def _paragraph(block: SyntaxTreeNode, style: ParagraphStyle) -> Paragraph:
    return Paragraph(_markup(block.children[0]), style)


def _table(block: SyntaxTreeNode) -> Rows:
    head, *body = [row for section in block.children for row in section.children]
    rows = [Row([_plain(cell) for cell in head.children], bold=True, shaded=True)]
    for row in body:
        bold = any(node.type == "strong" for node in row.children[0].walk())
        rows.append(Row([_plain(cell) for cell in row.children], bold=bold))
    numeric = ["right" in str(cell.attrs.get("style", "")) for cell in head.children]
    return Rows(rows, numeric, size=9.2, pitch=5.7 * mm)


def _plain(node: SyntaxTreeNode) -> str:
    return "".join(leaf.content for leaf in node.walk() if leaf.type == "text")


def _heading(block: SyntaxTreeNode) -> Iterator[Flowable]:
    heading = _paragraph(block, HEADINGS[block.tag])
    if block.tag == "h3":
        yield CondPageBreak(30 * mm)
        yield heading
        return
    yield PageBreak()
    yield heading
    if heading.getPlainText() == "Contents":
        yield Contents()
        yield Spacer(0, 12 * mm)


LAYOUT: dict[str, Callable[[SyntaxTreeNode], Iterator[Flowable]]] = {
    "heading": _heading,
    "paragraph": lambda block: iter([_paragraph(block, BODY)]),
    "blockquote": lambda block: (_paragraph(child, QUOTE) for child in block.children),
    "table": lambda block: iter([_table(block)]),
}


def _cover(blocks: list[SyntaxTreeNode]) -> Iterator[Flowable]:
    """The title page: a title, lines below it, and after a rule the note at its foot."""
    style = COVER_TEXT
    for block in blocks:
        if block.type == "hr":
            yield Spacer(0, 136 * mm)
            style = COVER_NOTE
        else:
            yield _paragraph(block, COVER_TITLE if block.type == "heading" else style)


def build(source: Path, target: Path) -> None:
    """Writes the Markdown file ``source`` as the PDF ``target``.

    Raises:
        KeyError: the source holds a kind of block that the layout does not know.
        ValueError: the source holds inline markup that the layout does not know.
    """
    markdown = MarkdownIt("commonmark").enable("table")
    blocks = SyntaxTreeNode(markdown.parse(source.read_text(encoding="utf-8"))).children
    first_chapter = next(i for i, block in enumerate(blocks) if block.tag == "h2")
    story = [*_cover(blocks[:first_chapter]), NextPageTemplate("text")]
    for block in blocks[first_chapter:]:
        story += LAYOUT[block.type](block)
    Report(target).multiBuild(story)


if __name__ == "__main__":
    build(HERE / "report.md", HERE / "report.pdf")
