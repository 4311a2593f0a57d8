from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter
from pypdf.errors import PyPdfError
from pypdf.generic import (
    ArrayObject,
    ContentStream,
    DecodedStreamObject,
    DictionaryObject,
    FloatObject,
    NameObject,
)

from lrqk_cli.documents.pdf_paths import leave_out_paths, without_paths
from lrqk_cli.documents.pdf_text import page_text

from .conftest import add_text_page

_WITHOUT_TEXT = set(b"m l c v y h re S s f F f* B B* b b* n W W* w J j M i rg RG g G k K".split())
_FIGURE = b"0.4 w 1 0 0 RG\n0 0 m\n10 -.5 l\n+3. 4 5 6 7 8 c\nh f* 0 g\n"

_numbers = st.sampled_from([b"0", b"1", b"-.5", b"+3.", b"12.25", b"-7"])
_strings = st.sampled_from(
    [
        b"(a)",
        b"()",
        b"(plan b is S 1 2 m f )",
        b"(a (b c ) S )",
        b"(((deep S m )))",
        b"((((deeper S m ))))",
        rb"(\( m S \) \\)",
        b"(50% S )",
        b"(BI b )",
        b"(\n1 2 m\nS\n)",
        b"<41 42 0 c 4>",
        b"<4142>",
        b"<>",
    ]
)
_others = st.sampled_from([b"/F1", b"/m", b"<< /MCID 0 >>", b"<</A (S m )>>", b"true"])
_arrays = st.lists(_numbers | _strings, max_size=4).map(lambda items: b"[" + b" ".join(items) + b"]")
_operands = _numbers | _strings | _arrays | _others
_operators = st.sampled_from(
    [*sorted(_WITHOUT_TEXT), b"Tj", b"TJ", b"Tf", b"Td", b"q", b"Q", b"cm", b"'", b"BDC"]
)
_images = st.just(b"BI /W 1 /H 1 /BPC 8 /CS /G ID ( EI")
_comments = st.sampled_from([b"% a 1 2 m S \n", b"% ( \n", b"%\n"])
_blanks = st.sampled_from([b" ", b"\n", b"\r\n", b"  "])
_tokens = st.lists(
    st.tuples(st.one_of(_operators, _operands, _operators, _numbers, _images, _comments), _blanks),
    max_size=40,
)
_contents = _tokens.map(lambda tokens: b"".join(part for pair in tokens for part in pair))
_rubbish = st.lists(st.sampled_from(list(b"()\\<>[]/%{}'\" \n01.-mlScBITjEnD")), max_size=30).map(bytes)


def operations(data: bytes) -> list[tuple[Any, bytes]] | None:
    """What pypdf finds in a content stream but paths and colours; None if it cannot be parsed."""
    stream = ContentStream(None, None, "bytes")
    stream.set_data(data)
    try:
        found = stream.operations
    except (PyPdfError, AssertionError, ValueError):
        return None
    return [(operands, operator) for operands, operator in found if operator not in _WITHOUT_TEXT]


@given(st.one_of(_contents, _rubbish))
def test_all_other_operators_keep_their_operands(data: bytes) -> None:
    expected = operations(data)
    if expected is not None:
        assert operations(without_paths(data)) == expected


def test_paths_and_colours_are_left_out() -> None:
    text = rb"BT /F1 12 Tf 1 0 0 1 50 60 Tm [(S m ) -250 (\(b\))] TJ ET"
    left = without_paths(_FIGURE * 100 + text + b"\n" + _FIGURE * 100)
    assert len(left) < len(text) + 50
    assert operations(left) == operations(text)


@pytest.mark.parametrize(
    "unclear", [b"BI /W 1 ID ( EI", b"% ( S m \n", b"<41 c 42> Tj", b"((((deep S m )))) Tj"]
)
def test_data_with_what_cannot_be_told_apart_stays_as_it_is(unclear: bytes) -> None:
    data = _FIGURE + unclear + b"\n" + _FIGURE
    assert without_paths(data) == data


def form(data: bytes, **entries: Any) -> DecodedStreamObject:
    stream = DecodedStreamObject()
    stream.set_data(data)
    stream[NameObject("/Subtype")] = NameObject("/Form")
    stream[NameObject("/BBox")] = ArrayObject(map(FloatObject, (0, 0, 600, 800)))
    for name, value in entries.items():
        stream[NameObject(f"/{name}")] = value
    return stream


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    """Two pages that draw one form, which draws another, which would draw the first again."""
    writer = PdfWriter()
    resources = DictionaryObject()
    shared = writer._add_object(resources)
    inner = form(_FIGURE + b"BT /F1 9 Tf 50 400 Td (inner) Tj ET\n/Outer Do\n", Resources=shared)
    outer = form(
        _FIGURE + b"BT /F1 9 Tf 50 500 Td (outer) Tj ET\n/Inner Do\n",
        Resources=shared,
        Matrix=ArrayObject(map(FloatObject, (1, 0, 0, 1, 5, 5))),
    )
    broken = form(b"not compressed", Filter=NameObject("/FlateDecode"))
    objects = DictionaryObject()
    named = {"Inner": inner, "Outer": outer, "Broken": broken, "Unused": form(_FIGURE)}
    for name, stream in named.items():
        objects[NameObject(f"/{name}")] = writer._add_object(stream)
    for number in (1, 2):
        add_text_page(writer, f"Page {number}")
        page = writer.pages[-1]
        font = page["/Resources"]["/Font"]
        resources[NameObject("/Font")] = font
        resources[NameObject("/XObject")] = objects
        page[NameObject("/Resources")] = shared
        contents = page.get_contents()
        assert contents is not None
        drawn = DecodedStreamObject()
        drawn.set_data(_FIGURE + contents.get_data() + b"\n/Broken Do /Outer Do\n" + _FIGURE)
        page[NameObject("/Contents")] = writer._add_object(drawn)
    path = tmp_path / "figures.pdf"
    writer.write(path)
    return path


@pytest.mark.filterwarnings("ignore")
def test_pages_and_the_forms_that_they_draw_say_the_same(figures: Path) -> None:
    expected = [page.extract_text() for page in PdfReader(figures).pages]
    assert ["inner" in text and "outer" in text for text in expected] == [True, True]
    reader = PdfReader(figures)
    for page in reader.pages:
        leave_out_paths(page)
    assert [page.extract_text() for page in reader.pages] == expected


@pytest.mark.filterwarnings("ignore")
def test_forms_that_a_page_draws_lose_their_paths_and_others_are_not_read(figures: Path) -> None:
    reader = PdfReader(figures)
    leave_out_paths(reader.pages[0])
    objects: Any = reader.pages[0]["/Resources"]["/XObject"]
    drawn = {name: b" l" in objects[name].get_data() for name in ("/Outer", "/Inner", "/Unused")}
    assert drawn == {"/Outer": False, "/Inner": False, "/Unused": True}
    assert objects["/Outer"]["/Matrix"] == [1, 0, 0, 1, 5, 5]


def test_a_form_that_cannot_be_decoded_loses_no_text_of_the_page(tmp_path: Path) -> None:
    writer = PdfWriter()
    add_text_page(writer, "Some text")
    page = writer.pages[0]
    content = page["/Contents"]
    content.set_data(content.get_data() + b"\n/Odd Do\n")
    odd = writer._add_object(form(_FIGURE, Filter=NameObject("/Unheard")))
    page["/Resources"][NameObject("/XObject")] = DictionaryObject({NameObject("/Odd"): odd})
    path = tmp_path / "odd.pdf"
    writer.write(path)
    reader = PdfReader(path)
    with pytest.raises(NotImplementedError):
        leave_out_paths(reader.pages[0])
    assert page_text(reader.pages[0]).strip() == "Some text"
