"""Pages drawn by the reader process."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pypdf import PdfWriter
from pypdf.generic import NameObject

from lrqk_cli.documents.drawing import WEB_CANVAS, Canvas
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.locations import STDIN
from lrqk_cli.documents.reader_process import ReaderProcess
from lrqk_cli.documents.source import SourceFile
from lrqk_cli.errors import DocumentError

pytest.importorskip("pypdfium2", reason="the extra pages is not installed")
image = pytest.importorskip("PIL.Image")

REPORT = Path(__file__).parents[2] / "docs" / "samples" / "report.pdf"


def source(path: Path, data: bytes = b"") -> SourceFile:
    return SourceFile(path, path.name, data)


def test_passages_are_found_across_lines_and_blanks() -> None:
    passages = ["… Brannock  plant employs 412 people.", "Not on this page.", "…"]
    with ReaderProcess(ReadLimits()) as process:
        drawn = process.draw(source(REPORT), 8, passages, WEB_CANVAS)
    picture = image.open(io.BytesIO(drawn.image)).convert("L")
    assert picture.size == (drawn.width, drawn.height)
    found, *others = drawn.marks
    assert others == [(), ()]
    assert len(found) == 2
    for mark in found:
        left, top = mark.left * drawn.width, mark.top * drawn.height
        darkest, _ = picture.crop(
            (int(left), int(top), int(left + mark.width * drawn.width), int(top + mark.height * drawn.height))
        ).getextrema()
        assert darkest < 128


def test_a_page_that_is_none_is_a_document_error(tmp_path: Path) -> None:
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.pages[0][NameObject("/Type")] = NameObject("/Font")
    path = tmp_path / "damaged.pdf"
    writer.write(path)
    with ReaderProcess(ReadLimits()) as process, pytest.raises(DocumentError, match="cannot be drawn"):
        process.draw(source(path), 1, [], WEB_CANVAS)


def test_what_cannot_be_drawn_is_a_document_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Not a PDF file.", encoding="utf-8")
    with ReaderProcess(ReadLimits()) as process:
        for path, page in (
            (REPORT, 17),
            (REPORT, 0),
            (tmp_path / "a.txt", 1),
            (tmp_path / "none", 1),
            (STDIN, 1),
        ):
            with pytest.raises(DocumentError):
                process.draw(source(path), page, [], WEB_CANVAS)
        assert process.draw(source(STDIN, REPORT.read_bytes()), 1, [], WEB_CANVAS).width == 1000


def test_a_page_fits_its_canvas() -> None:
    with ReaderProcess(ReadLimits()) as process:
        for canvas in (Canvas(300, 200, "rgb"), Canvas(100, 200, "rgb")):
            drawn = process.draw(source(REPORT), 8, [], canvas)
            assert (drawn.width == 100) if canvas.width == 100 else (drawn.height == 200)
            assert drawn.width <= canvas.width
            assert len(drawn.image) == 3 * drawn.width * drawn.height


def test_a_file_stays_open_until_another_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(REPORT.read_bytes())
    with ReaderProcess(ReadLimits()) as process:
        first = process.draw(source(path), 7, [], WEB_CANVAS)
        path.unlink()
        assert process.draw(source(path), 8, [], WEB_CANVAS).image != first.image
        assert process.draw(source(REPORT), 7, [], WEB_CANVAS) == first
        with pytest.raises(DocumentError):
            process.draw(source(path), 8, [], WEB_CANVAS)
