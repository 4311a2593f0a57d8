from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pypdf import PageObject, PdfReader, PdfWriter
from pypdf.annotations import FreeText, Highlight, Text
from pypdf.generic import ArrayObject, DictionaryObject, FloatObject, NameObject, TextStringObject

from lrqk_cli.documents import Document, PageSelection, read_documents
from lrqk_cli.documents.formats import read_source
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError

from .conftest import MakePdf, add_text_page


def read(path: Path, **options: Any) -> Document:
    (document,) = read_documents([path], **options)
    return document


def read_here(path: Path) -> Document:
    """Read in this process, which is quicker."""
    return read_source(SourceFile(path, path.name, path.read_bytes()), ReadOptions())


def save(writer: PdfWriter, path: Path) -> Path:
    with path.open("wb") as file:
        writer.write(file)
    return path


@pytest.mark.parametrize(
    ("name", "page_count", "page", "passage"),
    [
        ("GeoBase_NHNC1_Data_Model_UML_EN.pdf", 19, 3, "\n• Proposal of options\n"),
        ("GeoBase_NHNC1_Data_Model_UML_EN.pdf", 19, 10, "+ Working Unit Region Limit = 5:"),
        ("GeoTopo-komprimiert.pdf", 117, 4, "\n1.2 Metrische Räume ... 6\n"),
        ("GeoTopo-komprimiert.pdf", 117, 50, "γ2(2t− 1) falls 1 2 ≤t≤ 1"),
        ("GeoTopo-komprimiert.pdf", 117, 50, "γ1 ∗ (γ2 ∗γ3) ≠ (γ1 ∗γ2) ∗γ3"),
        ("GeoTopo-komprimiert.pdf", 117, 53, "Definition 46\n"),
        ("Seige_of_Vicksburg_Sample_OCR.pdf", 6, 1, "the inhabi-\ntants are now living in caves"),
        ("annotated_pdf.pdf", 1, 1, "Some text.\nLine 1Line 2\nNot highlighted"),
        ("crazyones-pdfa.pdf", 1, 1, "The misfits. The rebels. The troublemakers."),
        ("google-doc-document.pdf", 1, 1, "Simple is better than complex."),
        ("habibi-rotated.pdf", 4, 1, "حَبيبي habibi حَبيبي"),
        ("habibi-rotated.pdf", 4, 4, "حَبيبي habibi حَبيبي"),
        ("minimal-document.pdf", 1, 1, "sed diam nonumy eirmod\ntempor invidunt"),
        ("mistitled_outlines_example.pdf", 4, 2, "3 Baz\nHello, here is some text"),
        ("multicolumn.pdf", 3, 1, "columns filled\nwith Lorem Ipsum text."),
        ("multicolumn.pdf", 3, 1, "Donec nonummy\npellentesque ante."),  # from the left column to the right
        ("pdflatex-4-pages.pdf", 4, 1, "“Huardest gefburn”? Kjift – not at all"),
        ("pdflatex-image.pdf", 1, 1, "1 Your Chapter\nLorem ipsum"),
    ],
)
def test_real_files_read_as_they_should(
    shared_data: Path, name: str, page_count: int, page: int, passage: str
) -> None:
    selection = PageSelection(((page, page),))
    document = read(shared_data / "pdfs" / name, pages=selection)
    assert document.page_count == page_count
    assert document.warnings == ()
    assert [item.number for item in document.pages] == [page]
    assert passage in document.text


def test_a_whole_book_has_its_pages_in_order(shared_data: Path) -> None:
    reports = []
    path = shared_data / "pdfs" / "GeoBase_NHNC1_Data_Model_UML_EN.pdf"
    document = read(path, on_progress=reports.append)
    assert [page.number for page in document.pages] == list(range(1, 20))
    assert document.empty_pages == ()
    assert {report.total for report in reports if report.done} == {19, 1}
    assert reports[-1].fraction == 1.0
    assert [report.fraction for report in reports] == sorted(report.fraction for report in reports)


@pytest.mark.parametrize(
    ("name", "password", "passage"),
    [
        ("libreoffice-writer-password.pdf", "openpassword", "Lorem ipsum dolor sit amet"),
        ("r6-user-password.pdf", "asdfzxcv", "pdf encryption test"),
        # Its owner password is empty, so it opens without one, as it does in other viewers.
        ("r6-user-password.pdf", None, "pdf encryption test"),
    ],
)
def test_real_encrypted_files_open(shared_data: Path, name: str, password: str | None, passage: str) -> None:
    assert read(shared_data / "pdfs" / name, password=password).text.startswith(passage)


@pytest.mark.parametrize(
    ("password", "reason"), [(None, "no password was given"), ("x", "password is wrong")]
)
def test_a_real_encrypted_file_asks_for_its_password(
    shared_data: Path, password: str | None, reason: str
) -> None:
    with pytest.raises(DocumentError, match=rf"^libreoffice-writer-password\.pdf .*{reason}") as caught:
        read(shared_data / "pdfs" / "libreoffice-writer-password.pdf", password=password)
    assert "`password`" in caught.value.hint


def test_a_real_file_of_pictures_only_names_its_pages(shared_data: Path) -> None:
    with pytest.raises(DocumentError, match="no text on any of the pages 1-6") as caught:
        read(shared_data / "pdfs" / "imagemagick-images.pdf")
    assert "OCR" in caught.value.hint


def test_an_empty_user_password_opens_silently(make_pdf: MakePdf) -> None:
    path = make_pdf(["Open to all."], user="", owner="secret")
    assert read(path).text == "Open to all."


def test_a_function_is_asked_again_while_the_password_is_wrong(make_pdf: MakePdf) -> None:
    path = make_pdf(["Behind a lock."], user="right", owner="other")
    answers = iter(["wrong", "right", "never asked"])
    asked: list[Path] = []

    def ask(locked: Path) -> str:
        asked.append(locked)
        return next(answers)

    assert read(path, password=ask).text == "Behind a lock."
    assert asked == [path, path]


def test_a_function_gives_up_with_none_and_is_not_asked_for_ever(make_pdf: MakePdf) -> None:
    path = make_pdf(["Behind a lock."], user="right", owner="other")
    with pytest.raises(DocumentError, match="no password was given"):
        read(path, password=lambda _: None)
    asked: list[Path] = []
    with pytest.raises(DocumentError, match="password is wrong"):
        read(path, password=lambda locked: asked.append(locked) or "wrong")
    assert len(asked) == 3


def test_empty_pages_are_counted_and_named(make_pdf: MakePdf) -> None:
    document = read(make_pdf(["One.", "", "", "Four.", ""]))
    assert document.empty_pages == (2, 3, 5)
    (warning,) = document.warnings
    assert warning.startswith("made.pdf: pages 2-3, 5 have no text; ")
    assert "OCR" in warning


@pytest.mark.parametrize(
    ("texts", "pages", "where"),
    [([""], None, "page 1: it seems"), (["", ""], None, "pages 1-2"), (["One.", "", ""], "2-", "pages 2-3")],
)
def test_no_text_at_all_is_an_error_that_names_the_pages(
    make_pdf: MakePdf, texts: list[str], pages: str | None, where: str
) -> None:
    selection = PageSelection.parse(pages) if pages else None
    with pytest.raises(DocumentError, match=where):
        read(make_pdf(texts), pages=selection)


def test_text_outside_the_visible_box_is_no_text(tmp_path: Path) -> None:
    writer = PdfWriter()
    add_text_page(writer, "Background", y=900)
    with pytest.raises(DocumentError, match="no text"):
        read(save(writer, tmp_path / "off.pdf"))


def test_selected_pages_keep_their_numbers(make_pdf: MakePdf) -> None:
    document = read(make_pdf(["One.", "Two.", "Three."]), pages=PageSelection.parse("2-"))
    assert [(page.number, page.text) for page in document.pages] == [(2, "Two."), (3, "Three.")]
    assert document.page_count == 3


def test_a_page_beyond_the_end_names_the_number_of_pages(make_pdf: MakePdf) -> None:
    with pytest.raises(DocumentError, match=r"Page 5 .* made\.pdf has 2 pages"):
        read(make_pdf(["One.", "Two."]), pages=PageSelection.parse("5"))


def test_a_page_that_cannot_be_extracted_does_not_cost_the_others(
    make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_pdf(["One.", "Two.", "Three."])
    extract = PageObject.extract_text

    def fail_on_two(page: PageObject, **options: Any) -> str:
        if page.page_number == 1:
            raise RecursionError
        return extract(page, **options)

    monkeypatch.setattr(PageObject, "extract_text", fail_on_two)
    document = read_here(path)
    assert [page.text for page in document.pages] == ["One.", "", "Three."]
    assert document.warnings == ("made.pdf: page 2 could not be read and went in empty.",)


@pytest.mark.parametrize("keep", [20, 400])
def test_a_damaged_file_is_named(make_pdf: MakePdf, keep: int) -> None:
    path = make_pdf(["One."])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DocumentError, match=r"made\.pdf"):
        read(path)


def test_text_boxes_and_form_values_are_text_but_comments_are_not(tmp_path: Path) -> None:
    writer = PdfWriter()
    add_text_page(writer, "Application")
    rect = (50, 550, 200, 650)
    writer.add_annotation(0, FreeText(text="Typed over the page", rect=rect))
    writer.add_annotation(0, Text(text="A remark", rect=rect))
    quads = ArrayObject([FloatObject(value) for value in (50, 650, 200, 650, 50, 550, 200, 550)])
    writer.add_annotation(0, Highlight(rect=rect, quad_points=quads))
    field = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Annot"),
            NameObject("/Subtype"): NameObject("/Widget"),
            NameObject("/FT"): NameObject("/Tx"),
            NameObject("/T"): TextStringObject("Surname"),
            NameObject("/V"): TextStringObject("Quill"),
        }
    )
    writer.pages[0]["/Annots"].append(writer._add_object(field))
    document = read(save(writer, tmp_path / "form.pdf"))
    assert document.text == "Application\nTyped over the page\nSurname: Quill"


@pytest.mark.parametrize(
    ("options", "value", "text"),
    [
        (["Oak", "Fir"], "Fir", "Wood: Fir (of Oak, Fir)"),
        ([["o", "Oak"], ["f", "Fir"]], "f", "Wood: Fir (of Oak, Fir)"),
        (["Oak", "Fir", "Ash"], ["Ash", "Oak"], "Wood: Ash, Oak (of Oak, Fir, Ash)"),
        (["Oak", "Fir"], None, "Wood: (of Oak, Fir)"),
        ([str(number) for number in range(30)], "7", "Wood: 7 (of 30 options)"),
        ([], "Own", "Wood: Own"),
    ],
)
def test_a_list_shows_its_options(tmp_path: Path, options: list[Any], value: Any, text: str) -> None:
    writer = PdfWriter()
    add_text_page(writer, "Order")
    field = DictionaryObject(
        {
            NameObject("/Subtype"): NameObject("/Widget"),
            NameObject("/FT"): NameObject("/Ch"),
            NameObject("/T"): TextStringObject("Wood"),
            NameObject("/Opt"): writer._add_object(strings(options)),
        }
    )
    if value is not None:
        field[NameObject("/V")] = strings(value)
    writer.pages[0][NameObject("/Annots")] = ArrayObject([writer._add_object(field)])
    assert read_here(save(writer, tmp_path / "form.pdf")).text == f"Order\n{text}"


def strings(plain: Any) -> Any:
    return ArrayObject(map(strings, plain)) if isinstance(plain, list) else TextStringObject(plain)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.csv"], "a.csv"),
        (["b.xml", "a\n.csv"], "a\ufffd.csv, b.xml"),
        ([f"{number}.txt" for number in range(8)], "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more"),
    ],
)
def test_attached_files_are_named(tmp_path: Path, names: list[str], said: str) -> None:
    writer = PdfWriter()
    add_text_page(writer, "See the attachment.")
    for name in names:
        writer.add_attachment(name, b"data")
    document = read_here(save(writer, tmp_path / "letter.pdf"))
    assert document.warnings == (f"letter.pdf: attached files are not read: {said}.",)
    assert document.text == "See the attachment."


def test_what_pypdf_says_stays_off_the_screen(
    make_pdf: MakePdf, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_pdf(["One."])
    data = path.read_bytes()
    start = data.rindex(b"startxref")
    path.write_bytes(data[:start] + b"startxref\n7\n%%EOF\n")
    PdfReader(path)
    assert caplog.records, "pypdf used to say something about this file"
    caplog.clear()
    capfd.readouterr()
    assert read(path).text == "One."
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
