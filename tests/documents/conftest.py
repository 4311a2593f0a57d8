"""PDF files made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, DecodedStreamObject, DictionaryObject, NameObject, TextStringObject

MakePdf = Callable[..., Path]
MakePage = Callable[..., Path]

# The content of a page that keeps a reader busy for minutes, in a file of some kilobytes.
SLOW = b"q " * 10_000_000


def add_text_page(writer: PdfWriter, text: str, y: int = 700) -> None:
    page = writer.add_blank_page(612, 792)
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    fonts = DictionaryObject({NameObject("/F1"): font})
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    content = DecodedStreamObject()
    content.set_data(f"BT /F1 12 Tf 72 {y} Td ({text}) Tj ET".encode("latin-1"))
    page[NameObject("/Contents")] = writer._add_object(content)


@pytest.fixture
def make_pdf(tmp_path: Path) -> MakePdf:
    """``make_pdf(["first page", ""], name="a.pdf", user=…, owner=…)``; an empty text makes a blank page."""

    def make(
        texts: Sequence[str], name: str = "made.pdf", user: str | None = None, owner: str | None = None
    ) -> Path:
        writer = PdfWriter()
        for text in texts:
            if text:
                add_text_page(writer, text)
            else:
                writer.add_blank_page(612, 792)
        if user is not None:
            writer.encrypt(user, owner, algorithm="AES-256")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            writer.write(file)
        return path

    return make


@pytest.fixture
def make_page(tmp_path: Path) -> MakePage:
    """``make_page(content, notes=100)``: one page, and as many references to one long text box.

    With ``copies`` the file has the page more than once.
    """

    def make(content: bytes, notes: int = 0, copies: int = 1) -> Path:
        writer = PdfWriter()
        add_text_page(writer, "Some text.")
        page = writer.pages[0]
        stream = DecodedStreamObject()
        stream.set_data(page["/Contents"].get_data() + b" " + content)
        page[NameObject("/Contents")] = writer._add_object(stream.flate_encode())
        box = DictionaryObject(
            {
                NameObject("/Subtype"): NameObject("/FreeText"),
                NameObject("/Contents"): TextStringObject("x" * 60_000),
            }
        )
        page[NameObject("/Annots")] = ArrayObject([writer._add_object(box)] * notes)
        for _ in range(1, copies):
            writer.add_page(page)
        path = tmp_path / "page.pdf"
        with path.open("wb") as file:
            writer.write(file)
        return path

    return make
