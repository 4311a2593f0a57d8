"""Draws a page of a PDF file, and finds passages on it. Runs in the reader process.

The characters of a passage are compared without blanks, hyphens and marks, because its text was cleaned and
its lines were joined when the document was read.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from lrqk_cli.documents.source import SourceFile
from lrqk_cli.errors import DocumentError

if TYPE_CHECKING:
    import pypdfium2
    from PIL.Image import Image

_QUALITY = 55
# What a passage that was shortened begins or ends with.
_CUT = "…"
# Pixels of the raster in which places on a page are computed.
_RASTER = 1 << 16


@dataclass(frozen=True, slots=True)
class Mark:
    """A rectangle on a page, in shares of its width and height, from the upper left corner."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Canvas:
    """What a page is drawn on.

    Attributes:
        width, height: pixels that the picture fills in one direction, and keeps to in the other.
        encoding: of the picture; ``rgb`` are three bytes a pixel, row by row, which nothing has to decode.
    """

    width: int
    height: int
    encoding: Literal["webp", "rgb"]


# Wide enough to read on a screen, small enough for a file with fifty pages.
WEB_CANVAS = Canvas(1000, 4000, "webp")


@dataclass(frozen=True, slots=True)
class PageDrawing:
    """A page as a picture.

    Attributes:
        width, height: of the picture, in pixels.
        image: in the encoding of the canvas.
        marks: the lines of each passage; none if it was not found.
    """

    width: int
    height: int
    image: bytes
    marks: tuple[tuple[Mark, ...], ...]


def can_draw() -> bool:
    """Return whether the libraries for it are installed."""
    return find_spec("pypdfium2") is not None and find_spec("PIL") is not None


class PageDrawer:
    """Draws pages of a PDF file, which stays open for them.

    Raises:
        DocumentError: PDFium cannot open it.
    """

    def __init__(self, source: SourceFile) -> None:
        import pypdfium2

        self._title = source.title
        with _refusals(source.title):
            self._document = pypdfium2.PdfDocument(source.data)

    def draw(self, number: int, passages: Sequence[str], canvas: Canvas) -> PageDrawing:
        """Draw a page and find passages on it.

        Args:
            number: of the page, from 1.

        Raises:
            DocumentError: the file has no such page, or PDFium refuses it.
        """
        if not 1 <= number <= len(self._document):
            raise DocumentError(f"{self._title} has no page {number:,} any more.", "Was it replaced?")
        with _refusals(self._title), closing(self._document[number - 1]) as page:
            width, height = page.get_size()
            scale = min(canvas.width / max(width, 1.0), canvas.height / max(height, 1.0))
            # PDFium rounds the size of the picture up, and an error of rounding would exceed the canvas.
            picture = page.render(scale=scale * (1 - 1e-6)).to_pil().convert("RGB")
            text = _PageText(page)
            marks = tuple(text.find(passage) for passage in passages)
        return PageDrawing(picture.width, picture.height, _encoded(picture, canvas), marks)

    def close(self) -> None:
        """Free the file's memory."""
        self._document.close()


@contextmanager
def _refusals(title: str) -> Iterator[None]:
    """Raise a DocumentError where PDFium refuses something."""
    import pypdfium2

    try:
        yield
    except pypdfium2.PdfiumError as error:
        message = f"{title} cannot be drawn: {str(error).rstrip('.')}."
        raise DocumentError(message, "Open it in its own program.") from error


def _encoded(picture: Image, canvas: Canvas) -> bytes:
    if canvas.encoding == "rgb":
        return picture.tobytes()
    content = io.BytesIO()
    picture.save(content, "WEBP", quality=_QUALITY, method=4)
    return content.getvalue()


class _PageText:
    """The characters of a page that can be compared, and where they are."""

    def __init__(self, page: pypdfium2.PdfPage) -> None:
        from pypdfium2 import raw

        self._raw, self._page, self._text = raw, page, page.get_textpage()
        self._numbers: list[int] = []
        letters: list[str] = []
        for number in range(self._text.count_chars()):
            for letter in _letters(chr(raw.FPDFText_GetUnicode(self._text, number))):
                letters.append(letter)
                self._numbers.append(number)
        self._letters = "".join(letters)

    def find(self, passage: str) -> tuple[Mark, ...]:
        """Return the lines of a passage; none if it is not there."""
        wanted = "".join(_letters(core_of(passage)))
        place = self._letters.find(wanted) if wanted else -1
        if place < 0:
            return ()
        first, last = self._numbers[place], self._numbers[place + len(wanted) - 1]
        count = self._text.count_rects(first, last - first + 1)
        return tuple(self._mark(*self._text.get_rect(number)) for number in range(count))

    def _mark(self, left: float, bottom: float, right: float, top: float) -> Mark:
        """Turn a rectangle of the page's own coordinates, which a page may rotate or crop."""
        corners = [self._on_picture(left, bottom), self._on_picture(right, top)]
        (x0, x1), (y0, y1) = (sorted(each) for each in zip(*corners, strict=True))
        return Mark(x0, y0, x1 - x0, y1 - y0)

    def _on_picture(self, x: float, y: float) -> tuple[float, float]:
        from ctypes import byref, c_int

        across, down = c_int(), c_int()
        self._raw.FPDF_PageToDevice(self._page, 0, 0, _RASTER, _RASTER, 0, x, y, byref(across), byref(down))
        return across.value / _RASTER, down.value / _RASTER


def _letters(text: str) -> Iterator[str]:
    """Yield the letters and digits of a text in one form."""
    for letter in unicodedata.normalize("NFKC", text).casefold():
        if letter.isalnum():
            yield letter


def core_of(passage: str) -> str:
    """Return a passage without the dots that say where it was shortened."""
    return passage.strip(f"{_CUT} ")


def from_drawing(drawing: PageDrawing) -> dict[str, Any]:
    """A drawing as a message."""
    from base64 import b64encode

    marks = [
        [[mark.left, mark.top, mark.width, mark.height] for mark in passage] for passage in drawing.marks
    ]
    return {
        "width": drawing.width,
        "height": drawing.height,
        "image": b64encode(drawing.image).decode("ascii"),
        "marks": marks,
    }


def to_drawing(message: dict[str, Any]) -> PageDrawing:
    """The inverse of ``from_drawing``."""
    from base64 import b64decode

    marks = tuple(tuple(Mark(*place) for place in passage) for passage in message["marks"])
    return PageDrawing(message["width"], message["height"], b64decode(message["image"]), marks)
