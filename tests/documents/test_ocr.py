"""Pages without text are read by OCR: which ones, how it is told, and what is left without the extra."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pypdf import PageObject
from rapidfuzz.distance import Levenshtein

from lrqk_cli.documents import messages, ocr, pdf, read_documents, shares
from lrqk_cli.documents.document import Document
from lrqk_cli.documents.pdf import read_pdf
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError

from .conftest import MakePdf

SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "report.pdf"


class ScriptedRecogniser:
    """Finds what it is told to find, and is asked for these pages only."""

    texts: dict[int, str | None]

    def __init__(self, data: bytes, password: str, threads: int) -> None:
        assert data.startswith(b"%PDF-")
        self.note = f"\n{password} {threads}"

    def __call__(self, number: int) -> str | None:
        text = self.texts[number]
        return f"{text}{self.note} {os.getpid()}" if text else text


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[int, str | None]:
    """What the scripted engine finds on each page."""
    monkeypatch.setattr(ocr, "is_installed", lambda: True)
    monkeypatch.setattr(ocr, "PageRecogniser", ScriptedRecogniser)
    monkeypatch.setattr(ScriptedRecogniser, "texts", {}, raising=False)
    for module in (shares, pdf):
        monkeypatch.setattr(module, "usable_cpus", lambda: 4)
    return ScriptedRecogniser.texts


def read(path: Path, options: ReadOptions | None = None) -> Document:
    return read_pdf(SourceFile(path, path.name, path.read_bytes()), options or ReadOptions())


def test_pages_without_text_are_recognised_and_marked(
    make_pdf: MakePdf, script: dict[int, str | None]
) -> None:
    script |= {2: "an exam-\nple of it", 4: "", 5: None}
    told: list[tuple[int, int]] = []
    options = ReadOptions(password="secret", on_scan=lambda *done: told.append(done), memory=4 << 30)
    document = read(make_pdf(["An example.", "", "Three.", "", ""], user="secret"), options)
    assert [page.by_ocr for page in document.pages] == [False, True, False, False, False]
    # Split words are joined as on other pages; three pages have a process each, of one thread.
    assert document.pages[1].text.startswith("an example\nof it\nsecret 1 ")
    assert document.empty_pages == (4, 5)
    assert document.warnings == (
        "made.pdf: page 2 was read by OCR, which may have misread some letters.",
        "made.pdf: pages 4-5 have no text; OCR found none either.",
    )
    assert told[0] == (0, 3)
    assert told[-1] == (3, 3)
    assert [section.by_ocr for section in document.sections()] == [
        False,
        False,
        True,
        False,
        False,
        False,
        False,
    ]
    message = messages.decode(messages.encode(messages.from_document(document)))
    assert messages.to_document(document.path, document.title, message) == document


def test_a_page_that_cannot_be_extracted_is_recognised(
    make_pdf: MakePdf, script: dict[int, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise RecursionError

    script |= {1: "Drawn"}
    monkeypatch.setattr(PageObject, "extract_text", fail)
    document = read(make_pdf(["One."]))
    # A single page has all threads.
    assert document.text.startswith("Drawn\n 4 ")
    assert document.pages[0].by_ocr


def test_memory_bounds_the_processes(make_pdf: MakePdf, script: dict[int, str | None]) -> None:
    script |= dict.fromkeys(range(1, 9), "x")
    for most in (0, 1, 3):
        document = read(make_pdf([""] * 8), ReadOptions(memory=most * ocr.PROCESS_BYTES))
        threads, processes = zip(*(page.text.split()[-2:] for page in document.pages), strict=True)
        count = max(1, most) if hasattr(os, "fork") else 1
        assert {*threads} == {str(4 // count)}
        assert len({*processes}) <= count


def test_pages_on_which_nothing_is_found_are_named(make_pdf: MakePdf, script: dict[int, str | None]) -> None:
    script |= {1: "", 2: ""}
    with pytest.raises(DocumentError, match="no text on any of the pages 1-2") as caught:
        read(make_pdf(["", ""]))
    assert "OCR found no text either" in caught.value.hint


def test_without_the_extra_the_warning_says_how_to_get_it(
    make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocr, "is_installed", lambda: False)
    document = read(make_pdf(["One.", ""]))
    assert document.warnings == ("made.pdf: page 2 has no text; pip install 'lrqk[ocr]' reads scans by OCR.",)
    with pytest.raises(DocumentError) as caught:
        read(make_pdf([""]))
    assert caught.value.hint == "Run pip install 'lrqk[ocr]', which reads scans by OCR."


@pytest.mark.skipif(not ocr.is_installed(), reason="the extra ocr is not installed")
def test_a_picture_of_a_page_reads_as_the_page(tmp_path: Path) -> None:
    import pypdfium2

    picture = pypdfium2.PdfDocument(SAMPLE)[1].render(scale=2).to_pil()
    picture.save(tmp_path / "scan.pdf")
    (scan,), (known,) = read_documents([tmp_path / "scan.pdf"]), read_documents([SAMPLE])
    truth, found = (" ".join(text.split()) for text in (known.pages[1].text, scan.text))
    assert Levenshtein.distance(truth, found) < 0.01 * len(truth)
    assert scan.warnings == ("scan.pdf: page 1 was read by OCR, which may have misread some letters.",)
