"""Small PDF files with much in them, and damaged ones."""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

from pypdf import PdfWriter
from pypdf.annotations import FreeText
from pypdf.generic import ArrayObject, DecodedStreamObject, DictionaryObject, NameObject, TextStringObject

from fuzz.mutations import BOUNDARIES, mutated, replace_token

_SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
# Larger files would take most of the time.
_LARGEST = 100_000
_FILTERS = (
    *(
        b"/FlateDecode",
        b"/LZWDecode",
        b"/ASCII85Decode",
        b"/ASCIIHexDecode",
        b"/RunLengthDecode",
        b"/DCTDecode",
    ),
    *(b"/JPXDecode", b"/CCITTFaxDecode", b"/JBIG2Decode", b"/Crypt", b"/Unknown", b"null", b"[]", b"3 0 R"),
    b"[" + b"/FlateDecode " * 50 + b"]",
    b"[" * 2000 + b"]" * 2000,
)
_TOKENS = re.compile(
    rb"\d+ \d+ R\b|\d+ \d+ obj\b|/[A-Za-z0-9#]+|-?\d+\.?\d*|\((?:\\.|[^()\\]){0,80}\)|<[0-9A-Fa-f]{2,80}>"
    rb"|<<|>>|\[|\]|\b(?:stream|endstream|endobj|xref|trailer|startxref|true|false|null|BT|ET|Tj|TJ|Do|q|Q)\b"
)
_CHOICES = (
    *(b"%d" % number for number in BOUNDARIES),
    *(b"%d 0 R" % number for number in (0, 1, 2, 3, 4, 5, 9, 99_999_999)),
    *(
        b"/Type",
        b"/Page",
        b"/Pages",
        b"/Kids",
        b"/Parent",
        b"/Prev",
        b"/Contents",
        b"/XObject",
        b"/Font",
        b"/Encrypt",
    ),
    *(
        b"<</A 1>>",
        b"[" * 5000,
        b"<<" * 2000,
        b"(" * 2000,
        b"()",
        b"null",
        b"nan",
        b"1e400",
        b"-",
        b".",
        b"/",
        b"R",
    ),
    b"<</Type/ObjStm/N 1000000000/First 0/Length 9>>",
)
_KEYED = re.compile(
    rb"/(?:Length|Size|Index|W|N|First|Count|Prev|XRefStm|Predictor|Columns|Colors|DL|BitsPerComponent|Width|Height)\s*\[?[^/>\]]*"
)
_FILTERED = re.compile(rb"/(?:Filter|F)\s*(?:/\w+|\[[^\]]*\])")
_STREAM = re.compile(rb"stream\r?\n(.*?)\r?\nendstream", re.DOTALL)
_OFFSET = re.compile(rb"\d{10} \d{5} [nf]|startxref\s+\d+")
_SHORT_NUMBERS = tuple(b"%d" % number for number in BOUNDARIES)


def seeds() -> dict[str, bytes]:
    """Return whole files by name: the sample report, a made one, and small ones of ``LRQK_TEST_DATA``."""
    found = {"report.pdf": (_SAMPLES / "report.pdf").read_bytes(), "form.pdf": _form()}
    if folder := os.environ.get("LRQK_TEST_DATA"):
        paths = sorted((Path(folder) / "pdfs").glob("*.pdf"))
        found |= {path.name: path.read_bytes() for path in paths if path.stat().st_size <= _LARGEST}
    return found


def _form() -> bytes:
    """Return two pages with a font that has a map to Unicode, a form, a note, an attachment and bookmarks."""
    writer = PdfWriter()
    for number in range(2):
        page = writer.add_blank_page(300, 300)
        cmap = DecodedStreamObject()
        cmap.set_data(
            b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00> <ff> "
            b"endcodespacerange 1 beginbfrange <20> <7e> <0020> endbfrange 1 beginbfchar <41> <00410042> "
            b"endbfchar endcmap end end"
        )
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
                NameObject("/ToUnicode"): writer._add_object(cmap.flate_encode()),
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        content = DecodedStreamObject()
        content.set_data(
            b"q 1 0 0 1 0 0 cm BT /F1 12 Tf 72 200 Td (Page %d) Tj [(A) -250 <4142>] TJ ET Q" % number
        )
        page[NameObject("/Contents")] = writer._add_object(content.flate_encode())
        writer.add_annotation(number, FreeText(text="A note", rect=(50, 50, 100, 100)))
        writer.add_outline_item(title="Chapter", page_number=number)
    field = DictionaryObject(
        {
            NameObject("/Subtype"): NameObject("/Widget"),
            NameObject("/FT"): NameObject("/Ch"),
            NameObject("/T"): TextStringObject("choice"),
            NameObject("/V"): TextStringObject("one"),
            NameObject("/Opt"): ArrayObject([TextStringObject("one"), TextStringObject("two")]),
        }
    )
    writer.pages[0]["/Annots"].append(writer._add_object(field))
    writer.add_attachment("data.csv", b"a,b")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def mutated_pdf(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Return a file after changes of its bytes, its tokens, its offsets, or of what is in its streams."""
    for _ in range(rng.choice((1, 1, 2, 4, 12))):
        action = rng.random()
        if action < 0.25:
            data = mutated(data, rng, others)
        elif action < 0.5:
            data = replace_token(data, rng, _TOKENS, _CHOICES)
        elif action < 0.6:
            data = _renumbered(data, rng)
        elif action < 0.68:
            data = _filtered(data, rng)
        elif action < 0.75:
            data = replace_token(
                data, rng, _OFFSET, (b"0000000000 00000 n", b"9999999999 65535 n", b"startxref 1")
            )
        else:
            data = _change_stream(data, rng)
    return data


def _renumbered(data: bytes, rng: Random) -> bytes:
    """Change one of the numbers on which the structure rests."""
    found = list(_KEYED.finditer(data))
    if not found:
        return data
    chosen = rng.choice(found)
    changed = re.sub(rb"\d+", lambda _: rng.choice(_SHORT_NUMBERS), chosen[0])
    return data[: chosen.start()] + changed + data[chosen.end() :]


def _filtered(data: bytes, rng: Random) -> bytes:
    found = list(_FILTERED.finditer(data))
    if not found:
        return data
    chosen = rng.choice(found)
    return data[: chosen.start()] + b"/Filter " + rng.choice(_FILTERS) + data[chosen.end() :]


def _change_stream(data: bytes, rng: Random) -> bytes:
    """Change what is in a stream: an object stream, a font's map, a page's operators."""
    found = list(_STREAM.finditer(data))
    if not found:
        return data
    chosen = rng.choice(found)
    try:
        content, is_packed = zlib.decompress(chosen[1]), True
    except zlib.error:
        content, is_packed = chosen[1], False
    for _ in range(rng.choice((1, 2, 8))):
        if rng.random() < 0.7:
            content = replace_token(content, rng, _TOKENS, _CHOICES)
        else:
            content = mutated(content, rng, [content])
    if is_packed:
        content = zlib.compress(content, 1)
    return data[: chosen.start(1)] + content + data[chosen.end(1) :]
