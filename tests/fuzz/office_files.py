"""Small office files with much in them, and damaged ones."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from random import Random

from fuzz.mutations import BOUNDARIES, mutated, replace_token

Members = dict[str, bytes]

_OFFICE = "http://schemas.openxmlformats.org"
_BOMB_BYTES = 1 << 29
_DEPTHS = (100, 5_000, 200_000)
_XML_TOKENS = re.compile(rb'<[^<>]*>|"[^"<>]*"|[0-9]+|&[a-z]+;')
_XML_CHOICES = (
    *(b'"%d"' % number for number in BOUNDARIES),
    *(
        b"",
        b"<",
        b"&x;",
        b"&#0;",
        b"&#1114112;",
        b"<![CDATA[",
        b'"../../x"',
        b'"http://x.invalid/"',
        b"]]>",
        b"\0",
    ),
)
_ENTITIES = (
    b'<!DOCTYPE x [<!ENTITY a "' + b"x" * 1000 + b'">'
    + b"".join(b'<!ENTITY %c "%s">' % (letter, b"&%c;" % (letter - 1) * 10) for letter in b"bcdefghi")
    + b"]><x>&i;</x>"
)  # fmt: skip
_FILE_ENTITY = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'


def docx() -> bytes:
    """Return a document with a table, a list, a note, a link and a formula."""
    types, wide = (
        "application/vnd.openxmlformats-officedocument.wordprocessingml",
        f"{_OFFICE}/wordprocessingml",
    )
    names = {
        "document": "officeDocument",
        "styles": "styles",
        "numbering": "numbering",
        "footnotes": "footnotes",
    }
    overrides = "".join(
        f'<Override PartName="/word/{part}.xml" ContentType="{types}.{part}{main}+xml"/>'
        for part, main in zip(names, (".main", "", "", ""), strict=True)
    )
    relations = f"{_OFFICE}/officeDocument/2006/relationships"
    links = "".join(
        f'<Relationship Id="r{part}" Type="{relations}/{part}" Target="{part}.xml"/>' for part in [*names][1:]
    )
    package = f"{_OFFICE}/package/2006"
    space = f'xmlns:w="{wide}/2006/main" xmlns:r="{relations}" xmlns:m="{_OFFICE}/officeDocument/2006/math"'
    cell = (
        "<w:tc><w:tcPr><w:gridSpan w:val='1'/><w:vMerge/></w:tcPr><w:p><w:r><w:t>1</w:t></w:r></w:p></w:tc>"
    )
    body = (
        "<w:p><w:pPr><w:pStyle w:val='h1'/></w:pPr><w:r><w:rPr><w:b/></w:rPr><w:t>Tides</w:t></w:r></w:p>"
        "<w:p><w:pPr><w:numPr><w:ilvl w:val='0'/><w:numId w:val='1'/></w:numPr></w:pPr><w:r><w:t>one</w:t>"
        "<w:footnoteReference w:id='1'/></w:r><w:hyperlink r:id='rl'><w:r><w:t>link</w:t></w:r></w:hyperlink>"
        "</w:p>"
        f"<w:tbl><w:tr>{cell * 3}</w:tr><w:tr>{cell * 3}</w:tr></w:tbl>"
        "<w:p><m:oMath><m:f><m:num><m:r><m:t>a</m:t></m:r></m:num><m:den><m:r><m:t>b</m:t></m:r></m:den></m:f>"
        "</m:oMath></w:p>"
    )
    level = "<w:lvl w:ilvl='0'><w:numFmt w:val='bullet'/></w:lvl>"
    texts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
        f'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>{overrides}</Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{relations}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{package}/relationships">{links}'
        f'<Relationship Id="rl" Type="{relations}/hyperlink" TargetMode="External" Target="http://x.invalid"/>'
        "</Relationships>",
        "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f"<w:styles {space}><w:style w:type='paragraph' w:styleId='h1'><w:name "
        "w:val='heading 1'/></w:style></w:styles>",
        "word/numbering.xml": f"<w:numbering {space}><w:abstractNum w:abstractNumId='0'>{level}"
        "</w:abstractNum><w:num w:numId='1'><w:abstractNumId w:val='0'/></w:num></w:numbering>",
        "word/footnotes.xml": f"<w:footnotes {space}><w:footnote w:id='1'><w:p><w:r><w:t>note</w:t></w:r>"
        "</w:p></w:footnote></w:footnotes>",
    }
    return zipped({name: text.encode() for name, text in texts.items()})


def pptx() -> bytes:
    """Return two slides with a table, a chart, a group and notes."""
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    show, size = Presentation(), Inches(2)
    for number in range(2):
        slide = show.slides.add_slide(show.slide_layouts[5])
        slide.shapes.title.text = f"Slide {number}"
        slide.shapes.add_table(2, 2, size, size, size, size).table.cell(0, 0).text = "cell"
        slide.shapes.add_group_shape().shapes.add_textbox(0, 0, size, size).text_frame.text = "grouped"
        data = CategoryChartData()
        data.categories = ["a", "b"]
        data.add_series("s", (1, 2))
        slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, size, size, data)
        slide.notes_slide.notes_text_frame.text = "notes"
    file = io.BytesIO()
    show.save(file)
    return file.getvalue()


def xlsx() -> bytes:
    """Return a workbook of two sheets with a formula, a date and merged cells."""
    from datetime import UTC, datetime

    from openpyxl import Workbook

    book = Workbook()
    for sheet in (book.active, book.create_sheet("Other")):
        sheet.append(["name", 1, 2.5, "=B1+C1", datetime(2026, 1, 2, tzinfo=UTC).date()])
        sheet.append([None, True, "x" * 40])
        sheet.merge_cells("A3:C4")
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def epub() -> bytes:
    """Return a book of two chapters."""
    chapters = range(2)
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in chapters
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in chapters)
    texts = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<rootfiles><rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
        "</container>",
        "book.opf": '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc='
        f'"http://purl.org/dc/elements/1.1/"><dc:title>Lamps</dc:title></metadata><manifest>{items}</manifest>'
        f"<spine>{spine}</spine></package>",
        **{f"c{n}.xhtml": html().decode() for n in chapters},
    }
    return zipped({name: text.encode() for name, text in texts.items()})


def html() -> bytes:
    """Return a page with tables, lists, links, code and a picture."""
    return (
        b"<!doctype html><html><head><meta charset='utf-8'><title>Tides</title><script>x</script></head>"
        b"<body><h1>Harbour &amp; sea</h1><p>High <b>water <i>at</b> 06:40</i>.<ul><li>one<li>two<ol><li>in"
        b"</ol></ul><table border=1><tr><th colspan=2>a<td>b<tr><td>1</table><pre><code>x\n  y</code></pre>"
        b"<a href='http://x.invalid/?a=1'>link</a><img src='data:image/png;base64,AAAA' alt='map'>"
        b"</body></html>"
    )


MAKERS: dict[str, Callable[[], bytes]] = {
    **{".docx": docx, ".pptx": pptx, ".xlsx": xlsx, ".epub": epub, ".html": html},
}


def zipped(members: Members) -> bytes:
    """Return an archive of some members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def unzipped(data: bytes) -> Members:
    """Return the members of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def mutated_office(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Return an office file after changes of its bytes, of its archive, or of what is in that."""
    if not data.startswith(b"PK"):
        return _mutated_text(data, rng, others)
    if rng.random() < 0.2:
        return mutated(data, rng, others)
    members = unzipped(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice([*members])
        if rng.random() < 0.1:
            _change_members(members, name, rng)
        else:
            members[name] = _mutated_text(members[name], rng, [*members.values()])
    bomb = rng.choice([*members]) if rng.random() < 0.02 else None
    return zipped(members) if bomb is None else _with_bomb(members, bomb)


def _change_members(members: Members, name: str, rng: Random) -> None:
    action = rng.randrange(3)
    if action == 0 and len(members) > 1:
        del members[name]
    elif action == 1:
        members[rng.choice((f"../{name}", name.upper(), f"/{name}", "x" * 5000, name + "\n"))] = members.pop(
            name
        )
    else:
        members[rng.choice([*members])] = members[name]


def _mutated_text(text: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    action = rng.random()
    if action < 0.6:
        for _ in range(rng.choice((1, 2, 8))):
            text = replace_token(text, rng, _XML_TOKENS, _XML_CHOICES)
        return text
    if action < 0.64:
        return rng.choice((_ENTITIES, _FILE_ENTITY))
    if action < 0.68:
        return _deep(text, rng)
    return mutated(text, rng, others)


def _deep(text: bytes, rng: Random) -> bytes:
    """Return the text with an element inside of itself, again and again."""
    found = re.findall(rb"<([a-zA-Z:]+)", text) or [b"x"]
    name, depth = rng.choice(found), rng.choice(_DEPTHS)
    start, end = b"<%s>" % name * depth, b"</%s>" % name * depth
    place = text.find(b"<" + name)
    return text[:place] + start + end * (rng.random() < 0.7) + text[place:] if place >= 0 else start + end


@cache
def _deflated_blanks() -> tuple[bytes, int]:
    """Return half a gigabyte of blanks, deflated, and their checksum."""
    packer, checksum, chunk = zlib.compressobj(9, zlib.DEFLATED, -15), 0, b" " * (1 << 20)
    pieces = []
    for _ in range(_BOMB_BYTES >> 20):
        pieces.append(packer.compress(chunk))
        checksum = zlib.crc32(chunk, checksum)
    return b"".join(pieces) + packer.flush(), checksum


def _with_bomb(members: Members, name: str) -> bytes:
    """Return an archive of which one member is half a gigabyte of blanks."""
    content, checksum = _deflated_blanks()
    placeholder = b"\0" * len(content)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for each, data in members.items():
            archive.writestr(each, placeholder if each == name else data)
        info = archive.getinfo(name)
        # The directory, which is written now, says what the member really is.
        info.CRC, info.file_size, info.compress_type = checksum, _BOMB_BYTES, zipfile.ZIP_DEFLATED
    data = bytearray(file.getvalue())
    start = info.header_offset
    header = 30 + len(name.encode())
    data[start + 8 : start + 10] = zipfile.ZIP_DEFLATED.to_bytes(2, "little")
    data[start + header : start + header + len(content)] = content
    return bytes(data)
