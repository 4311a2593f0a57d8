from __future__ import annotations

import builtins
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lrqk_cli.documents import Document, PageSelection, read_documents
from lrqk_cli.documents.formats import read_source
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError, UsageError

_HTML = """<!doctype html><html><head><title>Tides</title><script>var hidden = 1</script></head>
<body><h1>Harbour</h1><p>High water at <b>06:40</b>.</p></body></html>"""
_OFFICE = "http://schemas.openxmlformats.org"
_DOCX = {
    "[Content_Types].xml": f"""<Types xmlns="{_OFFICE}/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Override PartName="/word/document.xml" ContentType=
"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>""",
    "_rels/.rels": f"""<Relationships xmlns="{_OFFICE}/package/2006/relationships"><Relationship Id="r1"
Type="{_OFFICE}/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/>
</Relationships>""",
    "word/document.xml": f"""<w:document xmlns:w="{_OFFICE}/wordprocessingml/2006/main"><w:body><w:p><w:r>
<w:t>The harbour master is Ada Quill.</w:t></w:r></w:p></w:body></w:document>""",
}
_EPUB = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": """<container version="1.0"
xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="book.opf"
media-type="application/oebps-package+xml"/></rootfiles></container>""",
    "book.opf": """<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata
xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Lamps</dc:title></metadata><manifest><item id="c1"
href="c1.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="c1"/></spine>
</package>""",
    "c1.xhtml": "<html><body><p>The lamp is lit at dusk.</p></body></html>",
}


def zipped(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def read(path: Path, data: bytes, **options: Any) -> Document:
    path.write_bytes(data)
    (document,) = read_documents([path], **options)
    return document


def test_html_becomes_markdown_without_scripts(tmp_path: Path) -> None:
    pytest.importorskip("markitdown", reason="the extra office is not installed")
    document = read(tmp_path / "tides.html", _HTML.encode())
    assert document.text == "# Harbour\n\nHigh water at **06:40**."
    assert not document.paginated


def test_html_from_standard_input_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("markitdown", reason="the extra office is not installed")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(_HTML.encode())))
    assert read_documents(["-"])[0].text.startswith("# Harbour")


def test_epub_is_read(tmp_path: Path) -> None:
    pytest.importorskip("markitdown", reason="the extra office is not installed")
    assert "The lamp is lit at dusk." in read(tmp_path / "lamps.epub", zipped(_EPUB)).text


def test_docx_is_read(tmp_path: Path) -> None:
    pytest.importorskip("mammoth", reason="the extra office is not installed")
    assert read(tmp_path / "letter.docx", zipped(_DOCX)).text == "The harbour master is Ada Quill."


def test_xlsx_is_read_as_a_table(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="the extra office is not installed")
    pytest.importorskip("markitdown", reason="the extra office is not installed")
    pytest.importorskip("pandas", reason="the extra office is not installed")
    book = openpyxl.Workbook()
    book.active.append(["berth", "length"])
    book.active.append(["North", 214])
    buffer = io.BytesIO()
    book.save(buffer)
    assert "| North | 214 |" in read(tmp_path / "berths.xlsx", buffer.getvalue()).text


def test_slides_count_as_pages(tmp_path: Path) -> None:
    pptx = pytest.importorskip("pptx", reason="the extra office is not installed")
    deck = pptx.Presentation()
    for title in ("Tides", "Lamps"):
        deck.slides.add_slide(deck.slide_layouts[5]).shapes.title.text = title
    buffer = io.BytesIO()
    deck.save(buffer)
    document = read(tmp_path / "deck.pptx", buffer.getvalue(), pages=PageSelection.parse("2"))
    assert (document.page_count, [page.number for page in document.pages]) == (2, [2])
    assert document.text == "# Lamps"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("mammoth", reason="the extra office is not installed")
    with pytest.raises(DocumentError, match=r"letter\.docx cannot be read"):
        read(tmp_path / "letter.docx", b"PK\x03\x04 and nothing else")


def test_pages_of_html_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tides\.html has no pages"):
        read(tmp_path / "tides.html", _HTML.encode(), pages=PageSelection.parse("1"))


@pytest.mark.parametrize("name", ["letter.docx", "tides.html", "lamps.epub"])
def test_without_the_extra_the_hint_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find = builtins.__import__

    def without_markitdown(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.partition(".")[0] == "markitdown":
            raise ModuleNotFoundError(module)
        return find(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_markitdown)
    with pytest.raises(DocumentError, match="is not installed") as caught:
        read_source(SourceFile(Path(name), name, _HTML.encode()), ReadOptions())
    assert "pip install 'lrqk[office]'" in caught.value.hint


@pytest.mark.parametrize("name", ["old.doc", "old.xls", "letter.odt", "letter.rtf"])
def test_formats_without_a_reader_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DocumentError, match=rf"no reader for {Path(name).suffix} files"):
        read(tmp_path / name, b"{\\rtf1 anything}")
