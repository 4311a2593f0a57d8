"""Reads text, Markdown and source code."""

from __future__ import annotations

import codecs
import unicodedata

from lrqk_cli.documents.document import Document, Page
from lrqk_cli.documents.normalise import normalise
from lrqk_cli.documents.pages import refuse_pages
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError

# UTF-32 first, because its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SNIFFED_BYTES = 8192
# Encodings that are looked for, as Python and as people call them.
_GUESSES = {
    "cp1252": "Windows-1252",
    "cp1250": "Windows-1250",
    "cp1251": "Windows-1251",
    "cp1253": "Windows-1253",
    "koi8_r": "KOI8-R",
    "cp932": "Shift-JIS",
    "euc_jp": "EUC-JP",
    "cp949": "EUC-KR",
    "big5": "Big5",
    "gb18030": "GB 18030",
}
_USUAL = "cp1252"
_OF_PAIRS = frozenset({"cp932", "euc_jp", "cp949", "big5", "gb18030"})
# Unicode's categories of what stands in no text: controls, surrogates, private and unassigned characters.
_NO_TEXT = frozenset({"Cc", "Cs", "Co", "Cn"})


def is_binary(data: bytes) -> bool:
    """Whether the first 8 KiB hold a NUL byte, and are not of UTF-16 or UTF-32."""
    return b"\0" in data[:SNIFFED_BYTES] and not (_marked_encoding(data) or _unmarked_utf_16(data))


def read_text(source: SourceFile, options: ReadOptions) -> Document:
    """Read a text file.

    Raises:
        DocumentError: the file is binary or empty.
        UsageError: ``options`` select pages.
    """
    if is_binary(source.data):
        raise DocumentError(
            f"{source.title} is not a text file.",
            "lrqk reads PDF, text, Markdown, source code, HTML, EPUB, .docx, .pptx and .xlsx files.",
        )
    text, warning = decode(source.data, source.charset)
    text = normalise(text)
    if not text:
        raise DocumentError(f"{source.title} is empty.", "Choose a file that has text in it.")
    refuse_pages(options.pages, source.title)
    warnings = (f"{source.title}: {warning}",) if warning else ()
    return Document(source.path, source.title, (Page(None, text),), warnings=warnings)


def decode(data: bytes, charset: str | None = None) -> tuple[str, str]:
    """Decode by the byte order mark, else by ``charset``, as UTF-8, or by what the bytes look like.

    Args:
        charset: that a server declares; it counts if all bytes can be decoded by it.

    Returns:
        The text, and a warning if the encoding was guessed or some bytes are lost; else an empty string.
    """
    stated = _marked_encoding(data) or _unmarked_utf_16(data)
    if not stated and charset and (declared := _decode_declared(data, charset)) is not None:
        return declared, ""
    try:
        return data.decode(stated or "utf-8"), ""
    except UnicodeDecodeError:
        pass
    text = data.decode(stated or "utf-8", "replace")
    damaged = text.count("\ufffd")
    intact = sum(1 for char in text if ord(char) > 127) - damaged
    # Text in another encoding hardly ever forms a valid UTF-8 sequence, so such sequences mean damaged UTF-8.
    if stated or intact > damaged:
        return text, f"{_lost(damaged)}."
    encoding = _guessed_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        if encoding == _USUAL:
            return data.decode("latin-1"), "it is not UTF-8 and was read as Latin-1."
        text = data.decode(encoding, "replace")
    damaged = text.count("\ufffd")
    warning = f"it is not UTF-8 and was read as {_GUESSES[encoding]}"
    return text, f"{warning}; {_lost(damaged)}." if damaged else f"{warning}."


def _decode_declared(data: bytes, charset: str) -> str | None:
    """Decode by a declared charset; None if that is not known, or not that of the bytes."""
    try:
        name = codecs.lookup(charset).name
        # As browsers do, for servers call Windows-1252 so.
        return data.decode(_USUAL if name in ("ascii", "iso8859-1") else name)
    except (LookupError, ValueError):
        return None


def _lost(count: int) -> str:
    places = "1 place" if count == 1 else f"{count:,} places"
    return f"{places} could not be decoded and became \ufffd"


def _marked_encoding(data: bytes) -> str | None:
    return next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)


def _unmarked_utf_16(data: bytes) -> str | None:
    """Return the kind of UTF-16 that data without a mark is in, by the zeros of ASCII; None if in no such."""
    sniffed = data[:SNIFFED_BYTES]
    if b"\0" not in sniffed or len(data) % 2:
        return None
    encoding = "utf-16-le" if b"\0" in sniffed[1::2] else "utf-16-be"
    # In a character of ASCII one byte of two is zero, always the same one.
    if b"\0" in sniffed[::2] and b"\0" in sniffed[1::2]:
        return None
    text = sniffed.decode(encoding, "ignore")
    are_characters = all(char.isspace() or unicodedata.category(char) not in _NO_TEXT for char in text)
    # What is left out was no character, but for half of one at the end.
    is_whole = len(text.encode(encoding)) >= len(sniffed) - 2
    return encoding if are_characters and is_whole else None


def _guessed_encoding(data: bytes) -> str:
    import charset_normalizer

    found = charset_normalizer.from_bytes(data, cp_isolation=[*_GUESSES])
    best = found.best()
    if best is None:
        return _USUAL
    if not best.coherence:
        # The language of a short text is not known. In scripts of many characters hardly a byte is ASCII, and
        # other text would hardly make valid pairs of them.
        is_dense = 3 * len(data.decode("ascii", "ignore")) < 2 * len(data)
        return best.encoding if is_dense and best.encoding in _OF_PAIRS else _USUAL
    for match in found:
        names = {match.encoding, *match.could_be_from_charset}
        if _USUAL in names and match.chaos <= best.chaos and match.coherence >= best.coherence:
            return _USUAL
    return best.encoding
